"""What a voiceprint index consists of at one moment: the small file CURRENT.

All other files are named by their SHA-256 and never change, so that a reader of an old generation
goes on undisturbed, and a writer that dies leaves nothing but files that CURRENT does not name.
CURRENT is JSON and names files by hash only: one from an untrusted place cannot point elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from raydiar import hub
from raydiar.errors import VoiceprintIndexConflict, VoiceprintIndexError, WeightsNotFound
from raydiar.storage.folder import Folder, FolderConflict

CURRENT = "CURRENT"
FILES = "files"
WRITERS = "writers"  # a file of each that is at work: what is younger than it may yet be named
FORMAT = 1
KINDS = ("exact", "pq-fastscan", "ivf-rabitq", "ivf-sq8")
_ADVICE = "Copy the index again, or rebuild it from its diarization datasets."
_SUFFIXES = ("f32", "int8", "faiss", "parquet", "deleted")


ID_FIELDS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # of speech behind the voiceprint
        pa.field("num_embeddings", pa.int32(), nullable=False),
        pa.field("short", pa.bool_(), nullable=False),  # less speech than the index asks for
        pa.field("name", pa.string()),  # of an enrolled person
        pa.field("dataset", pa.string()),  # diarization dataset; null for enrolled clips
        pa.field("file", pa.string()),  # where in it the row was: a hint, files are rewritten
    ]
)


@dataclass(frozen=True)
class StoredFile:
    """One immutable file of an index."""

    sha256: str
    suffix: str
    num_bytes: int

    def __post_init__(self):
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256) or self.suffix not in _SUFFIXES:
            raise ValueError(f"{self.sha256}.{self.suffix} is no name of a file of an index")

    @property
    def name(self) -> str:
        """Relative to the index."""
        return f"{FILES}/{self.sha256}.{self.suffix}"

    def local(self, folder: Folder) -> Path:
        """The file on this machine, fetched once if it is not, with size and hash checked.

        Raises
        ------
        VoiceprintIndexError
            If it is missing, truncated or changed.
        """
        uri = f"{folder.uri.rstrip('/')}/{self.name}"
        if not folder.is_local:
            try:
                return hub.fetch(f"{uri}#sha256={self.sha256}")
            except WeightsNotFound as error:
                raise VoiceprintIndexError(f"{folder.uri}: {error}. {_ADVICE}") from error
        path = Path(folder.path(self.name))
        if not path.is_file():
            raise VoiceprintIndexError(f"{uri} is missing. {_ADVICE}")
        num_bytes = path.stat().st_size
        if num_bytes != self.num_bytes:
            raise VoiceprintIndexError(
                f"{uri} has {num_bytes:,} bytes, not {self.num_bytes:,}. {_ADVICE}"
            )
        if hub.sha256_of(path) != self.sha256:
            raise VoiceprintIndexError(f"{uri} is damaged: its SHA-256 differs. {_ADVICE}")
        return path

    @classmethod
    def store(cls, folder: Folder, path: Path, suffix: str) -> StoredFile:
        """Move a finished file of this machine into an index."""
        stored = cls(hub.sha256_of(path), suffix, path.stat().st_size)
        folder.move_in(path, stored.name)
        return stored


def drop_cached(folder: Folder, name: str) -> None:
    """Remove what this machine has cached of a file of a remote index."""
    if not folder.is_local:
        sha256 = name.rpartition("/")[2].partition(".")[0]
        if re.fullmatch(r"[0-9a-f]{64}", sha256):
            shutil.rmtree(Path(hub.default_cache_dir()) / "remote" / sha256, ignore_errors=True)


@dataclass(frozen=True)
class SegmentEntry:
    """A segment as CURRENT names it.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    num_rows : int
        Deleted ones included.
    ids : StoredFile
        Parquet, one row per voiceprint.
    vectors : StoredFile or None
        Rows as float32 or int8; None where `codes` hold them.
    codes : StoredFile or None
        FAISS index of a segment that is not compared with row by row.
    deleted : StoredFile or None
        Tombstones: sorted int64 row numbers.
    num_deleted : int
    probes, candidates : int
        Inverted lists visited by a query, and rows per query whose scores are then computed
        from `vectors`.
    """

    kind: str
    num_rows: int
    ids: StoredFile
    vectors: StoredFile | None = None
    codes: StoredFile | None = None
    deleted: StoredFile | None = None
    num_deleted: int = 0
    probes: int = 0
    candidates: int = 0

    @property
    def files(self) -> list[StoredFile]:
        return [f for f in (self.ids, self.vectors, self.codes, self.deleted) if f is not None]


@dataclass(frozen=True)
class Generation:
    """A state of an index.

    Attributes
    ----------
    number : int
    embedding, embedding_mode : str
        What voiceprints must be made with: SHA-256 of the network, and how it is applied.
    dimension : int
    min_seconds : float
        Voiceprints of less speech are marked as too short.
    columns : dict of str to str
        Carried columns that can be filtered on, and their Arrow types.
    next_id : int
        First id not given yet.
    segments : tuple of SegmentEntry
    token : str
        Tells two writers' work apart.
    """

    embedding: str
    embedding_mode: str
    dimension: int
    min_seconds: float
    columns: Mapping[str, str] = field(default_factory=dict)
    number: int = 0
    next_id: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def next(self, **changes: Any) -> Generation:
        """The following generation."""
        return replace(self, number=self.number + 1, token=uuid.uuid4().hex, **changes)

    def schema(self) -> pa.Schema:
        """Of the ids files."""
        carried = [(name, pa.type_for_alias(alias)) for name, alias in self.columns.items()]
        return pa.schema([*ID_FIELDS, *(pa.field(*field) for field in carried)])

    @property
    def file_names(self) -> set[str]:
        return {file.name for segment in self.segments for file in segment.files}

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Generation:
        """
        Raises
        ------
        ValueError
            Not a generation, or one of a later format.
        """
        try:
            document = json.loads(text)
            version = document.pop("format")
            if version != FORMAT:
                raise ValueError(f"its format is {version}, this raydiar reads {FORMAT}")
            segments = tuple(_segment(entry) for entry in document.pop("segments"))
            generation = cls(**document, segments=segments)
            generation.schema()
            if not 0 < generation.dimension < 2**16 or generation.next_id < 0:
                raise ValueError("dimension or next_id out of range")
            return generation
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it is not a generation: {error}") from error


def _segment(entry: dict) -> SegmentEntry:
    files = {
        name: StoredFile(**entry[name]) if entry[name] is not None else None
        for name in ("ids", "vectors", "codes", "deleted")
    }
    segment = SegmentEntry(**{**entry, **files})
    numbers = (segment.num_rows, segment.num_deleted, segment.probes, segment.candidates)
    if segment.kind not in KINDS or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"no such segment: {segment.kind!r} with {numbers}")
    if segment.ids is None or (segment.vectors is None) == (segment.kind != "ivf-sq8"):
        raise ValueError(f"a segment of kind {segment.kind!r} lacks a file")
    if (segment.codes is None) != (segment.kind == "exact"):
        raise ValueError(f"a segment of kind {segment.kind!r} lacks a file")
    return segment


def read_current(folder: Folder) -> tuple[Generation, str]:
    """The current generation, and the version of CURRENT that `publish` asks for.

    Raises
    ------
    VoiceprintIndexError
        If there is no index, or CURRENT is damaged.
    """
    data, version = folder.read_version(CURRENT)
    if data is None:
        raise VoiceprintIndexError(f"{folder.uri} holds no voiceprint index: it has no {CURRENT}")
    try:
        return Generation.from_json(data), version
    except ValueError as error:
        raise VoiceprintIndexError(f"{folder.uri}/{CURRENT} cannot be read: {error}") from error


def publish(folder: Folder, generation: Generation, version: str | None) -> None:
    """Make a generation the current one, in place of the version that it was made from.

    Raises
    ------
    VoiceprintIndexConflict
        If another writer came first, or removed what was prepared.
    """
    there = {f"{FILES}/{name}" for name in folder.list(FILES)}
    if missing := generation.file_names - there:
        raise VoiceprintIndexConflict(
            f"{folder.uri}: {min(missing)} was removed while generation {generation.number} was "
            "prepared. Nothing was written: run the command again."
        )
    try:
        folder.replace(CURRENT, generation.to_json().encode(), version)
    except FolderConflict:
        raise VoiceprintIndexConflict(
            f"{folder.uri} was changed by another writer while generation {generation.number} "
            "was prepared. Nothing was written: run the command again."
        ) from None


def check_embedding(generation: Generation, embedding: str, embedding_mode: str) -> None:
    """
    Raises
    ------
    VoiceprintIndexError
        If voiceprints made so cannot be compared with those of the index.
    """
    if (embedding, embedding_mode) != (generation.embedding, generation.embedding_mode):
        raise VoiceprintIndexError(
            f"these voiceprints were made with the embedding {embedding[:12]}… ({embedding_mode}), "
            f"those of the index with {generation.embedding[:12]}… "
            f"({generation.embedding_mode}): they cannot be compared. Use the pipeline that the "
            "index was built with, or build another index."
        )
