"""What can be asked of a voiceprint index, wherever its segments are open.

`VoiceprintIndex` has them in this process, `ShardedIndex` in Ray actors. Both answer through the
methods here, from the same parts in the same order: their answers are the same to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.errors import ConfigError, VoiceprintNotFound
from raydiar.storage.folder import Folder
from raydiar.voiceprints.generation import Generation, SegmentEntry, check_embedding
from raydiar.voiceprints.segments import unit_vectors

Where = pc.Expression | Mapping[str, Any] | None
# the 2,000 candidates of so many queries take 100 MB
_BLOCK_QUERIES = 4096


class SearchableIndex(ABC):
    """
    Attributes
    ----------
    folder : Folder
    generation : Generation
        The one that all answers are from.
    """

    folder: Folder
    generation: Generation

    @abstractmethod
    def __len__(self) -> int:
        """Voiceprints that are not deleted, short and enrolled ones included."""

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
            Inverted lists visited, and rows scored, per query and segment.

        Returns
        -------
        scores : (num_queries, k) float32
            Cosines, falling; -inf where fewer than k were found.
        ids : (num_queries, k) int64
            Of equal scores the smaller id first; -1 where fewer than k were found.

        Raises
        ------
        ConfigError
            Queries of another dimension or without direction, or a filter that the columns of
            the index do not fit.
        """
        queries = self._checked(queries)
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        condition = self._condition(where)
        blocks = np.array_split(queries, -(-len(queries) // _BLOCK_QUERIES) or 1)
        options = {"exact": exact, "probes": probes, "candidates": candidates}
        found = list(self._nearest(blocks, k, condition, include_short, options))
        scores, ids = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return scores, ids

    @abstractmethod
    def _nearest(
        self,
        blocks: Iterable[np.ndarray],
        k: int,
        condition: pc.Expression | None,
        include_short: bool,
        options: Mapping[str, Any],
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores and ids for each block of queries (unit vectors), in order."""

    def _condition(self, where: Where) -> pc.Expression | None:
        if isinstance(where, Mapping):
            known = self.generation.schema().names
            if unknown := set(where) - set(known):
                raise ConfigError(
                    f"{self.folder.uri} has no columns {sorted(unknown)} to filter on; it has "
                    f"{', '.join(known)}. Carried columns are kept when `columns` names them at "
                    "build."
                )
            terms = [
                pc.field(name).isin(value)
                if isinstance(value, list | tuple | set)
                else pc.field(name) == value
                for name, value in where.items()
            ]
            where = reduce(lambda a, b: a & b, terms) if terms else None
        if where is not None:
            try:
                self.generation.schema().empty_table().filter(where)
            except (pa.ArrowException, NotImplementedError) as error:
                line = str(error).splitlines()[0]
                raise ConfigError(f"{self.folder.uri} cannot be filtered so: {line}") from error
        return where

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
        ids = np.asarray(ids, np.int64)
        places, tables = [np.empty(0, np.int64)], []
        for some, table in self.known_parts(ids, names):
            places.append(some)
            tables.append(table)
        self._check_all_found(ids, np.concatenate(places))
        empty = self.generation.schema().empty_table().select(names)
        return pa.concat_tables([empty, *tables]).take(np.argsort(np.concatenate(places)))

    def records(self, ids: np.ndarray) -> list[dict[str, Any]]:
        """The same as `columns`, as dicts."""
        return self.columns(ids).to_pylist()

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Unit vectors of voiceprints, (num_ids, dimension) float32, in the order of `ids`.

        Raises
        ------
        VoiceprintNotFound
            If one is not in the index.
        """
        ids = np.asarray(ids, np.int64)
        vectors = np.empty((len(ids), self.dimension), np.float32)
        places = [np.empty(0, np.int64)]
        for some, found in self.vector_parts(ids):
            vectors[some] = found
            places.append(some)
        self._check_all_found(ids, np.concatenate(places))
        return vectors

    def _check_all_found(self, ids: np.ndarray, places: np.ndarray) -> None:
        missing = np.delete(ids, places)
        if len(missing):
            raise VoiceprintNotFound(f"{self.folder.uri} holds no voiceprint {missing[0]}")

    @abstractmethod
    def known_parts(
        self, ids: np.ndarray, names: list[str]
    ) -> Iterable[tuple[np.ndarray, pa.Table]]:
        """Columns of the ids that are here, in parts, with their places in `ids`."""

    @abstractmethod
    def vector_parts(self, ids: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Unit vectors of the ids that are here, in parts, with their places in `ids`."""

    def ids_where(self, condition: pc.Expression) -> np.ndarray:
        """Ids of the voiceprints, not deleted, that fulfil a condition; rising, (num_ids,) int64.

        Raises
        ------
        ConfigError
            If the columns of the index do not fit the condition.
        """
        found = self.id_parts(self._condition(condition))
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    @abstractmethod
    def id_parts(self, condition: pc.Expression) -> Iterable[np.ndarray]:
        """The same ids in parts, in any order."""

    @abstractmethod
    def names(self) -> list[str]:
        """Enrolled people, in alphabetical order."""

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

    @property
    @abstractmethod
    def entries(self) -> Sequence[SegmentEntry]:
        """The segments that are open."""

    @abstractmethod
    def num_short(self) -> int:
        """Voiceprints of too little speech that are not deleted."""

    def info(self) -> dict[str, Any]:
        """Sizes and contents, as `raydiar voiceprint info` prints them."""
        entries = self.entries
        num_bytes = sum(
            file.num_bytes for entry in entries for file in (entry.vectors, entry.codes) if file
        )
        num_rows = sum(entry.num_rows for entry in entries)
        return {
            "index": self.folder.uri,
            "generation": self.generation.number,
            "voiceprints": len(self),
            "too short": self.num_short(),
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
