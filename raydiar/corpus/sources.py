"""Manifests made from a folder, prefix or glob of audio, listed once and never held whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from raydiar.errors import ManifestError

# bytes of a second, low rather than high, for the known endings: packs are formed from file
# sizes where nothing better is known, and a pack too small costs less than one too large
BYTES_PER_SECOND = {
    **dict.fromkeys((".wav", ".aif", ".aiff", ".caf"), 16_000),
    **dict.fromkeys((".sph", ".au"), 8_000),
    **dict.fromkeys((".flac",), 12_000),
    **dict.fromkeys((".mp3", ".ogg", ".oga", ".m4a", ".aac", ".wma", ".ac3"), 4_000),
    **dict.fromkeys((".opus", ".amr", ".3gp"), 1_500),
    **dict.fromkeys((".mp4", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts"), 20_000),
}
_SCHEMA = pa.schema([("uri", pa.string()), ("size", pa.int64())])


def list_audio(source: str) -> Iterator[tuple[str, int]]:
    """Stream the URIs and sizes in bytes of the audio and video files of a source.

    Parameters
    ----------
    source : str
        A folder or prefix, listed with all its subfolders for files with a known ending, or a
        glob (`s3://bucket/podcasts/**/*.mp3`), whose every match is taken; local or fsspec URI.
    """
    fs, path = url_to_fs(source)
    if any(sign in path for sign in "*?["):
        for name, details in fs.glob(path, detail=True).items():
            if details["type"] == "file":
                yield fs.unstrip_protocol(name).removeprefix("file://"), details["size"]
        return
    for _, folders, files in fs.walk(path, detail=True):
        for name in [name for name in folders if name.startswith((".", "_"))]:
            del folders[name]
        for name, details in sorted(files.items()):
            if os.path.splitext(name)[1].lower() in BYTES_PER_SECOND and name[0] != ".":
                yield fs.unstrip_protocol(details["name"]).removeprefix("file://"), details["size"]


def write_manifest(source: str, manifest: str) -> int:
    """Write a Parquet manifest of all audio of a folder, prefix or glob.

    Returns
    -------
    num_recordings : int

    Raises
    ------
    ManifestError
        If there is no audio.
    """
    audio = list_audio(source)
    num_recordings = 0
    with tempfile.TemporaryDirectory() as scratch:
        # whole on the local disk first: a listing that breaks off must not leave half a manifest
        path = f"{scratch}/manifest.parquet"
        with pq.ParquetWriter(path, _SCHEMA) as writer:
            while batch := list(islice(audio, 65536)):
                uris, sizes = zip(*batch, strict=True)
                writer.write_table(pa.table([uris, sizes], schema=_SCHEMA))
                num_recordings += len(batch)
        if not num_recordings:
            raise ManifestError(f"there is no audio in {source}")
        fs, destination = url_to_fs(manifest)
        fs.makedirs(fs._parent(destination), exist_ok=True)
        fs.put_file(path, destination)
    return num_recordings
