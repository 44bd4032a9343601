"""Simulated conversations as a corpus: audio, labels and the manifest that `raydiar train` takes.

A conversation is a function of the seed and its number. So the work is cut into blocks of numbers,
a task writes a block and then the rows of the manifest that tell of it, and a run that was killed
makes the blocks whose rows are missing. A block that was half written is written again, with the
same bytes under the same names.
"""

from __future__ import annotations

import functools
import io
import json
import secrets
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.corpus.inputs.sources import list_audio
from raydiar.corpus.job.bookkeeping import check_paths, folder_of
from raydiar.corpus.job.placement import connected
from raydiar.errors import ConfigError, OutputError, RaydiarError, SimulationError
from raydiar.failures import retrying
from raydiar.simulation import (
    Conversation,
    Room,
    SimulationParameters,
    Simulator,
    TurnStructure,
    read_structures,
)
from raydiar.storage import display_name, storage_error
from raydiar.storage.folder import Folder, usable
from raydiar.storage.lock import OutputLock, check_lock
from raydiar.storage.tables import open_table

MANIFEST = "manifest.parquet"
_RECORD = "_raydiar/simulation.json"
_PARTS = "_raydiar/parts"
_ROWS = pa.schema(
    [
        ("uri", pa.string()),
        ("rttm", pa.string()),
        ("recording_id", pa.string()),
        ("seconds", pa.float64()),
        ("num_speakers", pa.int32()),
        ("structure", pa.string()),
        ("room", pa.int32()),
        ("noise", pa.int32()),
        ("snr", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Simulation:
    """What a simulated corpus is made of, by paths or URIs.

    Attributes
    ----------
    voices : str
        A folder with a folder of utterances a person; or a table with the columns `speaker`, and
        `uri` or `path`.
    structures : str
        RTTM files whose turns are spoken: a folder or glob, or one file.
    rooms, noises : str, optional
        Folders or globs of impulse responses and of background sound.
    num_conversations : int
    seed : int
    parameters : SimulationParameters
    per_block : int
        Conversations that one task makes, and one shard holds.
    shards : bool
        Write a tar a block, in place of a file a conversation.
    """

    voices: str
    structures: str
    rooms: str | None = None
    noises: str | None = None
    num_conversations: int = 1000
    seed: int = 0
    parameters: SimulationParameters = field(default_factory=SimulationParameters)
    per_block: int = 20
    shards: bool = False

    def __post_init__(self):
        for name in ("num_conversations", "per_block"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is a number from 1, not {getattr(self, name)!r}")

    def simulator(self) -> Simulator:
        """Voices are read when they speak; rooms and noises at once.

        Raises
        ------
        SimulationError
            If one of the sources holds nothing of use.
        """
        rooms = [Room([decode(uri)]) for uri in _audio(self.rooms)]
        noises = [functools.partial(_utterance, uri) for uri in _audio(self.noises)]
        return Simulator(_voices(self.voices), self.turns(), rooms, noises, self.parameters)

    def turns(self) -> list[TurnStructure]:
        with tempfile.TemporaryDirectory(prefix="raydiar-structures-") as scratch:
            return read_structures(_fetched(self.structures, ".rttm", scratch))

    def fingerprint(self) -> dict[str, Any]:
        """What must stay as it is when a run goes on; the number of conversations may grow."""
        told = asdict(self)
        del told["num_conversations"]
        return json.loads(json.dumps(told))


@dataclass(frozen=True)
class SimulatedCorpus:
    """
    Attributes
    ----------
    manifest : str
        Path or URI.
    num_conversations : int
        In it; of which `num_new` were made by this run.
    hours : float
    seconds_taken : float
    """

    manifest: str
    num_conversations: int
    num_new: int
    hours: float
    seconds_taken: float


def simulate_corpus(
    simulation: Simulation, output: str, say: Callable[[str], None] = lambda line: None
) -> SimulatedCorpus:
    """Write a corpus of simulated conversations, or what is missing of it.

    Parameters
    ----------
    simulation : Simulation
    output : str
        Folder or URI that all nodes reach, new or to go on.
    say : callable
        Takes a line that tells how far it is.

    Raises
    ------
    OutputError
        If the folder holds another simulation, or another run writes it.
    SimulationError, ConfigError, StorageDenied, StorageUnavailable
    """
    sources = {name: getattr(simulation, name) for name in ("voices", "structures", "rooms")}
    check_paths(output=output, noises=simulation.noises, **sources)
    folder, run, begun = folder_of(output), secrets.token_hex(8), time.monotonic()
    with usable(folder), OutputLock(folder, run, say=say):
        known = _known(folder, simulation)
        done = folder.list(_PARTS)
        blocks = range(-(-simulation.num_conversations // simulation.per_block))
        missing = [block for block in blocks if _part(simulation, block) not in done]
        if missing:
            # what cannot be simulated is told before anything is written
            simulator = simulation.simulator()
            simulator.simulate([simulation.seed, missing[0] * simulation.per_block])
            if not known:
                record = json.dumps(simulation.fingerprint(), indent=2)
                folder.publish(_RECORD, record.encode())
            say(f"{len(missing)} of {len(blocks)} blocks of conversations are to be made")
            _make(simulator, simulation, folder, run, missing, say)
        rows = [
            pq.read_table(pa.BufferReader(folder.read(f"{_PARTS}/{_part(simulation, block)}")))
            for block in blocks
        ]
        table = pa.concat_tables(rows)
        folder.publish_table(MANIFEST, table)
    new = sum(rows[block].num_rows for block in missing)
    hours = sum(table.column("seconds").to_pylist()) / 3600
    where = f"{output.rstrip('/')}/{MANIFEST}"
    return SimulatedCorpus(where, table.num_rows, new, hours, time.monotonic() - begun)


def _known(folder: Folder, simulation: Simulation) -> bool:
    """Whether the folder holds a part of this simulation already."""
    now = simulation.fingerprint()
    try:
        known = json.loads(folder.read(_RECORD))
    except FileNotFoundError:
        return False
    changed = [name for name in now if known.get(name) != now[name]]
    if changed:
        told = "; ".join(f"{name} was {known.get(name)!r}, now {now[name]!r}" for name in changed)
        raise OutputError(f"{folder.uri} holds another simulation ({told}): take another folder")
    return True


def _make(
    simulator: Simulator,
    simulation: Simulation,
    folder: Folder,
    run: str,
    blocks: list[int],
    say: Callable[[str], None],
) -> None:
    with connected():
        shared = ray.put(simulator)
        task = ray.remote(num_cpus=1, max_retries=10)(_write_block)
        waiting, pending, made, told = list(reversed(blocks)), [], 0, time.monotonic()
        while waiting or pending:
            # some more than there are cores, however many nodes come
            most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(pending) < most:
                pending.append(task.remote(shared, simulation, folder, run, waiting.pop()))
            ready, pending = ray.wait(pending, timeout=5)
            for failure in ray.get(ready):
                if failure is not None:
                    raise failure
            made += len(ready)
            if ready and time.monotonic() - told >= 10:
                told = time.monotonic()
                say(f"{made} of {len(blocks)} blocks made")


def _write_block(
    simulator: Simulator, simulation: Simulation, folder: Folder, run: str, block: int
) -> Exception | None:
    """Make one block, and give the error of ours that it met."""
    try:
        first = block * simulation.per_block
        numbers = range(first, min(first + simulation.per_block, simulation.num_conversations))
        made = [
            simulator.simulate([simulation.seed, number], uri=f"simulated-{number:08d}")
            for number in numbers
        ]
        write = _write_shard if simulation.shards else _write_files
        places = write(folder, block, made)
        rows = [_row(one, uri, rttm) for one, (uri, rttm) in zip(made, places, strict=True)]
        check_lock(folder, run)
        table = pa.Table.from_pylist(rows, schema=_ROWS)
        retrying(lambda: folder.publish_table(f"{_PARTS}/{_part(simulation, block)}", table))
    except RaydiarError as error:
        return error
    return None


def _write_files(folder: Folder, block: int, made: list[Conversation]) -> list[tuple[str, str]]:
    places = []
    for one in made:
        stem = f"{block:06d}/{one.uri}"
        place = f"audio/{stem}.flac", f"labels/{stem}.rttm"
        _publish(folder, place[0], to_flac(one.samples))
        _publish(folder, place[1], one.diarization.to_rttm().encode())
        places.append(place)
    return places


def _write_shard(folder: Folder, block: int, made: list[Conversation]) -> list[tuple[str, str]]:
    sink = io.BytesIO()
    labels = [one.diarization.to_rttm() for one in made]
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for one, rttm in zip(made, labels, strict=True):
            members = (f"{one.uri}.flac", to_flac(one.samples)), (f"{one.uri}.rttm", rttm.encode())
            for name, data in members:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    shard, rttm = f"shards/{block:06d}.tar", f"labels/{block:06d}.rttm"
    _publish(folder, shard, sink.getvalue())
    _publish(folder, rttm, "".join(labels).encode())
    return [(f"{shard}#{one.uri}.flac", rttm) for one in made]


def _publish(folder: Folder, name: str, data: bytes) -> None:
    retrying(lambda: folder.publish(name, data))


def _row(one: Conversation, uri: str, rttm: str) -> dict[str, Any]:
    return {
        "uri": uri,
        "rttm": rttm,
        "recording_id": one.uri,
        "seconds": one.duration,
        "num_speakers": len(one.people),
        "structure": one.structure,
        "room": one.room,
        "noise": one.noise,
        "snr": one.snr,
    }


def _part(simulation: Simulation, block: int) -> str:
    """Name of a block's rows; the last block's tells its size, which may grow."""
    first = block * simulation.per_block
    size = min(simulation.per_block, simulation.num_conversations - first)
    return f"{block:06d}-{size}.parquet"


def to_flac(samples: np.ndarray) -> bytes:
    """(num_samples,) int16 at 16 kHz as a FLAC file."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="flac") as output:
        stream = output.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        for one in (frame, None):
            output.mux(stream.encode(one))
    return sink.getvalue()


# -- sources -----------------------------------------------------------------------------------


def _voices(source: str) -> Mapping[str, list[Callable[[], np.ndarray]]]:
    found: dict[str, list[str]] = {}
    if PurePosixPath(source).suffix.lower() in (".csv", ".jsonl", ".ndjson", ".json", ".parquet"):
        parent = source.rpartition("/")[0] or "."
        for columns in open_table(source).batches():
            name = "uri" if "uri" in columns.values else "path"
            for needed in (name, "speaker"):
                if needed not in columns.values:
                    raise SimulationError(
                        f"{source} has no column `{needed}`: a table of voices has `speaker`, and "
                        f"`uri` or `path`; this one has {', '.join(columns.values)}"
                    )
            rows = zip(columns.values["speaker"], columns.values[name], strict=True)
            for number, (speaker, uri) in enumerate(rows):
                if not speaker or not uri:
                    columns.refuse(name, number, "or its speaker is missing")
                whole = uri if "://" in uri or uri.startswith("/") else f"{parent}/{uri}"
                found.setdefault(str(speaker), []).append(whole)
    else:
        root = f"{url_to_fs(source)[1].rstrip('/')}/"
        for uri in _audio(source):
            person, separator, _ = url_to_fs(uri)[1].removeprefix(root).partition("/")
            if not separator:
                raise SimulationError(
                    f"{uri} belongs to nobody: below {source} lies a folder for each person, with "
                    "the utterances in it"
                )
            found.setdefault(person, []).append(uri)
    strange = [name for name in found if len(name.split()) != 1]
    if strange:
        raise SimulationError(f"RTTM cannot hold white space in a name: {strange[0]!r}")
    return {
        person: [functools.partial(_utterance, uri) for uri in sorted(uris)]
        for person, uris in sorted(found.items())
    }


@functools.lru_cache(maxsize=256)
def _utterance(uri: str) -> np.ndarray:
    return decode(uri)


def _audio(source: str | None) -> list[str]:
    if source is None:
        return []
    found = []
    try:
        found = sorted(uri for uri, _ in list_audio(source))
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise storage_error(error, display_name(source)) from error
    if not found:
        raise SimulationError(f"there is no audio in {source}")
    return found


def _fetched(source: str, ending: str, scratch: str) -> list[str]:
    """Local paths of the files of a folder, glob or name that have an ending."""
    fs, path = url_to_fs(source)
    try:
        names = [path] if fs.isfile(path) else fs.find(path) if fs.isdir(path) else fs.glob(path)
        names = sorted(name for name in names if name.lower().endswith(ending))
        if not names:
            raise SimulationError(f"there is no {ending} file in {source}")
        if isinstance(fs, LocalFileSystem):
            return names
        local = [f"{scratch}/{number:06d}{ending}" for number in range(len(names))]
        fs.get(names, local)
        return local
    except OSError as error:
        raise storage_error(error, display_name(source)) from error
