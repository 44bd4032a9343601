"""Networks as ONNX: the same weights in operations that the format has.

Two things differ on the way: filters of a waveform are applied to the whole batch at once, and the
Fourier transform of mel features is a product with its matrix.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.errors import ConfigError
from raydiar.models import PyanNet
from raydiar.models.fbank import Fbank

_OPSET = 17


def write_onnx(model: nn.Module, path: Path) -> None:
    """Write a network: `waveforms` (batch, 1, num_samples) to `scores` or `embeddings`.

    The batch is free; so is the length, but for CAM++, which is written for its own windows.

    Raises
    ------
    ConfigError
        If the package onnx is not there, or the network has operations that ONNX has not.
    """
    try:
        import onnx  # noqa: F401 (torch's exporter wants it)
    except ImportError:
        raise ConfigError("exporting to ONNX needs a package: pip install onnx") from None
    model = model.eval()
    is_embedding = hasattr(model, "embedding_mode")
    num_samples = round(model.specifications.duration * model.sample_rate)
    output = "embeddings" if is_embedding else "scores"
    axes = {"waveforms": {0: "batch"}, output: {0: "batch"}}
    if not is_embedding or model.embedding_mode == "masked":
        axes["waveforms"][2] = "num_samples"
    if not is_embedding:
        axes[output][1] = "num_frames"
    network: nn.Module = model
    if isinstance(model, PyanNet):
        network = _WholeBatch(model)
    elif is_embedding and model.fbank is not None:
        network = _WithMatrix(model)
    torch.onnx.register_custom_op_symbolic("aten::mT", _transposed, _OPSET)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(),
                (torch.randn(2, 1, num_samples) * 0.1,),
                str(path),
                input_names=["waveforms"],
                output_names=[output],
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"a {type(model).__name__} cannot become ONNX: {reason}") from error
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::mT", _OPSET)


def _transposed(graph, value):
    order = list(range(value.type().dim()))
    order[-2:] = order[-1], order[-2]
    return graph.op("Transpose", value, perm_i=order)


class _WholeBatch(nn.Module):
    """PyanNet without the loop over a batch that spares the caches of a CPU."""

    def __init__(self, model: PyanNet):
        super().__init__()
        self.model = model

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.model.scores(self.model.sincnet._frames(waveforms).transpose(1, 2))


class _WithMatrix(nn.Module):
    """An embedding network on mel features from convolutions and products."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.features = _Features(model.fbank)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        features = self.features(waveforms)
        features = features - features.mean(dim=-2, keepdim=True)
        return self.model.pool(self.model.frames(features))


class _Features(nn.Module):
    """`Fbank`, whose every step before the power is linear, as one convolution."""

    def __init__(self, fbank: Fbank):
        super().__init__()
        length = fbank.frame_length
        # in float64: columns are what a frame of a single 1 becomes
        frames = torch.eye(length, dtype=torch.float64) * fbank.scale
        frames = frames - frames.mean(dim=-1, keepdim=True)
        previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=-1)
        frames = (frames - 0.97 * previous) * fbank.taper.double()
        angles = torch.arange(length)[:, None] * torch.arange(fbank.num_fft // 2 + 1)[None]
        angles = angles.double() * (2 * math.pi / fbank.num_fft)
        kernel = torch.cat([frames @ angles.cos(), frames @ angles.sin()], dim=1).T
        self.register_buffer("kernel", kernel[:, None].float())
        self.register_buffer("filters", fbank.filters)
        self.shift = fbank.frame_shift
        self.floor = torch.finfo(torch.float32).eps

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, 1, num_samples) to (batch, num_frames, num_mel_bins)"""
        parts = F.conv1d(waveforms, self.kernel, stride=self.shift).square()
        real, imaginary = parts.chunk(2, dim=1)
        power = (real + imaginary).transpose(1, 2)
        return (power @ self.filters).clamp(min=self.floor).log()
