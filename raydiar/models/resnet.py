"""WeSpeaker ResNet speaker embeddings.

H. Wang et al., "WeSpeaker: a research and production oriented speaker embedding learning
toolkit", ICASSP 2023. Masks enter at the pooling only, so one pass of the trunk serves every
speaker of a window, exactly.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.fbank import Fbank
from raydiar.models.pooling import statistics_pooling


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


class WeSpeakerResNet(nn.Module):
    """Speaker embedding network; its trunk is shared by all masks of a window.

    Attributes
    ----------
    dimension : int
    min_num_samples : int
        Shortest input that gives an embedding.
    """

    block: type[nn.Module] = BasicBlock
    num_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    embedding_mode = "masked"

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        num_mel_bins: int = 80,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
        dimension: int = 256,
        **kaldi,
    ):
        super().__init__()
        _check_kaldi_options(kaldi)
        if num_channels != 1:
            raise ValueError("speaker embeddings take mono")
        self.sample_rate = sample_rate
        self.dimension = dimension
        self.fbank = Fbank(sample_rate, num_mel_bins, "hamming", 32768.0, frame_length, frame_shift)
        self.resnet = _Trunk(self.block, self.num_blocks, num_mel_bins, dimension)

    @property
    def min_num_samples(self) -> int:
        return self.fbank.frame_length

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Subtract the mean over the time of each window, masks notwithstanding."""
        return features - features.mean(dim=-2, keepdim=True)

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """
        Parameters
        ----------
        features : (batch, num_frames, num_mel_bins) float32
            Normalised log mel energies.

        Returns
        -------
        frames : (batch, channels, num_pooled_frames) float32
        """
        return self.resnet(features)

    def pool(self, frames: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """
        Parameters
        ----------
        frames : (batch, channels, num_pooled_frames) float32
        masks : (batch, num_speakers, num_mask_frames) float32, optional

        Returns
        -------
        embeddings : (batch, dimension) or (batch, num_speakers, dimension) float32
        """
        return self.resnet.seg_1(statistics_pooling(frames, masks))

    def forward(self, waveforms: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of (batch, 1, num_samples) waveforms, one per mask where given."""
        features = self.normalize(self.fbank(waveforms.squeeze(1)))
        return self.pool(self.frames(features), masks)


class WeSpeakerResNet34(WeSpeakerResNet):
    pass


class WeSpeakerResNet152(WeSpeakerResNet):
    block = Bottleneck
    num_blocks = (3, 8, 36, 3)


class WeSpeakerResNet221(WeSpeakerResNet):
    block = Bottleneck
    num_blocks = (6, 16, 48, 3)


class WeSpeakerResNet293(WeSpeakerResNet):
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
