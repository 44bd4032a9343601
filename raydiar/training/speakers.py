"""Speaker embedding: windows of single speakers, the margin loss, error rates of verification."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import torch
from torch import nn

from raydiar.audio import SAMPLE_RATE
from raydiar.errors import ManifestError, TrainingError
from raydiar.evaluation.verification import equal_error_rate, min_dcf
from raydiar.models.specifications import Problem, Resolution, Specifications
from raydiar.training.example import Example
from raydiar.training.index import TrainingIndex
from raydiar.training.losses import AngularMargin
from raydiar.training.sources import read_window, readable
from raydiar.training.tasks import Task

_ANONYMOUS = re.compile(r"(spk|speaker|spkr|s)[_#-]?\d{1,3}", re.IGNORECASE)


class SpeakerWindows:
    """Stretches of turns, every speaker as often as any other.

    Speakers follow each other in an order drawn anew each round, so that a batch that is not
    larger than their number has each at most once; then a recording and a turn of theirs is drawn
    in proportion to its length, and a stretch of it. What is shorter than the window stands
    somewhere in silence.

    Parameters
    ----------
    index : TrainingIndex
        With labels of one scope: "global", or "file", where each speaker of each recording is
        another person.
    duration : float, seconds
    min_duration : float, optional
        Windows of a batch have one length, drawn from here to `duration`.
    batch_size : int
        Of all workers together: what shares a drawn length.
    seed : int
    min_turn : float, seconds
        Shorter turns are not used.
    """

    def __init__(
        self,
        index: TrainingIndex,
        duration: float,
        *,
        min_duration: float | None = None,
        batch_size: int = 32,
        seed: int = 0,
        min_turn: float = 0.5,
    ):
        self.index, self.duration, self.seed = index, duration, seed
        self.failures: dict[str, str] = {}
        self.min_duration, self.batch_size = min_duration or duration, batch_size
        check_labels(index)
        starts, ends, speakers, recordings = _all_turns(index)
        usable = np.flatnonzero(ends - starts >= min_turn)
        order = usable[np.argsort(speakers[usable], kind="stable")]
        self._starts, self._ends, self._recordings = starts[order], ends[order], recordings[order]
        self.classes, first = np.unique(speakers[order], return_index=True)
        self._bounds = np.append(first, len(order))
        self._cumulated = np.concatenate([[0.0], np.cumsum(self._ends - self._starts)])
        if len(self.classes) < 2:
            raise ManifestError(
                f"{len(self.classes)} speakers have turns of {min_turn} s: an embedding is learnt "
                "from two or more"
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def length(self, index: int) -> float:
        """Seconds of the windows of the batch that a number belongs to."""
        if self.min_duration >= self.duration:
            return self.duration
        rng = np.random.default_rng([self.seed, index // self.batch_size, 17])
        return float(np.round(rng.uniform(self.min_duration, self.duration), 2))

    def example(self, index: int) -> Example:
        turn, place = divmod(index, self.num_classes)
        order = np.random.default_rng([self.seed, turn, 19]).permutation(self.num_classes)
        number, length = int(order[place]), self.length(index)

        def draw(attempt: int):
            rng = np.random.default_rng([self.seed, index, 23, attempt][: 4 if attempt else 3])
            chosen = self._turn_of(number, rng)
            uri = self.index.uri(int(self._recordings[chosen]))
            return uri, lambda: self.stretch(chosen, number, index, length, rng)

        return readable(draw, self.failures)

    def _turn_of(self, number: int, rng: np.random.Generator) -> int:
        """One of a speaker's turns, in proportion to their lengths."""
        low, high = self._cumulated[self._bounds[number : number + 2]]
        at = low + rng.random() * (high - low)
        turn = int(np.searchsorted(self._cumulated, at, side="right")) - 1
        return int(np.clip(turn, self._bounds[number], self._bounds[number + 1] - 1))

    def stretch(self, turn: int, number: int, index: int, length: float, rng) -> Example:
        recording = int(self._recordings[turn])
        start, end = float(self._starts[turn]), float(self._ends[turn])
        seconds = min(end - start, length)
        start += rng.random() * (end - start - seconds)
        samples = read_window(self.index, recording, start, seconds)
        missing = round(length * SAMPLE_RATE) - len(samples)
        before = int(rng.integers(missing + 1)) if missing > 0 else 0
        samples = np.pad(samples, (before, max(0, missing - before)))
        return Example(
            index=index,
            name=f"{self.index.recording_id(recording)} from {start:.2f} s",
            samples=samples[: round(length * SAMPLE_RATE)],
            starts=np.zeros(1),
            ends=np.full(1, length),
            speakers=np.array([number], np.int64),
        )


class TrialWindows:
    """Up to `per_speaker` stretches of every speaker, from different turns: for verification."""

    def __init__(self, index: TrainingIndex, duration: float, per_speaker: int = 4, seed: int = 0):
        self._source = SpeakerWindows(index, duration, seed=seed)
        self.duration = duration
        self._chosen = []
        for number in range(self._source.num_classes):
            first, last = self._source._bounds[number : number + 2]
            longest = first + np.argsort(
                self._source._starts[first:last] - self._source._ends[first:last], kind="stable"
            )
            if len(longest) == 1:
                # one long turn gives several stretches that do not overlap
                turn = int(longest[0])
                seconds = self._source._ends[turn] - self._source._starts[turn]
                count = max(1, min(per_speaker, int(seconds // duration)))
                self._chosen += [(turn, number, n, count) for n in range(count)]
            else:
                self._chosen += [(int(turn), number, 0, 1) for turn in longest[:per_speaker]]

    def __len__(self) -> int:
        return len(self._chosen)

    def example(self, index: int) -> Example:
        turn, number, part, count = self._chosen[index]
        source = self._source
        start, end = float(source._starts[turn]), float(source._ends[turn])
        step = (end - start) / count
        first = start + part * step
        seconds = min(step, self.duration)
        recording = int(source._recordings[turn])
        samples = read_window(source.index, recording, first, seconds)
        missing = round(self.duration * SAMPLE_RATE) - len(samples)
        # repeated rather than padded: silence would count as voice
        samples = np.pad(samples, (0, max(0, missing)), mode="wrap")
        return Example(
            index=index,
            name=f"{source.index.recording_id(recording)} from {first:.2f} s",
            samples=samples,
            starts=np.zeros(1),
            ends=np.full(1, self.duration),
            speakers=np.array([number], np.int64),
        )


def check_labels(index: TrainingIndex) -> None:
    """Raise if labels that mean nobody in particular are taken for persons.

    Raises
    ------
    ManifestError
    """
    if index.scope != "global" or len(index) < 2:
        return
    anonymous = [label for label in index.labels if _ANONYMOUS.fullmatch(label)]
    if len(anonymous) > len(index.labels) / 2:
        raise ManifestError(
            f"labels such as {anonymous[0]!r} name speakers of one recording, but are taken for "
            "the same person everywhere: say --scope file, or name people in the labels"
        )


class SpeakerEmbedding(Task):
    """Vectors that are alike exactly for one speaker: additive angular margin over all speakers.

    Parameters
    ----------
    data, validation, ...
        As `Task`; `data` a manifest or index, whose labels name persons.
    scope : str
        "global": a label is the same person everywhere; "file": only within its recording.
    min_duration : float, optional
        Windows of a batch have one length, drawn from here to `duration` (s).
    margin : float, degrees
    scale : float
    num_centres : int
        Sub-centres of each speaker.
    margin_steps : int
        In which the margin grows from 0.
    """

    monitor = "val_eer"

    def __init__(
        self,
        data=None,
        *,
        duration: float = 2.0,
        scope: str = "global",
        min_duration: float | None = None,
        margin: float = 11.5,
        scale: float = 32.0,
        num_centres: int = 1,
        margin_steps: int = 0,
        **options,
    ):
        super().__init__(data, duration=duration, **options)
        self.scope, self.min_duration = scope, min_duration
        self.margin, self.scale, self.num_centres = margin, scale, num_centres
        self.margin_steps = margin_steps
        self.loss_func: AngularMargin | None = None

    @property
    def specifications(self) -> Specifications:
        return Specifications(
            Problem.REPRESENTATION,
            Resolution.CHUNK,
            duration=self.duration,
            min_duration=self.min_duration,
        )

    def _as_source(self, data, subset):
        if hasattr(data, "example"):
            return data
        return SpeakerWindows(
            self._index(data, subset),
            self.duration,
            min_duration=self.min_duration,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def _as_validation(self, data):
        if hasattr(data, "example"):
            return data
        return TrialWindows(self._index(data, "development"), self.duration)

    def attach(self, model: nn.Module) -> nn.Module:
        num_classes = getattr(self._source, "num_classes", None)
        if num_classes is None:
            raise TrainingError("speaker embedding learns from labelled recordings: give `data`")
        self.loss_func = AngularMargin(
            model.dimension, num_classes, self.margin, self.scale, self.num_centres
        )
        return self.loss_func

    def at_step(self, step: int) -> None:
        if self.margin_steps:
            self.loss_func.margin = self.margin * min(1.0, step / self.margin_steps)

    def labels(self, example: Example) -> np.ndarray:
        return example.speakers[0]

    def loss(self, output, batch):
        speakers = batch["y"]
        if int(speakers.max()) >= self.loss_func.num_classes:  # people of a validation set
            return output.sum() * 0, output.new_tensor(float(len(output)))
        return self.loss_func(output, speakers)

    gathers = True

    def count(self, output, batch):
        """(batch, dimension + 1): embeddings, and whose they are"""
        return torch.cat([output.double(), batch["y"][:, None].double()], dim=1)

    def metrics(self, counts):
        return verification_metrics(counts[:, :-1].numpy(), counts[:, -1].numpy())


def verification_metrics(embeddings: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Error rates of telling voices apart by the cosine, over all pairs.

    Parameters
    ----------
    embeddings : (num_embeddings, dimension) float
    speakers : (num_embeddings,)
    """
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    first, second = np.array(list(combinations(range(len(directions)), 2))).T
    scores = np.einsum("ij,ij->i", directions[first], directions[second])
    targets = speakers[first] == speakers[second]
    if targets.all() or not targets.any():
        raise TrainingError(
            "verification needs several windows of several speakers: the validation set has "
            f"{len(np.unique(speakers))} speakers in {len(speakers)} windows"
        )
    rate, threshold = equal_error_rate(scores, targets)
    return {
        "val_eer": rate,
        "val_min_dcf": min_dcf(scores, targets),
        "val_eer_threshold": threshold,
    }


def _all_turns(index: TrainingIndex):
    starts, ends, speakers = index._turns
    first, last = index._bounds
    recordings = np.repeat(np.arange(len(index)), last - first)
    seconds = index.recordings.column("seconds").to_numpy()
    return starts, np.minimum(ends, seconds[recordings]), speakers, recordings


# pyannote's longer name
SupervisedRepresentationLearningWithArcFace = SpeakerEmbedding
