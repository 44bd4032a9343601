"""VoiceprintIndex: every voice of a corpus, opened for reading.

What a reader sees is the generation that was current when it opened the index. Numbers (vectors,
ids) go in and out as arrays, thousands of queries at once; `raydiar.voiceprints.search` makes
hits of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.corpus.folder import Folder
from raydiar.errors import ConfigError, VoiceprintIndexError, VoiceprintNotFound
from raydiar.voiceprints.generation import (
    Generation,
    SegmentEntry,
    check_embedding,
    read_current,
)
from raydiar.voiceprints.segments import Segment, best, has_gpu, unit_vectors

Where = pc.Expression | Mapping[str, Any] | None
# from so many queries on, a GPU compares with every voiceprint faster than a CPU walks lists
_GPU_QUERIES = 64


@dataclass(frozen=True)
class VoiceprintIndex:
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
        generation, _ = read_current(folder)
        while True:
            try:
                return cls.at(folder, generation, segments)
            except VoiceprintIndexError:
                # its files may have been vacuumed away just now: then there is a later one
                later, _ = read_current(folder)
                if later.token == generation.token:
                    raise
                generation = later

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

    @property
    def dimension(self) -> int:
        return self.generation.dimension

    def check_embedding(self, embedding: str, embedding_mode: str) -> None:
        """
        Raises
        ------
        VoiceprintIndexError
            If voiceprints made so cannot be compared with those of the index.
        """
        check_embedding(self.generation, embedding, embedding_mode)

    # -- search ------------------------------------------------------------------------------

    def neighbors(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        where: Where = None,
        include_short: bool = False,
        exact: bool | None = None,
        probes: int | None = None,
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The most similar voiceprints of recordings.

        Parameters
        ----------
        queries : (num_queries, dimension) float32
            Voiceprints; need not be normalised.
        k : int
        where : mapping or pyarrow.compute.Expression, optional
            What hits must fulfil: column to value or list of values, or an expression over
            `ID_FIELDS` and the carried columns.
        include_short : bool
            Also voiceprints of too little speech.
        exact : bool, optional
            Compare with every voiceprint. By default where FAISS sees a GPU and there are many
            queries; segments of kind "exact" always do.
        probes, candidates : int, optional
            Inverted lists visited, and rows scored, per query and IVF segment.

        Returns
        -------
        scores : (num_queries, k) float32
            Cosines, falling; -inf where fewer than k were found.
        ids : (num_queries, k) int64
            -1 where fewer than k were found.

        Raises
        ------
        ConfigError
            Queries of another dimension or without direction, or a filter on an unknown column.
        """
        queries = self._checked(queries)
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        if exact is None:
            exact = has_gpu() and len(queries) >= _GPU_QUERIES
        scores = np.empty((len(queries), 0), np.float32)
        ids = np.empty((len(queries), 0), np.int64)
        for segment in self.segments:
            allowed = self.allowed(segment, where, include_short)
            if allowed.any():
                found = segment.search(
                    queries, k, allowed, exact=exact, probes=probes, candidates=candidates
                )
                scores, ids = (np.hstack(pair) for pair in zip((scores, ids), found, strict=True))
        return best(scores, ids, k)

    def allowed(
        self, segment: Segment, where: Where = None, include_short: bool = False
    ) -> np.ndarray:
        """Which rows of a segment a search sees, as (num_rows,) bool."""
        allowed = segment.searched
        if include_short:
            allowed = segment.alive & ~segment.column("name").is_valid().to_numpy()
        condition = self._expression(where)
        if condition is None:
            return allowed
        rows = segment.known.append_column("_row", pa.array(np.arange(len(segment))))
        fulfils = np.zeros(len(segment), bool)
        fulfils[rows.filter(condition).column("_row").to_numpy()] = True
        return allowed & fulfils

    def _expression(self, where: Where) -> pc.Expression | None:
        if where is None or isinstance(where, pc.Expression):
            return where
        known = self.generation.schema().names
        if unknown := set(where) - set(known):
            raise ConfigError(
                f"{self.folder.uri} has no columns {sorted(unknown)} to filter on; it has "
                f"{', '.join(known)}. Carried columns are kept when `columns` names them at build."
            )
        terms = [
            pc.field(name).isin(value)
            if isinstance(value, list | tuple | set)
            else pc.field(name) == value
            for name, value in where.items()
        ]
        return reduce(lambda a, b: a & b, terms) if terms else None

    def _checked(self, queries: np.ndarray) -> np.ndarray:
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise ConfigError(
                f"voiceprints of this index have {self.dimension} dimensions: queries must have "
                f"shape (num_queries, {self.dimension}), not {queries.shape}"
            )
        lengths = np.linalg.norm(queries, axis=1)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ConfigError("a query voiceprint is zero, or holds NaN or infinity")
        return unit_vectors(queries)

    # -- what is known of an id --------------------------------------------------------------

    def columns(self, ids: np.ndarray, names: Sequence[str] | None = None) -> pa.Table:
        """What is known of voiceprints, one row for each of `ids`, in their order.

        Raises
        ------
        VoiceprintNotFound
            If one is not in the index.
        """
        names = list(names or self.generation.schema().names)
        tables = [self.generation.schema().empty_table().select(names)]
        order = [np.empty(0, np.int64)]
        for segment, places, rows in self._located(ids):
            tables.append(segment.known.select(names).take(rows))
            order.append(places)
        return pa.concat_tables(tables).take(np.argsort(np.concatenate(order)))

    def records(self, ids: np.ndarray) -> list[dict[str, Any]]:
        """The same as `columns`, as dicts."""
        return self.columns(ids).to_pylist()

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Unit vectors of voiceprints, (num_ids, dimension) float32, in the order of `ids`."""
        vectors = np.empty((len(ids), self.dimension), np.float32)
        for segment, places, rows in self._located(ids):
            vectors[places] = segment.vectors(rows)
        return vectors

    def _located(self, ids) -> list[tuple[Segment, np.ndarray, np.ndarray]]:
        """Segments that hold some of the ids, with the places of these in `ids`, and their rows."""
        ids = np.asarray(ids, np.int64)
        located, missing = [], np.ones(len(ids), bool)
        for segment in self.segments:
            rows = segment.rows_of(ids)
            places = np.flatnonzero(rows >= 0)
            missing[places] = False
            if len(places):
                located.append((segment, places, rows[places]))
        if missing.any():
            raise VoiceprintNotFound(f"{self.folder.uri} holds no voiceprint {ids[missing][0]}")
        return located

    def ids_where(self, condition: pc.Expression) -> np.ndarray:
        """Ids of the voiceprints, not deleted, that fulfil a condition; (num_ids,) int64."""
        found = [
            segment.known.filter(pa.array(segment.alive)).filter(condition).column("id").to_numpy()
            for segment in self.segments
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def names(self) -> list[str]:
        """Enrolled people, in alphabetical order."""
        names = {
            name
            for segment in self.segments
            for name in segment.column("name").filter(pa.array(segment.alive)).unique().to_pylist()
        }
        return sorted(names - {None})

    def id_of(self, recording_id: str, speaker: str) -> int:
        """
        Raises
        ------
        VoiceprintNotFound
            If the index has no voiceprint of this speaker; the message says which it has.
        """
        in_recording = self.ids_where(
            (pc.field("recording_id") == recording_id) & pc.field("name").is_null()
        )
        records = self.records(in_recording)
        for record in records:
            if record["speaker"] == speaker:
                return record["id"]
        speakers = ", ".join(sorted(record["speaker"] for record in records))
        has = f"only of its {speakers}" if speakers else "of nobody in that recording"
        raise VoiceprintNotFound(
            f"{self.folder.uri} has no voiceprint of {speaker!r} in {recording_id!r}, {has}"
        )

    # -- all of it ---------------------------------------------------------------------------

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

    def info(self) -> dict[str, Any]:
        """Sizes and contents, as `raydiar voiceprint info` prints them."""
        entries = [segment.entry for segment in self.segments]
        short = sum(int((s.alive & s.column("short").to_numpy()).sum()) for s in self.segments)
        num_bytes = sum(
            file.num_bytes for entry in entries for file in (entry.vectors, entry.ivf) if file
        )
        num_rows = sum(entry.num_rows for entry in entries)
        return {
            "index": self.folder.uri,
            "generation": self.generation.number,
            "voiceprints": len(self),
            "too short": short,
            "deleted": sum(entry.num_deleted for entry in entries),
            "enrolled": self.names(),
            "dimension": self.dimension,
            "embedding": self.generation.embedding,
            "embedding_mode": self.generation.embedding_mode,
            "min_seconds": self.generation.min_seconds,
            "columns": dict(self.generation.columns),
            "segments": [f"{entry.kind}, {entry.num_rows:,} rows" for entry in entries],
            "bytes a vector": round(num_bytes / num_rows, 1) if num_rows else None,
        }
