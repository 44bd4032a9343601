"""The people of a corpus as a table, and how they stay the same from one linking to the next.

Numbers of people are given once. When voices are added, a person whose voices now belong together
with another's keeps the number that stands for most speech, a person who falls apart leaves it
to the larger part, and all others get new numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute as pc

from raydiar.errors import VoiceprintIndexConflict, VoiceprintIndexError
from raydiar.storage.folder import Folder, FolderConflict, to_parquet

FILE = "identities.parquet"

IDENTITIES = pa.schema(
    [
        pa.field("identity", pa.int64(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # of speech behind the voiceprint
        pa.field("short", pa.bool_(), nullable=False),  # too little speech to found an identity
        pa.field("score", pa.float32()),  # mean cosine with the identity's others; null if alone
        pa.field("probability", pa.float64()),  # of being the identity's; null if alone
        pa.field("name", pa.string()),  # of the enrolled person
        pa.field("copy", pa.bool_()),  # the recording is another one again
        pa.field("flag", pa.string()),  # "hub": no person, and linked with nobody
    ]
)

CHANGES = pa.schema(
    [
        pa.field("before", pa.int64(), nullable=False),
        pa.field("after", pa.int64(), nullable=False),
        pa.field("num_speakers", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)
"""Where the speakers of each identity went: one row for each pair that shares some."""

_KEY = ["recording_id", "speaker"]
_NEXT = b"raydiar.next_identity"
_RUN = b"raydiar.run"


def number_people(voices: pa.Table, people: np.ndarray, previous: pa.Table | None):
    """Give people their numbers.

    Parameters
    ----------
    voices : Table
        With `recording_id`, `speaker` and `seconds`, one row a voice.
    people : (num_voices,) int64
        Labels 0, 1, ….
    previous : Table of IDENTITIES, optional

    Returns
    -------
    identities : (num_voices,) int64
    changes : Table of CHANGES
    next_identity : int
        First number that was never given.
    """
    frame = voices.select([*_KEY, "seconds"]).to_pandas().assign(person=people)
    speech = frame.groupby("person")["seconds"].sum()
    numbers = np.full(len(speech), -1)
    overlaps, next_identity = None, 0
    if previous is not None:
        next_identity = _next_identity(previous)
        before = previous.select([*_KEY, "identity"]).to_pandas()
        overlaps = (
            frame.merge(before, on=_KEY)
            .groupby(["identity", "person"], as_index=False)
            .agg(num_speakers=("seconds", "size"), seconds=("seconds", "sum"))
            .sort_values(
                ["seconds", "num_speakers", "identity", "person"],
                ascending=[False, False, True, True],
            )
        )
        taken = set()
        for identity, person in zip(overlaps["identity"], overlaps["person"], strict=True):
            if numbers[person] < 0 and identity not in taken:
                numbers[person] = identity
                taken.add(identity)
    new = np.flatnonzero(numbers < 0)
    # who speaks most comes first
    new = new[np.argsort(-speech.to_numpy()[new], kind="stable")]
    numbers[new] = next_identity + np.arange(len(new))
    changes = CHANGES.empty_table()
    if overlaps is not None:
        overlaps = overlaps.assign(after=numbers[overlaps["person"]])
        overlaps = overlaps.rename(columns={"identity": "before"}).sort_values(["before", "after"])
        changes = pa.Table.from_pandas(overlaps[CHANGES.names], CHANGES, preserve_index=False)
    return numbers[people], changes, next_identity + len(new)


def read_identities(output: str) -> tuple[pa.Table | None, str | None]:
    """The identities that were last published in a folder, and the version that `publish` asks for.

    Returns
    -------
    identities : Table of IDENTITIES or None
    version : str or None
        None if there are none.

    Raises
    ------
    VoiceprintIndexError
        If they are damaged.
    """
    return _read(Folder(output))


def publish(
    output: str, identities: pa.Table, changes: pa.Table, next_identity: int, version: str | None
) -> None:
    """Replace the identities of a folder, and lay the map from the last ones beside them.

    Parameters
    ----------
    version : str or None
        Of the identities that the new ones follow, by `read_identities`.

    Raises
    ------
    VoiceprintIndexConflict
        If another linking published in between; nothing was written.
    """
    folder = Folder(output)
    previous, now = _read(folder)
    run = 0 if previous is None else int(previous.schema.metadata[_RUN]) + 1
    if now == version and previous is not None:
        # named by the run it leads to: a writer that dies here is overwritten by the next
        folder.publish_table(f"changes-{run}.parquet", changes)
    metadata = {_NEXT: str(next_identity).encode(), _RUN: str(run).encode()}
    _replace(folder, identities.replace_schema_metadata(metadata), version)


def forget(output: str, recording_ids: Sequence[str]) -> int:
    """Leave out the rows of recordings; numbers of the others stay. Gives how many were there.

    Raises
    ------
    VoiceprintIndexConflict
        If another linking published in between; nothing was written.
    """
    folder = Folder(output)
    table, version = _read(folder)
    if table is None:
        return 0
    kept = table.filter(pc.invert(pc.is_in(table["recording_id"], pa.array(recording_ids))))
    if len(kept) < len(table):
        _replace(folder, kept, version)
    return len(table) - len(kept)


def _replace(folder: Folder, table: pa.Table, version: str | None) -> None:
    try:
        folder.replace(FILE, to_parquet(table), version)
    except FolderConflict:
        raise VoiceprintIndexConflict(
            f"{folder.uri} was changed by another linking meanwhile. Nothing was written: run the "
            "command again."
        ) from None


def _read(folder: Folder) -> tuple[pa.Table | None, str | None]:
    data, version = folder.read_version(FILE)
    if data is None:
        return None, None
    try:
        table = pq.read_table(pa.BufferReader(data))
        _next_identity(table)
        int(table.schema.metadata[_RUN])
        for field in IDENTITIES:  # older tables lack what came later
            if field.nullable and field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        identities = table.select(IDENTITIES.names).cast(
            IDENTITIES.with_metadata(table.schema.metadata)
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise VoiceprintIndexError(
            f"{folder.uri}/{FILE} is no table of identities: {error}"
        ) from error
    return identities, version


def _next_identity(table: pa.Table) -> int:
    given = int(table.schema.metadata[_NEXT])
    if len(table) and given <= pc.max(table["identity"]).as_py():
        raise ValueError("it gives numbers twice")
    return given
