"""Statistics pooling: frames in, mean and standard deviation out, under one mask per speaker.

The trunk of a network never sees the masks, which is what lets it run once per window however
many speakers the window holds.
"""

from __future__ import annotations

import torch


def resize_masks(masks: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Nearest-neighbour resize of masks to the frame rate of a trunk.

    Parameters
    ----------
    masks : (..., num_mask_frames) tensor
    num_frames : int

    Returns
    -------
    masks : (..., num_frames) tensor
        Frame i comes from mask frame floor(i * num_mask_frames / num_frames).
    """
    num_mask_frames = masks.shape[-1]
    if num_mask_frames == num_frames:
        return masks
    index = torch.arange(num_frames, device=masks.device) * num_mask_frames // num_frames
    return masks[..., index]


def statistics_pooling(frames: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
    """Mean and unbiased standard deviation over time.

    Parameters
    ----------
    frames : (batch, channels, num_frames) float32
    masks : (batch, num_speakers, num_mask_frames) float32, optional
        Weight of each frame for each speaker.

    Returns
    -------
    statistics : (batch, 2 * channels) or (batch, num_speakers, 2 * channels) float32
        A mask of zeros gives zeros. Without masks a single frame has no deviation: NaN.
    """
    if masks is None:
        mean = frames.mean(dim=-1)
        std = frames.std(dim=-1, correction=1)
        return torch.cat([mean, std], dim=-1)
    weights = resize_masks(masks, frames.shape[-1]).to(frames.dtype)
    total = weights.sum(dim=-1, keepdim=True) + 1e-8
    mean = weights @ frames.mT / total
    # Deviations are taken before squaring, speaker by speaker: E[x²] - E[x]² would cancel.
    variance = torch.empty_like(mean)
    for speaker in range(weights.shape[1]):
        deviation = frames - mean[:, speaker, :, None]
        variance[:, speaker] = (deviation.square_() @ weights[:, speaker, :, None]).squeeze(-1)
    correction = weights.square().sum(dim=-1, keepdim=True) / total
    std = (variance / (total - correction + 1e-8)).sqrt()
    return torch.cat([mean, std], dim=-1)
