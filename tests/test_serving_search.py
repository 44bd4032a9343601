"""The index of a server: what a match shows, and that it follows new generations."""

import numpy as np
import pytest
from voiceprint_corpus import Voices, conversations, write_dataset

from raydiar.errors import ConfigError, VoiceprintIndexError
from raydiar.serving.deployments import search as voice_search
from raydiar.serving.deployments.search import VoiceSearch
from raydiar.voiceprints import builder

EMBEDDING = ("e" * 64, "cut")
SHOWN = {"recordingId", "uri", "speaker", "score", "probability", "seconds", "columns"}


@pytest.fixture
def index(tmp_path):
    """An index of five recordings with two speakers each, and the voiceprints of the first."""
    recordings, _ = conversations(Voices(40), 10)
    corpus = write_dataset(tmp_path / "corpus", recordings[:5])
    uri = str(tmp_path / "index")
    builder.build(uri, [corpus], columns=["language"])
    more = write_dataset(tmp_path / "more", recordings[5:], language="fr")
    return uri, recordings, more


def voiceprint(recording) -> np.ndarray:
    return recording.speakers[1].embedding[None]


def test_matches_show_the_recording_and_when_the_voice_speaks(index):
    uri, recordings, _ = index
    search = VoiceSearch(uri, *EMBEDDING)
    [[match]] = search(voiceprint(recordings[2]), 1, include_turns=True)
    assert match["recordingId"] == recordings[2].uri
    assert match["speaker"] == "SPEAKER_01"
    assert match["score"] == pytest.approx(1.0, abs=1e-3)
    assert match["columns"] == {"language": "en"}
    assert match["turns"] == [{"start": 20.0, "end": 30.0}]
    [without] = search(voiceprint(recordings[2]), 3, where={"language": "en"})
    assert [found.keys() for found in without] == [SHOWN] * 3
    with pytest.raises(ConfigError, match="episode"):
        search(voiceprint(recordings[2]), 1, where={"episode": 3})


def test_recordings_that_are_added_later_are_found(index, monkeypatch):
    uri, recordings, more = index
    search = VoiceSearch(uri, *EMBEDDING)
    assert search(voiceprint(recordings[7]), 1)[0][0]["recordingId"] != recordings[7].uri
    builder.add(uri, [more])
    monkeypatch.setattr(voice_search, "_LOOK_SECONDS", 0.0)
    assert search(voiceprint(recordings[7]), 1)[0][0]["recordingId"] == recordings[7].uri


def test_an_index_that_cannot_be_read_anew_is_used_as_it_was(index, monkeypatch, tmp_path):
    uri, recordings, _ = index
    search = VoiceSearch(uri, *EMBEDDING)
    monkeypatch.setattr(voice_search, "_LOOK_SECONDS", 0.0)
    (tmp_path / "index" / "CURRENT").write_text("not a generation")
    assert search(voiceprint(recordings[2]), 1)[0][0]["recordingId"] == recordings[2].uri


def test_an_index_of_another_embedding_is_refused(index):
    with pytest.raises(VoiceprintIndexError):
        VoiceSearch(index[0], "f" * 64, "cut")
