"""Where somebody speaks, where several do, and where speakers change.

All of it comes from one segmentation network and its aggregated scores; nothing is embedded or
clustered. Networks with powerset output decide for themselves; of others (pyannote.audio 2),
which give probabilities, two thresholds decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pyannote.core import Annotation, Segment, SlidingWindowFeature, Timeline

from raydiar.errors import ConfigError
from raydiar.inference.binarization import Binarize, Peak
from raydiar.inference.regions import FrameScorer
from raydiar.inference.sliding import get_model
from raydiar.models import Model
from raydiar.pipelines.files import AudioFile
from raydiar.pipelines.pipeline import Nested, Pipeline, Range
from raydiar.weights import SEGMENTATION_3_0

FAST_STEP = 0.5
"""Share of a window between windows where `fast` is asked for."""


class SegmentationPipeline(Pipeline):
    """Base of pipelines that look at the aggregated scores of one segmentation network.

    Parameters
    ----------
    segmentation : Model, str, Path or dict, optional
        Network, or where it is: see `raydiar.inference.sliding.get_model`; segmentation-3.0 by
        default, without a token.
    fast : bool
        Look at each instant twice instead of ten times: five times as fast, with boundaries that
        are some frames off now and then.
    duration, step : float, optional
        Of windows, in seconds; by default those of training, and a tenth of that.
    batch_size : int
        Windows; at most 16 on a CPU.
    device : str or torch.device, optional
        By default where the network is.
    token, use_auth_token, cache_dir
        As in `Model.from_pretrained`.
    **unknown
        An error.

    Attributes
    ----------
    scorer : FrameScorer
        What scores recordings, without the regions.
    """

    _label = ""
    _soft = False

    def __init__(
        self,
        segmentation: Model | str | Path | dict | None = None,
        *,
        fast: bool = False,
        duration: float | None = None,
        step: float | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        token: str | None = None,
        use_auth_token: str | None = None,
        cache_dir: str | Path | None = None,
        **unknown,
    ):
        if unknown:
            raise ConfigError(
                f"{type(self).__name__} has no option {', '.join(sorted(unknown))}: it takes "
                "segmentation, fast, duration, step, batch_size, device, token, cache_dir"
            )
        if segmentation is None:
            segmentation = SEGMENTATION_3_0.uri
        self.segmentation = segmentation
        self._model = get_model(segmentation, token or use_auth_token, cache_dir)
        if fast and step is None:
            trained = self._model.specifications.duration
            step = FAST_STEP * (trained if duration is None else duration)
        self.scorer = FrameScorer(
            self._model,
            self._reduce,
            soft=self._soft,
            duration=duration,
            step=step,
            batch_size=batch_size,
        )
        super().__init__(self._model.device if device is None else device)
        self._parameters = self.default_parameters()

    @property
    def powerset(self) -> bool:
        """Whether the network decides for itself."""
        return self._model.specifications.powerset

    def _moved(self) -> None:
        self._model.to(self.device)

    def _reduce(self, scores: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _values(self) -> Nested:
        return self._parameters

    def _set(self, params: Nested) -> None:
        spaces = self._spaces()
        for name, value in params.items():
            low, high = spaces[name].low, spaces[name].high
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value:
                raise ConfigError(f"{name} must be a number from {low} on, not {value!r}")
            if name in ("onset", "offset", "alpha") and value > high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {value!r}")
        self._parameters = {**self._parameters, **params}

    def scores(self, file: AudioFile, hook: Callable | None = None) -> SlidingWindowFeature:
        """Aggregated scores of a recording, which regions are made of."""
        warnings: list[str] = []
        samples = file.samples(warnings)
        mapping = {"uri": file.uri, **file.mapping}

        def progress(completed: int, total: int) -> None:
            hook("segmentation", None, file=mapping, total=total, completed=completed)

        scores = self.scorer(samples, None if hook is None else progress)
        if hook is not None:
            hook("segmentation", scores, file=mapping)
        return scores


class _Regions(SegmentationPipeline):
    """Regions in which one score is high."""

    def default_parameters(self) -> Nested:
        durations = {"min_duration_on": 0.0, "min_duration_off": 0.0}
        return durations if self.powerset else {"onset": 0.5, "offset": 0.5, **durations}

    def _spaces(self) -> Nested:
        thresholds = {} if self.powerset else {"onset": Range(0.0, 1.0), "offset": Range(0.0, 1.0)}
        durations = ("min_duration_on", "min_duration_off")
        return {**thresholds, **{name: Range(0.0, 1.0) for name in durations}}

    def classes(self) -> list[str]:
        return [self._label]

    def apply(self, file: AudioFile, hook: Callable | None = None) -> Annotation:
        """Regions of one recording, on the timeline of its file."""
        scores = self.scores(file, hook)
        scores.labels = [self._label]
        return _placed(Binarize(**self._parameters)(scores), file)


class VoiceActivityDetection(_Regions):
    """Where anybody speaks, as an Annotation of "SPEECH".

    Parameters
    ----------
    segmentation, fast, duration, step, batch_size, device, token, cache_dir
        See `SegmentationPipeline`.
    fscore : bool
        Judge by the F-score instead of the detection error rate (`get_metric`).

    Notes
    -----
    Hyper-parameters: `min_duration_on` and `min_duration_off` (s: shorter speech is left out,
    shorter pauses are filled); `onset` and `offset` of networks without powerset output.
    """

    _label = "SPEECH"

    def __init__(self, segmentation=None, fscore: bool = False, **options):
        super().__init__(segmentation, **options)
        self.fscore = fscore

    def default_parameters(self) -> Nested:
        if self.powerset:
            return super().default_parameters()
        # Published with pyannote/segmentation.
        return {
            "onset": 0.767,
            "offset": 0.377,
            "min_duration_on": 0.136,
            "min_duration_off": 0.067,
        }

    def _reduce(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.amax(dim=-1, keepdim=True)

    def get_metric(self):
        """A new metric of pyannote.metrics."""
        from pyannote.metrics.detection import (
            DetectionErrorRate,
            DetectionPrecisionRecallFMeasure,
        )

        make = DetectionPrecisionRecallFMeasure if self.fscore else DetectionErrorRate
        return make(collar=0.0, skip_overlap=False)

    def get_direction(self) -> str:
        return "maximize" if self.fscore else "minimize"


class OverlappedSpeechDetection(_Regions):
    """Where two people or more speak at once, as an Annotation of "OVERLAP".

    Parameters and hyper-parameters are those of `VoiceActivityDetection`.
    """

    _label = "OVERLAP"

    def __init__(self, segmentation=None, **options):
        super().__init__(segmentation, **options)
        if len(self._model.specifications.classes) < 2:
            raise ConfigError("a network of a single class cannot tell overlapped speech")

    def _reduce(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.topk(2, dim=-1).values[..., 1:]

    def get_metric(self):
        """A new metric of pyannote.metrics."""
        from pyannote.metrics.detection import DetectionPrecisionRecallFMeasure

        return DetectionPrecisionRecallFMeasure(collar=0.0, skip_overlap=False)

    def get_direction(self) -> str:
        return "maximize"


class SpeakerChangeDetection(SegmentationPipeline):
    """Where the people who speak change: somebody begins, ends, or takes over.

    The result is a Timeline of the segments between changes, from the start of the recording to
    its end. Parameters are those of `SegmentationPipeline`.

    Notes
    -----
    Hyper-parameters: `alpha` (how much of a change it takes, from 0 to 1) and `min_duration` (s,
    the least distance between changes). The score of an instant is how much the activity of some
    local speaker differs between the quarter of a second before it and the one after it.
    """

    _soft = True
    _CONTEXT = 0.25

    def default_parameters(self) -> Nested:
        return {"alpha": 0.3, "min_duration": 0.25}

    def _spaces(self) -> Nested:
        return {"alpha": Range(0.0, 1.0), "min_duration": Range(0.0, 2.0)}

    def _reduce(self, scores: torch.Tensor) -> torch.Tensor:
        grid = self.scorer.grid
        width = max(1, round(self._CONTEXT * grid.sample_rate / grid.frame_step))
        # Beyond the ends of a window its first and last frame go on: nothing changes there.
        padded = torch.cat(
            [
                scores[:, :1].expand(-1, width, -1),
                scores,
                scores[:, -1:].expand(-1, width - 1, -1),
            ],
            dim=1,
        )
        mean = padded.mT.unfold(-1, width, 1).mean(dim=-1)
        before, after = mean[..., :-width], mean[..., width:]
        return (after - before).abs().amax(dim=1)[..., None]

    def changes(self, file, hook: Callable | None = None) -> list[float]:
        """Times of the changes in a recording, in seconds on the timeline of its file."""
        file = AudioFile.of(file)
        peaks = Peak(self._parameters["alpha"], self._parameters["min_duration"])
        return [file.start + time for time in peaks.peaks(self.scores(file, hook))]

    def apply(self, file: AudioFile, hook: Callable | None = None) -> Timeline:
        """Segments between the changes of one recording."""
        scores = self.scores(file, hook)
        segments = Peak(self._parameters["alpha"], self._parameters["min_duration"])(scores)
        return Timeline([_shifted(one, file.start) for one in segments], uri=file.uri)


class MultiLabelSegmentation(SegmentationPipeline):
    """Regions of each class of a network whose classes mean the same everywhere.

    Parameters
    ----------
    segmentation : Model, str, Path or dict
        Required: the default network knows local speakers only.
    fscore : bool
        Judge by the macro F-score instead of the identification error rate.
    share_min_duration : bool
        One `min_duration_on` and `min_duration_off` for all classes.
    fast, duration, step, batch_size, device, token, cache_dir
        See `SegmentationPipeline`.

    Notes
    -----
    Hyper-parameters: `thresholds`, a group of `onset`, `offset`, `min_duration_on` and
    `min_duration_off` for each class.
    """

    def __init__(
        self,
        segmentation: Model | str | Path | dict | None = None,
        fscore: bool = False,
        share_min_duration: bool = False,
        **options,
    ):
        if segmentation is None:
            raise ConfigError("MultiLabelSegmentation needs `segmentation`: a network of classes")
        self.fscore = fscore
        self.share_min_duration = share_min_duration
        super().__init__(segmentation, **options)
        if self._model.specifications.permutation_invariant:
            raise ConfigError(
                "the classes of this network are local speakers, who are others in every window: "
                "use VoiceActivityDetection, OverlappedSpeechDetection or SpeakerDiarization"
            )

    def classes(self) -> list[str]:
        return list(self._model.specifications.classes)

    def default_parameters(self) -> Nested:
        durations = {"min_duration_on": 0.0, "min_duration_off": 0.0}
        own = {"onset": 0.5, "offset": 0.5, **({} if self.share_min_duration else durations)}
        shared = durations if self.share_min_duration else {}
        return {"thresholds": {label: dict(own) for label in self.classes()}, **shared}

    def _spaces(self) -> Nested:
        def space(values: Mapping) -> Nested:
            return {
                name: space(value) if isinstance(value, Mapping) else Range(0.0, 1.0)
                for name, value in values.items()
            }

        return space(self.default_parameters())

    def _set(self, params: Nested) -> None:
        def merged(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Nested:
            both = dict(old)
            for name, value in new.items():
                if isinstance(value, Mapping):
                    both[name] = merged(old[name], value, f"{where}{name}.")
                elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                    raise ConfigError(f"{where}{name} must be 0 or more, not {value!r}")
                else:
                    both[name] = value
            return both

        self._parameters = merged(self._parameters, params, "")

    def _reduce(self, scores: torch.Tensor) -> torch.Tensor:
        return scores

    def apply(self, file: AudioFile, hook: Callable | None = None) -> Annotation:
        """Regions of all classes of one recording, on the timeline of its file."""
        scores = self.scores(file, hook)
        regions = Annotation(uri=file.uri)
        shared = {k: v for k, v in self._parameters.items() if k != "thresholds"}
        for column, label in enumerate(self.classes()):
            one = SlidingWindowFeature(
                scores.data[:, column : column + 1], scores.sliding_window, labels=[label]
            )
            regions.update(Binarize(**shared, **self._parameters["thresholds"][label])(one))
        return _placed(regions.rename_tracks(generator="string"), file)

    def get_metric(self):
        """A new metric of pyannote.metrics."""
        from pyannote.metrics.identification import IdentificationErrorRate

        if self.fscore:
            raise ConfigError("no macro F-score here: score each class with pyannote.metrics")
        return IdentificationErrorRate(collar=0.0, skip_overlap=False)


def _placed(regions: Annotation, file: AudioFile) -> Annotation:
    """Regions of an excerpt on the timeline of its file."""
    if not file.start:
        regions.uri = file.uri
        return regions
    placed = Annotation(uri=file.uri)
    for segment, track, label in regions.itertracks(yield_label=True):
        placed[_shifted(segment, file.start), track] = label
    return placed


def _shifted(segment: Segment, seconds: float) -> Segment:
    return Segment(segment.start + seconds, segment.end + seconds)
