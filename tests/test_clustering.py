"""Clustering against pyannote.audio: stage by stage, then in two levels against one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clustering_cases import FRAME, conversation, reference_case
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.cluster import hierarchy

from raydiar.clustering import (
    PLDA,
    AgglomerativeParameters,
    KMeansParameters,
    VBxParameters,
    resolve,
)
from raydiar.clustering.agglomerative import agglomerate
from raydiar.clustering.assignment import UNASSIGNED, assign
from raydiar.clustering.kmeans import kmeans
from raydiar.clustering.linkage import EUCLIDEAN, cut, linkage
from raydiar.clustering.parameters import LINKAGES, speaker_bounds
from raydiar.clustering.reconstruction import clean_runs, count_speakers, reconstruct
from raydiar.clustering.subclusters import sub_clusters
from raydiar.clustering.vbx import cluster_vbx, vbx
from raydiar.clustering.vectors import unit_rows
from raydiar.diarization import read_rttm

CASES = ("02_pyannote_sample", "06_long_recording")
VBX = VBxParameters()

# Labels of all local speakers by the clustering classes of pyannote.audio 4.0.7 (run as they are)
# on the embeddings of the two community-1 cases, in row-major order of active local speakers.
PYANNOTE = np.load(Path(__file__).parent / "data" / "clustering_pyannote.npz")
THRESHOLDS = {"ward": 1.5, "single": 0.35}


class Case:
    """One community-1 case: its inputs, and what pyannote.audio made of them."""

    def __init__(self, shared, name):
        self.name = name
        self.folder = shared / "reference" / "community-1" / name
        self.local = reference_case(self.folder)
        rows, start, stop = clean_runs(self.local)
        clean = np.bincount(rows, stop - start, minlength=len(self.local.owners))
        self.kept = np.flatnonzero(clean >= 0.2 * self.local.grid.num_frames)
        self.embeddings = self.local.embeddings[self.kept]

    def load(self, file):
        return np.load(self.folder / file)

    @property
    def rttm(self):
        [diarization] = read_rttm(self.folder / "reference.rttm").values()
        return diarization


@pytest.fixture(scope="module", params=CASES)
def case(request, shared):
    return Case(shared, request.param)


@pytest.fixture(scope="module")
def long_case(shared):
    return Case(shared, CASES[1])


@pytest.fixture(scope="module")
def plda(shared):
    return PLDA.load(shared / "models" / "plda")


def error_rate(reference, hypothesis):
    """DER in percent."""
    metric = DiarizationErrorRate()
    with pytest.warns(UserWarning, match="uem"):
        return 100 * metric(reference.speaker_diarization, hypothesis.speaker_diarization)


@pytest.mark.reference
def test_the_embeddings_kept_for_clustering_are_the_references(case):
    expected = case.load("plda_embeddings.npz")
    window, speaker = case.local.owners[case.kept].T
    np.testing.assert_array_equal(window, expected["train_chunk_idx"])
    np.testing.assert_array_equal(speaker, expected["train_speaker_idx"])


@pytest.mark.reference
def test_plda_features_are_the_references(case, plda):
    expected = case.load("plda_embeddings.npz")
    np.testing.assert_allclose(plda.phi, expected["phi"], rtol=1e-9)
    # the sign of an axis is up to the LAPACK at hand
    features = np.abs(plda(case.embeddings))
    np.testing.assert_allclose(features, np.abs(expected["post_plda"]), rtol=0, atol=1e-9)


@pytest.mark.reference
def test_vbx_is_the_references_from_start_to_end(case, plda):
    points = unit_rows(case.embeddings)
    start = cut(linkage(points, np.ones(len(points), int), "centroid"), VBX.threshold)
    np.testing.assert_array_equal(start, case.load("ahc_init_labels.npy"))

    expected = case.load("vbx_state.npz")
    features = plda(case.embeddings)
    ones = np.ones(len(points))
    responsibilities, priors = vbx(features, plda.phi, start, VBX.Fa, VBX.Fb, ones)
    np.testing.assert_allclose(responsibilities, expected["q_final"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(priors, expected["sp_final"], rtol=0, atol=1e-9)


@pytest.mark.reference
def test_voices_assignments_counts_and_frames_are_the_references(case, plda):
    local = case.local
    clusters = cluster_vbx(case.embeddings, VBX, plda, speaker_bounds(), 8000)
    expected = case.load("clustering.npz")
    np.testing.assert_allclose(clusters.centroids, expected["centroids"], rtol=0, atol=1e-9)
    labels = assign(local.embeddings, local.owners[:, 0], clusters.centroids, constrained=True)
    hard = expected["hard_clusters"][tuple(local.owners.T)]
    np.testing.assert_array_equal(labels, np.where(hard < 0, UNASSIGNED, hard))

    expected = case.load("reconstruction.npz")
    count = count_speakers(local)
    np.testing.assert_array_equal(count, expected["count"][:, 0])
    runs, _ = reconstruct(local, labels, count, len(clusters.centroids))
    frames = np.zeros_like(expected["discrete_diarization"])
    for cluster, start, stop in zip(runs.cluster, runs.start, runs.stop, strict=True):
        frames[start:stop, cluster] = 1
    np.testing.assert_array_equal(frames, expected["discrete_diarization"])


@pytest.mark.reference
def test_turns_are_the_references(case, plda):
    output = resolve(case.local, VBX, plda=plda)
    expected = case.rttm.turns
    assert len(output.turns) == len(expected)
    times = [(turn.start, turn.end) for turn in output.turns]
    np.testing.assert_allclose(times, [(turn.start, turn.end) for turn in expected], atol=FRAME)
    pairs = {
        (ours.speaker, turn.speaker) for ours, turn in zip(output.turns, expected, strict=True)
    }
    assert len(pairs) == output.num_speakers == case.rttm.num_speakers
    assert output.clustering == "exact"


@pytest.mark.reference
@pytest.mark.parametrize("number", range(len(PYANNOTE["cases"])), ids=PYANNOTE["cases"].tolist())
def test_every_method_labels_as_pyannote_does(case, plda, number):
    method, *rest = PYANNOTE["cases"][number].split("-")
    asked = {
        "num2": {"num_speakers": 2},
        "num3": {"num_speakers": 3},
        "num4": {"num_speakers": 4},
        "min5": {"min_speakers": 5},
        "min6": {"min_speakers": 6},
        "max1": {"max_speakers": 1},
        "max2": {"max_speakers": 2},
    }.get(rest[-1], {})
    bounds = speaker_bounds(**asked).clamped(len(case.kept))
    if method == "kmeans":
        clusters = kmeans(case.embeddings, int(rest[0]))
    elif method == "vbx":
        clusters = cluster_vbx(case.embeddings, VBX, plda, bounds, 8000)
    else:
        parameters = {
            "free": AgglomerativeParameters(
                rest[0], threshold=THRESHOLDS.get(rest[0], 0.7045654963945799)
            ),
            "num3": AgglomerativeParameters(rest[0]),
            "min6": AgglomerativeParameters(rest[0], min_cluster_size=5),
            "max2": AgglomerativeParameters(rest[0], min_cluster_size=2, threshold=0.3),
        }[rest[1]]
        clusters = agglomerate(case.embeddings, parameters, bounds, 8000)
    owners = case.local.owners
    labels = assign(case.local.embeddings, owners[:, 0], clusters.centroids, clusters.constrained)
    expected = PYANNOTE[case.name][number]
    np.testing.assert_array_equal(labels, np.where(expected < 0, UNASSIGNED, expected))


@pytest.mark.reference
@pytest.mark.parametrize("exact_limit", [500, 200])
@pytest.mark.parametrize("parameters", [AgglomerativeParameters(), VBX], ids=["ahc", "vbx"])
def test_two_levels_cost_less_than_a_fifth_of_a_point(long_case, plda, parameters, exact_limit):
    exact = resolve(long_case.local, parameters, plda=plda)
    coarse = resolve(long_case.local, parameters, plda=plda, exact_limit=exact_limit)
    assert (exact.clustering, coarse.clustering) == ("exact", "two-level")
    assert error_rate(exact, coarse) < 0.2
    cost = error_rate(long_case.rttm, coarse) - error_rate(long_case.rttm, exact)
    assert abs(cost) < 0.2


@pytest.mark.reference
@pytest.mark.parametrize("method", ["average", "weighted", "ward", "complete"])
def test_two_levels_serve_the_other_linkages_too(long_case, method):
    parameters = AgglomerativeParameters(method, threshold=5.0 if method == "ward" else 0.7)
    exact, coarse = (
        resolve(long_case.local, parameters, num_speakers=2, exact_limit=limit)
        for limit in (8000, 300)
    )
    assert error_rate(exact, coarse) < 1.0


def assert_same_partition(ours, theirs):
    pairs = len(set(zip(ours.tolist(), theirs.tolist(), strict=True)))
    assert pairs == len(set(ours.tolist())) == len(set(theirs.tolist()))


@pytest.mark.reference
@pytest.mark.parametrize("method", ["average", "centroid", "complete", "single", "ward"])
def test_a_point_of_weight_three_merges_as_three_equal_embeddings(long_case, method):
    points = unit_rows(long_case.embeddings[::5])
    sizes = np.random.default_rng(0).integers(1, 5, len(points))
    spread = np.repeat(np.arange(len(points)), sizes)
    metric = "euclidean" if method in EUCLIDEAN else "cosine"
    weighted = linkage(points, sizes, method)
    expanded = hierarchy.linkage(points[spread], method, metric)
    for height in np.quantile(weighted[:, 2], [0.3, 0.6, 0.9]) + 1e-7:
        assert_same_partition(cut(weighted, height)[spread], cut(expanded, height))


@pytest.mark.reference
@pytest.mark.parametrize("method", LINKAGES)
def test_points_of_equal_weight_merge_as_scipy_says(long_case, method):
    points = unit_rows(long_case.embeddings[::5])
    ones = np.ones(len(points), int)
    weighted, plain = linkage(points, 7 * ones, method), linkage(points, ones, method)
    scale = np.sqrt(7) if method == "ward" else 1.0
    np.testing.assert_allclose(weighted[:, 2], scale * plain[:, 2], atol=1e-7)
    for height in np.quantile(plain[:, 2], [0.3, 0.6, 0.9]) + 1e-7:
        assert_same_partition(cut(weighted, scale * height), cut(plain, height))


def test_sub_clusters_fit_the_bound_even_when_no_two_voices_are_near():
    strangers = np.random.default_rng(0).standard_normal((1000, 192)).astype(np.float32)
    points = sub_clusters(strangers, "centroid", 0.7, exact_limit=100)
    assert len(points.sizes) <= 100
    assert points.sizes.sum() == 1000
    np.testing.assert_array_equal(np.bincount(points.members), points.sizes)


@pytest.mark.parametrize("method", ["centroid", "average", "ward"])
def test_in_two_levels_the_minimum_size_counts_embeddings(method):
    """A voice of a single sub-cluster is a speaker if the sub-cluster holds enough."""
    spoken = [(0.0, 100.0, 0), (103.0, 113.0, 1), (116.0, 180.0, 2)]
    local = conversation(spoken, 180.0, noise=0.05)
    parameters = AgglomerativeParameters(method, min_cluster_size=10)
    output = resolve(local, parameters, exact_limit=20)
    assert output.clustering == "two-level"
    assert [turn.speaker for turn in output.turns] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
    sizes = [speaker.num_embeddings for speaker in output.speakers]
    assert sizes == [speaker.num_embeddings for speaker in resolve(local, parameters).speakers]
    larger = resolve(local, replace(parameters, min_cluster_size=sizes[1] + 1), exact_limit=20)
    assert larger.num_speakers == 2


def test_kmeans_never_needs_two_levels():
    local = conversation([(0.0, 20.0, 0), (20.0, 40.0, 1)], 40.0)
    output = resolve(local, KMeansParameters(), num_speakers=2, exact_limit=10)
    assert (output.clustering, output.num_speakers) == ("exact", 2)


def test_local_speakers_of_one_window_get_different_voices_when_constrained():
    voices = np.eye(130, dtype=np.float32)
    # both are nearest to voice 129, the second more so; the third has nothing to compare
    embeddings = np.stack([voices[129] + 0.9 * voices[128], voices[129], voices[0] * np.nan])
    windows = np.zeros(3, int)
    assert assign(embeddings, windows, voices, False).tolist() == [129, 129, UNASSIGNED]
    assert assign(embeddings, windows, voices, True).tolist() == [128, 129, UNASSIGNED]
    # one voice for two: the nearer takes it
    assert assign(embeddings, windows, voices[129:], True).tolist() == [UNASSIGNED, 0, UNASSIGNED]
