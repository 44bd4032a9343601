"""LocalInference: recordings in, LocalSpeakers out; the only step that wants a GPU.

Windows of all recordings share batches, so that ten thousand short clips run as fast as one long
recording. Memory is the PCM of the recordings in flight, their LocalSpeakers, and one batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from raydiar.errors import ScoresNotFinite
from raydiar.inference.batches import Job, Slice, Stretch, WindowBatch, cut, fill_batches
from raydiar.inference.embedder import Request, make_embedder
from raydiar.inference.forks import check_not_forked, claim_process
from raydiar.inference.memory import in_parts
from raydiar.inference.numerics import float32_numerics
from raydiar.inference.segmenter import Segmenter
from raydiar.local_speakers import LocalSpeakers, pack_activity
from raydiar.models.optimize import optimize_for_inference

# What the caches of a CPU hold: larger batches take up to 1.7 times as long, and more memory. CAM++
# takes more, as its head, which alone would not fit, takes one input at a time there.
_CPU_SEGMENTATION_BATCH = 16
_CPU_EMBEDDING_BATCH = {"cut": 16, "masked": 4}


def speaker_masks(active: torch.Tensor, exclude_overlap: bool, min_num_frames: int) -> torch.Tensor:
    """Frames from which each local speaker is embedded.

    Overlapped speech is left out, unless that leaves `min_num_frames` frames or fewer: then all
    its frames are taken.

    Parameters
    ----------
    active : (batch, num_frames, num_speakers) float32, 0 or 1

    Returns
    -------
    masks : (batch, num_speakers, num_frames) float32, 0 or 1
    """
    if not exclude_overlap:
        return active.mT.contiguous()
    alone = active * (active.sum(dim=-1, keepdim=True) < 2)
    enough = alone.sum(dim=1, keepdim=True) > min_num_frames
    return torch.where(enough, alone, active).mT.contiguous()


class LocalInference:
    """Segmentation and embedding of any number of recordings.

    Parameters
    ----------
    segmentation, embedding : nn.Module
        Networks as `Model.from_pretrained` gives them; taken over: moved to `device`, and their
        batch norms folded.
    device : str or torch.device
    dtype : torch.dtype
        float32 is exact; bfloat16 and float16 run the networks under autocast.
    segmentation_step : float
        Step between windows as a fraction of their duration.
    segmentation_batch_size, embedding_batch_size : int
        Windows; on a CPU at most 16, and 4 to embed where the trunk sees whole windows.
    exclude_overlap : bool
        Embed speakers from the frames where they speak alone, where there are enough.
    segmentation_threshold : float, optional
        See `Segmenter`.

    Attributes
    ----------
    grid : WindowGrid
    dimension : int
        Of the embeddings.

    Notes
    -----
    On a CPU, use one thread of a process for all of torch. Once a second one computes, GNU OpenMP
    has more threads than cores, sleeps at every barrier instead of spinning, and an LSTM takes
    five times as long.
    """

    def __init__(
        self,
        segmentation: nn.Module,
        embedding: nn.Module,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        segmentation_step: float = 0.1,
        segmentation_batch_size: int = 32,
        embedding_batch_size: int = 32,
        exclude_overlap: bool = True,
        segmentation_threshold: float | None = None,
    ):
        claim_process()
        self.device = torch.device(device)
        self.dtype = dtype
        if self.device.type == "cpu":
            segmentation_batch_size = min(segmentation_batch_size, _CPU_SEGMENTATION_BATCH)
            most = _CPU_EMBEDDING_BATCH[embedding.embedding_mode]
            embedding_batch_size = min(embedding_batch_size, most)
        self.batch_size = segmentation_batch_size
        segmentation = segmentation.to(self.device).eval()
        embedding = optimize_for_inference(embedding.to(self.device).eval())
        self._segmenter = Segmenter(segmentation, segmentation_step, segmentation_threshold)
        self.grid = self._segmenter.grid
        # Groups of one length are short: more inputs that gather make fuller batches. Kernel
        # launches, not memory, limit them on a GPU.
        queue_size = 2048 if self.device.type == "cuda" else 1024
        self._embedder = make_embedder(embedding, embedding_batch_size, queue_size)
        self.dimension = embedding.dimension
        self._exclude_overlap = exclude_overlap
        self._min_num_frames = math.ceil(
            self.grid.num_frames * embedding.min_num_samples / self.grid.window_samples
        )

    def __call__(
        self,
        recordings: Iterable[np.ndarray | Slice],
        progress: Callable[[int], None] | None = None,
        embedded: Callable[[int], None] | None = None,
    ) -> Iterator[LocalSpeakers]:
        """
        Parameters
        ----------
        recordings : iterable of (num_samples,) int16, or float32 in [-1, 1]; or of Slice
            16 kHz mono; consumed as batches need them.
        progress : callable, optional
            Called with the number of windows of each batch once it is segmented.
        embedded : callable, optional
            Called with the number of windows of each batch once its speakers are embedded too.

        Yields
        ------
        local : LocalSpeakers
            One per recording or slice, in order.

        Raises
        ------
        InvalidSamples
            Wrong shape or type of samples.
        ForkedProcess
            In a fork of the process that loaded the networks.
        ScoresNotFinite
            A network gave NaN or infinity.
        Exception
            Of the device. For want of memory only if a single window is too much: batches that
            do not fit are done in halves.
        """
        check_not_forked()
        pending: deque[Job] = deque()
        waiting: deque[tuple[Request, int]] = deque()
        jobs = (Job(recording, self.grid) for recording in recordings)
        try:
            for started, stretches in fill_batches(jobs, self.grid, self.batch_size):
                pending.extend(started)
                with self._numerics():
                    requests = self._run(stretches)
                if progress is not None:
                    progress(sum(stretch.num_windows for stretch in stretches))
                if embedded is not None:
                    waiting.extend(requests)
                    _tell_embedded(waiting, embedded)
                while pending and self._finished(pending[0]):
                    yield self._result(pending.popleft())
            with self._numerics():
                self._embedder.flush()
            if embedded is not None:
                _tell_embedded(waiting, embedded)
            while pending:
                yield self._result(pending.popleft())
        finally:
            # of a call that failed or was abandoned: what waits would be embedded by the next
            self._embedder.drop([result[3] for job in pending for result in job.results])

    def probe(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of one window and the embedding of all of it, as if one person spoke throughout.

        Parameters
        ----------
        window : (window_samples,) int16

        Returns
        -------
        posteriors : (num_frames, num_speakers) float32
        embedding : (dimension,) float32
        """
        with self._numerics():
            [stretch] = next(fill_batches([Job(window, self.grid)], self.grid, 1))[1]
            batch = WindowBatch([stretch], self.grid, self.device)
            _, posteriors = self._segmenter(batch.windows())
            masks = torch.ones(1, 1, self.grid.num_frames, device=self.device)
            request = self._embedder.submit(batch, masks, masks.any(dim=2))
            try:
                self._embedder.flush()
            finally:
                self._embedder.drop([request])
        return posteriors[0].float().cpu().numpy(), request.embeddings[0]

    @contextmanager
    def _numerics(self):
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(float32_numerics())
            if self.dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
            yield

    def _run(self, stretches: list[Stretch]) -> list[tuple[Request, int]]:
        """Segment windows, and ask for their embeddings; gives what was asked for, and of how many.

        In parts, each with a request of its own, where memory does not suffice for all.
        """
        windows = range(sum(stretch.num_windows for stretch in stretches))
        requests = in_parts(
            lambda part: (self._run_batch(cut(stretches, part)), len(part)), windows
        )
        self._embedder.flush_full()
        return requests

    def _run_batch(self, stretches: list[Stretch]) -> Request:
        batch = WindowBatch(stretches, self.grid, self.device)
        active, posteriors = self._segmenter(batch.windows())
        if not posteriors.isfinite().all():  # the decisions would look like silence
            raise ScoresNotFinite("the segmentation network gave NaN or infinity")
        masks = speaker_masks(active, self._exclude_overlap, self._min_num_frames)
        speaks = active.any(dim=1)
        request = self._embedder.submit(batch, masks, speaks)
        activity = pack_activity(active.byte().cpu().numpy())
        posteriors = posteriors.mul(255).round().byte().cpu().numpy()
        owners = speaks.nonzero().cpu().numpy().astype(np.int32)
        start = 0
        for stretch in stretches:
            stop = start + stretch.num_windows
            rows = slice(*np.searchsorted(owners[:, 0], (start, stop)))
            shift = np.array([stretch.first_window - start, 0], np.int32)
            stretch.job.results.append(
                (activity[start:stop], posteriors[start:stop], owners[rows] + shift, request, rows)
            )
            start = stop
            if stretch.first_window + stretch.num_windows == stretch.job.last_window:
                stretch.job.samples = None  # the PCM may go: only embeddings are still to come
        return request

    def _finished(self, job: Job) -> bool:
        return job.samples is None and not any(request.missing for *_, request, _ in job.results)

    def _result(self, job: Job) -> LocalSpeakers:
        activity, posteriors, owners, requests, rows = zip(*job.results, strict=True)
        embeddings = [
            request.embeddings[part] for request, part in zip(requests, rows, strict=True)
        ]
        return LocalSpeakers(
            num_samples=job.num_samples,
            activity=np.concatenate(activity),
            posteriors=np.concatenate(posteriors),
            embeddings=np.concatenate(embeddings),
            owners=np.concatenate(owners),
            num_speakers=self._segmenter.num_speakers,
            first_window=job.first_window,
            grid=self.grid,
        )


def _tell_embedded(waiting: deque[tuple[Request, int]], embedded: Callable[[int], None]) -> None:
    while waiting and not waiting[0][0].missing:
        embedded(waiting.popleft()[1])
