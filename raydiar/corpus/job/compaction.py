"""Many small files of a dataset made into few, as safely as a job's end rewrites some.

What is merged is published under a name that overrules all it came from (`dataset.rewritten_name`),
and only then are those deleted: a kill at any moment leaves rows twice at worst, equal ones, which
every reader of raydiar sees through and the next run or compaction removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.job.bookkeeping import folder_of, locked, new_run
from raydiar.corpus.output import dataset, delta
from raydiar.corpus.output.row_index import update_index
from raydiar.errors import ConfigError, OutputError
from raydiar.failures import retrying
from raydiar.storage.folder import Folder, usable
from raydiar.storage.lock import check_lock

FILE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes
    ----------
    num_files_before, num_files : int
    num_rows : int
        In the output.
    num_removed : int
        Overruled rows that any Parquet reader saw before.
    """

    num_files_before: int
    num_files: int
    num_rows: int
    num_removed: int


def compact(
    output: str, file_bytes: int = FILE_BYTES, report: Callable[[str], None] | None = None
) -> Compacted:
    """Merge the small files of a dataset, and remove rows that are overruled.

    Parameters
    ----------
    output : str
        Folder or fsspec URI of a dataset that no job is writing.
    file_bytes : int
        Files are merged up to this size; one of half of it stays as it is.
    report : callable, optional
        Takes a line if another run's lock is waited for.

    Raises
    ------
    ConfigError, OutputError
    """
    if file_bytes < 1:
        raise ConfigError(f"files must be of at least one byte, not {file_bytes}")
    folder, run = folder_of(output), new_run()
    with usable(folder):
        if dataset.read_schema(folder) is None:
            raise OutputError(f"{output} holds no diarization dataset")
    with locked(folder, run, report), usable(folder):
        schema = dataset.read_schema(folder)
        commit = delta.committer(folder, run, schema)
        before = dataset.Inventory.read(folder)
        removed = dataset.remove_overruled(folder, run, before)
        inventory = dataset.Inventory.read(folder, known=before) if removed else before
        sizes = folder.list()
        for names in _groups(inventory.files, sizes, file_bytes):
            _merge(folder, run, names, schema)
        after = dataset.Inventory.read(folder, known=inventory)
        update_index(folder, after.indexed)
        commit(after)
    num_rows = sum(map(len, after.hashes))
    return Compacted(len(before.files), len(after.files), num_rows, removed)


def _groups(files: tuple[str, ...], sizes: dict[str, int], most: int) -> Iterator[list[str]]:
    """Neighbours in order of precedence, of one status, that together have at most `most` bytes."""
    group: list[str] = []
    total = 0
    for name in (*files, ""):
        size = sizes.get(name, 0)
        ends = not name or (group and group[0].partition("-")[0] != name.partition("-")[0])
        if ends or total + size > most or size > most / 2:
            if len(group) > 1:
                yield group
            group, total = [], 0
        if name and size <= most / 2:
            group.append(name)
            total += size


def _merge(folder: Folder, run: str, names: list[str], schema: pa.Schema) -> None:
    tables = []
    for name in names:
        with folder.open(name) as file:
            tables.append(dataset.completed(pq.read_table(file), schema).cast(schema))
    merged = pa.concat_tables(tables)
    ids = merged.column("recording_id").to_pylist()
    retrying(lambda: check_lock(folder, run))
    folder.publish_table(dataset.rewritten_name(names, ids), merged)
    for name in names:
        retrying(lambda: check_lock(folder, run))
        folder.delete(name)
