"""Listings that exist already: S3 Inventory, and tables of objects.

An S3 Inventory is named by the `manifest.json` of one of its days. Its parts are gzipped CSV
without a header, keys URL-encoded, or Parquet or ORC, keys as they are; each part is checked
against the MD5 that the manifest gives, since a listing that lost a part looks like a small corpus.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from raydiar.corpus.inputs.listing import Found
from raydiar.errors import ManifestError
from raydiar.failures import retrying
from raydiar.storage.tables import open_table

_BATCH = 65_536


def listing_of(fs: AbstractFileSystem, path: str, uri: str) -> Found | None:
    """What a file lists, if it is an S3 Inventory or a table of objects; None if it is neither.

    A table names objects by `uri`, or by `bucket` and `key`, and may give their `size`; a Parquet
    file that holds bytes is a shard of audio, whatever its other columns are.

    Raises
    ------
    ManifestError
        If it is one, and damaged.
    """
    name = path.rpartition("/")[2]
    if name == "manifest.json":
        return _inventory(fs, path, uri)
    if name.endswith((".csv", ".csv.gz", ".jsonl", ".jsonl.gz")):
        return _table(uri)
    if name.endswith((".parquet", ".pq")) and fs.isfile(path):
        with fs.open(path, "rb") as file:
            schema = pq.read_schema(file)
        held = any(pa.types.is_nested(t) or pa.types.is_large_binary(t) for t in schema.types)
        if not held and not any(map(pa.types.is_binary, schema.types)) and _names(schema.names):
            return _table(uri)
    return None


def _names(columns: list[str]) -> bool:
    return "uri" in columns or {"bucket", "key"} <= set(columns)


def _table(uri: str) -> Found:
    table = open_table(uri)
    if not _names(table.types(known=("size",)).names):
        raise ManifestError(f"{uri} lists nothing: it has neither a column uri nor bucket and key")
    for batch in table.batches():
        sizes = batch.converted("size", int)
        if "uri" in batch.values:
            names = batch.converted("uri", str)
        else:
            columns = (batch.converted("bucket", str), batch.converted("key", str))
            names = [f"s3://{bucket}/{key}" for bucket, key in zip(*columns, strict=True)]
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            if name is None:
                batch.refuse("uri", number, "is missing")
            yield name, size


def _inventory(fs: AbstractFileSystem, path: str, uri: str) -> Found:
    try:
        manifest = json.loads(retrying(lambda: fs.cat_file(path)))
        form, parts = manifest["fileFormat"].lower(), manifest["files"]
        columns = [name.strip() for name in manifest["fileSchema"].split(",")]
        bucket = manifest["destinationBucket"].rpartition(":")[2]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{uri} is not the manifest.json of an S3 Inventory: {error!r}"
        ) from None
    if form not in ("csv", "parquet", "orc"):
        raise ManifestError(f"{uri}: the inventory is {form}, not CSV, Parquet or ORC")
    for part in parts:
        with _fetched(fs, path, bucket, part, uri) as file:
            rows = _csv_rows(file, columns) if form == "csv" else _columnar_rows(file, form)
            for row in rows:
                # of an inventory of all versions, what a listing would give
                if _is(row, "is_latest", True) and not _is(row, "is_delete_marker", False):
                    yield f"s3://{row['bucket']}/{row['key']}", _size(row)


def _is(row: dict, name: str, missing: bool) -> bool:
    value = row.get(name)
    return missing if value in (None, "") else value in (True, "true", "True")


def _size(row: dict) -> int | None:
    size = row.get("size")
    return None if size in (None, "") else int(size)


@contextmanager
def _fetched(
    fs: AbstractFileSystem, manifest: str, bucket: str, part: dict, uri: str
) -> Iterator[str]:
    """A part of an inventory as a file of this machine, found to be whole."""
    name = part["key"].rpartition("/")[2]
    # where it was written; or, of an inventory that was copied, beside the manifest
    beside = f"{manifest.rpartition('/')[0].rpartition('/')[0]}/data/{name}"
    places = [f"{bucket}/{part['key']}", beside] if hasattr(fs, "call_s3") else [beside]
    with tempfile.TemporaryDirectory(prefix="raydiar-") as folder:
        file = os.path.join(folder, name)
        for place in places:
            try:
                retrying(lambda place=place: fs.get_file(place, file))
                break
            except FileNotFoundError:
                continue
        else:
            raise ManifestError(f"{uri} names {part['key']}, which is not there")
        with open(file, "rb") as data:
            found = hashlib.file_digest(data, "md5").hexdigest()
        if found != part.get("MD5checksum", found):
            raise ManifestError(f"{uri}: {part['key']} is damaged: its MD5 is {found}")
        yield file


def _csv_rows(path: str, columns: list[str]) -> Iterator[dict]:
    names = [_snake(name) for name in columns]
    with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
        for row in csv.reader(io.TextIOWrapper(file, "utf-8", newline="")):
            values = dict(zip(names, row, strict=True))
            values["key"] = unquote_plus(values["key"])
            yield values


def _columnar_rows(path: str, form: str) -> Iterator[dict]:
    table = pyarrow.dataset.dataset(path, format=form)
    wanted = ("bucket", "key", "size", "is_latest", "is_delete_marker")
    columns = [name for name in wanted if name in table.schema.names]
    for batch in table.to_batches(columns=columns, batch_size=_BATCH):
        yield from batch.to_pylist()


def _snake(name: str) -> str:
    """`IsLatest` as Parquet inventories call it: `is_latest`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
