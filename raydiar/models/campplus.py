"""CAM++: a densely connected TDNN whose layers are gated by the context around each frame.

H. Wang et al., "CAM++: a fast and efficient network for speaker verification using context-aware
masking", Interspeech 2023; parameter names as in 3D-Speaker's checkpoints. The gates see the
whole input, so a speaker is embedded from an input of its own frames: frames under the mask are
cut out first, and inputs of one length make a batch.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.convolutions import Convolution
from raydiar.models.embedding_network import EmbeddingNetwork
from raydiar.models.fbank import Fbank
from raydiar.models.resnet import BasicBlock

CONTEXT_FRAMES = 100  # frames that share one local context, 2 s


class _ContextBlock(BasicBlock):
    # The convolutional head halves frequencies and keeps time.
    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__(inputs, planes, (stride, 1))
        if stride == 1 and inputs == planes:
            self.shortcut = nn.Sequential()


class _Head(nn.Module):
    """Two-dimensional convolutions over (frequency, time); frequencies become channels."""

    def __init__(self, num_mel_bins: int, width: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_ContextBlock(width, width, 2), _ContextBlock(width, width, 1))
        self.layer2 = nn.Sequential(_ContextBlock(width, width, 2), _ContextBlock(width, width, 1))
        self.conv2 = nn.Conv2d(width, width, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.num_channels = width * (num_mel_bins // 8)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = features.mT[:, None].contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer2(self.layer1(x))
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return x.flatten(1, 2)


def _nonlinear(channels: int, affine: bool = True, relu: bool = True) -> nn.Sequential:
    layers = OrderedDict(batchnorm=nn.BatchNorm1d(channels, affine=affine))
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class _ContextAwareMask(nn.Module):
    """A dilated convolution, each output gated by its segment and the whole input."""

    def __init__(self, inputs: int, outputs: int, dilation: int, reduction: int = 2):
        super().__init__()
        self.linear_local = nn.Conv1d(
            inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(inputs, inputs // reduction, 1)
        self.linear2 = nn.Conv1d(inputs // reduction, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        num_frames = x.shape[-1]
        segments = F.avg_pool1d(x, CONTEXT_FRAMES, CONTEXT_FRAMES, ceil_mode=True)
        context = x.mean(dim=-1, keepdim=True) + segments
        # The gate is constant within a segment: compute it once there, spread it afterwards.
        gate = self.linear2(F.relu(self.linear1(context))).sigmoid()
        gate = gate.repeat_interleave(CONTEXT_FRAMES, dim=-1)[..., :num_frames]
        return self.linear_local(x) * gate


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, bottleneck: int, growth: int, dilation: int):
        super().__init__()
        self.nonlinear1 = _nonlinear(inputs)
        self.linear1 = nn.Conv1d(inputs, bottleneck, 1, bias=False)
        self.nonlinear2 = _nonlinear(bottleneck)
        self.cam_layer = _ContextAwareMask(bottleneck, growth, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))


class DenseBlock(nn.ModuleDict):
    def __init__(self, num_layers: int, inputs: int, bottleneck: int, growth: int, dilation: int):
        super().__init__(
            {
                f"tdnnd{index + 1}": DenseLayer(
                    inputs + index * growth, bottleneck, growth, dilation
                )
                for index in range(num_layers)
            }
        )
        self.inputs = inputs
        self.growth = growth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            for layer in self.values():  # gradients need what each layer has read
                x = torch.cat([x, layer(x)], dim=1)
            return x
        # Every layer reads all channels before it: write them into one buffer, not 24 copies.
        batch, _, num_frames = x.shape
        channels = self.inputs + len(self) * self.growth
        buffer = x.new_empty(batch, channels, num_frames)
        buffer[:, : self.inputs] = x
        filled = self.inputs
        for layer in self.values():
            buffer[:, filled : filled + self.growth] = layer(buffer[:, :filled])
            filled += self.growth
        return buffer


class _Transit(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.nonlinear = _nonlinear(inputs)
        self.linear = nn.Conv1d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.nonlinear(x))


class _Tdnn(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _nonlinear(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlinear(self.linear(x))


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Conv1d(inputs, outputs, 1, bias=False)
        self.nonlinear = _nonlinear(outputs, affine=False, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlinear(self.linear(x[..., None])).squeeze(-1)


class CAMPPlus(EmbeddingNetwork):
    """Speaker embedding network of 3D-Speaker, 192 dimensions in the zh-en checkpoint."""

    embedding_mode = "cut"

    def __init__(
        self,
        dimension: int = 192,
        num_mel_bins: int = 80,
        growth: int = 32,
        bottleneck: int = 128,
        sample_rate: int = 16000,
        num_channels: int = 1,
        task=None,
    ):
        super().__init__(sample_rate, num_channels, task)
        self.save_hyperparameters()
        self.dimension = dimension
        self.fbank = Fbank(sample_rate, num_mel_bins, "povey")
        self.head = _Head(num_mel_bins)
        layers = OrderedDict(tdnn=_Tdnn(self.head.num_channels, 128))
        channels = 128
        for index, (count, dilation) in enumerate(((12, 1), (24, 2), (16, 2)), start=1):
            layers[f"block{index}"] = DenseBlock(count, channels, bottleneck, growth, dilation)
            channels += count * growth
            layers[f"transit{index}"] = _Transit(channels, channels // 2)
            channels //= 2
        layers["out_nonlinear"] = _nonlinear(channels)
        layers["dense"] = _Dense(2 * channels, dimension)
        self.xvector = nn.Sequential(layers)

    @property
    def convolutions(self) -> list[Convolution]:
        """Of the frames that are pooled; the gates see the whole input besides."""
        chain = [Convolution(self.fbank.frame_length, self.fbank.frame_shift)]
        chain += [Convolution(3, 1, 1)] * 10  # the head keeps time
        chain += [Convolution(5, 2, 2)]
        for block in (self.xvector.block1, self.xvector.block2, self.xvector.block3):
            for layer in block.values():
                dilation = layer.cam_layer.linear_local.dilation[0]
                chain.append(Convolution(3, 1, dilation, dilation))
        return chain

    @property
    def min_num_samples(self) -> int:
        # Three frames are two after the stride: the fewest that have a deviation.
        return self.fbank.frame_length + 2 * self.fbank.frame_shift

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        if features.device.type == "cpu" and not self.training:
            # the caches of a CPU hold the head's planes of one input, but not of two
            planes = torch.cat([self.head(one) for one in features.split(1)])
        else:
            planes = self.head(features)
        return self.xvector[:-1](planes)

    def project(self, statistics: torch.Tensor) -> torch.Tensor:
        rows = statistics.flatten(0, -2)  # its batch norm takes no third axis
        return self.xvector.dense(rows).unflatten(0, statistics.shape[:-1])
