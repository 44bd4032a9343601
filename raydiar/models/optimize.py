"""Rewrite a network for inference: same function, fewer passes over memory.

Only inference wants this: afterwards parameters no longer have the names of the checkpoint.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.campplus import CONTEXT_FRAMES, CAMPPlus, DenseBlock, DenseLayer
from raydiar.models.folding import ClampedLinear, fold, fold_pairs, scale_and_shift
from raydiar.models.resnet import WeSpeakerResNet


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Fold batch norms; the network given is changed and no longer loads its checkpoint.

    Returns
    -------
    model : nn.Module
        With the same `frames` and `pool`.
    """
    model.eval().requires_grad_(False)
    if isinstance(model, WeSpeakerResNet):
        fold_pairs(model.resnet)
    elif isinstance(model, CAMPPlus):
        fold_pairs(model.head)
        tdnn = model.xvector.tdnn
        fold(tdnn.linear, tdnn.nonlinear.batchnorm)
        tdnn.nonlinear.batchnorm = nn.Identity()
        model.xvector = _FusedTrunk(model.xvector)
    return model


class _FusedTrunk(nn.Module):
    """The D-TDNN of CAM++ on rows of frames, so that each of its layers is one matrix product.

    The dense blocks of the original copy all channels before each layer and normalise them in
    passes of their own; here channels are written once, beside those they extend.
    """

    def __init__(self, xvector: nn.Sequential):
        super().__init__()
        self.tdnn = xvector.tdnn
        self.dense = xvector.dense
        blocks = [layer for layer in xvector if isinstance(layer, DenseBlock)]
        self.blocks = nn.ModuleList(
            nn.ModuleList(_FusedLayer(layer) for layer in block.values()) for block in blocks
        )
        self.growth = blocks[0].growth
        self.transits = nn.ModuleList(
            ClampedLinear(transit.nonlinear.batchnorm, transit.linear)
            for transit in (xvector.transit1, xvector.transit2, xvector.transit3)
        )
        scale, shift = scale_and_shift(xvector.out_nonlinear.batchnorm)
        self.register_buffer("out_scale", scale)
        self.register_buffer("out_shift", shift)

    def __getitem__(self, layers: slice):
        # CAMPPlus.frames takes all layers but the last, which is CAMPPlus.pool's.
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, num_frames) to (batch, channels, ceil(num_frames / 2))"""
        x = self.tdnn(x).mT
        batch, num_frames, _ = x.shape
        rows = x.flatten(0, 1)
        widest = max(transit.weight.shape[1] for transit in self.transits)
        scratch = rows.new_empty(len(rows) * widest)
        for block, transit in zip(self.blocks, self.transits, strict=True):
            filled = rows.shape[1]
            buffer = rows.new_empty(len(rows), filled + len(block) * self.growth)
            buffer[:, :filled] = rows
            for layer in block:
                target = buffer[:, filled : filled + self.growth]
                layer(buffer[:, :filled], scratch, target.unflatten(0, (batch, num_frames)))
                filled += self.growth
            rows = transit(buffer, scratch)
        rows = torch.addcmul(self.out_shift, rows, self.out_scale).relu_()
        return rows.unflatten(0, (batch, num_frames)).mT


class _FusedLayer(nn.Module):
    def __init__(self, layer: DenseLayer):
        super().__init__()
        self.bottleneck = ClampedLinear(
            layer.nonlinear1.batchnorm, layer.linear1, layer.nonlinear2.batchnorm
        )
        cam = layer.cam_layer
        self.dilation = cam.linear_local.dilation[0]
        taps = cam.linear_local.weight[..., None]
        self.register_buffer("taps", taps.contiguous(memory_format=torch.channels_last))
        self.narrow = _linear(cam.linear1)
        self.gate = _linear(cam.linear2)

    def forward(self, rows: torch.Tensor, scratch: torch.Tensor, target: torch.Tensor) -> None:
        """
        Parameters
        ----------
        rows : (batch * num_frames, inputs) tensor
        scratch : (at least rows.numel(),) tensor
        target : (batch, num_frames, growth) tensor
            Where the result is written.
        """
        batch, num_frames, _ = target.shape
        hidden = self.bottleneck(rows, scratch).relu_().view(batch, num_frames, -1)
        image = hidden[:, :, None].permute(0, 3, 1, 2)  # channels last
        taps, dilation = self.taps.to(hidden.dtype), (self.dilation, 1)
        local = F.conv2d(image, taps, padding=(self.dilation, 0), dilation=dilation)
        local = local[..., 0].mT
        context = hidden.mean(dim=1, keepdim=True)
        for start in range(0, num_frames, CONTEXT_FRAMES):
            segment = slice(start, start + CONTEXT_FRAMES)
            mean = hidden[:, segment].mean(dim=1, keepdim=True) + context
            gate = self.gate(self.narrow(mean).relu_()).sigmoid()
            torch.mul(local[:, segment], gate, out=target[:, segment])


def _linear(conv: nn.Conv1d) -> nn.Linear:
    """The linear layer that a convolution of kernel size 1 is on rows."""
    linear = nn.Linear(conv.in_channels, conv.out_channels)
    linear.weight = nn.Parameter(conv.weight.squeeze(-1), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    return linear
