"""Fold batch norms into the convolutions around them: the same function in fewer passes.

In evaluation a batch norm is `scale * x + shift` per channel. After a convolution it disappears
into its weights. Before a ReLU and a convolution, `relu(scale * x + shift)` equals
`scale * clamp(x) + shift` with one bound per channel, so that only the clamp remains of it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def scale_and_shift(norm: nn.modules.batchnorm._BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine function of a batch norm in evaluation.

    Returns
    -------
    scale, shift : (num_channels,) float32
    """
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale, shift


@torch.no_grad()
def fold(conv: nn.modules.conv._ConvNd, norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Change `conv` in place so that it does what `norm(conv(x))` did."""
    scale, shift = scale_and_shift(norm)
    if conv.bias is not None:
        shift = shift + scale * conv.bias
    scale = scale.view(-1, *[1] * (conv.weight.ndim - 1))
    conv.weight = nn.Parameter(conv.weight * scale, requires_grad=False)
    conv.bias = nn.Parameter(shift, requires_grad=False)


def fold_pairs(root: nn.Module) -> None:
    """Fold every batch norm `bnN` below `root` into the convolution `convN` beside it.

    Shortcuts, which are a convolution and its batch norm, are folded as well. Weights of 2-D
    convolutions move to the channels-last layout that their inputs come in.
    """
    for module in list(root.modules()):
        children = dict(module.named_children())
        for name, norm in children.items():
            if name.startswith("bn"):
                fold(children["conv" + name.removeprefix("bn")], norm)
                setattr(module, name, nn.Identity())
        shortcut = children.get("shortcut")
        if shortcut is not None and len(shortcut) == 2:
            fold(*shortcut)
            module.shortcut = shortcut[0]
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def affine(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`rows @ weight.T + bias`, by the fastest library there is.

    On a CPU that is oneDNN, which PyTorch uses for convolutions: MKL, which it uses for matrix
    products, takes twice as long on AMD. A dilation means nothing to a kernel of size 1, but keeps
    PyTorch from turning the convolution into a matrix product when there is one thread.

    Parameters
    ----------
    rows : (num_rows, inputs) contiguous tensor
    weight : (outputs, inputs) tensor
    bias : (outputs,) tensor

    Returns
    -------
    rows : (num_rows, outputs) tensor
    """
    if not rows.is_cpu:
        return F.linear(rows, weight, bias)
    image = rows[None, :, None].permute(0, 3, 1, 2)  # (1, inputs, num_rows, 1), channels last
    return F.conv2d(image, weight[..., None, None], bias, dilation=2)[0, ..., 0].T


class ClampedLinear(nn.Module):
    """What `conv(relu(norm(x)))` did for a convolution of kernel size 1, on rows of frames.

    Parameters
    ----------
    norm : nn.BatchNorm1d
    conv : nn.Conv1d
        Of kernel size 1, without bias.
    after : nn.BatchNorm1d, optional
        A batch norm that follows `conv`.
    """

    @torch.no_grad()
    def __init__(self, norm: nn.BatchNorm1d, conv: nn.Conv1d, after: nn.BatchNorm1d | None = None):
        super().__init__()
        weight, bias = conv.weight.squeeze(-1), conv.weight.new_zeros(conv.out_channels)
        if after is not None:
            scale, bias = scale_and_shift(after)
            weight = weight * scale[:, None]
        scale, shift = scale_and_shift(norm)
        # A channel without scale is the constant relu(shift), whatever its input.
        shift = torch.where(scale == 0, shift.relu(), shift)
        bound, infinity = -shift / scale, torch.full_like(scale, torch.inf)
        self.register_buffer("weight", weight * scale)
        self.register_buffer("bias", bias + weight @ shift)
        self.register_buffer("low", torch.where(scale > 0, bound, -infinity))
        self.register_buffer("high", torch.where(scale < 0, bound, infinity))

    def forward(self, rows: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """
        Parameters
        ----------
        rows : (num_rows, inputs) tensor
        scratch : (at least num_rows * inputs,) tensor
            Overwritten; spares an allocation the size of the input.

        Returns
        -------
        rows : (num_rows, outputs) tensor
        """
        low, high = self.low.to(rows.dtype), self.high.to(rows.dtype)
        clamped = torch.clamp(rows, low, high, out=scratch[: rows.numel()].view_as(rows))
        return affine(clamped, self.weight.to(rows.dtype), self.bias.to(rows.dtype))
