"""Who are the people of this corpus: identities that hold together, and last."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from voiceprint_corpus import CALIBRATION, Voices, conversations, diarized, write_dataset

from raydiar.audio import decode
from raydiar.errors import (
    ConfigError,
    VoiceprintIndexConflict,
    VoiceprintIndexError,
    VoiceprintNotFound,
)
from raydiar.evaluation.linking import linking_scores
from raydiar.simulation import SimulationParameters, Simulator, plan_people, read_structures
from raydiar.voiceprints import builder, identities
from raydiar.voiceprints import mutual as module
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linking import LinkingParameters, link, link_into
from raydiar.voiceprints.mutual import Mutual, mutual_neighbors
from raydiar.voiceprints.refinement import (
    Groups,
    average_linkage,
    components,
    cut_large,
    refine,
)
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


def expected_pairs(vectors, threshold, k):
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    near = [set(row) for row in nearest.tolist()]
    return {
        (i, j)
        for i, j in combinations(range(len(vectors)), 2)
        if scores[i, j] >= threshold and i in near[j] and j in near[i]
    }


@pytest.mark.parametrize("k", [3, 50])
def test_pairs_are_those_of_all_scores(k, monkeypatch):
    monkeypatch.setattr("raydiar.voiceprints.mutual._ROWS", 64)
    vectors, _ = speech(300, 20)
    found = mutual_neighbors(vectors, 0.45, k)
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert set(pairs) == expected_pairs(vectors, 0.45, k)
    assert pairs == sorted(set(pairs))
    assert found.recall is None
    np.testing.assert_allclose(
        found.scores, (vectors[found.first] * vectors[found.second]).sum(axis=1), atol=1e-5
    )


def test_lists_find_nearly_all_pairs_and_say_how_many():
    vectors, _ = speech(6000, 1200)
    everything = mutual_neighbors(vectors, 0.5)
    keys = set(zip(everything.first.tolist(), everything.second.tolist(), strict=True))
    few = mutual_neighbors(vectors, 0.5, exact=False, probes=2)
    many = mutual_neighbors(vectors, 0.5, exact=False, probes=64)
    for found in (few, many):
        pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
        assert pairs <= keys
        assert abs(len(pairs) / len(keys) - found.recall) < 0.05
    assert few.recall < many.recall
    assert many.recall > 0.98


def test_memory_of_pairs_is_bounded_where_everybody_resembles_everybody(monkeypatch):
    monkeypatch.setattr("raydiar.voiceprints.mutual._ROWS", 64)
    vectors = unit(np.random.default_rng(0).standard_normal((400, 8)) + 9)
    whole = mutual_neighbors(vectors, 0.0, 5)
    sizes = []
    nearest = module._nearest

    def watched(kept, fresh, *rest, **of):
        sizes.append(len(kept[0]) + sum(len(keys) for keys, _ in fresh))
        return nearest(kept, fresh, *rest, **of)

    monkeypatch.setattr(module, "_nearest", watched)
    monkeypatch.setattr(module, "_FRESH", 5000)
    again = mutual_neighbors(vectors, 0.0, 5)
    assert len(sizes) > 5
    assert max(sizes) < 5000 + 64 * 64 + 2 * 400 * 5
    assert np.array_equal(whole.first, again.first)
    assert np.array_equal(whole.second, again.second)


# -- people within components ------------------------------------------------------------------


def chain(num_voices: int, step_degrees: float) -> np.ndarray:
    angles = np.radians(step_degrees * np.arange(num_voices))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def links_of(vectors, threshold) -> Mutual:
    return mutual_neighbors(vectors, threshold)


def test_a_chain_of_resemblance_is_broken():
    vectors = chain(20, 8.0)  # neighbours are alike, the ends are at 152 degrees
    links = links_of(vectors, 0.98)
    assert components(20, links).max() == 0
    people = refine(vectors, None, links, 0.98)
    for person in np.unique(people):
        own = vectors[people == person]
        assert (own @ own.T).mean() >= 0.98
    assert len(np.unique(people)) > 5


def test_average_linkage_is_that_of_all_distances():
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    vectors, _ = speech(120, 15)
    first, second = np.triu_indices(120, 1)
    voices = Groups.of(vectors, None, np.arange(120))
    groups = average_linkage(voices, first, second, 0.4)
    tree = linkage(pdist(vectors, "cosine"), "average")
    expected = fcluster(tree, 0.6, "distance")
    assert linking_scores(groups, expected).b_cubed_f == 1.0
    assert 10 < len(np.unique(groups)) < 60


def test_two_speakers_of_one_recording_are_never_one_person():
    vectors = unit(np.ones((6, 4)) + np.random.default_rng(0).standard_normal((6, 4)) / 50)
    links = links_of(vectors, 0.9)
    recordings = np.array([0, 0, 1, 1, 2, 2])
    people = refine(vectors, recordings, links, 0.9)
    assert np.bincount(people).tolist() == [3, 3]
    for person in (0, 1):
        assert len(set(recordings[people == person])) == 3
    assert refine(vectors, None, links, 0.9).max() == 0


@pytest.mark.parametrize("dense", [2, 256])
def test_large_components_use_their_links_only_and_end_alike(dense, monkeypatch):
    monkeypatch.setattr("raydiar.voiceprints.refinement._DENSE", dense)
    vectors, people = speech(200, 10)
    recordings = np.arange(200) // 2
    links = links_of(vectors, 0.3)
    found = refine(vectors, recordings, links, 0.5)
    assert linking_scores(found, people).b_cubed_precision > 0.95
    for person in np.unique(found):
        own = recordings[found == person]
        assert len(np.unique(own)) == len(own)


def test_a_component_that_is_too_large_loses_its_weakest_links():
    vectors = chain(32, 2.0)
    told = []
    labels, links = cut_large(32, links_of(vectors, 0.9993), 8, told.append)
    assert np.bincount(labels).max() <= 8
    assert (labels[links.first] == labels[links.second]).all()
    assert "32 voices hang together" in told[0]


@pytest.mark.parametrize("one_recording", [False, True])
def test_people_are_found_across_the_cuts_of_a_large_component(one_recording):
    vectors, people = speech(300, 12)
    recordings = None
    if one_recording:  # everybody once in each
        recordings = np.array([(people[:n] == people[n]).sum() for n in range(300)])
    links = links_of(vectors, 0.3)
    whole = refine(vectors, recordings, links, 0.45)
    told = []
    cut = refine(vectors, recordings, links, 0.45, 20, told.append)
    assert told
    assert linking_scores(cut, whole).b_cubed_f > 0.97
    assert linking_scores(cut, people).b_cubed_precision > 0.97
    for person in np.unique(cut) if one_recording else ():
        assert len(np.unique(recordings[cut == person])) == (cut == person).sum()


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
    assert row["probability"] is None


def test_the_same_is_found_again(index, tmp_path):
    first, second = (link(index, parameters=THRESHOLD).identities for _ in range(2))
    assert first.equals(second)


def test_speakers_of_one_recording_have_identities_of_their_own(tmp_path):
    """Diarization that hears one person as two leaves them apart; without the rule they merge."""
    voices = Voices(3)
    recordings = [diarized(f"r{n}", voices.say(np.array([0, 0, 1]))) for n in range(8)]
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
    few = LinkingParameters().threshold_for(5, calibration)
    many = LinkingParameters().threshold_for(5000, calibration)
    huge = LinkingParameters().threshold_for(10**9, calibration)
    assert pytest.approx(calibration.probability(few, 0.5)) == 0.5
    assert pytest.approx(calibration.probability(many, 3 / 4999)) == 0.5
    assert few < many < huge
    # no further than its trials reach
    assert huge == LinkingParameters().threshold_for(10**7, calibration)
    sure = LinkingParameters(probability=0.99, prior=0.5).threshold_for(5, calibration)
    assert pytest.approx(calibration.probability(sure)) == 0.99
    linking = link(index, calibration)
    assert linking.threshold == LinkingParameters().threshold_for(240, calibration)
    row = linking.identities.to_pylist()[0]
    assert row["probability"] == pytest.approx(calibration.probability(row["score"]))


def test_what_makes_no_sense_is_refused(index, tmp_path):
    with pytest.raises(ConfigError, match="no calibration is shipped"):
        link(index)
    for wrong in ({"probability": 1.0}, {"prior": 0.0}, {"threshold": 3.0}, {"neighbors": 0}):
        with pytest.raises(ConfigError):
            LinkingParameters(**wrong)
    builder.delete(index.folder.uri, [f"recording-{n:04d}" for n in range(80)])
    with pytest.raises(VoiceprintNotFound, match="holds no voice"):
        link(VoiceprintIndex.open(index.folder.uri), parameters=THRESHOLD)


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
    job = [sys.executable, "jobs/link_speakers.py", "--index", index]
    result = subprocess.run(
        [*job, "--output", str(tmp_path / "b"), "--threshold", "0.5"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    a, b = (pq.read_table(tmp_path / name / identities.FILE) for name in "ab")
    assert a.equals(b)
    assert len(a) == 20
    result = subprocess.run([*command, str(tmp_path / "c")], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("give one, or a threshold")
