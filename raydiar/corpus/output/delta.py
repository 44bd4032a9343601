"""The dataset as a Delta Lake table: a log beside its files, for engines that read such tables.

Nothing is written twice. The files of a dataset are Parquet, never change, and hold exactly one row
a recording once a job has ended; all that a Delta table asks beyond that is a log that says which
files count. So the end of a job commits, in one transaction, the files that are new and those that
are gone. What a killed job did not commit, the next one does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from raydiar.corpus.output.dataset import Inventory, version_of
from raydiar.errors import ConfigError, OutputError
from raydiar.storage.folder import Folder

LOG = "_delta_log"
FORMS = ("delta",)


def is_table(output: Folder) -> bool:
    """Whether a dataset has been made a Delta table."""
    return bool(output.list(LOG))


def check(output: Folder, schema: pa.Schema) -> None:
    """Refuse, before any work, what could not be committed after it.

    Raises
    ------
    ConfigError
        If deltalake is not installed, a column has a type that Delta Lake lacks, or it cannot
        reach the output.
    """
    try:
        import deltalake
        from deltalake.exceptions import TableNotFoundError
    except ImportError:
        raise ConfigError(
            f"{output.uri} is to be a Delta table, which needs a package: "
            "pip install 'raydiar[delta]'"
        ) from None
    for column in schema:
        try:
            if pa.types.is_unsigned_integer(column.type):  # Delta Lake would make them negative
                raise ValueError
            deltalake.Schema.from_arrow(pa.schema([column]))
        except Exception:
            raise ConfigError(
                f"Delta Lake has no type for the column {column.name!r} ({column.type}): convert "
                "it, or leave out --table delta"
            ) from None
    try:
        deltalake.DeltaTable(output.uri, storage_options=_options(output))
    except TableNotFoundError:
        pass
    except Exception as error:
        raise ConfigError(
            f"{output.uri} cannot be a Delta table: {_first_line(error)}. Its library takes "
            "credentials from the environment or the machine's role."
        ) from error


def committer(
    output: Folder, run: str, schema: pa.Schema, table: str | None = None
) -> Callable[[Inventory], int | None]:
    """What commits an inventory to the table that an output is, or is to be; `check` is done."""
    if table is None and not is_table(output):
        return lambda inventory: None
    check(output, schema)
    return lambda inventory: commit(output, run, schema, inventory)


def commit(output: Folder, run: str, schema: pa.Schema, inventory: Inventory) -> int | None:
    """Commit what the files of a dataset are now, if the table does not know.

    Parameters
    ----------
    run : str
        Holds the lock of the output.
    schema : pyarrow.Schema
        Of the dataset. Columns that came later are added to the table, in a commit before.
    inventory : Inventory
        With one row a recording.

    Returns
    -------
    version : int or None
        Of the table; None if there was nothing to commit.

    Raises
    ------
    OutputError
        If the table cannot be written; the dataset is complete nevertheless.
    """
    try:
        return _commit(output, run, schema, inventory)
    except Exception as error:
        raise OutputError(
            f"the Delta table of {output.uri} could not be written: {_first_line(error)}. The "
            "dataset itself is complete; run the same job again to commit it."
        ) from error


def _commit(output: Folder, run: str, schema: pa.Schema, inventory: Inventory) -> int | None:
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.transaction import RemoveAction, create_table_with_add_actions

    options = _options(output)
    told = {"raydiar.run": run, "raydiar.schema": f"{version_of(schema)}"}
    properties = CommitProperties(custom_metadata=told)
    files, wanted = _files(output, inventory), Schema.from_arrow(schema)
    if not is_table(output):
        create_table_with_add_actions(
            output.uri,
            wanted,
            [_added(name, *facts) for name, facts in files.items()],
            description=f"Speaker diarization by raydiar, schema {version_of(schema)}",
            storage_options=options,
            commit_properties=properties,
        )
        return 0
    table = DeltaTable(output.uri, storage_options=options)
    columns = {column.name for column in table.schema().fields}
    if missing := [column for column in wanted.fields if column.name not in columns]:
        table.alter.add_columns(missing, commit_properties=properties)
        table = DeltaTable(output.uri, storage_options=options)
    known = {unquote(uri.rpartition("/")[2]) for uri in table.file_uris()}
    now = int(1000 * time.time())
    actions = [_added(name, *facts) for name, facts in files.items() if name not in known]
    actions += [RemoveAction(name, True, now) for name in sorted(known - files.keys())]
    if not actions:
        return None
    table.create_write_transaction(actions, "append", wanted, commit_properties=properties)
    return DeltaTable(output.uri, storage_options=options).version()


def _files(output: Folder, inventory: Inventory) -> dict[str, tuple[int, int]]:
    """Size in bytes and number of rows of each file."""
    sizes = output.list()
    rows = zip(inventory.files, inventory.hashes, strict=True)
    return {name: (sizes[name], len(hashes)) for name, hashes in rows}


def _added(name: str, size: int, num_rows: int) -> Any:
    from deltalake.transaction import AddAction

    status = {"status": name.partition("-")[0]}  # by which engines leave whole files out
    stats = {"numRecords": num_rows, "minValues": status, "maxValues": status}
    stats["nullCount"] = {"status": 0}
    return AddAction(name, size, {}, int(1000 * time.time()), True, json.dumps(stats))


def _options(output: Folder) -> dict[str, str] | None:
    """What the library of Delta Lake has to be told besides what it finds in the environment."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if output.is_local or "s3" not in output.fs.protocol or not endpoint:
        return None
    return {"endpoint_url": endpoint, "allow_http": f"{endpoint.startswith('http://')}".lower()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]
