"""Inference: any network over a recording, in sliding windows or in one piece."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pyannote.core import Segment, SlidingWindow, SlidingWindowFeature

from raydiar.errors import ConfigError, InvalidSamples
from raydiar.inference.aggregation import aggregate, trim
from raydiar.inference.devices import torch_device
from raydiar.inference.numerics import float32_numerics
from raydiar.inference.powerset import Powerset
from raydiar.inference.waveforms import Audio, AudioFile
from raydiar.keywords import check_hook, check_number, known_keywords
from raydiar.models import Model
from raydiar.models.specifications import Resolution


def get_model(
    model: Model | str | Path | dict, token: str | None = None, cache_dir: str | Path | None = None
) -> Model:
    """A network in evaluation mode, from itself or from what `Model.from_pretrained` takes.

    Parameters
    ----------
    model : Model, str, Path or dict
        A dict holds keyword arguments of `Model.from_pretrained`.

    Raises
    ------
    WeightsNotFound, CheckpointError
    ConfigError
        Anything else.
    """
    if isinstance(model, dict):
        options = {"token": token, "cache_dir": cache_dir, "strict": False, **model}
        model = Model.from_pretrained(**options)
    elif isinstance(model, str | Path):
        model = Model.from_pretrained(model, token=token, cache_dir=cache_dir)
    if not isinstance(model, Model):
        raise ConfigError(f"a network or where its weights are, not a {type(model).__name__}")
    return model.eval()


class Inference:
    """A network over recordings.

    Parameters
    ----------
    model : Model, str, Path or dict
        See `get_model`.
    window : str
        "sliding", or "whole" for one pass over everything.
    duration : float, optional
        Of windows, in seconds; by default that of training.
    step : float, optional
        Between windows, in seconds; by default a tenth of `duration`, or the warm-up of training.
    pre_aggregation_hook : callable, optional
        Applied to the (num_windows, num_frames, num_classes) scores before they are joined, and
        only then.
    skip_aggregation : bool
        Give the scores of each window as they are.
    skip_conversion : bool
        Leave powerset scores log-probabilities; by default each class is 0 or 1.
    device : str or torch.device, optional
        By default where the model is.
    batch_size : int
        Windows.
    token, use_auth_token, cache_dir
        As in `Model.from_pretrained`.

    Raises
    ------
    ConfigError
        A step that is longer than the window, or an unknown kind of window.
    """

    @known_keywords
    def __init__(
        self,
        model: Model | str | Path | dict,
        window: str = "sliding",
        duration: float | None = None,
        step: float | None = None,
        pre_aggregation_hook: Callable[[np.ndarray], np.ndarray] | None = None,
        skip_aggregation: bool = False,
        skip_conversion: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        token: str | None = None,
        use_auth_token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        if window not in ("sliding", "whole"):
            raise ConfigError(f'window must be "sliding" or "whole", not {window!r}')
        check_number("batch_size", batch_size, 1)
        check_hook(pre_aggregation_hook)
        self.model = get_model(model, token or use_auth_token, cache_dir)
        self.to(device if device is not None else self.model.device)
        self.window = window
        specifications = self.model.specifications
        self.duration = specifications.duration if duration is None else duration
        check_number("duration", self.duration, above=True)
        if duration and not math.isclose(duration, specifications.duration):
            warnings.warn(
                f"the model was trained on {specifications.duration:g} s windows, and is given "
                f"{duration:g} s windows: it may be less accurate",
                stacklevel=2,
            )
        self.warm_up = specifications.warm_up
        self.step = (self.warm_up[0] or 0.1 * self.duration) if step is None else step
        check_number("step", self.step, above=True)
        if not 0 < self.step <= self.duration:
            raise ConfigError(
                f"step must be above 0 s and at most the {self.duration:g} s of a window, "
                f"not {self.step:g}"
            )
        self.pre_aggregation_hook = pre_aggregation_hook
        self.skip_aggregation = skip_aggregation
        self.skip_conversion = skip_conversion
        self.batch_size = batch_size
        self._audio = Audio(sample_rate=self.model.sample_rate, mono="downmix")
        self._powerset = None
        if specifications.powerset:
            self._powerset = Powerset(
                len(specifications.classes), specifications.powerset_max_classes
            )

    def to(self, device: str | torch.device) -> Inference:
        """Move the network to another device, if there is one."""
        self.device = torch_device(device)
        self.model.to(self.device)
        return self

    # -- networks --------------------------------------------------------------------------

    def infer(self, windows: torch.Tensor) -> np.ndarray:
        """Scores of (batch, 1, num_samples) waveforms.

        Raises
        ------
        MemoryError
            They do not fit on the GPU.
        InvalidSamples
            They are too short for a single frame.
        """
        if self.model.num_frames(windows.shape[-1]) < 1:
            raise InvalidSamples(
                f"{windows.shape[-1]} samples are too few for {type(self.model).__name__}, whose "
                f"frames see {self.model.frame_duration}"
            )
        try:
            with torch.inference_mode(), float32_numerics():
                scores = self.model(windows.to(self.device))
                if self._powerset is not None and not self.skip_conversion:
                    scores = self._powerset.to(scores.device).to_multilabel(scores)
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(
                f"batch_size={self.batch_size} is more than this GPU holds: try a smaller one"
            ) from error
        return scores.float().cpu().numpy()

    def slide(
        self, waveform: torch.Tensor, sample_rate: int, hook: Callable | None = None
    ) -> SlidingWindowFeature:
        """Scores of sliding windows.

        Parameters
        ----------
        waveform : (1, num_samples) float32 tensor
        sample_rate : int, Hz
        hook : callable, optional
            Called with `completed` and `total` windows.

        Returns
        -------
        scores : SlidingWindowFeature
            (num_windows, num_frames, num_classes), or (num_windows, dimension) of a network
            that gives one vector a window; (num_frames, num_classes) where windows are joined.
        """
        size, step = round(self.duration * sample_rate), round(self.step * sample_rate)
        num_samples = waveform.shape[1]
        num_windows = 1 if num_samples <= size else -(-(num_samples - size) // step) + 1
        padding = size + (num_windows - 1) * step - num_samples
        chunks = []
        if hook is not None:
            hook(completed=0, total=num_windows)
        for batch in self._batches(waveform, size, step, num_windows):
            chunks.append(self.infer(batch))
            if hook is not None:
                hook(completed=sum(map(len, chunks)), total=num_windows)
        scores = SlidingWindowFeature(
            np.concatenate(chunks),
            SlidingWindow(start=0.0, duration=self.duration, step=self.step),
        )
        specifications = self.model.specifications
        if (
            self.skip_aggregation
            or specifications.resolution is Resolution.CHUNK
            or (specifications.permutation_invariant and self.pre_aggregation_hook is None)
        ):
            return scores
        if self.pre_aggregation_hook is not None:
            hooked = self.pre_aggregation_hook(scores.data)
            if np.ndim(hooked) != 3 or np.shape(hooked)[:2] != scores.data.shape[:2]:
                raise ConfigError(
                    f"pre_aggregation_hook was given {scores.data.shape} scores and gave "
                    f"{np.shape(hooked)}: windows and frames must stay"
                )
            scores = SlidingWindowFeature(np.asarray(hooked), scores.sliding_window)
        joined = self.aggregate(
            scores,
            self.model.receptive_field,
            warm_up=self.warm_up,
            hamming=True,
            missing=0.0,
        )
        if padding > 0:
            whole = Segment(0.0, num_samples / sample_rate)
            joined = SlidingWindowFeature(joined.crop(whole, mode="loose"), joined.sliding_window)
        return joined

    def _batches(
        self, waveform: torch.Tensor, size: int, step: int, num_windows: int
    ) -> Iterator[torch.Tensor]:
        """(batch, 1, size) windows; only the last one reaches past the end, into zeros."""
        num_samples = waveform.shape[1]
        whole = num_windows if (num_windows - 1) * step + size == num_samples else num_windows - 1
        views = waveform[0].unfold(0, size, step)[:, None] if whole else ()
        for start in range(0, whole, self.batch_size):
            yield views[start : min(start + self.batch_size, whole)]
        if whole < num_windows:
            last = waveform[:, (num_windows - 1) * step :]
            yield torch.nn.functional.pad(last, (0, size - last.shape[1]))[None]

    # -- recordings ------------------------------------------------------------------------

    def __call__(
        self, file: AudioFile, hook: Callable | None = None
    ) -> SlidingWindowFeature | np.ndarray:
        """
        Parameters
        ----------
        file : path, URI, open file, or mapping
            See `raydiar.inference.waveforms.AudioFile`.
        hook : callable, optional
            See `slide`.

        Returns
        -------
        scores : SlidingWindowFeature, or array of a network over the whole
            As `slide`; of the whole, (num_frames, num_classes) or (dimension,).

        Raises
        ------
        InvalidSamples, AudioDecodeError, AudioNotFound, StorageDenied, StorageUnavailable
        """
        check_hook(hook)
        waveform, sample_rate = self._audio(file)
        if self.window == "sliding":
            return self.slide(waveform, sample_rate, hook=hook)
        return self.infer(waveform[None])[0]

    def crop(
        self,
        file: AudioFile,
        chunk: Segment | Sequence[Segment],
        hook: Callable | None = None,
    ) -> SlidingWindowFeature | np.ndarray:
        """The same on an excerpt.

        Parameters
        ----------
        chunk : Segment or sequence of Segment
            In seconds. Of several, sliding windows take what lies between the first start and the
            last end, and the whole is all of them one after the other.
        """
        chunks = [chunk] if isinstance(chunk, Segment) else list(chunk)
        if not chunks:
            raise ConfigError("there is no excerpt to crop")
        if self.window == "whole":
            parts = [self._audio.crop(file, one)[0] for one in chunks]
            return self.infer(torch.cat(parts, dim=1)[None])[0]
        start, end = min(one.start for one in chunks), max(one.end for one in chunks)
        waveform, sample_rate = self._audio.crop(file, Segment(start, end))
        scores = self.slide(waveform, sample_rate, hook=hook)
        shifted = SlidingWindow(
            start=start + scores.sliding_window.start,
            duration=scores.sliding_window.duration,
            step=scores.sliding_window.step,
        )
        return SlidingWindowFeature(scores.data, shifted)

    aggregate = staticmethod(aggregate)
    trim = staticmethod(trim)
