"""Networks: tensors in, tensors out. `Model.from_pretrained` loads any of them."""

from raydiar.models.campplus import CAMPPlus
from raydiar.models.loading import Model
from raydiar.models.pyannet import PyanNet
from raydiar.models.resnet import (
    WeSpeakerResNet34,
    WeSpeakerResNet152,
    WeSpeakerResNet221,
    WeSpeakerResNet293,
)
from raydiar.models.xvector import XVectorSincNet

__all__ = [
    "CAMPPlus",
    "Model",
    "PyanNet",
    "WeSpeakerResNet34",
    "WeSpeakerResNet152",
    "WeSpeakerResNet221",
    "WeSpeakerResNet293",
    "XVectorSincNet",
]
