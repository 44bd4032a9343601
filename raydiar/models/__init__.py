"""Networks: tensors in, tensors out. `Model.from_pretrained` loads any of them."""

from raydiar.models.base import Model
from raydiar.models.campplus import CAMPPlus
from raydiar.models.pyannet import PyanNet
from raydiar.models.resnet import (
    WeSpeakerResNet34,
    WeSpeakerResNet152,
    WeSpeakerResNet221,
    WeSpeakerResNet293,
)
from raydiar.models.self_supervised import SpeakerDiarization, SSeRiouSSConformer
from raydiar.models.sseriouss import SSeRiouSS
from raydiar.models.xvector import XVectorMFCC, XVectorSincNet

__all__ = [
    "CAMPPlus",
    "Model",
    "PyanNet",
    "SSeRiouSS",
    "SSeRiouSSConformer",
    "SpeakerDiarization",
    "WeSpeakerResNet34",
    "WeSpeakerResNet152",
    "WeSpeakerResNet221",
    "WeSpeakerResNet293",
    "XVectorMFCC",
    "XVectorSincNet",
]
