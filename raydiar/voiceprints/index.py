"""VoiceprintIndex: every voice of a corpus, opened for reading.

What a reader sees is the generation that was current when it opened the index. Numbers (vectors,
ids) go in and out as arrays, thousands of queries at once; `raydiar.voiceprints.search` makes
hits of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.errors import VoiceprintIndexError
from raydiar.storage.folder import Folder
from raydiar.voiceprints.generation import Generation, SegmentEntry, read_current
from raydiar.voiceprints.searchable import SearchableIndex, Where
from raydiar.voiceprints.segments import Segment, best, has_gpu

# from so many queries on, a GPU compares with every voiceprint faster than a CPU walks lists
_GPU_QUERIES = 64

Opened = TypeVar("Opened")


def open_current(folder: Folder, open_at: Callable[[Generation], Opened]) -> Opened:
    """Open the current generation, or the one after it if its files are vacuumed away meanwhile.

    Raises
    ------
    VoiceprintIndexError
        If there is no index, or a file of it is missing or damaged.
    """
    generation, _ = read_current(folder)
    while True:
        try:
            return open_at(generation)
        except VoiceprintIndexError:
            later, _ = read_current(folder)
            if later.token == generation.token:
                raise
            generation = later


@dataclass(frozen=True)
class VoiceprintIndex(SearchableIndex):
    """
    Attributes
    ----------
    folder : Folder
    generation : Generation
    segments : tuple of Segment
    """

    folder: Folder
    generation: Generation
    segments: tuple[Segment, ...] = field(repr=False)

    @classmethod
    def open(cls, uri: str, segments: Sequence[int] | None = None) -> VoiceprintIndex:
        """Open the current generation of an index.

        Parameters
        ----------
        uri : str
            Local path or fsspec URI; files of a remote one are cached on this machine by hash.
        segments : sequence of int, optional
            Open only these of the generation's segments, e.g. one shard's.

        Raises
        ------
        VoiceprintIndexError
            If there is no index, or a file of it is missing or damaged.
        """
        folder = Folder(uri)
        return open_current(folder, lambda generation: cls.at(folder, generation, segments))

    @classmethod
    def at(
        cls, folder: Folder, generation: Generation, segments: Sequence[int] | None = None
    ) -> VoiceprintIndex:
        """Open a given generation."""
        entries: Sequence[SegmentEntry] = generation.segments
        if segments is not None:
            entries = [entries[number] for number in segments]
        opened = tuple(Segment(folder, entry, generation.dimension) for entry in entries)
        return cls(folder, generation, opened)

    def __len__(self) -> int:
        """Voiceprints that are not deleted, short and enrolled ones included."""
        return int(sum(segment.alive.sum() for segment in self.segments))

    # -- search ------------------------------------------------------------------------------

    def _nearest(
        self,
        blocks: Iterable[np.ndarray],
        k: int,
        condition: pc.Expression | None,
        include_short: bool,
        options: Mapping[str, Any],
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for queries in blocks:
            yield self.nearest(queries, k, condition, include_short, **options)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        condition: pc.Expression | None = None,
        include_short: bool = False,
        *,
        exact: bool | None = None,
        probes: int | None = None,
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`neighbors` of queries that are few enough, checked and unit vectors already."""
        if exact is None:
            exact = has_gpu() and len(queries) >= _GPU_QUERIES
        scores = np.empty((len(queries), 0), np.float32)
        ids = np.empty((len(queries), 0), np.int64)
        for segment in self.segments:
            allowed = self.allowed(segment, condition, include_short)
            if allowed.any():
                found = segment.search(
                    queries, k, allowed, exact=exact, probes=probes, candidates=candidates
                )
                scores, ids = (np.hstack(pair) for pair in zip((scores, ids), found, strict=True))
                scores, ids = best(scores, ids, k)
        return best(scores, ids, k)

    def allowed(
        self, segment: Segment, where: Where = None, include_short: bool = False
    ) -> np.ndarray:
        """Which rows of a segment a search sees, as (num_rows,) bool."""
        allowed = segment.searched
        if include_short:
            allowed = segment.alive & ~segment.column("name").is_valid().to_numpy()
        condition = self._condition(where)
        if condition is None:
            return allowed
        rows = segment.known.append_column("_row", pa.array(np.arange(len(segment))))
        fulfils = np.zeros(len(segment), bool)
        fulfils[rows.filter(condition).column("_row").to_numpy()] = True
        return allowed & fulfils

    # -- what is known of an id --------------------------------------------------------------

    def known_parts(
        self, ids: np.ndarray, names: list[str]
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        for segment, places, rows in self._located(ids):
            yield places, segment.known.select(names).take(rows)

    def vector_parts(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for segment, places, rows in self._located(ids):
            yield places, segment.vectors(rows)

    def _located(self, ids: np.ndarray) -> Iterator[tuple[Segment, np.ndarray, np.ndarray]]:
        """Segments that hold some of the ids, with the places of these in `ids`, and their rows."""
        for segment in self.segments:
            rows = segment.rows_of(ids)
            places = np.flatnonzero(rows >= 0)
            if len(places):
                yield segment, places, rows[places]

    def id_parts(self, condition: pc.Expression) -> Iterator[np.ndarray]:
        for segment in self.segments:
            alive = segment.known.filter(pa.array(segment.alive))
            yield alive.filter(condition).column("id").to_numpy()

    def names(self) -> list[str]:
        """Enrolled people, in alphabetical order."""
        names = {
            name
            for segment in self.segments
            for name in segment.column("name").filter(pa.array(segment.alive)).unique().to_pylist()
        }
        return sorted(names - {None})

    # -- all of it ---------------------------------------------------------------------------

    @property
    def entries(self) -> Sequence[SegmentEntry]:
        return [segment.entry for segment in self.segments]

    def num_short(self) -> int:
        return sum(int((s.alive & s.column("short").to_numpy()).sum()) for s in self.segments)

    def stream(self, include_short: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All voiceprints that a search sees, in blocks, in the order of `table`.

        Yields
        ------
        ids : (num_ids,) int64
        vectors : (num_ids, dimension) float32
            Unit vectors.
        """
        for segment in self.segments:
            allowed = self.allowed(segment, include_short=include_short)
            for rows, vectors in segment.blocks(allowed):
                yield segment.ids[rows], vectors

    def table(self, columns: Sequence[str] | None = None, include_short: bool = False) -> pa.Table:
        """What is known of all voiceprints that a search sees, one row each."""
        columns = list(columns or self.generation.schema().names)
        return pa.concat_tables(
            [
                self.generation.schema().empty_table().select(columns),
                *(
                    segment.table(columns).filter(
                        pa.array(self.allowed(segment, include_short=include_short))
                    )
                    for segment in self.segments
                ),
            ]
        )
