"""Where else does this voice speak: hits, their turns, filters, and named people."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from voiceprint_corpus import CALIBRATION, Voices, conversations, diarized, write_dataset

from raydiar.corpus.output import dataset
from raydiar.diarization import Diarization
from raydiar.errors import (
    ConfigError,
    EnrolmentError,
    OutputError,
    VoiceprintIndexError,
    VoiceprintNotFound,
)
from raydiar.storage.folder import Folder
from raydiar.voiceprints import builder, enrolment
from raydiar.voiceprints.batch import search_dataset
from raydiar.voiceprints.evidence import Evidence
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.search import (
    search,
    search_audio,
    search_name,
    search_speaker,
    turns_of,
)
from raydiar.voiceprints.tables import told

VOICES = Voices(40)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Where 100 recordings of two speakers lie, half of them in French, and who they are."""
    recordings, people = conversations(VOICES, 100)
    folder = tmp_path_factory.mktemp("corpus")
    english = write_dataset(folder / "en", recordings[:50], files=2)
    french = write_dataset(folder / "fr", recordings[50:], language="fr")
    return [english, french], people


@pytest.fixture(scope="module")
def index(corpus, tmp_path_factory) -> VoiceprintIndex:
    uri = str(tmp_path_factory.mktemp("index") / "index")
    builder.build(uri, corpus[0], columns=["language", "episode"])
    return VoiceprintIndex.open(uri)


def names(people: np.ndarray, person: int) -> set[tuple[str, str]]:
    return {
        (f"recording-{recording:04d}", f"SPEAKER_{speaker:02d}")
        for recording, speaker in np.argwhere(people == person)
    }


def found(hits) -> set[tuple[str, str]]:
    return {(hit.recording_id, hit.speaker) for hit in hits}


def test_a_voice_is_found_wherever_it_speaks(corpus, index):
    [hits] = search(index, VOICES.say(np.array([3])), k=12, calibration=CALIBRATION)
    sure = [hit for hit in hits if hit.probability > 0.5]
    assert found(sure) == names(corpus[1], 3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].columns.keys() == {"language", "episode"}
    turns = turns_of(hits)
    for hit in hits:
        number = int(hit.speaker[-2:])
        [turn] = turns[hit.id]
        assert (turn.start, turn.end, turn.speaker) == (
            20.0 * number,
            20 * number + 10,
            hit.speaker,
        )


def test_thousands_at_once_and_one_by_one_are_the_same(index):
    queries = VOICES.say(np.arange(2000) % VOICES.num_people)
    together = search(index, queries, k=3)
    assert together[:20] == [search(index, query[None], k=3)[0] for query in queries[:20]]
    assert len(together) == 2000


def test_another_recording_of_the_same_speaker(corpus, index):
    people = corpus[1]
    own = names(people, people[0, 1]) - {("recording-0000", "SPEAKER_01")}
    hits = search_speaker(index, "recording-0000", "SPEAKER_01", k=len(own))
    assert found(hits) == own
    with pytest.raises(VoiceprintNotFound, match="only of its SPEAKER_00, SPEAKER_01"):
        search_speaker(index, "recording-0000", "SPEAKER_07")


def test_a_recording_is_one_hit_and_never_ones_own(corpus, index):
    people = corpus[1]
    query = VOICES.say(people[0, :1])
    [hits] = search(index, query, k=30)
    assert len({hit.recording_id for hit in hits}) == len(hits) == 30
    assert "recording-0000" in {hit.recording_id for hit in hits[:10]}
    [others] = search(index, query, k=30, own=["recording-0000"])
    assert "recording-0000" not in {hit.recording_id for hit in others}
    assert len(others) == 30
    # all there is, however often more had to be looked at
    [everything] = search(index, query, k=150, own=["recording-0000"])
    assert len({hit.recording_id for hit in everything}) == len(everything) == 99
    [voices] = search(index, query, k=150, per_recording=False)
    assert len(voices) == 150
    with pytest.raises(ConfigError, match="2 recordings were given for 1"):
        search(index, query, own=["a", "b"])


def test_how_sure_a_hit_is_follows_from_how_many_there_are(corpus, index, tmp_path):
    query = VOICES.say(np.array([3]))
    uri = str(tmp_path / "small")
    builder.build(uri, [write_dataset(tmp_path / "out", conversations(VOICES, 5)[0])])
    small = VoiceprintIndex.open(uri)
    for calibration in (CALIBRATION, Evidence()):
        for opened in (index, small):
            [by_size] = search(opened, query, calibration=calibration)
            prior = 3 / (len(opened) - 1)
            [given] = search(opened, query, calibration=calibration, prior=prior)
            assert [h.probability for h in by_size] == [h.probability for h in given]
        even = search(index, query, calibration=calibration, prior=0.5)[0]
        assert all(
            a.probability > b.probability
            for a, b in zip(even, search(index, query, calibration=calibration)[0], strict=True)
            if b.probability < 0.999
        )
    often = search(index, query, calibration=Evidence(mates=10.0))[0]
    [given] = search(index, query, calibration=Evidence(), prior=10 / (len(index) - 1))
    assert [h.probability for h in often] == [h.probability for h in given]
    assert told(0.93) == "likely, 93 %"
    assert told(0.4) == "possible, 40 %"
    assert told(0.001) == "unlikely, under 1 %"
    assert told(0.99999) == "likely, over 99 %"


def test_filters(corpus, index):
    people, query = corpus[1], VOICES.say(np.array([3]))

    def sure(**options):
        return found(search(index, query, k=len(names(people, 3)), **options)[0])

    french = {name for name in names(people, 3) if name[0] >= "recording-0050"}
    hits = sure(where={"language": "fr"})
    assert french <= hits
    assert all(recording >= "recording-0050" for recording, _ in hits)
    late = sure(where=(pc.field("episode") >= 40) & (pc.field("language") == "en"))
    assert {recording for recording, _ in late} <= {f"recording-{n:04d}" for n in range(40, 50)}
    assert sure(where={"language": ["en", "fr"]}) == sure()
    assert sure(where={"language": "de"}) == set()


def test_turns_are_found_after_the_files_were_rewritten(corpus, tmp_path):
    recordings, _ = conversations(VOICES, 6)
    folder = write_dataset(tmp_path / "out", recordings)
    uri = str(tmp_path / "index")
    builder.build(uri, [folder])
    [hits] = search(VoiceprintIndex.open(uri), VOICES.say(np.array([3])), k=12)
    before = turns_of(hits)
    output = Folder(folder)
    [name] = [name for name in output.list() if name.startswith("ok-")]
    rows = pq.read_table(output.path(name))
    dataset.publish_rows(output, "run2", "ok", rows.slice(0, 3))
    dataset.publish_rows(output, "run2", "ok", rows.slice(3))
    output.delete(name)
    assert turns_of(hits) == before
    for name in output.list():
        output.delete(name)
    with pytest.raises(VoiceprintNotFound, match="any more"):
        turns_of(hits)
    output.delete("_raydiar")
    with pytest.raises(OutputError, match="no diarization dataset"):
        turns_of(hits)


def test_turns_are_found_from_another_working_directory(corpus, tmp_path, monkeypatch):
    english = corpus[0][0]
    monkeypatch.chdir(os.path.dirname(english))
    builder.build(str(tmp_path / "index"), [os.path.basename(english)])
    monkeypatch.chdir(tmp_path)
    [hits] = search(VoiceprintIndex.open("index"), VOICES.say(np.array([3])), k=1)
    assert turns_of(hits)[hits[0].id]


def test_a_dataset_of_queries(corpus, index, tmp_path):
    table = str(tmp_path / "hits.parquet")
    assert search_dataset(index, corpus[0][0], table, k=3, calibration=CALIBRATION) == 100
    rows = pq.read_table(table).to_pylist()
    assert len(rows) == 300
    people = corpus[1]
    for row in rows:
        asked = (row["query_recording_id"], row["query_speaker"])
        hit = (row["recording_id"], row["speaker"])
        assert asked[0] != hit[0], "those of a recording are no hits of each other"
        same = [people[int(r[-4:]), int(s[-2:])] for r, s in (asked, hit)]
        assert (same[0] == same[1]) == (row["probability"] > 0.5)
    assert [row["rank"] for row in rows[:6]] == [1, 2, 3, 1, 2, 3]


# -- people with names -------------------------------------------------------------------------


@pytest.fixture
def known(index, tmp_path) -> str:
    """An index in which Ann (voice 0) and Bob (voice 1) are enrolled from two clips each."""
    uri = str(tmp_path / "index")
    recordings, _ = conversations(VOICES, 20)
    builder.build(uri, [write_dataset(tmp_path / "out", recordings)])
    for person, name in enumerate(["Ann", "Bob"]):
        rows = {
            "recording_id": [f"{name}-1", f"{name}-2"],
            "uri": ["clip-1.wav", "clip-2.wav"],
            "speaker": ["SPEAKER_00"] * 2,
            "seconds": [10.0, 20.0],
            "num_embeddings": [10, 20],
            "name": [name] * 2,
        }
        builder.add_rows(uri, pa.table(rows), VOICES.say(np.array([person, person])))
    return uri


def meeting(*people: int) -> Diarization:
    return diarized("meeting", VOICES.say(np.array(people)))


def test_speakers_get_the_names_of_enrolled_people(known):
    index = VoiceprintIndex.open(known)
    who = enrolment.identify(index, meeting(1, 7, 0), CALIBRATION)
    assert [identity.name for identity in who] == ["Bob", None, "Ann"]
    assert who[0].probability > 0.9 > who[1].probability
    # a name is given once: to the speaker whose voice it is more
    who = enrolment.identify(index, meeting(1, 1), CALIBRATION)
    assert sorted(str(identity.name) for identity in who) == ["Bob", "None"]
    assert max(who, key=lambda identity: identity.score).name == "Bob"


def test_an_enrolled_person_is_sought_by_name_and_is_no_hit(known, index):
    opened = VoiceprintIndex.open(known)
    assert opened.names() == ["Ann", "Bob"]
    hits = search_name(opened, "Ann", k=50)
    assert hits
    assert not any(hit.recording_id.startswith(("Ann", "Bob")) for hit in hits)
    with pytest.raises(VoiceprintNotFound, match="it knows Ann, Bob"):
        search_name(opened, "Eve")
    builder.forget(known, "Ann")
    assert VoiceprintIndex.open(known).names() == ["Bob"]
    with pytest.raises(VoiceprintNotFound, match="nobody named 'Ann'"):
        builder.forget(known, "Ann")
    with pytest.raises(VoiceprintNotFound, match="nobody is enrolled"):
        enrolment.identify(index, meeting(0), CALIBRATION)


def test_bad_clips_are_refused_with_the_reason():
    voices = VOICES.say(np.array([0, 1]))
    with pytest.raises(EnrolmentError, match=r"2 people speak in it, 20\.0 s and 8\.0 s"):
        enrolment.check_clip(diarized("clip.wav", voices, [20.0, 8.0]))
    with pytest.raises(EnrolmentError, match=r"4\.0 s of speech are too little"):
        enrolment.check_clip(diarized("clip.wav", voices[:1], [4.0]))
    with pytest.raises(EnrolmentError, match="nobody in it speaks"):
        enrolment.check_clip(diarized("clip.wav", [None], [20.0]))
    # a stray second of somebody is what diarization gets wrong by itself
    assert enrolment.check_clip(diarized("clip.wav", voices, [20.0, 1.0])).speech_seconds == 20


def test_a_real_clip_is_enrolled_and_found_again(pipeline, sample_wav, tmp_path):
    """The two people of a real conversation, learned from its start, found in its end."""
    from raydiar import audio

    samples = audio.decode(str(sample_wav))
    start, end = ({"uri": uri, "waveform": samples[None, part] / np.float32(32768),
                   "sample_rate": 16000} for uri, part in
                  (("start", slice(0, 300_000)), ("end", slice(300_000, None))))  # fmt: skip
    output = pipeline(start)
    uri = str(tmp_path / "index")
    folder = write_dataset(tmp_path / "out", [output], pipeline=pipeline.describe())
    builder.build(uri, [folder])
    index = VoiceprintIndex.open(uri)
    heard = search_audio(index, pipeline, end, k=2, per_recording=False)
    best = {speaker.speaker: hits[0].speaker for speaker, hits in heard}
    assert len(set(best.values())) == len(best) == 2, "each finds another"
    assert all(hits[0].score > hits[1].score + 0.1 for _, hits in heard)

    with pytest.raises(EnrolmentError, match="2 people speak in it"):
        enrolment.enroll(uri, "Ann", [str(sample_wav)], pipeline)
    loud = np.clip(samples.astype(int) * 30, -32768, 32767).astype(np.int16)
    with pytest.raises(EnrolmentError, match="clipping"):
        enrolment.check_not_clipped(loud, "loud.wav")
    enrolment.check_not_clipped(samples, "sample.wav")
    other = str(tmp_path / "other")
    builder.build(other, [write_dataset(tmp_path / "made", [meeting(0)])])
    with pytest.raises(VoiceprintIndexError, match="cannot be compared"):
        search_audio(VoiceprintIndex.open(other), pipeline, end)
