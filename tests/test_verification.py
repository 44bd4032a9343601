"""Scores of pairs of voices, error rates, and what a calibrated score may promise."""

import json

import numpy as np
import pytest
from voiceprint_corpus import Voices, conversations, write_dataset

from raydiar.clustering import PLDA
from raydiar.errors import ConfigError, VoiceprintIndexError
from raydiar.evaluation.verification import equal_error_rate, error_rates, min_dcf
from raydiar.pipelines.config import DEFAULT
from raydiar.voiceprints import builder
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.verification import (
    Calibration,
    Cohort,
    cosine,
    default_calibration,
    plda_scores,
)

MADE_WITH = {"embedding": "e" * 64, "embedding_mode": "cut"}


def trials(num_targets: int, num_others: int, seed: int = 0):
    """Normal scores, one apart by two deviations: their true log ratio is 2 s - 2."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(num_targets + num_others)
    targets = np.arange(len(scores)) < num_targets
    return scores + 2 * targets, targets


def test_error_rates_of_a_case_counted_by_hand():
    scores = np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.1])
    same = np.array([1, 1, 1, 0, 0, 0], bool)
    thresholds, missed, accepted = error_rates(scores, same)
    at = list(thresholds).index(0.3)
    assert (missed[at], accepted[at]) == (0, pytest.approx(1 / 3))
    assert equal_error_rate(scores, same)[0] == pytest.approx(1 / 3)
    # accepting above 0.7 misses one of three and accepts nobody else
    assert min_dcf(scores, same, p_target=0.01) == pytest.approx(1 / 3)
    assert equal_error_rate(scores, same[::-1])[0] > 0.5
    assert equal_error_rate(np.array([1.0, 0.0]), np.array([True, False]))[0] == 0
    with pytest.raises(ValueError, match="target and non-target"):
        error_rates(scores, np.ones(6, bool))


def test_error_rates_of_normal_scores():
    scores, same = trials(20_000, 20_000)
    rate, threshold = equal_error_rate(scores, same)
    assert rate == pytest.approx(0.1587, abs=0.005)  # what lies beyond one deviation
    assert threshold == pytest.approx(1.0, abs=0.03)
    assert min_dcf(np.ones(10), np.arange(10) < 5) == 1.0  # a score that says nothing


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_probabilities_are_true(method):
    calibration = Calibration.fit(*trials(3000, 60_000), **MADE_WITH, method=method)
    scores = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    expected = 2 * scores - 2
    tolerance = 0.15 if method == "logistic" else 0.6
    assert calibration.log_likelihood_ratio(scores) == pytest.approx(expected, abs=tolerance)
    # said 90 % sure, right nine times in ten, if one in ten is a target trial
    fresh, same = trials(6000, 54_000, seed=1)
    sure = np.abs(calibration.probability(fresh, prior=0.1) - 0.5) < 0.2
    assert same[sure].mean() == pytest.approx(0.5, abs=0.07)


def test_stated_false_accept_rates_hold_for_others():
    calibration = Calibration.fit(*trials(500, 50_000), **MADE_WITH)
    fresh, same = trials(500, 500_000, seed=1)
    for rate in (0.1, 0.01, 0.001):
        found = (fresh[~same] >= calibration.threshold(rate)).mean()
        assert rate / 1.5 < found < rate * 1.5
        assert calibration.false_accept_rate(calibration.threshold(rate)) == pytest.approx(rate)
    with pytest.raises(ConfigError, match=r"knows false-accept rates from .* not 1e-06"):
        calibration.threshold(1e-6)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_a_calibration_survives_its_file(method):
    calibration = Calibration.fit(*trials(50, 500), **MADE_WITH, method=method)
    again = Calibration.from_json(calibration.to_json())
    assert again == calibration
    scores = np.linspace(-5, 5, 50)
    assert np.array_equal(again.probability(scores), calibration.probability(scores))
    assert np.all(np.diff(calibration.probability(scores)) >= 0)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [1.0, 0.0]},
        {"ratios": [1.0, 0.0]},
        {"thresholds": [0.0]},
        {"ratios": [float("nan"), 1.0]},
        {"method": "pickle"},
        {"surprise": 1},
    ],
)
def test_a_strange_calibration_is_refused(change):
    calibration = Calibration.fit(*trials(50, 500), **MADE_WITH)
    with pytest.raises(ConfigError):
        Calibration.from_json(json.dumps(json.loads(calibration.to_json()) | change))
    with pytest.raises(ConfigError, match="too few"):
        Calibration.fit(*trials(5, 500), **MADE_WITH)


def test_the_shipped_calibration_is_that_of_the_default_embedding():
    sha256 = DEFAULT.embedding.uri.partition("#sha256=")[2]
    calibration = default_calibration(sha256, "cut")
    assert default_calibration(sha256, "masked") is None
    assert default_calibration("e" * 64, "cut") is None
    assert calibration.fitted["people"] > 150
    assert 0.2 < calibration.threshold(0.01) < calibration.threshold(0.001) < 0.6
    assert calibration.probability(0.8) > 0.99
    assert calibration.probability(0.1) < 0.01
    for stated, found in calibration.fitted[
        "held-out people, stated to found false-accept rate"
    ].items():
        assert float(stated) / 2 < found < float(stated) * 2


def test_score_normalisation_evens_out_voices_that_resemble_all(tmp_path):
    """Half of the people spoke through one telephone, which makes their voices alike."""
    voices = Voices(300, spread=2.0)
    voices.means[:150] += voices.means[299] / np.linalg.norm(voices.means[299])
    recordings, _ = conversations(voices, 300)
    uri = str(tmp_path / "index")
    builder.build(uri, [write_dataset(tmp_path / "out", recordings)])
    cohort = Cohort.of(VoiceprintIndex.open(uri), size=400, top=50)
    assert len(cohort.vectors) == 400
    people = np.arange(299)
    first, second = voices.say(people), voices.say(people)
    a, b = (array.ravel() for array in np.meshgrid(people, people))
    raw = cosine(first[a], second[b])
    normalised = cohort.scores(first[a], second[b])
    assert equal_error_rate(normalised, a == b)[0] < 0.2 * equal_error_rate(raw, a == b)[0]
    # symmetric
    assert np.allclose(cohort.scores(first, second), cohort.scores(second, first), atol=1e-5)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory) -> str:
    """An index of 400 voices of 300 people."""
    folder = tmp_path_factory.mktemp("strangers")
    uri = str(folder / "index")
    recordings, _ = conversations(Voices(300, seed=1), 200)
    builder.build(uri, [write_dataset(folder / "out", recordings)])
    return uri


def test_a_cohort_knows_how_often_its_strangers_score_so_high(strangers):
    cohort = Cohort.of(VoiceprintIndex.open(strangers), top=50)
    others = Voices(300, seed=1)
    others.say(np.arange(300))  # the people of the index, on other days
    first, second = others.say(np.arange(0, 150)), others.say(np.arange(150, 300))
    a, b = (array.ravel() for array in np.meshgrid(np.arange(150), np.arange(150)))
    scores = cohort.scores(first[a], second[b])
    for rate in (0.1, 0.02):
        assert rate / 2 < (scores >= cohort.threshold(rate)).mean() < rate * 2
    same = cohort.scores(first, others.say(np.arange(0, 150)))
    assert (same >= cohort.threshold(0.02)).mean() > 0.9
    with pytest.raises(ConfigError, match="knows false-accept rates from"):
        cohort.threshold(1e-6)


@pytest.mark.reference
def test_pairs_are_judged_by_cosine_cohort_or_plda(strangers, shared):
    from raydiar.voiceprints.commands import _judge

    voices = Voices(300, seed=1)
    one, same = (voices.say(np.array([3])) for _ in range(2))
    others = voices.say(np.arange(10, 60))
    judge = _judge(strangers, None, None, MADE_WITH, 0.02, 0.5)
    assert judge(one, same)[0]
    assert np.mean([judge(one, other[None])[0] for other in others]) < 0.15
    assert "2.00% of the pairs" in judge(one, same)[1]
    with pytest.raises(VoiceprintIndexError, match="cannot be compared"):
        _judge(strangers, None, None, MADE_WITH | {"embedding": "f" * 64}, 0.02, 0.5)
    directory = str(shared / "models" / "plda")
    plda = PLDA.load(directory)
    judge = _judge(None, directory, None, MADE_WITH, 0.02, 0.5)
    rng = np.random.default_rng(0)
    person = rng.standard_normal((1, plda.dimension)).astype(np.float32)
    again = person + 0.05 * rng.standard_normal((1, plda.dimension)).astype(np.float32)
    assert judge(person, again)[0]
    assert not judge(person, rng.standard_normal((1, plda.dimension)).astype(np.float32))[0]
    with pytest.raises(ConfigError, match="256 dimensions, these have 192"):
        judge(one, same)
    with pytest.raises(ConfigError, match="is not known"):
        _judge(None, None, None, MADE_WITH, 0.02, 0.5)(one, same)


@pytest.mark.reference
def test_the_library_verifies_by_a_cohort_or_a_plda(strangers, shared):
    from raydiar import SpeakerVerification

    voices = Voices(300, seed=1)
    one, same = (voices.say(np.array([3])) for _ in range(2))
    others = voices.say(np.arange(10, 60))
    cohort = Cohort.of(VoiceprintIndex.open(strangers))
    verification = SpeakerVerification(cohort=cohort, false_accept_rate=0.02)
    assert verification(one, same)
    assert np.mean([bool(verification(one, other)) for other in others]) < 0.15
    assert verification(one, same).probability is None
    plda = PLDA.load(shared / "models" / "plda")
    with pytest.raises(ConfigError, match="PLDA is of voices of 256 dimensions"):
        SpeakerVerification(plda=plda)
    with pytest.raises(ConfigError, match="not by both"):
        SpeakerVerification(plda=plda, cohort=cohort)


def test_plda_scores_are_log_likelihood_ratios():
    """In a space of three axes, against the two Gaussians written out."""
    from scipy.stats import multivariate_normal

    phi = np.array([4.0, 1.0, 0.25])
    eye = np.eye(3)
    plda = PLDA(np.zeros(3), np.zeros(3), eye, np.zeros(3), eye, phi)
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 20, 3)).astype(np.float32)
    together = np.block([[np.diag(1 + phi), np.diag(phi)], [np.diag(phi), np.diag(1 + phi)]])
    apart = np.diag(np.tile(1 + phi, 2))
    pairs = np.hstack([plda(first), plda(second)])
    expected = [
        multivariate_normal(np.zeros(6), together).logpdf(pair)
        - multivariate_normal(np.zeros(6), apart).logpdf(pair)
        for pair in pairs
    ]
    assert np.allclose(plda_scores(plda, first, second), expected)


@pytest.mark.reference
def test_plda_of_community_1_tells_people_apart(shared):
    plda = PLDA.load(shared / "models" / "plda")
    rng = np.random.default_rng(0)
    # voices as that PLDA imagines them
    people = rng.standard_normal((40, len(plda.phi))) * np.sqrt(plda.phi)
    said = people[:, None] + rng.standard_normal((40, 2, len(plda.phi)))
    white = said @ np.linalg.pinv(plda.transform).T + plda.mu
    raw = white / np.linalg.norm(white, axis=-1, keepdims=True) @ np.linalg.pinv(plda.lda)
    raw = (raw + plda.mean1).reshape(-1, plda.dimension).astype(np.float32)
    who = np.repeat(np.arange(40), 2)
    a, b = np.triu_indices(80, 1)
    scores = plda_scores(plda, raw[a], raw[b])
    assert equal_error_rate(scores, who[a] == who[b])[0] < 0.25
