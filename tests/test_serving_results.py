"""What a client reads in a finished job."""

import json
from dataclasses import replace

import numpy as np
import pytest
from serving_services import CONFIDENCE, EMBEDDING, MODE, conversation, monologue, voice

from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.errors import EnrolmentError
from raydiar.local_speakers import LocalSpeakers, pack_activity
from raydiar.serving.results import voiceprint_text
from raydiar.serving.results.output import (
    diarize_output,
    frame_confidence,
    from_output,
    to_csv,
    uri_of,
    voiceprint_output,
)


def diarized(request, diarization=None):
    return diarize_output(request, diarization or conversation(), CONFIDENCE, EMBEDDING, MODE)


def local_speakers(active, posteriors, seconds):
    return LocalSpeakers(
        num_samples=int(seconds * 16000),
        activity=pack_activity(active),
        posteriors=posteriors,
        embeddings=np.zeros((0, 4), np.float32),
        owners=np.zeros((0, 2), np.int32),
    )


def test_only_what_was_asked_for():
    assert diarized({}) == {
        "diarization": [
            {"start": 0.0, "end": 5.0, "speaker": "SPEAKER_00"},
            {"start": 4.0, "end": 12.0, "speaker": "SPEAKER_01"},
        ]
    }


def test_all_that_can_be_asked_for():
    output = diarized(
        {
            "confidence": True,
            "turnLevelConfidence": True,
            "exclusive": True,
            "speakerVoiceprints": True,
        }
    )
    assert output["diarization"][0]["confidence"] == {"SPEAKER_00": 91}
    assert output["exclusiveDiarization"][1] == {
        "start": 4.5,
        "end": 12.0,
        "speaker": "SPEAKER_01",
        "confidence": {"SPEAKER_01": 82},
    }
    assert output["confidence"] == {"score": [90, 80, 100], "resolution": 0.016875}
    text = output["speakerVoiceprints"]["SPEAKER_01"]
    assert np.array_equal(voiceprint_text.decode(text, EMBEDDING, MODE), voice(0.1, 1.0))
    json.dumps(output, allow_nan=False)


def test_who_never_speaks_alone_has_no_voiceprint():
    talk = conversation()
    talk = replace(talk, speakers=(talk.speakers[0], Speaker("SPEAKER_01", 8.0, 0.0, 0)))
    assert diarized({"speakerVoiceprints": True}, talk)["speakerVoiceprints"]["SPEAKER_01"] is None


def test_warnings_are_told():
    talk = replace(conversation(), warnings=("Only 2 voices were found.", "Second."))
    assert diarized({}, talk)["warning"] == "Only 2 voices were found. Second."


def test_a_voiceprint_is_of_one_person():
    text = voiceprint_output(monologue(vector=voice(3.0, 4.0)), EMBEDDING, MODE)["voiceprint"]
    assert np.array_equal(voiceprint_text.decode(text, EMBEDDING, MODE), voice(3.0, 4.0))
    with pytest.raises(EnrolmentError, match="2 people"):
        voiceprint_output(conversation(), EMBEDDING, MODE)
    with pytest.raises(EnrolmentError, match=r"40\.0 s .* at most 30 s"):
        voiceprint_output(replace(monologue(), duration=40.0), EMBEDDING, MODE)
    with pytest.raises(EnrolmentError, match="nobody in it speaks"):
        voiceprint_output(Diarization("silence", 10.0), EMBEDDING, MODE)


def test_frames_are_as_sure_as_the_least_sure_voice():
    active = np.zeros((1, 589, 3), np.uint8)
    active[:, 100:200, 0] = 1
    posteriors = np.where(active, 255, 0).astype(np.uint8)
    posteriors[:, 150:200, 0] = 153  # active at 60 %
    posteriors[:, 300:400, 2] = 51  # perhaps somebody, at 20 %
    confidence = frame_confidence(local_speakers(active, posteriors, 9.0))
    assert confidence.resolution == 270 / 16000
    assert len(confidence.score) == int(np.ceil(9.0 / confidence.resolution))
    assert set(confidence.score[:150]) == {100}
    assert set(confidence.score[150:200]) == {60}
    assert set(confidence.score[300:400]) == {80}


def test_windows_that_overlap_share_a_frame():
    active = np.zeros((2, 589, 3), np.uint8)
    posteriors = np.zeros((2, 589, 3), np.uint8)
    posteriors[1] = 102  # the second window hears more: 60 % sure of silence
    score = frame_confidence(local_speakers(active, posteriors, 11.0)).score
    offset = round(16000 / 270)
    assert set(score[:offset]) == {100}
    assert set(score[offset:589]) == {80}
    assert set(score[589 : offset + 589]) == {60}


def test_hours_are_as_sure_at_their_end_as_at_their_beginning():
    posteriors = np.zeros((3591, 589, 3), np.uint8)
    posteriors[2000:] = 51
    score = frame_confidence(local_speakers(np.zeros_like(posteriors), posteriors, 3600)).score
    assert score.dtype == np.uint8
    half = int(2000 * 16000 / 270)
    assert set(score[:half]) == {100}
    assert set(score[half + 589 :]) == {80}


def test_outputs_become_rttm_and_csv():
    output = json.dumps(diarized({"turnLevelConfidence": True}))
    talk = from_output(output, uri_of("C:\\calls\\team talk.wav"))
    assert talk.to_rttm().splitlines()[0] == (
        "SPEAKER team_talk 1 0.000 5.000 <NA> <NA> SPEAKER_00 <NA> <NA>"
    )
    assert to_csv(talk).splitlines() == [
        "uri,start,end,speaker,confidence",
        "team_talk,0.000,5.000,SPEAKER_00,0.910",
        "team_talk,4.000,12.000,SPEAKER_01,0.800",
    ]
    exclusive = from_output(json.dumps(diarized({"exclusive": True})), "talk")
    assert exclusive.turns == (Turn(0.0, 4.5, "SPEAKER_00"), Turn(4.5, 12.0, "SPEAKER_01"))


@pytest.mark.parametrize("name", [None, "", "...", "/", "\n \t.wav", "\u00a0"])
def test_any_file_name_gives_an_uri_that_rttm_can_hold(name):
    assert replace(conversation(), uri=uri_of(name)).to_rttm()
