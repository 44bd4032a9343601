"""Whose voice is whose: matches as the client asked for them."""

import numpy as np
import pytest
from serving_services import EMBEDDING, MODE, conversation, voice

from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.errors import VoiceprintTextError
from raydiar.serving.results import voiceprint_text
from raydiar.serving.results.identification import identify_output
from raydiar.voiceprints.verification import Calibration

ANN, BOB, EVE = voice(1.0), voice(0.0, 1.0), voice(0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def calibration():
    """A cosine of 0.5 is as likely of one person as of two, and 0.75 nine times likelier."""
    rng = np.random.default_rng(0)
    same, other = rng.normal(0.75, 0.15, 2000), rng.normal(0.25, 0.15, 2000)
    targets = np.repeat([True, False], 2000)
    return Calibration.fit(
        np.concatenate([same, other]), targets, embedding=EMBEDDING, embedding_mode=MODE
    )


def identified(known, diarization=None, calibration=None, **options):
    request = {
        "voiceprints": [
            {"label": label, "voiceprint": voiceprint_text.encode(vector, EMBEDDING, MODE)}
            for label, vector in known.items()
        ],
        **options,
    }
    talk = diarization or conversation()
    return identify_output(request, talk, None, calibration, EMBEDDING, MODE)


def speakers(*vectors):
    """One turn of a second for each."""
    labels = [f"SPEAKER_{n:02d}" for n in range(len(vectors))]
    return Diarization(
        "talk",
        float(len(vectors)),
        turns=tuple(Turn(float(n), n + 1.0, label, 0.9) for n, label in enumerate(labels)),
        speakers=tuple(
            Speaker(label, 1.0, 1.0, 1, vector)
            for label, vector in zip(labels, vectors, strict=True)
        ),
    )


def matches(output):
    return [entry["match"] for entry in output["voiceprints"]]


def at(cosine):
    """A voice with this cosine to Ann's, and none to Bob's."""
    return voice(cosine, 0.0, np.sqrt(1 - cosine**2))


def test_known_voices_are_named_and_others_keep_their_label():
    output = identified({"Ann": ANN, "Eve": EVE}, matching={"threshold": 50})
    assert output["identification"] == [
        {"start": 0.0, "end": 5.0, "speaker": "Ann"},
        {"start": 4.0, "end": 12.0, "speaker": "SPEAKER_01"},
    ]
    assert [turn["speaker"] for turn in output["diarization"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert output["voiceprints"] == [
        {"speaker": "SPEAKER_00", "match": "Ann", "confidence": {"Ann": 100, "Eve": 0}},
        {"speaker": "SPEAKER_01", "match": None, "confidence": {"Ann": 10, "Eve": 0}},
    ]


def test_the_best_match_needs_no_certainty_where_no_threshold_is_given():
    assert matches(identified({"Ann": ANN, "Eve": EVE})) == ["Ann", "Eve"]


def test_exclusive_matching_gives_a_name_to_one_speaker():
    talk = speakers(at(0.9), at(0.95))
    assert matches(identified({"Ann": ANN}, talk)) == [None, "Ann"]
    both = identified({"Ann": ANN}, talk, matching={"exclusive": False})
    assert matches(both) == ["Ann", "Ann"]


def test_exclusive_matching_weighs_all_speakers_together():
    # both are most like Ann, but only the first can be Bob
    talk = speakers(voice(0.80, 0.60), at(0.78))
    assert matches(identified({"Ann": ANN, "Bob": BOB}, talk)) == ["Bob", "Ann"]


def test_a_sure_match_is_not_given_up_for_two_doubtful_ones():
    talk = speakers(voice(0.95, 0.30, np.sqrt(1 - 0.9925)), at(0.35))
    output = identified({"Ann": ANN, "Bob": BOB}, talk, matching={"threshold": 30})
    assert matches(output) == ["Ann", None]


@pytest.mark.parametrize(("threshold", "match"), [(79, "Ann"), (80, "Ann"), (81, None)])
def test_a_match_has_at_least_the_threshold(threshold, match):
    output = identified({"Ann": ANN}, speakers(at(0.8)), matching={"threshold": threshold})
    assert matches(output) == [match]


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("threshold", [0, 50, 100])
def test_confidences_are_probabilities_where_scores_have_a_meaning(
    calibration, threshold, exclusive
):
    talk = speakers(at(0.5), at(0.9))
    matching = {"threshold": threshold, "exclusive": exclusive}
    output = identified({"Ann": ANN}, talk, calibration, matching=matching)
    percents = [entry["confidence"]["Ann"] for entry in output["voiceprints"]]
    assert percents[0] == pytest.approx(50, abs=5)
    assert percents[1] == 100
    wanted = [threshold <= percents[0] and not exclusive, True]
    assert matches(output) == ["Ann" if match else None for match in wanted]


def test_a_speaker_without_a_voiceprint_matches_nobody():
    output = identified({"Ann": ANN}, speakers(None, at(0.9)), matching={"exclusive": False})
    assert output["voiceprints"][0] == {
        "speaker": "SPEAKER_00",
        "match": None,
        "confidence": {"Ann": 0},
    }
    assert matches(identified({"Ann": ANN}, speakers(None))) == [None]
    assert identified({"Ann": ANN}, Diarization("silence", 3.0))["voiceprints"] == []


def test_turn_level_confidences_stay_with_the_diarization():
    output = identified({"Ann": ANN}, turnLevelConfidence=True, exclusive=True)
    assert "confidence" in output["diarization"][0]
    assert "confidence" not in output["identification"][0]
    assert "exclusiveDiarization" in output


def test_voiceprints_of_another_embedding_are_refused():
    text = voiceprint_text.encode(ANN, "cd" * 32, MODE)
    request = {"voiceprints": [{"label": "Ann", "voiceprint": text}]}
    with pytest.raises(VoiceprintTextError, match="another embedding"):
        identify_output(request, conversation(), None, None, EMBEDDING, MODE)
