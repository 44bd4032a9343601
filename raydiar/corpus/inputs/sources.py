"""Manifests made from a folder, prefix or glob, listed once and never held whole.

S3 is listed in pages of keys below the longest literal prefix, which takes one request for a
thousand objects however they are spread over folders. Other storage is walked, and holds the
names of one folder at a time: fsspec has no pages to offer, and its `glob` and `find` hold all.
Of what was listed by others, an S3 Inventory or a table, the audio is taken.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from raydiar.corpus.inputs.inventory import listing_of
from raydiar.corpus.inputs.listing import HIDDEN, Found, walk
from raydiar.corpus.inputs.shards import is_shard
from raydiar.errors import ManifestError, RaydiarError
from raydiar.failures import retrying
from raydiar.naming import clean_uri, is_audio, local_path
from raydiar.storage import display_name, storage_error

_SCHEMA = pa.schema([("uri", pa.string()), ("size", pa.int64())])


def list_audio(source: str, without: str | None = None) -> Found:
    """Stream the URIs, and sizes in bytes where known, of the recordings and shards of a source.

    Parameters
    ----------
    source : str
        A folder or prefix, listed with all its subfolders for files with a known ending, or a
        glob (`s3://bucket/podcasts/**/*.mp3`), whose every match is taken, or a single file;
        local or fsspec URI. What exists under that very name is no glob. A local name that is no
        UTF-8 is given as a `file://` URI with escapes.
        Or a listing: the `manifest.json` of an S3 Inventory, or a table of objects (Parquet, CSV,
        JSON Lines; `uri`, or `bucket` and `key`; `size` where known), of which the files with a
        known ending are taken.
    without : str, optional
        A folder that is left out, wherever it lies: the output of a job.
    """
    local = local_path(source)
    fs, path = url_to_fs(source if local is None else local, use_listings_cache=False)
    is_pattern = _is_pattern(fs, path)
    omitted = None
    if without is not None:
        other, root = url_to_fs(without)
        root = f"{root.rstrip('/')}/"
        if other.protocol == fs.protocol:
            omitted = root
    listed = None if is_pattern else listing_of(fs, path, source)
    if listed is not None:
        outside = None if without is None else (root, other.unstrip_protocol(root))
        for uri, size in listed:
            folders = uri.partition("://")[2].split("/")[1:-1]  # of a bucket; none of a local path
            hidden = any(folder.startswith(HIDDEN) for folder in folders)
            if _is_taken(uri) and not hidden and not (outside and uri.startswith(outside)):
                yield uri, size
        return
    for name, size in _glob(fs, path) if is_pattern else _below(fs, path):
        if omitted is None or not name.startswith(omitted):
            of_disk = isinstance(fs, LocalFileSystem)
            yield clean_uri(name) if of_disk else fs.unstrip_protocol(name), size


def _is_pattern(fs: AbstractFileSystem, path: str) -> bool:
    """Whether a path is a glob rather than the name of what exists.

    Of an object store that is asked only where brackets alone make a pattern, as in titles: a
    request would be wasted on every other glob, and a bucket cannot be one.
    """
    if re.search(r"[*?[]", path) is None:
        return False
    if not isinstance(fs, LocalFileSystem) and re.search(r"[*?]", path):
        return True
    return not fs.exists(path)


def _below(fs: AbstractFileSystem, path: str) -> Found:
    if fs.isfile(path):
        yield path, fs.size(path)
        return
    root = path.rstrip("/")
    for name, size in walk(fs, root, "", depth=None, hidden=False):
        folders = name[len(root) + 1 :].split("/")[:-1]
        if _is_taken(name) and not any(folder.startswith(HIDDEN) for folder in folders):
            yield name, size


def _is_taken(name: str) -> bool:
    return is_audio(name) or (is_shard(name) and not name.rpartition("/")[2].startswith("."))


def _glob(fs: AbstractFileSystem, pattern: str) -> Found:
    literal = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    root, _, stem = literal.rpartition("/")
    rest = pattern[len(root) + 1 :]
    depth = None if "**" in rest else rest.count("/") + 1
    matches = re.compile(glob_translate(pattern)).match
    for name, size in walk(fs, root, stem, depth, hidden=True):
        if matches(name):
            yield name, size


def write_manifest(source: str | Sequence[str], manifest: str, without: str | None = None) -> int:
    """Write a Parquet manifest of all that `list_audio` finds.

    Parameters
    ----------
    source : str or sequence of str
        What to list, one after another.
    manifest : str
    without : str, optional
        See `list_audio`.

    Returns
    -------
    num_files : int
        Recordings and shards.

    Raises
    ------
    ManifestError
        If there is no audio in one of them.
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
        sources = [source] if isinstance(source, str) else source
        num_files = _write_listings(sources, path, without)
        if local:
            os.replace(path, destination)
        else:
            retrying(lambda: fs.put_file(path, destination))
    return num_files


def _write_listings(sources: Sequence[str], path: str, without: str | None) -> int:
    num_files = 0
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for source in sources:
            before, found = num_files, list_audio(source, without)
            while batch := _next_batch(found, source):
                uris, sizes = zip(*batch, strict=True)
                writer.write_table(pa.table([uris, sizes], schema=_SCHEMA))
                num_files += len(batch)
            if num_files == before:
                raise ManifestError(f"there is no audio in {source}")
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
