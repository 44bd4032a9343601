"""WeSpeaker ResNet speaker embeddings.

H. Wang et al., "WeSpeaker: a research and production oriented speaker embedding learning
toolkit", ICASSP 2023. Masks enter at the pooling only, so one pass of the trunk serves every
speaker of a window, exactly.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.convolutions import Convolution
from raydiar.models.embedding_network import EmbeddingNetwork
from raydiar.models.fbank import Fbank


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, planes: int, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual.add_(self.shortcut(x)), inplace=True)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.shortcut = _shortcut(inputs, planes * 4, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual.add_(self.shortcut(x)), inplace=True)


class _Trunk(nn.Module):
    def __init__(self, block, num_blocks, num_mel_bins: int, dimension: int, width: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for index, (count, stride) in enumerate(zip(num_blocks, (1, 2, 2, 2), strict=True)):
            planes = width << index
            layer = []
            for position in range(count):
                layer.append(block(inputs, planes, stride if position == 0 else 1))
                inputs = planes * block.expansion
            setattr(self, f"layer{index + 1}", nn.Sequential(*layer))
        # Mean and deviation of every channel of every remaining frequency.
        self.seg_1 = nn.Linear(2 * inputs * (num_mel_bins // 8), dimension)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features.mT[:, None].contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.flatten(1, 2)


class WeSpeakerResNet(EmbeddingNetwork):
    """Speaker embedding network, 256 dimensions in the public checkpoints."""

    block: type[nn.Module] = BasicBlock
    num_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        num_mel_bins: int = 80,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
        dimension: int = 256,
        task=None,
        **kaldi,
    ):
        super().__init__(sample_rate, num_channels, task)
        self.save_hyperparameters()
        _check_kaldi_options(kaldi)
        self.dimension = dimension
        self.fbank = Fbank(sample_rate, num_mel_bins, "hamming", 32768.0, frame_length, frame_shift)
        self.resnet = _Trunk(self.block, self.num_blocks, num_mel_bins, dimension)

    @property
    def convolutions(self) -> list[Convolution]:
        # Kernels of 1 (strides of blocks and shortcuts) see what those of 3 see: those are listed.
        chain = [Convolution(self.fbank.frame_length, self.fbank.frame_shift)]
        chain += [Convolution(3, 1, 1)]
        for layer, stride in enumerate((1, 2, 2, 2)):
            per_block = 2 if self.block is BasicBlock else 1
            chain += [Convolution(3, stride, 1)]
            chain += [Convolution(3, 1, 1)] * (self.num_blocks[layer] * per_block - 1)
        return chain

    @property
    def min_num_samples(self) -> int:
        return self.fbank.frame_length

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        return self.resnet(features)

    def project(self, statistics: torch.Tensor) -> torch.Tensor:
        return self.resnet.seg_1(statistics)


class WeSpeakerResNet34(WeSpeakerResNet):
    """Basic blocks, 6.6 million parameters."""


class WeSpeakerResNet152(WeSpeakerResNet):
    """Bottleneck blocks, 19.8 million parameters."""

    block = Bottleneck
    num_blocks = (3, 8, 36, 3)


class WeSpeakerResNet221(WeSpeakerResNet):
    """Bottleneck blocks, 23.8 million parameters."""

    block = Bottleneck
    num_blocks = (6, 16, 48, 3)


class WeSpeakerResNet293(WeSpeakerResNet):
    """Bottleneck blocks, 28.6 million parameters."""

    block = Bottleneck
    num_blocks = (10, 20, 64, 3)


def _check_kaldi_options(options: dict) -> None:
    """Refuse front-ends that this one would silently replace by another."""
    supported = {
        "dither": (0, 0.0),
        "round_to_power_of_two": (True,),
        "snip_edges": (True,),
        "window_type": ("hamming",),
        "use_energy": (False,),
        "fbank_centering_span": (None,),
    }
    for name, value in options.items():
        if value not in supported.get(name, ()):
            raise ValueError(f"{name}={value!r} is not supported for WeSpeaker features")
