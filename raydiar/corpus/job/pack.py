"""Pack: the row that travels through the graph of a job, and what it holds after each step.

Recordings of together half an hour to two hours, so that one call of a stage makes short clips
cheap and holds no other recording up for long; a longer recording goes in parts, a pack each. Only
this module knows the columns: stages take and give packs, and Arrow carries them without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raydiar.corpus.inputs.shard_record import SHARD
from raydiar.corpus.output.dataset import ERROR
from raydiar.corpus.wire import (
    LOCAL_SPEAKERS,
    WINDOW_SCORES,
    local_speakers_from_arrow,
    local_speakers_to_arrow,
    pcm_from_arrow,
    pcm_to_arrow,
    window_scores_from_arrow,
    window_scores_to_arrow,
)
from raydiar.local_speakers import LocalSpeakers
from raydiar.window_scores import WindowScores

PART = pa.struct(
    [
        ("index", pa.int32()),
        ("num_parts", pa.int32()),  # of the recording; null but in the last of them
        ("start", pa.int64()),  # first sample of this part, and of the next, in the recording
        ("stop", pa.int64()),
        ("num_samples", pa.int64()),  # of the whole recording; null but in the last part
    ]
)
"""Which part of a long recording a pack holds. How many there are shows with the last."""

STEPS = ("decode", "inference", "resolve")


@dataclass(frozen=True)
class Outcome:
    """What a step made of one recording.

    Attributes
    ----------
    recording : dict
        Its row of the manifest.
    error : dict or None
        The `error` column of its row, if that is what became of it.
    warnings : list of str
        What decoding has to tell of it.
    samples : (num_samples,) int16 or None
        While it is decoded and not yet seen by the networks.
    local : LocalSpeakers or None
        Once it has been.
    """

    recording: dict
    error: dict | None = None
    warnings: list[str] = field(default_factory=list)
    samples: np.ndarray | None = field(default=None, repr=False)
    local: LocalSpeakers | None = field(default=None, repr=False)


class Pack:
    """One row of an Arrow table, read as a pack.

    Parameters
    ----------
    table : pyarrow.Table
        Of one row, as `Pack.decoded` and the methods of packs make it.
    """

    def __init__(self, table: pa.Table):
        self.table = table

    @classmethod
    def of(
        cls,
        number: int,
        outcomes: Sequence[Outcome],
        recording: pa.DataType,
        seconds: float,
        shard: dict | None = None,
        part: dict | None = None,
    ) -> Pack:
        """A pack of recordings that were decoded.

        Parameters
        ----------
        number : int
            By which the job tells packs apart; the same if it is decoded again.
        outcomes : sequence of Outcome
        recording : pyarrow.DataType
            Of a row of the manifest.
        seconds : float
            That decoding took.
        shard : dict, optional
            What the pack tells of the shard that it comes from (`SHARD`).
        part : dict, optional
            Which part of its one recording it holds (`PART`).
        """
        samples = [one.samples for one in outcomes if one.samples is not None]
        lengths = [0 if one.samples is None else len(one.samples) for one in outcomes]
        times = pa.scalar({"decode": seconds}, pa.struct([(step, pa.float64()) for step in STEPS]))
        return cls(
            pa.table(
                {
                    "pack": pa.array([number], pa.int64()),
                    "recordings": pa.array([[o.recording for o in outcomes]], pa.list_(recording)),
                    "errors": pa.array([[o.error for o in outcomes]], pa.list_(ERROR)),
                    "warnings": _texts([o.warnings for o in outcomes]),
                    "lengths": pa.array([lengths], pa.list_(pa.int64())),
                    "pcm": pcm_to_arrow(samples),
                    "local_speakers": pa.nulls(1, pa.list_(LOCAL_SPEAKERS)),
                    "scores": pa.nulls(1, pa.list_(WINDOW_SCORES)),  # of a job that detects
                    "shard": pa.array([shard], SHARD),
                    "part": pa.array([part], PART),
                    "times": pa.array([times.as_py()], times.type),
                }
            )
        )

    @classmethod
    def kept(cls, number: int, recordings: pa.Array, local_speakers: pa.Array) -> Pack:
        """A pack of recordings whose LocalSpeakers were kept, as Arrow values of both."""
        empty = cls.of(number, [], recordings.type, 0.0)
        nobody = [None] * len(recordings)
        return empty._with(
            recordings=_one_list(recordings),
            errors=pa.array([nobody], pa.list_(ERROR)),
            warnings=_texts([[] for _ in nobody]),
            local_speakers=_one_list(local_speakers),
        )

    @property
    def number(self) -> int:
        return self._value("pack")

    @property
    def num_recordings(self) -> int:
        return len(self.table.column("recordings").chunk(0).flatten())

    @property
    def shard(self) -> dict | None:
        return self._value("shard")

    @property
    def part(self) -> dict | None:
        return self._value("part")

    @property
    def detects(self) -> bool:
        """Whether it has been through the inference of a job that detects."""
        return self.table.column("scores")[0].is_valid

    @property
    def times(self) -> dict[str, float]:
        """Seconds spent in each step so far."""
        return {step: seconds or 0.0 for step, seconds in self._value("times").items()}

    @property
    def recording_values(self) -> pa.StructArray:
        """Rows of the manifest, one a recording, as Arrow values."""
        return self.table.column("recordings").chunk(0).flatten()

    @property
    def local_values(self) -> pa.StructArray:
        """`LOCAL_SPEAKERS`, one a recording, null where there is an error."""
        return self.table.column("local_speakers").chunk(0).flatten()

    def recordings(self) -> list[dict]:
        return self._value("recordings")

    def errors(self) -> list[dict | None]:
        return self._value("errors")

    def warnings(self) -> list[list[str]]:
        return self._value("warnings")

    def samples(self) -> list[np.ndarray | None]:
        """Samples of each recording, views of the pack's; None where there is an error."""
        decoded = [error is None for error in self.errors()]
        lengths = [n for n, good in zip(self._value("lengths"), decoded, strict=True) if good]
        views = iter(pcm_from_arrow(self.table.column("pcm").chunk(0), lengths))
        return [next(views) if good else None for good in decoded]

    def local_speakers(self) -> list[LocalSpeakers | None]:
        """Of each recording, views of the pack's; None where there is an error."""
        return local_speakers_from_arrow(self.local_values)

    def scores(self) -> list[WindowScores | None]:
        """Of each recording, views of the pack's; None where there is an error."""
        return window_scores_from_arrow(self.table.column("scores").chunk(0).flatten())

    def found(self) -> list[LocalSpeakers | WindowScores | None]:
        """What was inferred of each recording; None where there is an error."""
        return self.scores() if self.detects else self.local_speakers()

    def with_local_speakers(
        self, found: Sequence[LocalSpeakers | None], errors: Sequence[dict | None], seconds: float
    ) -> Pack:
        """What inference, which took so long, makes of a pack: its PCM is gone."""
        found = _one_list(local_speakers_to_arrow(found))
        return self._inferred(errors, seconds, local_speakers=found)

    def with_scores(
        self, found: Sequence[WindowScores | None], errors: Sequence[dict | None], seconds: float
    ) -> Pack:
        """The same of a job that detects."""
        return self._inferred(errors, seconds, scores=_one_list(window_scores_to_arrow(found)))

    def _inferred(
        self, errors: Sequence[dict | None], seconds: float, **found: pa.ListArray
    ) -> Pack:
        return self._with(
            **found,
            errors=pa.array([errors], pa.list_(ERROR)),
            lengths=pa.array([[0] * len(errors)], pa.list_(pa.int64())),
            pcm=pcm_to_arrow([]),
            times=self._timed("inference", seconds),
        )

    def without_recordings(self) -> Pack:
        """What is left of a pack whose recordings go on elsewhere: what it tells of itself."""
        kind, shard = self.recording_values.type, self.shard
        return self._with(
            shard=pa.array([shard and shard | {"num_rows": 0}], SHARD),
            recordings=pa.array([[]], pa.list_(kind)),
            errors=pa.array([[]], pa.list_(ERROR)),
            warnings=_texts([]),
            lengths=pa.array([[]], pa.list_(pa.int64())),
            local_speakers=pa.array([[]], pa.list_(LOCAL_SPEAKERS)),
            scores=pa.array([[]], pa.list_(WINDOW_SCORES)),
            part=pa.nulls(1, PART),
        )

    def whole(
        self, found: LocalSpeakers | WindowScores | None, error: dict | None, warnings: list[str]
    ) -> Pack:
        """This pack as that of its whole recording, of which it held a part."""
        scores = found if isinstance(found, WindowScores) else None
        local = found if scores is None else None
        return self._with(
            warnings=_texts([warnings]),
            errors=pa.array([[error]], pa.list_(ERROR)),
            local_speakers=_one_list(local_speakers_to_arrow([local])),
            scores=_one_list(window_scores_to_arrow([scores])),
            part=pa.nulls(1, PART),
        )

    def _value(self, name: str):
        return self.table.column(name)[0].as_py()

    def _timed(self, step: str, seconds: float) -> pa.Array:
        times = self._value("times") | {step: seconds}
        return pa.array([times], self.table.schema.field("times").type)

    def _with(self, **columns: pa.Array) -> Pack:
        table = self.table
        for name, values in columns.items():
            table = table.set_column(table.schema.get_field_index(name), name, values)
        return Pack(table)


def _one_list(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def _texts(values: list[list[str]]) -> pa.Array:
    return pa.array([values], pa.list_(pa.list_(pa.string())))
