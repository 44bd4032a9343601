"""Manifests made from a folder, prefix or glob, listed once and never held whole.

S3 is listed in pages of keys below the longest literal prefix, which takes one request for a
thousand objects however they are spread over folders. Other storage is walked, and holds the
names of one folder at a time: fsspec has no pages to offer, and its `glob` and `find` hold all.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from raydiar.corpus.inputs.shards import is_shard
from raydiar.errors import ManifestError, RaydiarError
from raydiar.failures import retrying
from raydiar.naming import clean_uri, is_audio, local_path
from raydiar.storage import display_name, storage_error

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
_HIDDEN = (".", "_")

Found = Iterator[tuple[str, int | None]]


def list_audio(source: str, without: str | None = None) -> Found:
    """Stream the URIs, and sizes in bytes where known, of the recordings and shards of a source.

    Parameters
    ----------
    source : str
        A folder or prefix, listed with all its subfolders for files with a known ending, or a
        glob (`s3://bucket/podcasts/**/*.mp3`), whose every match is taken, or a single file;
        local or fsspec URI. What exists under that very name is no glob. A local name that is no
        UTF-8 is given as a `file://` URI with escapes.
    without : str, optional
        A folder that is left out, wherever it lies: the output of a job.
    """
    local = local_path(source)
    fs, path = url_to_fs(source if local is None else local, use_listings_cache=False)
    is_pattern = re.search(r"[*?[]", path) is not None and not fs.exists(path)
    omitted = None
    if without is not None:
        other, root = url_to_fs(without)
        if other.protocol == fs.protocol:
            omitted = f"{root.rstrip('/')}/"
    for name, size in _glob(fs, path) if is_pattern else _below(fs, path):
        if omitted is None or not name.startswith(omitted):
            of_disk = isinstance(fs, LocalFileSystem)
            yield clean_uri(name) if of_disk else fs.unstrip_protocol(name), size


def _below(fs: AbstractFileSystem, path: str) -> Found:
    if fs.isfile(path):
        yield path, fs.size(path)
        return
    root = path.rstrip("/")
    for name, size in _walk(fs, root, "", depth=None, hidden=False):
        folders = name[len(root) + 1 :].split("/")[:-1]
        if any(folder.startswith(_HIDDEN) for folder in folders):
            continue
        if is_audio(name) or (is_shard(name) and not name.rpartition("/")[2].startswith(".")):
            yield name, size


def _glob(fs: AbstractFileSystem, pattern: str) -> Found:
    literal = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    root, _, stem = literal.rpartition("/")
    rest = pattern[len(root) + 1 :]
    depth = None if "**" in rest else rest.count("/") + 1
    matches = re.compile(glob_translate(pattern)).match
    for name, size in _walk(fs, root, stem, depth, hidden=True):
        if matches(name):
            yield name, size


def _walk(fs: AbstractFileSystem, root: str, stem: str, depth: int | None, hidden: bool) -> Found:
    """Files below a folder whose path goes on with `stem`, as deep as `depth` folders.

    On S3 hidden folders are among them in any case: they share its pages.
    """
    if isinstance(fs, LocalFileSystem):
        return _walk_local(root or "/", depth, hidden)
    if hasattr(fs, "call_s3"):
        return _list_s3(fs, root, stem, delimiter="/" if depth == 1 else "")
    return _walk_folders(fs, root, depth, hidden)


def _walk_local(root: str, depth: int | None, hidden: bool) -> Found:
    def refuse(error: OSError):
        raise error

    # links to folders are not followed, or what lies behind them might be listed twice
    for folder, folders, files in os.walk(root, onerror=refuse):
        inside = folder.removeprefix(root).strip("/")
        if depth is not None and len(inside.split("/") if inside else []) + 1 >= depth:
            folders.clear()
        folders[:] = sorted(n for n in folders if hidden or not n.startswith(_HIDDEN))
        for name in sorted(files):
            path = os.path.join(folder, name)
            try:
                yield path, os.stat(path).st_size
            except FileNotFoundError:
                yield path, None  # a link to nowhere: decoding will say so


def _list_s3(fs: AbstractFileSystem, root: str, stem: str, delimiter: str) -> Found:
    if not root:
        raise ManifestError(f"s3://{stem}: name the bucket; there is no listing across buckets")
    bucket, key, _ = fs.split_path(root)
    request = {"Bucket": bucket, "Prefix": f"{key}/{stem}".lstrip("/"), "Delimiter": delimiter}
    while True:
        page = retrying(lambda: fs.call_s3("list_objects_v2", **request, **fs.req_kw))
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # consoles mark folders by empty objects
                yield f"{bucket}/{found['Key']}", found["Size"]
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _walk_folders(fs: AbstractFileSystem, root: str, depth: int | None, hidden: bool) -> Found:
    for _, folders, files in fs.walk(root, maxdepth=depth, detail=True, on_error="raise"):
        for name in [n for n in folders if n.startswith(_HIDDEN) and not hidden]:
            del folders[name]
        for _, details in sorted(files.items()):
            yield details["name"], details["size"]


def write_manifest(source: str, manifest: str, without: str | None = None) -> int:
    """Write a Parquet manifest of all that `list_audio` finds.

    Returns
    -------
    num_files : int
        Recordings and shards.

    Raises
    ------
    ManifestError
        If there is no audio.
    StorageDenied, StorageUnavailable
        If the source cannot be listed.
    """
    fs, destination = url_to_fs(manifest)
    folder = fs._parent(destination)
    fs.makedirs(folder, exist_ok=True)
    local = isinstance(fs, LocalFileSystem)
    # whole in a file of its own first: a listing that breaks off must not leave half a manifest
    with tempfile.TemporaryDirectory(dir=folder if local else None) as scratch:
        path = f"{scratch}/manifest.parquet"
        num_files = _write_listing(source, path, without)
        if not num_files:
            raise ManifestError(f"there is no audio in {source}")
        if local:
            os.replace(path, destination)
        else:
            retrying(lambda: fs.put_file(path, destination))
    return num_files


def _write_listing(source: str, path: str, without: str | None) -> int:
    found = list_audio(source, without)
    num_files = 0
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while batch := _next_batch(found, source):
            uris, sizes = zip(*batch, strict=True)
            writer.write_table(pa.table([uris, sizes], schema=_SCHEMA))
            num_files += len(batch)
    return num_files


def _next_batch(found: Found, source: str) -> list[tuple[str, int | None]]:
    try:
        return list(islice(found, 65536))
    except (RaydiarError, FileNotFoundError) as error:
        if isinstance(error, RaydiarError):
            raise
        return []
    except Exception as error:
        raise storage_error(error, display_name(source)) from error
