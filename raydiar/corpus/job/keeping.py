"""The stages that keep LocalSpeakers while a job runs, and that read them for a later one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.job.pack import Pack
from raydiar.corpus.output import dataset
from raydiar.failures import retrying
from raydiar.naming import public_uri
from raydiar.storage.folder import Folder


@dataclass(frozen=True)
class Keep:
    """Stage that publishes the LocalSpeakers of a pack, and hands the pack on.

    Before its rows: whatever has a row of status "ok" is kept.
    """

    kept: Folder
    run: str
    schema: pa.Schema = field(repr=False)

    def __call__(self, table: pa.Table) -> pa.Table:
        pack = Pack(table)
        found = pack.local_values.is_valid()
        recordings = pack.recording_values.filter(found)
        ids = recordings.field("recording_id")
        if len(ids):
            rows = [ids, _without_secrets(recordings), pack.local_values.filter(found)]
            task = dataset.task_of(ids.to_pylist())
            published = pa.table(rows, schema=self.schema)
            self.kept.publish_table(f"local-{self.run}-{task}.parquet", published)
        return table


def _without_secrets(recordings: pa.StructArray) -> pa.StructArray:
    """Rows of a manifest with URIs that may be kept."""
    fields = list(recordings.type)
    values = recordings.flatten()
    place = recordings.type.get_field_index("uri")
    values[place] = pa.array(map(public_uri, values[place].to_pylist()), pa.string())
    return pa.StructArray.from_arrays(values, fields=fields)


@dataclass(frozen=True)
class ReadRows:
    """Stage that gives the rows of a file of a plan of kept packs, one by one."""

    output: Folder
    folder: str

    def __call__(self, file: pa.Table) -> Iterator[pa.Table]:
        [name] = file.column("name").to_pylist()
        data = retrying(lambda: self.output.read(f"{self.folder}/{name}"))
        rows = pq.read_table(io.BytesIO(data))
        for row in range(len(rows)):
            yield rows.take([row])


@dataclass(frozen=True)
class ReadKept:
    """Stage that reads a planned pack as local inference once gave it."""

    kept: Folder

    def __call__(self, plan: pa.Table) -> pa.Table:
        [row] = plan.to_pylist()
        with self.kept.open(row["file"]) as file:
            table = pq.read_table(file).take(row["rows"]).combine_chunks()
        recordings, local = (table.column(n).chunk(0) for n in ("recording", "local_speakers"))
        return Pack.kept(row["pack"], recordings, local).table
