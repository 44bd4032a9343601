"""Embedders: one vector per active local speaker.

Two ways behind one interface. Networks that see masks at their pooling only (ResNet, x-vector)
run their trunk once per window. CAM++ sees its whole input, so the frames of each speaker are cut
out first; inputs of one length make a batch, and lengths are rounded down so that batches fill.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from raydiar.errors import ScoresNotFinite
from raydiar.inference.batches import WindowBatch
from raydiar.inference.memory import in_parts
from raydiar.models.pooling import resize_masks

_LENGTH_STEP = 25  # frames: cut-out inputs are rounded down to a multiple of 0.25 s


@dataclass
class Request:
    """Embeddings asked for, filled in when their batch has run.

    Attributes
    ----------
    embeddings : (num_embeddings, dimension) float32
        In row-major order of (window, local speaker); NaN where there is too little to embed.
    missing : int
        Rows still to be computed.
    """

    embeddings: np.ndarray = field(repr=False)
    missing: int


class MaskedEmbedder:
    """Trunk once per window, pooled under the mask of each speaker.

    Parameters
    ----------
    model : nn.Module
        With `frames(features)` and `pool(frames, masks)`.
    batch_size : int
        Windows per pass of the trunk.
    """

    def __init__(self, model: nn.Module, batch_size: int):
        self.model = model
        self.batch_size = batch_size

    def submit(self, batch: WindowBatch, masks: torch.Tensor, active: torch.Tensor) -> Request:
        """
        Parameters
        ----------
        batch : WindowBatch
        masks : (batch, num_speakers, num_mask_frames) float32, 0 or 1
        active : (batch, num_speakers) bool
        """
        chosen = active.any(dim=1).nonzero().squeeze(1)
        request = Request(_empty(int(active.sum()), self.model.dimension), missing=0)
        if len(chosen) == 0:
            return request
        if self.model.fbank is None:
            windows = batch.windows()
            inputs = [windows[part] for part in chosen.split(self.batch_size)]
        else:
            frames, starts, num_frames = batch.features(self.model.fbank)
            span = torch.arange(num_frames, device=frames.device)
            # One part at a time: gathered windows are ten times the features they come from.
            inputs = (
                self.model.normalize(frames[starts[part, None] + span])
                for part in chosen.split(self.batch_size)
            )
        embeddings = []
        for features, part in zip(inputs, chosen.split(self.batch_size), strict=True):

            def embed(rows: range, features=features, part=part) -> torch.Tensor:
                rows = slice(rows.start, rows.stop)
                pooled = self.model.pool(self.model.frames(features[rows]), masks[part[rows]])
                return pooled[active[part[rows]]].float()

            embeddings += in_parts(embed, range(len(part)))
        request.embeddings[:] = _finite(torch.cat(embeddings).cpu().numpy())
        return request

    def flush_full(self) -> None:
        """Nothing waits here."""

    def flush(self) -> None:
        """Nothing waits here."""

    def drop(self, requests: list[Request]) -> None:
        """Nothing waits here."""


class CutEmbedder:
    """Frames under each mask cut out, grouped by length across windows and recordings.

    Parameters
    ----------
    model : nn.Module
    batch_size : int
        Inputs per pass that are as long as a window; of shorter ones, as many more.
    queue_size : int
        Inputs held back until they are grouped; more make fuller batches and take more memory
        (at most 320 kB each).
    """

    def __init__(self, model: nn.Module, batch_size: int, queue_size: int):
        self.model = model
        self.batch_size = batch_size
        self.queue_size = queue_size
        self._queue: list[tuple[torch.Tensor, np.ndarray, np.ndarray, Request]] = []
        self._waiting = 0
        self._frames_per_pass = 0

    def submit(self, batch: WindowBatch, masks: torch.Tensor, active: torch.Tensor) -> Request:
        """As `MaskedEmbedder.submit`, but the request may be filled later."""
        fbank = self.model.fbank
        window, speaker = active.nonzero(as_tuple=True)
        request = Request(_empty(len(window), self.model.dimension), missing=0)
        if len(window) == 0:
            return request
        frames, starts, num_frames = batch.features(fbank)
        self._frames_per_pass = self.batch_size * num_frames
        cut = resize_masks(masks[window, speaker], num_frames) > 0.5
        lengths = _rounded(cut.sum(dim=1).cpu().numpy())
        usable = np.flatnonzero(lengths >= fbank.num_frames(self.model.min_num_samples))
        if len(usable) == 0:
            return request
        rows = torch.from_numpy(usable).to(cut.device)
        # A stable sort moves the frames under the mask to the front, in their order.
        order = cut[rows].logical_not().byte().argsort(dim=1, stable=True)
        order = order[:, : lengths.max()] + starts[window[rows], None]
        self._queue.append((frames[order], lengths[usable], usable, request))
        request.missing = len(usable)
        self._waiting += len(usable)
        return request

    def flush_full(self) -> None:
        """Embed what waits if it is as much as may be held back."""
        if self._waiting >= self.queue_size:
            self.flush()

    def drop(self, requests: list[Request]) -> None:
        """Forget inputs of requests that nobody waits for any more."""
        dropped = {id(request) for request in requests}
        self._queue = [entry for entry in self._queue if id(entry[3]) not in dropped]
        self._waiting = sum(len(entry[1]) for entry in self._queue)

    def flush(self) -> None:
        """Embed everything that waits."""
        if not self._queue:
            return
        lengths = np.concatenate([entry[1] for entry in self._queue])
        edges = np.cumsum([0] + [len(entry[1]) for entry in self._queue])
        embeddings, order = [], []
        for length in np.unique(lengths)[::-1]:
            group = np.flatnonzero(lengths == length)
            count = self._frames_per_pass // length
            for start in range(0, len(group), count):
                part = group[start : start + count]

                def embed(part: np.ndarray, length=length) -> torch.Tensor:
                    features = self._gather(part, edges, length)
                    return self.model.pool(self.model.frames(self.model.normalize(features)))

                embeddings += [pooled.float() for pooled in in_parts(embed, part)]
                order.append(part)
        result = np.empty((len(lengths), self.model.dimension), np.float32)
        result[np.concatenate(order)] = _finite(torch.cat(embeddings).cpu().numpy())
        for (_, _, rows, request), start, stop in zip(
            self._queue, edges[:-1], edges[1:], strict=True
        ):
            request.embeddings[rows] = result[start:stop]
            request.missing = 0
        self._queue.clear()
        self._waiting = 0

    def _gather(self, part: np.ndarray, edges: np.ndarray, length: int) -> torch.Tensor:
        """(len(part), length, num_mel_bins) features of queued inputs of one length."""
        entries = np.searchsorted(edges, part, side="right") - 1
        pieces = []
        for entry in np.unique(entries):
            features = self._queue[entry][0]
            rows = torch.from_numpy(part[entries == entry] - edges[entry]).to(features.device)
            pieces.append(features[rows, :length])
        return torch.cat(pieces)


def make_embedder(model: nn.Module, batch_size: int, queue_size: int):
    """The embedder that a network's `embedding_mode` asks for."""
    if model.embedding_mode == "cut":
        return CutEmbedder(model, batch_size, queue_size)
    return MaskedEmbedder(model, batch_size)


def _rounded(lengths: np.ndarray) -> np.ndarray:
    """Lengths rounded down to a multiple of the step; those below one step stay as they are."""
    return np.where(lengths < _LENGTH_STEP, lengths, lengths - lengths % _LENGTH_STEP)


def _finite(embeddings: np.ndarray) -> np.ndarray:
    if not np.isfinite(embeddings).all():
        raise ScoresNotFinite("the embedding network gave NaN or infinity")
    return embeddings


def _empty(num_embeddings: int, dimension: int) -> np.ndarray:
    return np.full((num_embeddings, dimension), np.nan, np.float32)
