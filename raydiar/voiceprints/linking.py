"""Corpus-wide speakers: every voice of every recording gets an identity.

A graph of mutual neighbours is cut into components, these into people; voices of too little
speech then join whom they resemble, or stay alone. How alike two voices must be follows from the
calibration and from how unlikely it is that two voices of a large corpus are one person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.errors import ConfigError, VoiceprintNotFound
from raydiar.voiceprints.identities import IDENTITIES, number_people, publish, read_identities
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.mutual import PROBES, Mutual, mutual_neighbors
from raydiar.voiceprints.refinement import Groups, refine
from raydiar.voiceprints.search import voiceprint_of
from raydiar.voiceprints.verification import Calibration


@dataclass(frozen=True)
class LinkingParameters:
    """
    Attributes
    ----------
    probability : float
        Of being one person, from which on two voices are linked.
    prior : float, optional
        How likely two voices of the corpus are one person before they are heard. By default
        from `recordings_per_person`: among n voices, so many less one of n - 1 are the same;
        but not less than the smallest false-accept rate that the calibration knows.
    recordings_per_person : float
    threshold : float, optional
        Cosine from which on two voices are linked, in place of the above.
    neighbors : int
        Links of a voice at most.
    one_recording : bool
        Two speakers of one recording are two people.
    max_size : int
        Voices of a component that are merged at once; larger ones are cut at their weakest
        links first.
    exact : bool, optional
        Compare every pair; by default up to 200,000 voices, and on a GPU.
    probes : int
        Lists that each voice is compared with where not.
    """

    probability: float = 0.5
    prior: float | None = None
    recordings_per_person: float = 4.0
    threshold: float | None = None
    neighbors: int = 50
    one_recording: bool = True
    max_size: int = 100_000
    exact: bool | None = None
    probes: int = PROBES

    def __post_init__(self):
        if not 0 < self.probability < 1:
            raise ConfigError(f"probability must lie between 0 and 1, got {self.probability}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise ConfigError(f"the prior must lie between 0 and 1, got {self.prior}")
        if self.threshold is not None and not -1 < self.threshold < 1:
            raise ConfigError(f"a threshold is a cosine, got {self.threshold}")
        if not self.recordings_per_person > 1:
            raise ConfigError("recordings_per_person must be more than 1")
        if self.neighbors < 1 or self.max_size < 2 or self.probes < 1:
            raise ConfigError("neighbors and probes must be at least 1, max_size at least 2")

    def threshold_for(self, num_voices: int, calibration: Calibration | None) -> float:
        """Cosine from which on two of so many voices are linked.

        Raises
        ------
        ConfigError
            If there is neither a threshold nor a calibration.
        """
        if self.threshold is not None:
            return self.threshold
        if calibration is None:
            raise ConfigError(
                "no calibration is shipped for this embedding: give one, or a threshold"
            )
        prior = self.prior
        if prior is None:
            prior = (self.recordings_per_person - 1) / max(num_voices - 1, 1)
            prior = min(max(prior, calibration.false_accept_rates[-1]), 0.5)
        return calibration.score(self.probability, prior)


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
    num_links : int
    recall : float or None
        Of the links that a comparison of every pair finds; None where it was made.
    """

    identities: pa.Table = field(repr=False)
    changes: pa.Table = field(repr=False)
    next_identity: int
    threshold: float
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
    is published beside, as `changes-<run>.parquet`. Parameters and errors as in `link`.

    Raises
    ------
    VoiceprintIndexConflict
        If another linking published there meanwhile; nothing was written.
    """
    previous, version = read_identities(output)
    linking = link(index, calibration, parameters, previous, report)
    publish(output, linking.identities, linking.changes, linking.next_identity, version)
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
        If there is neither a threshold nor a calibration.
    VoiceprintNotFound
        If the index holds no voice of a recording.
    """
    parameters = parameters or LinkingParameters()
    columns = ["recording_id", "uri", "speaker", "seconds", "short"]
    voices = index.table(columns, include_short=True)
    if not len(voices):
        raise VoiceprintNotFound(f"{index.folder.uri} holds no voice of a recording")
    vectors = np.empty((len(voices), index.dimension), np.float32)
    start = 0
    for _, block in index.stream(include_short=True):
        vectors[start : start + len(block)] = block
        start += len(block)
    short = voices["short"].to_numpy()
    recordings = None
    if parameters.one_recording:
        encoded = voices["recording_id"].combine_chunks().dictionary_encode()
        recordings = encoded.indices.to_numpy().astype(np.int64)
    threshold = parameters.threshold_for(int((~short).sum()), calibration)
    report(f"two voices are linked from a score of {threshold:.3f}")
    links = mutual_neighbors(
        vectors,
        threshold,
        parameters.neighbors,
        exact=parameters.exact,
        probes=parameters.probes,
        report=report,
    )
    if links.recall is not None:
        report(f"{links.recall:.1%} of the links were found")
    founding = ~(short[links.first] | short[links.second])
    people = refine(
        vectors, recordings, _where(links, founding), threshold, parameters.max_size, report
    )
    people = _join_short(vectors, recordings, links, people, short, threshold)
    identities, changes, next_identity = number_people(voices, people, previous)
    scores = _cohesion(vectors, people)
    table = pa.table(
        [
            pa.array(identities),
            *(voices[name] for name in columns),
            pa.array(scores, from_pandas=True),
            _probabilities(scores, calibration),
            _names(index, vectors, people, threshold),
        ],
        schema=IDENTITIES,
    ).sort_by([("identity", "ascending"), ("recording_id", "ascending"), ("speaker", "ascending")])
    linking = Linking(table, changes, next_identity, threshold, len(links), links.recall)
    report(f"{len(voices):,} voices are {linking.num_identities:,} people's")
    return linking


def _where(links: Mutual, chosen: np.ndarray) -> Mutual:
    return Mutual(links.first[chosen], links.second[chosen], links.scores[chosen], links.recall)


def _join_short(vectors, recordings, links: Mutual, people, short, threshold) -> np.ndarray:
    """Let voices of too little speech join a person whom they resemble on average, best first."""
    mixed = short[links.first] != short[links.second]
    brief = np.where(short[links.first], links.first, links.second)[mixed]
    others = np.where(short[links.first], links.second, links.first)[mixed]
    candidates = np.unique(np.stack([brief, people[others]], axis=1), axis=0)
    if not len(candidates):
        return people
    people = people.copy()
    touched, place = np.unique(candidates[:, 1], return_inverse=True)
    members = np.flatnonzero(np.isin(people, touched))
    slots = np.searchsorted(touched, people[members])
    own = None if recordings is None else recordings[members]
    groups = Groups.of(vectors[members], own, slots)
    means = groups.sums / groups.sizes[:, None]
    scores = np.einsum("cd,cd->c", means[place], vectors[candidates[:, 0]])
    settled = set()
    for number in np.lexsort((candidates[:, 1], candidates[:, 0], -scores)):
        voice, slot = int(candidates[number, 0]), place[number]
        if scores[number] < threshold or voice in settled:
            continue
        if groups.heard is not None:
            if recordings[voice] in groups.heard[slot]:
                continue
            groups.heard[slot].add(recordings[voice])
        settled.add(voice)
        people[voice] = touched[slot]
    return np.unique(people, return_inverse=True)[1]


def _cohesion(vectors: np.ndarray, people: np.ndarray) -> np.ndarray:
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


def _probabilities(scores: np.ndarray, calibration: Calibration | None) -> pa.Array:
    if calibration is None:
        return pa.nulls(len(scores), pa.float64())
    return pa.array(calibration.probability(scores), from_pandas=True)


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
