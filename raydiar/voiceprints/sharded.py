"""ShardedIndex: one voiceprint index, open in Ray actors on as many nodes as it takes.

Every shard has some segments of one and the same generation; a search goes to all of them, and
the best of what they find is the answer that a `VoiceprintIndex` gives. Shards keep nothing that
is not in the files of the index: one that dies starts again elsewhere and opens its part anew.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayError, RayTaskError

from raydiar.errors import ConfigError, RaydiarError, VoiceprintIndexError
from raydiar.storage.folder import Folder
from raydiar.voiceprints.generation import Generation, SegmentEntry
from raydiar.voiceprints.index import VoiceprintIndex, open_current
from raydiar.voiceprints.searchable import SearchableIndex
from raydiar.voiceprints.segments import Segment, best

_ROW_BYTES = 400  # of what is known of a voiceprint, in memory
_PATIENCE = 10.0  # s of silence after which shards are asked whether they are alive
_MAX_LIVES = 6  # of a shard during one call, which is then at fault itself
_BLOCKS_AHEAD = 2  # of queries: one that shards work on, and one that waits for them


# Ray tries a call many times before it knows that a node is lost: the number of tries says nothing
@ray.remote(max_restarts=-1, max_task_retries=-1, concurrency_groups={"health": 1})
class _ShardActor:
    """Answers for a part of an index, which comes with every call: a restart needs no memory."""

    def __init__(self, num_threads: int, uses_gpu: bool):
        self._num_threads = num_threads
        self._life = uuid.uuid4().hex
        self._opened: dict[str, VoiceprintIndex] = {}
        if not uses_gpu:
            # Ray lets actors that asked for no GPU see those of others
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    @ray.method(concurrency_group="health")
    def ping(self) -> str:
        """Answered while a search runs, too; another word from each process."""
        return self._life

    def summary(self, part: _Part) -> dict[str, Any]:
        index = self._index(part)
        return {"number": len(index), "num_short": index.num_short(), "names": index.names()}

    def nearest(self, part: _Part, queries: np.ndarray, *arguments, **options):
        return self._index(part).nearest(queries, *arguments, **options)

    def parts(self, part: _Part, method: str, *arguments) -> list:
        return list(getattr(self._index(part), method)(*arguments))

    def _index(self, part: _Part) -> VoiceprintIndex:
        faiss.omp_set_num_threads(self._num_threads)  # holds for the calling thread only
        token = part.generation.token
        if token not in self._opened:
            have = {s.entry: s for index in self._opened.values() for s in index.segments}
            segments = part.open(have)
            # searches in the generation before may be on their way still
            self._opened = dict([*self._opened.items()][-1:])
            self._opened[token] = VoiceprintIndex(part.folder, part.generation, segments)
        return self._opened[token]


@dataclass(frozen=True)
class _Part:
    """What a shard holds: a generation that names its segments only."""

    label: str
    folder: Folder
    generation: Generation

    def open(self, have: Mapping[SegmentEntry, Segment]) -> tuple[Segment, ...]:
        try:
            return tuple(
                have[entry]
                if entry in have
                else Segment(self.folder, entry, self.generation.dimension)
                for entry in self.generation.segments
            )
        except VoiceprintIndexError as error:
            raise VoiceprintIndexError(
                f"{self.label} cannot open generation {self.generation.number}: {error} If "
                "`vacuum` removed it, open the index again, or `refresh` it in time."
            ) from error


@dataclass(frozen=True)
class _Shard:
    """An actor, and what it holds in this generation."""

    actor: Any
    part: _Part
    stored: ray.ObjectRef  # of `part`, so that it is sent to a process once

    @classmethod
    def of(cls, actor: Any, part: _Part) -> _Shard:
        return cls(actor, part, ray.put(part))

    def calls(self, method: str, *arguments, **options) -> ray.ObjectRef:
        return getattr(self.actor, method).remote(self.stored, *arguments, **options)


@dataclass(frozen=True)
class ShardedIndex(SearchableIndex):
    """An index whose segments are spread over Ray actors; use in a `with` block, or `close` it.

    It can be searched like a `VoiceprintIndex`, and gives the same answers, from several threads
    too. The actors end with the process that opened it, at the latest.

    Attributes
    ----------
    folder : Folder
    generation : Generation
    timeout : float, s
        How long a shard may be without a process before a call gives up.
    """

    folder: Folder
    generation: Generation
    timeout: float
    _shards: tuple[_Shard, ...] = field(repr=False)
    _summaries: tuple[dict[str, Any], ...] = field(repr=False, default=())

    @classmethod
    def open(
        cls,
        uri: str,
        num_shards: int | None = None,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        timeout: float = 300.0,
    ) -> ShardedIndex:
        """Open the current generation of an index in the Ray that this process is connected to.

        Segments are shared out by their bytes, and none is divided: with one very large segment
        and small ones, a shard is as large as that. A shard asks Ray for the memory that its part
        needs.

        Parameters
        ----------
        uri : str
            fsspec URI that all nodes reach; or a path where they share a disk.
        num_shards : int, optional
            Actors; by default one for each node with enough CPUs. Never more than segments.
        num_cpus, num_gpus : float
            Of each actor; it searches with as many threads as it has CPUs.
        timeout : float, s
            How long a shard may wait for a place in the cluster, at the start and when its
            process or node was lost. Reading its files does not count.

        Raises
        ------
        VoiceprintIndexError
            If there is no index, a file of it is missing or damaged, or a shard finds no place.
        ConfigError
        """
        if num_shards is not None and num_shards < 1:
            raise ConfigError(f"num_shards must be at least 1, got {num_shards}")
        if "://" not in uri:  # actors have another working directory
            uri = os.path.abspath(uri)
        folder = Folder(uri)
        resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}

        def open_at(generation: Generation) -> ShardedIndex:
            entries = generation.segments
            number = min(num_shards or _num_nodes(num_cpus), len(entries))
            shards = tuple(
                _started(_Part(f"shard {n} of {number} of {uri}", folder, part), resources)
                for n, part in enumerate(_parts(generation, [[] for _ in range(number)]), 1)
            )
            return cls(folder, generation, timeout, shards)._opened()

        return open_current(folder, open_at)

    def refresh(self) -> ShardedIndex:
        """The newest generation, in the same actors; they open only what is new to them.

        This one goes on answering from its own generation as long as searches take that have
        begun: after the next `refresh`, its files may be gone. The number of shards stays as it
        is: open an index anew that has grown much.

        Raises
        ------
        VoiceprintIndexError
            As in `open`; this index can be used on.
        """

        def open_at(generation: Generation) -> ShardedIndex:
            if generation.token == self.generation.token:
                return self
            if not self._shards:
                raise VoiceprintIndexError(f"{self.folder.uri} was empty: open it again")
            held = [list(shard.part.generation.segments) for shard in self._shards]
            shards = tuple(
                _Shard.of(shard.actor, replace(shard.part, generation=part))
                for shard, part in zip(self._shards, _parts(generation, held), strict=True)
            )
            return replace(self, generation=generation, _shards=shards)._summarised()

        return open_current(self.folder, open_at)

    def close(self) -> None:
        """End the actors, also for those `refresh` gave, and give back what they hold."""
        for shard in self._shards:
            ray.kill(shard.actor)

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __len__(self) -> int:
        """Voiceprints that are not deleted, short and enrolled ones included."""
        return sum(summary["number"] for summary in self._summaries)

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    @property
    def entries(self) -> Sequence[SegmentEntry]:
        return self.generation.segments

    def num_short(self) -> int:
        return sum(summary["num_short"] for summary in self._summaries)

    def names(self) -> list[str]:
        """Enrolled people, in alphabetical order."""
        return sorted({name for summary in self._summaries for name in summary["names"]})

    # -- parts of answers --------------------------------------------------------------------

    def _nearest(
        self,
        blocks: Iterable[np.ndarray],
        k: int,
        condition: pc.Expression | None,
        include_short: bool,
        options: Mapping[str, Any],
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        ahead: deque[tuple[int, dict[ray.ObjectRef, _Shard]]] = deque()
        for block in blocks:
            queries = ray.put(block)
            arguments = (queries, k, condition, include_short)
            ahead.append((len(block), self._ask("nearest", *arguments, **options)))
            if len(ahead) == _BLOCKS_AHEAD:
                yield self._merged(*ahead.popleft(), k)
        for number, asked in ahead:
            yield self._merged(number, asked, k)

    def _merged(
        self, number: int, asked: dict[ray.ObjectRef, _Shard], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        scores, ids = np.empty((number, 0), np.float32), np.empty((number, 0), np.int64)
        for found in self._answers(asked):
            scores, ids = (np.hstack(pair) for pair in zip((scores, ids), found, strict=True))
            scores, ids = best(scores, ids, k)
        return best(scores, ids, k)

    def known_parts(
        self, ids: np.ndarray, names: list[str]
    ) -> Iterable[tuple[np.ndarray, pa.Table]]:
        return self._all_parts("known_parts", ray.put(ids), names)

    def vector_parts(self, ids: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return self._all_parts("vector_parts", ray.put(ids))

    def id_parts(self, condition: pc.Expression) -> Iterable[np.ndarray]:
        return self._all_parts("id_parts", condition)

    def _all_parts(self, method: str, *arguments) -> Iterator:
        return chain.from_iterable(self._answers(self._ask("parts", method, *arguments)))

    # -- actors ------------------------------------------------------------------------------

    def _opened(self) -> ShardedIndex:
        try:
            return self._summarised()
        except BaseException:
            self.close()
            raise

    def _summarised(self) -> ShardedIndex:
        """The same index, once all shards have opened their parts."""
        return replace(self, _summaries=tuple(self._answers(self._ask("summary"))))

    def _ask(self, method: str, *arguments, **options) -> dict[ray.ObjectRef, _Shard]:
        return {shard.calls(method, *arguments, **options): shard for shard in self._shards}

    def _answers(self, asked: dict[ray.ObjectRef, _Shard]) -> Iterator:
        """What shards answer, as it comes."""
        waiting = dict(asked)
        lives: dict[str, set[str]] = {}
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=min(self.timeout, _PATIENCE))
            for ref in ready:
                yield _value(ref, waiting.pop(ref))
            if not ready:
                self._check_alive(waiting.values(), lives)

    def _check_alive(self, shards: Iterable[_Shard], lives: dict[str, set[str]]) -> None:
        """An actor that searches for long is alive; one that has no process cannot say so."""
        pings = {shard.actor.ping.remote(): shard for shard in shards}
        answered, silent = ray.wait(list(pings), num_returns=len(pings), timeout=self.timeout)
        for ref in silent:
            part = pings[ref].part
            raise VoiceprintIndexError(
                f"{part.label} has had no process for {self.timeout:g} s: no node of the Ray "
                f"cluster has room for it ({_num_bytes(part.generation.segments) / 1e9:.1f} GB of "
                "memory, and its CPUs). Add a node, or open the index in other shards."
            )
        for ref in answered:
            label = pings[ref].part.label
            seen = lives.setdefault(label, set())
            seen.add(_value(ref, pings[ref]))
            if len(seen) >= _MAX_LIVES:
                raise VoiceprintIndexError(
                    f"{label} died {len(seen) - 1} times during one call, perhaps for want of "
                    "memory. Ask for fewer hits, or open the index in more shards."
                )


def _started(part: _Part, resources: Mapping[str, float]) -> _Shard:
    actor = _ShardActor.options(
        **resources,
        memory=_num_bytes(part.generation.segments),
        scheduling_strategy="SPREAD",
    ).remote(max(1, int(resources["num_cpus"])), resources["num_gpus"] > 0)
    return _Shard.of(actor, part)


def _value(ref: ray.ObjectRef, shard: _Shard) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, RaydiarError):
            raise error.cause from error
        raise
    except RayError as error:
        line = str(error).splitlines()[0]
        raise VoiceprintIndexError(f"{shard.part.label} is lost: {line}") from error


def _num_nodes(num_cpus: float) -> int:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(node.get("CPU", 0) >= num_cpus for node in nodes))


def _num_bytes(entries: Iterable[SegmentEntry]) -> int:
    """Memory for segments: their vectors and lists, which are mapped, and what is known of rows."""
    return sum(
        sum(file.num_bytes for file in (entry.vectors, entry.codes) if file)
        + _ROW_BYTES * entry.num_rows
        for entry in entries
    )


def _parts(generation: Generation, held: list[list[SegmentEntry]]) -> list[Generation]:
    """Share a generation's segments out; those that are held stay, others go where least is."""
    current = set(generation.segments)
    parts = [[entry for entry in part if entry in current] for part in held]
    new = current.difference(chain.from_iterable(parts))
    for entry in sorted(new, key=lambda entry: (-_num_bytes([entry]), entry.ids.sha256)):
        min(parts, key=_num_bytes).append(entry)
    return [replace(generation, segments=tuple(part)) for part in parts]
