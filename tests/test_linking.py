"""Who are the people of this corpus: identities that hold together, and last."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from large_corpus import make_corpus
from typer.testing import CliRunner
from voiceprint_corpus import CALIBRATION, Voices, conversations, diarized, write_dataset

from raydiar.audio import decode
from raydiar.cli import app
from raydiar.errors import (
    ConfigError,
    VoiceprintIndexConflict,
    VoiceprintIndexError,
    VoiceprintNotFound,
)
from raydiar.evaluation.linking import linking_scores
from raydiar.simulation import SimulationParameters, Simulator, plan_people, read_structures
from raydiar.voiceprints import builder, identities
from raydiar.voiceprints import neighbors as module
from raydiar.voiceprints.agglomeration import Apart, Groups, agglomerate
from raydiar.voiceprints.evidence import Evidence
from raydiar.voiceprints.hubs import doubled_people, hub_voices
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linker import Linker
from raydiar.voiceprints.linking import LinkingParameters, link, link_into
from raydiar.voiceprints.neighbors import Neighbors, neighbors
from raydiar.voiceprints.reposts import reposts
from raydiar.voiceprints.verification import default_calibration

THRESHOLD = LinkingParameters(threshold=0.5)


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def speech(num_voices: int, num_people: int) -> tuple[np.ndarray, np.ndarray]:
    people = np.random.default_rng(5).integers(num_people, size=num_voices)
    return unit(Voices(num_people, spread=1.5).say(people)), people


def build(tmp_path, recordings, name="index") -> VoiceprintIndex:
    uri = str(tmp_path / name)
    builder.build(uri, [write_dataset(tmp_path / f"{name}-data", recordings)])
    return VoiceprintIndex.open(uri)


def by_voice(linking) -> dict[tuple[str, str], int]:
    rows = linking.identities.to_pylist()
    return {(row["recording_id"], row["speaker"]): row["identity"] for row in rows}


def truth(linking, people) -> np.ndarray:
    """Who each row of the identities really is, of `conversations`."""
    rows = linking.identities.to_pylist()
    return np.array([people[int(r["recording_id"][-4:]), int(r["speaker"][-2:])] for r in rows])


def scored(linking, people):
    return linking_scores(linking.identities["identity"].to_numpy(), truth(linking, people))


# -- the graph ---------------------------------------------------------------------------------


def expected_pairs(vectors, floor, k, others=None):
    """Pairs of which one is among the k nearest of the other."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    if others is not None:
        scores[:, np.setdiff1d(np.arange(len(vectors)), others)] = -1
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return {
        (min(i, j), max(i, j))
        for i, row in enumerate(nearest.tolist())
        for j in row
        if scores[i, j] >= floor
    }


def pairs_of(found: Neighbors) -> list[tuple[int, int]]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


@pytest.mark.parametrize("k", [3, 50])
def test_pairs_are_those_of_all_scores(k, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 64)
    vectors, _ = speech(300, 20)
    found = neighbors(vectors, 0.45, k)
    assert set(pairs_of(found)) == expected_pairs(vectors, 0.45, k)
    assert pairs_of(found) == sorted(set(pairs_of(found)))
    assert found.recall is None
    np.testing.assert_allclose(
        found.scores, (vectors[found.first] * vectors[found.second]).sum(axis=1), atol=1e-5
    )


def test_pairs_with_some_are_those_of_their_scores(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 64)
    vectors, _ = speech(300, 20)
    some = np.arange(0, 300, 7)
    found = neighbors(vectors, 0.3, 4, among=some)
    assert set(pairs_of(found)) == expected_pairs(vectors, 0.3, 4, some)


def test_lists_find_nearly_all_pairs_and_say_how_many():
    vectors, _ = speech(6000, 1200)
    everything = neighbors(vectors, 0.5)
    few = neighbors(vectors, 0.5, exact=False, probes=2)
    many = neighbors(vectors, 0.5, exact=False, probes=64)
    for found in (few, many):
        assert set(pairs_of(found)) <= set(pairs_of(everything))
        assert abs(len(found) / len(everything) - found.recall) < 0.05
    assert few.recall < many.recall
    assert many.recall > 0.98
    assert neighbors(vectors, 0.5, exact=False, probes=10_000).recall == 1.0


def test_one_persons_thousands_of_recordings_give_no_more_pairs_than_k_each(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 64)
    vectors = unit(np.random.default_rng(0).standard_normal((400, 8)) + 9)
    whole = neighbors(vectors, 0.0, 5)
    assert len(whole) <= 400 * 5
    sizes = []
    nearest = module._nearest

    def watched(kept, fresh, *rest):
        sizes.append(len(kept[0]) + sum(len(keys) for keys, _ in fresh))
        return nearest(kept, fresh, *rest)

    monkeypatch.setattr(module, "_nearest", watched)
    monkeypatch.setattr(module, "_FRESH", 500)
    again = neighbors(vectors, 0.0, 5)
    assert len(sizes) > 2
    # what a block passes on is k of each row, and of each column
    assert sum(sizes[:1]) < 500 + 2 * 400 * 5 + 64 * 2 * 7
    assert np.array_equal(whole.first, again.first)
    assert np.array_equal(whole.second, again.second)


# -- evidence ----------------------------------------------------------------------------------


def test_more_recordings_make_the_same_resemblance_of_means_say_less_and_theirs_is_higher():
    evidence = Evidence()
    one = float(evidence.knowledge(30.0))
    asked = 15.0
    single, group = (evidence.cosine_for(asked, one, n * one) for n in (1, 20))
    both = evidence.cosine_for(asked, 20 * one, 20 * one)
    assert single < group < both
    # but a person's mean resembles another recording so much more that less of them is missed

    def margin(first: float, second: float) -> float:
        r = (first / (1 + first)) * (second / (1 + second))
        asked_of = evidence.cosine_for(asked, first, second)
        return (np.sqrt(r) - asked_of) / np.sqrt(evidence.variance_of_one(r))

    assert margin(one, one) + 1 < margin(one, 20 * one) < margin(20 * one, 20 * one)


def test_evidence_never_falls_with_resemblance():
    evidence = Evidence()
    cosines = np.linspace(-1, 1, 400)
    for first in (0.3, 1.5, 30.0):
        for second in (0.3, 1.5, 30.0):
            ratios = evidence.log_ratio(cosines, np.float64(first), np.float64(second))
            assert (np.diff(ratios) >= -1e-9)[cosines[1:] > evidence.offset].all()


def test_strangers_are_measured_without_labels():
    corpus = make_corpus(4000, seed=3)
    alone = np.unique(corpus.people, return_index=True)[1]
    rng = np.random.default_rng(0)
    first, second = rng.choice(alone, (2, 50_000))
    cosines = np.einsum("pd,pd->p", corpus.vectors[first], corpus.vectors[second])[first != second]
    known = np.full(len(cosines), float(Evidence().knowledge(30.0)))
    measured = Evidence(within=0.05, between=0.001).of_strangers(cosines, known, known)
    both = (known / (1 + known))[0] ** 2
    found = np.sqrt(measured.variance_of_strangers(both))
    assert found == pytest.approx(cosines.std(), rel=0.1)
    assert measured.offset == pytest.approx(cosines.mean(), abs=0.01)
    assert Evidence.from_json(measured.to_json()) == measured
    with pytest.raises(ConfigError, match="not the evidence"):
        Evidence.from_json("{}")


# -- people ------------------------------------------------------------------------------------


def merged(vectors, wanted=8.0, recordings=None, seconds=None) -> np.ndarray:
    """People of voices of which all pairs are looked at."""
    evidence = Evidence()
    number = len(vectors)
    seconds = np.full(number, 30.0) if seconds is None else seconds
    groups = Groups.of(
        vectors, np.arange(number), evidence.weights(seconds), evidence.knowledge(seconds)
    )
    apart = None
    if recordings is not None:
        heard = Apart.of(np.asarray(recordings), 8.0)
        apart = *heard.counted(np.arange(number)), heard.penalty
    return agglomerate(groups, *np.triu_indices(number, 1), evidence, wanted, apart)


def test_a_chain_of_resemblance_is_broken():
    degrees = np.radians(20.0 * np.arange(20))  # neighbours are alike, further ones are not
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    people = merged(vectors)
    for person in np.unique(people):
        assert (vectors[people == person] @ vectors[people == person].T).min() > 0
    assert people.max() > 2


def test_what_one_pair_does_not_say_several_recordings_do():
    corpus = make_corpus(3000, seed=4)
    sizes = np.bincount(corpus.people)
    chosen = np.flatnonzero((sizes[corpus.people] >= 8) & ~corpus.noisy & ~corpus.copies)
    vectors, people = corpus.vectors[chosen], corpus.people[chosen]
    scores = vectors @ vectors.T
    same = (people[:, None] == people) & ~np.eye(len(people), dtype=bool)
    found = merged(vectors, 12.0, seconds=corpus.seconds[chosen])
    scored = linking_scores(found, people)
    known = float(Evidence().knowledge(30.0))
    single = (scores[same] >= Evidence().cosine_for(12.0, known, known)).mean()
    assert scored.b_cubed_recall > single + 0.1
    assert scored.pairwise_precision > 0.99


def test_a_speaker_whom_diarization_took_for_two_is_healed_and_others_stay_apart():
    voices = Voices(2)
    same, other = (unit(voices.say(np.full(12, n))) for n in (0, 1))
    recordings = np.arange(12)
    recordings[11] = 0  # nearly the same voice twice in one recording
    assert merged(same, recordings=recordings).max() == 0
    # two who sound alike are two people where they talk to each other every time
    alike = unit(same + 0.9 * (other - same))
    both = np.concatenate([same, alike])
    people = merged(both, recordings=np.tile(np.arange(12), 2))
    assert people.tolist() == [0] * 12 + [1] * 12


def test_who_is_heard_apart_is_counted_by_group():
    heard = Apart.of(np.array([0, 1, 0, 1, 2, 0, -1, -1]), 1.0)
    pairs = {frozenset(p) for p in zip(heard.first.tolist(), heard.second.tolist(), strict=True)}
    assert pairs == {frozenset(p) for p in ((0, 2), (0, 5), (2, 5), (1, 3))}
    keys, counts = heard.counted(np.array([0, 0, 1, 1, 2, 2, -1, 0]))
    assert {(k >> 32, k & 0xFFFFFFFF): n for k, n in zip(keys, counts, strict=True)} == {
        (0, 1): 2,
        (0, 2): 1,
        (1, 2): 1,
    }


# -- copies and hubs ---------------------------------------------------------------------------


def test_copies_of_a_recording_are_found_by_what_they_hold():
    voices = Voices(4)
    first, second = unit(voices.say(np.array([0, 1]))), unit(voices.say(np.array([0, 2])))
    noise = np.random.default_rng(0).standard_normal((2, 192)).astype(np.float32) * 0.005
    # a talk, its copy, the same people elsewhere, and a copy of one voice of the talk only
    vectors = np.concatenate([first, unit(first + noise), second, unit(first[:1] + noise[:1])])
    recordings = np.array([0, 0, 1, 1, 2, 2, 3])
    seconds = np.array([20.0, 9.0, 20.2, 9.1, 20.1, 9.0, 20.0])
    found = reposts(neighbors(vectors, 0.3), recordings, seconds)
    assert found.tolist() == [2, 3, 2, 3, 4, 5, 6]
    longer = seconds + np.array([0, 0, 3.0, 3.0, 0, 0, 0])
    assert reposts(neighbors(vectors, 0.3), recordings, longer).tolist() == list(range(7))


def test_a_recording_that_is_there_sixty_times_does_not_split_its_person(tmp_path):
    voices = Voices(2, spread=1.4)
    own = voices.say(np.zeros(20, int))
    recordings = [diarized(f"talk-{n:02d}", own[n : n + 1]) for n in range(20)]
    rng = np.random.default_rng(1)
    for n in range(60):
        again = own[:1] + 0.01 * rng.standard_normal((1, 192))
        recordings.append(diarized(f"again-{n:02d}", again.astype(np.float32)))
    linking = link(build(tmp_path, recordings), parameters=THRESHOLD)
    rows = linking.identities.to_pylist()
    assert len(rows) == 80
    assert linking.num_identities == 1
    assert sum(row["copy"] for row in rows) == 60


def test_a_voice_that_resembles_many_strangers_is_a_hub_and_a_celebrity_is_not():
    strangers = unit(np.random.default_rng(0).standard_normal((15, 192)))
    hub = unit(strangers.sum(axis=0))[None]
    person = unit(Voices(1).say(np.zeros(15, int)))
    vectors = np.concatenate([hub, strangers, person])
    pairs = neighbors(vectors, 0.2)
    assert np.flatnonzero(hub_voices(vectors, pairs)).tolist() == [0]


def test_who_is_always_two_speakers_of_one_recording_is_nobody():
    recordings = np.repeat(np.arange(12), 2)
    noise, people = np.zeros(24, int), np.tile([0, 1], 12)
    assert doubled_people(noise, recordings).tolist() == [True]
    assert doubled_people(people, recordings).tolist() == [False, False]
    people[1] = 0  # once
    assert doubled_people(people, recordings).tolist() == [False, False]


# -- how well, by default ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_people_of_a_made_up_corpus_are_found_by_default(seed):
    corpus = make_corpus(4000, seed)
    linker = Linker(
        corpus.vectors,
        corpus.recordings,
        corpus.seconds,
        np.zeros(len(corpus.people), bool),
        LinkingParameters(),
    )
    people = linker.people()
    scores = linking_scores(people[~corpus.noisy], corpus.people[~corpus.noisy])
    assert scores.pairwise_precision >= 0.98
    assert scores.pairwise_recall >= 0.90
    assert scores.b_cubed_precision >= 0.98
    assert scores.b_cubed_recall >= 0.90
    probabilities = linker.probabilities(people)
    own = linker.originals == np.arange(len(people))
    alone = np.bincount(people, own)[people] == 1
    assert np.array_equal(np.isnan(probabilities[~linker.hubs]), alone[~linker.hubs])
    # found again exactly
    again = Linker(
        corpus.vectors,
        corpus.recordings,
        corpus.seconds,
        np.zeros(len(corpus.people), bool),
        LinkingParameters(),
    )
    assert np.array_equal(people, again.people())


# -- a corpus ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus():
    return conversations(Voices(25, spread=1.4), 80, speakers=3)


@pytest.fixture(scope="module")
def index(corpus, tmp_path_factory):
    return build(tmp_path_factory.mktemp("linked"), corpus[0])


def test_every_voice_gets_the_identity_of_its_person(corpus, index):
    linking = link(index, parameters=THRESHOLD)
    assert linking.identities.schema.equals(identities.IDENTITIES)
    assert len(linking.identities) == len(by_voice(linking)) == 240
    scores = scored(linking, corpus[1])
    assert scores.b_cubed_f > 0.98
    assert scores.pairwise_precision > 0.99
    assert scores.num_true == 25
    row = linking.identities.to_pylist()[0]
    assert row["score"] > 0.5
    assert row["probability"] > 0.99
    assert row["copy"] is False
    assert row["flag"] is None


def test_the_same_is_found_again(index, tmp_path):
    first, second = (link(index, parameters=THRESHOLD).identities for _ in range(2))
    assert first.equals(second)


def test_speakers_of_one_recording_have_identities_of_their_own(tmp_path):
    """Two who sound alike and always talk to each other; without the rule they merge."""
    voices = Voices(3)
    voices.means[1] = voices.means[0] + 0.45 * voices.means[1]
    recordings = [diarized(f"r{n}", voices.say(np.array([0, 1, 2]))) for n in range(8)]
    index = build(tmp_path, recordings)
    kept = by_voice(link(index, parameters=THRESHOLD))
    for n in range(8):
        assert len({kept[f"r{n}", f"SPEAKER_0{s}"] for s in range(3)}) == 3
    free = link(index, parameters=LinkingParameters(threshold=0.5, one_recording=False))
    assert free.num_identities == 2


def test_short_voices_join_but_found_nothing(tmp_path):
    voices = Voices(6)
    recordings = [diarized(f"long{n}", voices.say(np.array([0, 1]))) for n in range(4)]
    recordings += [diarized(f"short{n}", voices.say(np.array([0, 5])), [1.0] * 2) for n in range(3)]
    # beside its own long voice a short one stays somebody else
    recordings.append(diarized("both", voices.say(np.array([1, 1])), [10.0, 1.0]))
    linking = link(build(tmp_path, recordings), parameters=THRESHOLD)
    kept = by_voice(linking)
    assert {kept[f"short{n}", "SPEAKER_00"] for n in range(3)} == {kept["long0", "SPEAKER_00"]}
    assert len({kept[f"short{n}", "SPEAKER_01"] for n in range(3)}) == 3
    assert kept["both", "SPEAKER_00"] == kept["long0", "SPEAKER_01"]
    assert kept["both", "SPEAKER_01"] != kept["long0", "SPEAKER_01"]
    assert linking.num_identities == 2 + 3 + 1


def test_enrolled_names_are_those_of_identities(tmp_path):
    voices = Voices(4)
    recordings, _ = conversations(voices, 12)
    index = build(tmp_path, recordings)
    row = {"recording_id": ["e"], "uri": ["e"], "speaker": ["s"], "seconds": [9.0]}
    row |= {"num_embeddings": [9], "name": ["Anna"]}
    builder.add_rows(index.folder.uri, pa.table(row), voices.say(np.array([2])))
    linking = link(VoiceprintIndex.open(index.folder.uri), parameters=THRESHOLD)
    named = [row for row in linking.identities.to_pylist() if row["name"]]
    assert {row["name"] for row in named} == {"Anna"}
    assert len({row["identity"] for row in named}) == 1
    assert "e" not in {row["recording_id"] for row in linking.identities.to_pylist()}


def test_the_threshold_follows_from_calibration_and_size(index):
    calibration = CALIBRATION
    even = LinkingParameters(probability=0.5)
    few = even.threshold_for(5, calibration)
    many = even.threshold_for(5000, calibration)
    huge = even.threshold_for(10**9, calibration)
    assert pytest.approx(calibration.probability(few, 0.5)) == 0.5
    assert pytest.approx(calibration.probability(many, 3 / 4999)) == 0.5
    assert few < many < huge
    # no further than its trials reach
    assert huge == even.threshold_for(10**7, calibration)
    sure = LinkingParameters(probability=0.99, prior=0.5).threshold_for(5, calibration)
    assert pytest.approx(calibration.probability(sure)) == 0.99
    linking = link(index, calibration)
    assert linking.threshold == LinkingParameters().threshold_for(240, calibration)
    for row in linking.identities.to_pylist():
        assert row["probability"] is None or 0.5 < row["probability"] <= 1


def test_what_makes_no_sense_is_refused(index, tmp_path):
    with pytest.raises(ConfigError, match="no calibration is shipped"):
        link(index)
    for wrong in ({"probability": 1.0}, {"prior": 0.0}, {"threshold": 3.0}, {"neighbors": 0}):
        with pytest.raises(ConfigError):
            LinkingParameters(**wrong)
    builder.delete(index.folder.uri, [f"recording-{n:04d}" for n in range(80)])
    with pytest.raises(VoiceprintNotFound, match="holds no voice"):
        link(VoiceprintIndex.open(index.folder.uri), parameters=THRESHOLD)


def test_voices_are_linked_within_a_column_first(tmp_path):
    """What is too little in a large corpus is enough within one channel."""
    voices = Voices(40, spread=1.6)
    data = [
        write_dataset(
            tmp_path / f"channel-{n}",
            [diarized(f"r{n}-{k}", voices.say(np.array([n]))) for k in range(3)],
            language=f"channel-{n}",
        )
        for n in range(40)
    ]
    uri = str(tmp_path / "index")
    builder.build(uri, data, columns=["language"])
    index = VoiceprintIndex.open(uri)
    calibration = CALIBRATION
    alone = link(index, calibration)
    within = link(index, calibration, LinkingParameters(within="language"))

    def right(linking):
        rows = linking.identities.to_pylist()
        people = [row["recording_id"].split("-")[0] for row in rows]
        return linking_scores([row["identity"] for row in rows], people)

    assert right(within).b_cubed_recall > right(alone).b_cubed_recall + 0.05
    assert right(within).b_cubed_precision > 0.98
    with pytest.raises(ConfigError, match="no carried column 'show'"):
        link(index, calibration, LinkingParameters(within="show"))


def test_voices_that_are_all_too_short_stay_alone(tmp_path):
    said = Voices(1).say(np.zeros(4, int))
    recordings = [diarized(f"r{n}", said[n : n + 1], [1.0]) for n in range(4)]
    linking = link(build(tmp_path, recordings), CALIBRATION)
    assert linking.num_identities == 4
    assert linking.identities["probability"].null_count == 4


def test_people_of_too_little_speech_in_all_are_not_linked(tmp_path):
    said = Voices(2).say(np.repeat([0, 1], 2))
    recordings = [diarized(f"r{n}", said[n : n + 1], [4.0 if n < 2 else 6.0]) for n in range(4)]
    index = build(tmp_path, recordings)
    kept = by_voice(link(index, parameters=THRESHOLD))
    assert kept["r0", "SPEAKER_00"] != kept["r1", "SPEAKER_00"]
    assert kept["r2", "SPEAKER_00"] == kept["r3", "SPEAKER_00"]
    anybody = LinkingParameters(threshold=0.5, min_seconds=0)
    assert link(index, parameters=anybody).num_identities == 2


@pytest.mark.parametrize("kind", ["one", "same", "two"])
def test_corpora_of_next_to_nothing_are_linked(kind, tmp_path):
    voices = Voices(2)
    said = voices.say(np.array([0, 1]))
    recordings = {
        "one": [diarized("r", said[:1])],
        "same": [diarized(f"r{n}", said[:1]) for n in range(30)],
        "two": [diarized("r", said)],
    }[kind]
    linking = link(build(tmp_path, recordings), CALIBRATION)
    assert linking.num_identities == (2 if kind == "two" else 1)
    assert sum(row["copy"] for row in linking.identities.to_pylist()) == (
        29 if kind == "same" else 0
    )


# -- identities that last ----------------------------------------------------------------------


def previous_of(rows: dict[tuple[str, str], int], next_identity: int) -> pa.Table:
    made = [
        dict.fromkeys(identities.IDENTITIES.names)
        | {"recording_id": r, "speaker": s, "identity": n, "uri": r, "seconds": 1.0, "short": False}
        for (r, s), n in rows.items()
    ]
    metadata = {b"raydiar.next_identity": str(next_identity).encode(), b"raydiar.run": b"0"}
    return pa.Table.from_pylist(made, identities.IDENTITIES).replace_schema_metadata(metadata)


def numbered(seconds: list[float], people: list[int], before: list[int | None]):
    names = [f"r{n}" for n in range(len(people))]
    voices = pa.table({"recording_id": names, "speaker": ["s"] * len(names), "seconds": seconds})
    known = {(name, "s"): n for name, n in zip(names, before, strict=True) if n is not None}
    return identities.number_people(voices, np.array(people), previous_of(known, 100))


def test_a_merged_identity_keeps_the_number_of_most_speech():
    numbers, changes, following = numbered([5, 1, 1, 1], [0, 0, 0, 0], [7, 8, 8, 8])
    assert numbers.tolist() == [7] * 4
    assert changes.to_pylist() == [
        {"before": 7, "after": 7, "num_speakers": 1, "seconds": 5.0},
        {"before": 8, "after": 7, "num_speakers": 3, "seconds": 3.0},
    ]
    assert following == 100


def test_a_split_identity_leaves_its_number_to_the_larger_part():
    numbers, changes, following = numbered([1, 1, 1, 9], [0, 0, 0, 1], [7, 7, 7, 7])
    assert numbers.tolist() == [100, 100, 100, 7]
    assert following == 101
    assert [(c["before"], c["after"]) for c in changes.to_pylist()] == [(7, 7), (7, 100)]


def test_new_identities_get_new_numbers_most_speech_first():
    numbers, changes, following = numbered([1, 2, 3], [0, 1, 2], [None, None, 4])
    assert numbers.tolist() == [101, 100, 4]
    assert following == 102
    assert len(changes) == 1


def test_identities_stay_when_recordings_are_added(tmp_path):
    voices = Voices(30, spread=1.4)
    recordings, _ = conversations(voices, 60)
    index = build(tmp_path, recordings)
    output = str(tmp_path / "people")
    first = by_voice(link_into(output, index, parameters=THRESHOLD))
    more, _ = conversations(voices, 40, prefix="later", seed=9)
    builder.add(index.folder.uri, [write_dataset(tmp_path / "later", more)])
    second = link_into(output, VoiceprintIndex.open(index.folder.uri), parameters=THRESHOLD)
    after = by_voice(second)
    stayed = sum(after[voice] == identity for voice, identity in first.items())
    assert stayed >= 0.97 * len(first)
    assert pq.read_table(tmp_path / "people" / "changes-1.parquet").equals(second.changes)
    # a number that was given once is never another's
    builder.delete(index.folder.uri, [r.uri for r in recordings + more[:39]])
    third = link_into(output, VoiceprintIndex.open(index.folder.uri), parameters=THRESHOLD)
    builder.add(index.folder.uri, [write_dataset(tmp_path / "again", recordings[:5])])
    fourth = link_into(output, VoiceprintIndex.open(index.folder.uri), parameters=THRESHOLD)
    fresh = set(by_voice(fourth).values()) - set(by_voice(third).values())
    assert fresh
    assert min(fresh) >= max(after.values()) + 1


def test_two_linkings_at_once_do_not_overwrite_each_other(index, tmp_path):
    output = str(tmp_path / "people")
    voices = Voices(3)
    small = build(tmp_path, [diarized("r", voices.say(np.array([0, 1])))])
    linking = link_into(output, small, parameters=THRESHOLD)
    _, version = identities.read_identities(output)
    link_into(output, small, parameters=THRESHOLD)
    before, _ = identities.read_identities(output)
    with pytest.raises(VoiceprintIndexConflict, match="another linking"):
        identities.publish(
            output, linking.identities, linking.changes, linking.next_identity, "something else"
        )
    after, latest = identities.read_identities(output)
    assert after.equals(before)
    assert latest != version


@pytest.mark.parametrize("damage", ["truncated", "other", "numbers"])
def test_a_damaged_table_of_identities_is_told(damage, tmp_path):
    voices = Voices(3)
    small = build(tmp_path, [diarized("r", voices.say(np.array([0, 1])))])
    output = tmp_path / "people"
    link_into(str(output), small, parameters=THRESHOLD)
    file = output / identities.FILE
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "other":
        pq.write_table(pa.table({"a": [1]}), file)
    else:
        pq.write_table(previous_of({("r", "s"): 5}, 3), file)
    with pytest.raises(VoiceprintIndexError, match="no table of identities"):
        link_into(str(output), small, parameters=THRESHOLD)


# -- how well ----------------------------------------------------------------------------------


def test_b_cubed_and_pairs_by_hand():
    scores = linking_scores([0, 0, 0, 1, 1], ["a", "a", "b", "b", "b"])
    precision = (2 / 3 + 2 / 3 + 1 / 3 + 1 + 1) / 5
    recall = (1 + 1 + 1 / 3 + 2 / 3 + 2 / 3) / 5
    assert scores.b_cubed_precision == pytest.approx(precision)
    assert scores.b_cubed_recall == pytest.approx(recall)
    assert scores.pairwise_precision == pytest.approx(2 / 4)
    assert scores.pairwise_recall == pytest.approx(2 / 4)
    assert (scores.num_found, scores.num_true) == (2, 2)
    assert linking_scores([1, 2], [3, 4]).b_cubed_f == 1.0
    heavy = linking_scores([0, 0, 1], ["a", "b", "b"], weights=[3, 1, 1])
    assert heavy.b_cubed_precision == pytest.approx((3 * 3 / 4 + 1 / 4 + 1) / 5)
    with pytest.raises(ValueError, match="same voices"):
        linking_scores([], [])


@pytest.mark.reference
def test_real_voices_are_linked_across_simulated_conversations(shared, pipeline, tmp_path):
    voices = {
        folder.name: [decode(str(file)) for file in sorted(folder.glob("*.flac"))]
        for folder in sorted((shared / "audio" / "librispeech").iterdir())
        if len(list(folder.glob("*.flac"))) > 1
    }
    structures = read_structures(sorted((shared / "labels" / "voxconverse-dev").glob("*.rttm")))
    noises = [decode(str(next((shared / "noise" / "background").iterdir())))]
    drawn = SimulationParameters(duration=(25.0, 30.0), speakers=(2, 3), min_speech=4.0)
    simulator = Simulator(voices, structures, noises=noises, parameters=drawn)
    made = [
        simulator.simulate(seed, people, uri=f"conversation-{seed}")
        for seed, people in enumerate(plan_people(list(voices), 6, (2, 3)))
    ]
    heard = [
        pipeline({"uri": c.uri, "waveform": c.samples[None] / 32768, "sample_rate": 16000})
        for c in made
    ]
    description = pipeline.describe()
    folder = write_dataset(tmp_path / "dataset", heard, pipeline=description)
    builder.build(str(tmp_path / "index"), [folder])
    calibration = default_calibration(description["embedding"], description["embedding_mode"])
    linking = link(VoiceprintIndex.open(str(tmp_path / "index")), calibration)
    rows = linking.identities.to_pylist()
    people = []
    for row in rows:
        number = int(row["recording_id"][-1])
        spoken = heard[number].speaker_diarization.label_timeline(row["speaker"])
        label = made[number].diarization.speaker_diarization
        # voiceprints are made of speech without overlap
        people.append(label.argmax(spoken.extrude(label.get_overlap())))
    scores = linking_scores([row["identity"] for row in rows], people)
    assert scores.num_true == 5
    assert len(rows) >= 12
    assert scores.pairwise_precision > 0.9
    assert scores.b_cubed_f > 0.9


# -- commands ----------------------------------------------------------------------------------


def test_the_command_and_the_job_say_who_the_people_are(tmp_path):
    voices = Voices(5)
    recordings, _ = conversations(voices, 10)
    index = build(tmp_path, recordings).folder.uri
    command = [sys.executable, "-m", "raydiar", "voiceprint", "link", index]
    result = subprocess.run(
        [*command, str(tmp_path / "a"), "--threshold", "0.5"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "SPEAKER_00 of recording-000" in result.stdout
    assert "20 voices are 5 people's" in result.stderr
    job = [sys.executable, "jobs/link_speakers.py", index]
    result = subprocess.run(
        [*job, str(tmp_path / "b"), "--threshold", "0.5"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    evidence = Evidence.from_json((tmp_path / "a" / "evidence.json").read_bytes())
    assert evidence.embedding == "e" * 64
    asked = ["--recording", "recording-0000", "--speaker", "SPEAKER_00", "-k", "1", "--calibration"]
    search = ["voiceprint", "search", index, *asked, str(tmp_path / "a" / "evidence.json")]
    assert "likely, " in CliRunner().invoke(app, search, catch_exceptions=False).stdout
    a, b = (pq.read_table(tmp_path / name / identities.FILE) for name in "ab")
    assert a.equals(b)
    assert len(a) == 20
    result = subprocess.run([*command, str(tmp_path / "c")], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("give one, or a threshold")
