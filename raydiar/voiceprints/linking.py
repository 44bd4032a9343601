"""Corpus-wide speakers: every voice of every recording gets an identity.

Copies of a recording are put aside first, and hubs. What resembles each other is then merged as
long as evidence says so (see `evidence` and `agglomeration`), and the means of what has merged
are compared again: with `within` in each channel or feed before the whole corpus. How much
evidence is asked follows from how unlikely it is that two voices of so many are one person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.errors import ConfigError, VoiceprintNotFound
from raydiar.storage.folder import Folder
from raydiar.voiceprints.evidence import Evidence
from raydiar.voiceprints.identities import IDENTITIES, number_people, publish, read_identities
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linker import Linker
from raydiar.voiceprints.linking_parameters import LinkingParameters
from raydiar.voiceprints.search import voiceprint_of
from raydiar.voiceprints.verification import Calibration

EVIDENCE = "evidence.json"
"""What linking measured on the corpus, beside the identities."""


@dataclass(frozen=True)
class Linking:
    """
    Attributes
    ----------
    identities : Table of IDENTITIES
    changes : Table of CHANGES
    next_identity : int
        First number that was never given.
    threshold : float
        Cosine that links two voices of long speech; groups need others, by `evidence`.
    evidence : Evidence
        As measured on the corpus.
    num_links : int
        Pairs of voices that were looked at.
    recall : float or None
        Of the links that a comparison of every pair finds; None where it was made.
    """

    identities: pa.Table = field(repr=False)
    changes: pa.Table = field(repr=False)
    next_identity: int
    threshold: float
    evidence: Evidence
    num_links: int
    recall: float | None

    @property
    def num_identities(self) -> int:
        return pc.count_distinct(self.identities["identity"]).as_py()


def link_into(
    output: str,
    index: VoiceprintIndex,
    calibration: Calibration | None = None,
    parameters: LinkingParameters | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Linking:
    """Link the voices of an index, and publish the identities in a folder.

    Identities that the folder holds are kept where their voices stay together; the map from them
    is published beside, as `changes-<run>.parquet`, and what was measured as `evidence.json`, which
    searches take as their calibration. Parameters and errors as in `link`.

    Raises
    ------
    VoiceprintIndexConflict
        If another linking published there meanwhile; nothing was written.
    """
    previous, version = read_identities(output)
    linking = link(index, calibration, parameters, previous, report)
    publish(output, linking.identities, linking.changes, linking.next_identity, version)
    Folder(output).publish(EVIDENCE, linking.evidence.to_json().encode())
    return linking


def link(
    index: VoiceprintIndex,
    calibration: Calibration | None = None,
    parameters: LinkingParameters | None = None,
    previous: pa.Table | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Linking:
    """Find out which voices of an index are one person's.

    The same index, parameters and previous identities give the same result.

    Parameters
    ----------
    index : VoiceprintIndex
    calibration : Calibration, optional
        Of cosines; without one, `parameters` must have a threshold.
    parameters : LinkingParameters, optional
    previous : Table of IDENTITIES, optional
        Whose numbers are kept.
    report : callable
        Told in lines what is chosen and done.

    Raises
    ------
    ConfigError
        If there is neither a threshold nor a calibration, or no such column to link within.
    VoiceprintNotFound
        If the index holds no voice of a recording.
    """
    parameters = parameters or LinkingParameters()
    columns = ["recording_id", "uri", "speaker", "seconds", "short"]
    if parameters.within is not None and parameters.within not in index.generation.columns:
        kept = ", ".join(index.generation.columns) or "none"
        raise ConfigError(
            f"{index.folder.uri} has no carried column {parameters.within!r} to link within; it "
            f"keeps {kept}. Columns are kept when `--column` names them at build."
        )
    voices = index.table(
        [*columns, *([parameters.within] if parameters.within else [])], include_short=True
    )
    if not len(voices):
        raise VoiceprintNotFound(f"{index.folder.uri} holds no voice of a recording")
    vectors = np.empty((len(voices), index.dimension), np.float32)
    start = 0
    for _, block in index.stream(include_short=True):
        vectors[start : start + len(block)] = block
        start += len(block)
    linker = Linker(
        vectors,
        codes_of(voices["recording_id"]),
        voices["seconds"].to_numpy(),
        voices["short"].to_numpy(),
        parameters,
        lambda num_voices: parameters.threshold_for(num_voices, calibration),
        within=codes_of(voices[parameters.within]) if parameters.within else None,
        report=report,
    )
    people = linker.people()
    report(f"two voices of long speech are linked from a score of {linker.threshold:.3f}")
    evidence = replace(
        linker.evidence,
        embedding=index.generation.embedding,
        embedding_mode=index.generation.embedding_mode,
    )
    identities, changes, next_identity = number_people(voices, people, previous)
    table = pa.table(
        [
            pa.array(identities),
            *(voices[name] for name in columns),
            pa.array(cohesion(vectors, people), from_pandas=True),
            pa.array(linker.probabilities(people), from_pandas=True),
            _names(index, vectors, people, linker.threshold),
            pa.array(linker.originals != np.arange(len(people))),
            pa.array(np.where(linker.hubs, "hub", None), pa.string()),
        ],
        schema=IDENTITIES,
    ).sort_by([("identity", "ascending"), ("recording_id", "ascending"), ("speaker", "ascending")])
    linking = Linking(
        table,
        changes,
        next_identity,
        linker.threshold,
        evidence,
        linker.num_links,
        linker.recall,
    )
    report(f"{len(voices):,} voices are {linking.num_identities:,} people's")
    return linking


def codes_of(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers 0, 1, … for the values of a column; -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def cohesion(vectors: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Mean cosine of each voice with the others of its person; NaN where there are none."""
    order = np.argsort(people, kind="stable")
    starts = np.searchsorted(people[order], np.arange(people.max() + 1))
    sizes = np.diff(np.append(starts, len(people)))
    scores = np.full(len(people), np.nan, np.float32)
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        rows = order[start : start + size]
        own = vectors[rows]
        scores[rows] = (own @ own.sum(axis=0) - 1) / (size - 1)
    return scores


def _names(index: VoiceprintIndex, vectors, people, threshold) -> pa.Array:
    """Name of the enrolled person whom each identity resembles most, if enough."""
    names = index.names()
    if not names:
        return pa.nulls(len(people), pa.string())
    known = np.stack([voiceprint_of(index, name) for name in names])
    means = np.empty((people.max() + 1, len(names)), np.float32)
    sizes = np.bincount(people)
    for column, voice in enumerate(known):
        means[:, column] = np.bincount(people, weights=vectors @ voice) / sizes
    best = means.argmax(axis=1)
    of_identity = np.where(means.max(axis=1) >= threshold, best, -1)
    return pa.array([names[n] if n >= 0 else None for n in of_identity[people]], pa.string())
