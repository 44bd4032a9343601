"""The voiceprints of a diarization dataset, a file at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydiar.corpus.output import dataset
from raydiar.errors import VoiceprintIndexError
from raydiar.voiceprints.generation import Generation, check_embedding
from raydiar.voiceprints.segments import unit_vectors


class Voiceprints(NamedTuple):
    """
    Attributes
    ----------
    ids : Table
        `ID_FIELDS` that a dataset knows, and the carried columns of an index.
    vectors : (num_voiceprints, dimension) float32
        Unit vectors.
    without_voice : int
        Speakers without voiceprint beside these.
    """

    ids: pa.Table
    vectors: np.ndarray
    without_voice: int


def read_voiceprints(uri: str, generation: Generation) -> Iterator[Voiceprints]:
    """Read the voiceprints of a dataset that are to be compared with those of an index.

    Raises
    ------
    OutputError
        If there is no dataset.
    VoiceprintIndexError
        If they were made with another embedding than those of the index.
    """
    if "://" not in uri:  # turns are looked up there later, from wherever one then is
        uri = os.path.abspath(uri)
    source = dataset.open(uri)
    carried = [name for name in generation.columns if name in source.schema.names]
    columns = ["recording_id", "uri", "speakers", "pipeline", *carried]
    for name, keep in zip(source.inventory.files, source.inventory.kept, strict=True):
        if name.startswith("ok-") and keep.any():
            with source.output.open(name) as file:
                rows = pq.read_table(file, columns=columns).filter(pa.array(keep))
            _check(rows, generation)
            yield _voiceprints(rows.combine_chunks(), uri, name, carried)


def _check(rows: pa.Table, generation: Generation) -> None:
    pipelines = rows.column("pipeline").combine_chunks()
    names = ("embedding", "embedding_mode")
    for pair in set(zip(*(pipelines.field(n).to_pylist() for n in names), strict=True)):
        check_embedding(generation, *pair)
    dimension = rows.schema.field("speakers").type.value_type.field("embedding").type.list_size
    if dimension != generation.dimension:
        raise VoiceprintIndexError(
            f"these voiceprints have {dimension} dimensions, those of the index "
            f"{generation.dimension}"
        )


def _voiceprints(rows: pa.Table, uri: str, name: str, carried: list[str]) -> Voiceprints:
    lists = rows.column("speakers").combine_chunks()
    speakers, parents = pc.list_flatten(lists), pc.list_parent_indices(lists)
    number = len(speakers)
    known = speakers.field("embedding").is_valid()
    speakers, parents = speakers.filter(known), parents.filter(known)
    embeddings = speakers.field("embedding")
    vectors = embeddings.flatten().to_numpy(zero_copy_only=False)
    vectors = vectors.reshape(len(speakers), embeddings.type.list_size)
    lengths = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    ids = pa.table(
        {
            "recording_id": rows.column("recording_id").take(parents),
            "uri": rows.column("uri").take(parents),
            "speaker": speakers.field("speaker"),
            "seconds": speakers.field("embedding_seconds"),
            "num_embeddings": speakers.field("num_embeddings"),
            "dataset": pa.repeat(uri, len(speakers)),
            "file": pa.repeat(name, len(speakers)),
            **{column: rows.column(column).take(parents) for column in carried},
        }
    ).filter(pa.array(usable))
    return Voiceprints(ids, unit_vectors(vectors[usable]), number - int(usable.sum()))
