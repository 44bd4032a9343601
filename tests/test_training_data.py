"""From a training manifest to windows with labels: what is drawn, how often, what is refused."""

import os
import pickle
import re
from collections import Counter

import numpy as np
import pytest
from training_files import simulator, write_conversations, write_manifest

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.errors import ManifestError, TrainingError
from raydiar.training.check import check_manifest
from raydiar.training.index import TrainingIndex, build_index, windows_of
from raydiar.training.labels import FrameGrid, frame_labels
from raydiar.training.loader import Batches, Share
from raydiar.training.manifest import read_training_manifest
from raydiar.training.sources import AllWindows, Mixture, RecordedWindows, SimulatedWindows
from raydiar.training.speakers import SpeakerWindows

GRID = FrameGrid(589, 270 / 16000, 991 / 16000)


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    return write_conversations(
        tmp_path_factory.mktemp("talks"), 6, language=["en", "en", "en", "en", "en", "fr"]
    )


@pytest.fixture(scope="module")
def index(talks, tmp_path_factory):
    return build_index(str(talks), tmp_path_factory.mktemp("index"))


def test_labels_are_pyannotes_to_the_frame():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.uniform(-5, 20, 40))
    ends = starts + rng.uniform(0.05, 4, 40)
    speakers = rng.integers(0, 4, 40)
    labels = frame_labels(starts, ends, speakers, 3.0, 10.0, GRID)
    inside = (starts < 13.0) & (ends > 3.0)
    found = sorted(set(speakers[inside].tolist()))
    expected = np.zeros((589, len(found)), np.uint8)
    half = 0.5 * 991 / 16000
    for start, end, speaker in zip(starts[inside], ends[inside], speakers[inside], strict=True):
        first = max(0, int(np.round((max(start, 3.0) - 3.0 - half) / (270 / 16000))))
        last = int(np.round((min(end, 13.0) - 3.0 - half) / (270 / 16000)))
        for frame in range(first, min(last, 588) + 1):
            expected[frame, found.index(speaker)] = 1
    assert np.array_equal(labels, expected)


def test_a_turn_that_ends_as_the_window_begins_does_not_fill_it():
    labels = frame_labels(np.array([0.0]), np.array([3.001]), np.array([5]), 3.0, 10.0, GRID)
    assert labels.sum() <= 1


def test_the_most_talkative_are_kept_and_absent_speakers_are_silent():
    starts, ends = np.array([0.0, 1.0, 2.0]), np.array([0.5, 4.0, 9.0])
    labels = frame_labels(starts, ends, np.array([0, 1, 2]), 0.0, 10.0, GRID, 2)
    full = frame_labels(starts, ends, np.array([0, 1, 2]), 0.0, 10.0, GRID)
    assert np.array_equal(labels, full[:, 1:])
    assert frame_labels(starts, ends, np.array([0, 1, 2]), 0.0, 10.0, GRID, 5)[:, 3:].sum() == 0


def test_an_index_holds_what_the_label_files_say(talks, index):
    recordings = list(read_training_manifest(str(talks)))
    assert len(index) == len(recordings) == 6
    assert index.num_turns == sum(len(one.starts) for one in recordings)
    for number, one in enumerate(recordings):
        starts, ends, speakers = index.turns(number)
        labels = [index.labels[speaker] for speaker in speakers]
        expected = sorted(zip(one.starts, one.ends, one.speakers, strict=True))
        assert sorted(zip(starts, ends, labels, strict=True)) == expected
    assert index.seconds == pytest.approx(6 * 8.0, abs=0.1)
    again = pickle.loads(pickle.dumps(index))
    assert again.num_turns == index.num_turns


def test_ten_thousand_hours_of_labels_are_indexed_in_less_than_a_gigabyte(shared, tmp_path):
    rttms = sorted((shared / "labels/voxconverse-dev").glob("*.rttm"))
    rows = []
    for copy in range(5):
        for path in rttms:
            lines = [line.split() for line in path.read_text().splitlines()]
            end = max(float(parts[3]) + float(parts[4]) for parts in lines)
            rows.append({"uri": f"a{copy}/{path.stem}.wav", "rttm": str(path), "seconds": end + 1})
    index = build_index(str(write_manifest(tmp_path / "m.csv", rows)), tmp_path / "index")
    size = sum(path.stat().st_size for path in (tmp_path / "index").iterdir())
    hours = index.seconds / 3600
    assert hours > 90
    assert size / hours * 10_000 < 1e9


def test_windows_are_drawn_in_proportion_to_what_is_labelled(tmp_path):
    write_conversations(tmp_path, 2, duration=24.0)
    rows = [
        {"uri": "talk0.wav", "rttm": "talk0.rttm", "uem": "talk0.uem"},
        {"uri": "talk1.wav", "rttm": "talk1.rttm"},
    ]
    (tmp_path / "talk0.uem").write_text("talk0 1 2.0 7.0\ntalk0 1 10.0 11.0\n")
    index = build_index(str(write_manifest(tmp_path / "m.csv", rows)), tmp_path / "index")
    source = RecordedWindows(index, 4.0, seed=3)
    drawn = [source.draw(n) for n in range(2000)]
    counts = Counter(recording for recording, _ in drawn)
    # 5 s of the first are labelled at a stretch that is long enough, 24 s of the second
    assert counts[0] / 2000 == pytest.approx(5 / 29, abs=0.03)
    starts = [start for recording, start in drawn if recording == 0]
    assert min(starts) >= 2.0
    assert max(starts) <= 3.0 + 1e-9
    assert drawn == [source.draw(n) for n in range(2000)]
    assert drawn != [RecordedWindows(index, 4.0, seed=4).draw(n) for n in range(2000)]


def test_balance_draws_rare_values_as_often_as_common_ones(index):
    source = RecordedWindows(index, 2.0, balance=["language"])
    languages = index.recordings.column("language").to_pylist()
    counts = Counter(languages[source.draw(n)[0]] for n in range(1000))
    assert counts["fr"] / 1000 == pytest.approx(0.5, abs=0.06)
    with pytest.raises(ManifestError, match=r"'accent'.*no such column"):
        RecordedWindows(index, 2.0, balance=["accent"])


def test_a_window_is_the_files_samples_and_labels(index):
    source = RecordedWindows(index, 3.0, seed=1)
    recording, start = source.draw(7)
    example = source.example(7)
    whole = decode(index.uri(recording))
    first = round(start * SAMPLE_RATE)
    assert np.array_equal(example.samples, whole[first : first + 3 * SAMPLE_RATE])
    starts, ends, _ = index.turns(recording)
    inside = (starts < start + 3.0) & (ends > start)
    assert np.allclose(np.sort(example.starts + start), np.sort(starts[inside]))


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_share_a_batch_and_none_is_drawn_twice(index, num_workers):
    source = RecordedWindows(index, 2.0)
    shares = [Share(8, rank, num_workers) for rank in range(num_workers)]
    seen = [n for batch in range(5) for share in shares for n in share.indices(batch)]
    assert sorted(seen) == list(range(40))
    one = Batches(source, Share(8), list, stop=2)
    many = [Batches(source, share, list, stop=2) for share in shares]
    whole = sorted(e.name for batch in one for e in batch)
    assert whole == sorted(e.name for worker in many for batch in worker for e in batch)
    later = Batches(source, Share(8), list, first_batch=1, stop=2)
    assert [e.index for batch in later for e in batch] == list(range(8, 16))


def test_validation_sees_every_window_once(index):
    windows = windows_of(index, 3.0)
    assert len(windows) == 6 * 2
    assert len(AllWindows(index, 3.0)) == 12
    assert len(AllWindows(index, 3.0, limit=5)) == 5


def test_simulation_and_mixtures_are_functions_of_a_number():
    source = SimulatedWindows(simulator(2.0), 2.0, seed=5)
    assert np.array_equal(source.example(3).samples, source.example(3).samples)
    assert not np.array_equal(source.example(3).samples, source.example(4).samples)
    mixture = Mixture([(source, 1.0), (SimulatedWindows(simulator(2.0), 2.0, seed=6), 3.0)])
    names = Counter(mixture.example(n).name.split("-")[1] for n in range(60))
    assert names["6"] > names["5"] > 0
    with pytest.raises(TrainingError, match="windows of"):
        SimulatedWindows(simulator(2.0), 3.0)


def test_speakers_are_drawn_equally_often_whatever_they_say(talks, tmp_path):
    index = build_index(str(talks), tmp_path, scope="global")
    source = SpeakerWindows(index, 1.0, batch_size=4)
    classes = Counter(int(source.example(n).speakers[0]) for n in range(40))
    assert set(classes.values()) == {40 // source.num_classes}
    example = source.example(3)
    assert len(example.samples) == SAMPLE_RATE


def test_labels_that_name_nobody_are_not_taken_for_persons(tmp_path):
    folder = tmp_path / "talks"
    write_conversations(folder, 2)
    for path in folder.glob("*.rttm"):
        path.write_text(path.read_text().replace("person", "spk0"))
    index = build_index(str(folder / "manifest0.csv"), tmp_path / "index", scope="global")
    with pytest.raises(ManifestError, match="--scope file"):
        SpeakerWindows(index, 1.0)
    assert (
        SpeakerWindows(
            build_index(str(folder / "manifest0.csv"), tmp_path / "two", scope="file"), 1.0
        ).num_classes
        >= 3
    )


def test_a_pyannote_protocol_is_taken_too(talks, tmp_path):
    from pyannote.core import Annotation, Segment, Timeline

    recordings = list(read_training_manifest(str(talks)))

    class Protocol:
        def train(self):
            for one in recordings:
                annotation = Annotation(uri=one.recording_id)
                for n, turn in enumerate(zip(one.starts, one.ends, one.speakers, strict=True)):
                    annotation[Segment(*turn[:2]), n] = turn[2]
                yield {
                    "uri": one.recording_id,
                    "audio": one.uri,
                    "annotation": annotation,
                    "annotated": Timeline([Segment(1.0, 7.0)]),
                }

    index = build_index(Protocol(), tmp_path)
    assert index.num_turns == sum(len(one.starts) for one in recordings)
    assert index.seconds == pytest.approx(6 * 6.0)


def test_check_names_what_is_wrong_one_line_each(tmp_path):
    write_conversations(tmp_path, 3)
    (tmp_path / "talk0.rttm").write_text(
        "SPEAKER talk0 1 1.0 30.0 <NA> <NA> ann <NA> <NA>\n"
        "SPEAKER talk0 1 2.0 1.0 <NA> <NA> <NA> <NA> <NA>\n"
        "SPEAKER talk0 1 2.0 0.0 <NA> <NA> bob <NA> <NA>\n" * 2
    )
    (tmp_path / "talk1.rttm").write_text("")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "noise.rttm").write_text("SPEAKER nan 1 0.1 0.5 <NA> <NA> ann <NA> <NA>\n")
    samples = np.full(SAMPLE_RATE, np.nan, "<f4").tobytes()
    header = b"RIFF" + (36 + len(samples)).to_bytes(4, "little") + b"WAVEfmt "
    fields = ((16, 4), (3, 2), (1, 2), (16000, 4), (64000, 4), (4, 2), (32, 2))
    header += b"".join(value.to_bytes(size, "little") for value, size in fields)
    (tmp_path / "nan.wav").write_bytes(
        header + b"data" + len(samples).to_bytes(4, "little") + samples
    )
    rows = [{"uri": f"talk{n}.wav", "rttm": f"talk{n}.rttm"} for n in (0, 1, 2, 2)]
    rows += [{"uri": name, "rttm": "noise.rttm"} for name in ("empty.wav", "nan.wav", "no.wav")]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    found = list(check_manifest(str(manifest)))
    text = "\n".join(found)
    for expected in (
        r"talk0: labels go on until 31.00 s, but the audio ends at 8.00 s",
        r"talk0: 2 turns without a length",
        r"talk0: 3 turns are there more than once",
        r"talk0: unknown labels '<NA>'",
        r"talk1: nobody speaks in it",
        r"talk2: is in the manifest more than once",
        r"empty: ",
        r"nan: .*NaN",
        r"no: .*no such file",
    ):
        assert any(re.match(expected, line) for line in found), (expected, text)
    assert all("\n" not in line for line in found)
    unknown = list(check_manifest(str(manifest), classes=["bob"], audio=False))
    assert any(line == "nan: unknown labels 'ann'" for line in unknown)
    clean = write_manifest(tmp_path / "clean.csv", [{"uri": "talk2.wav", "rttm": "talk2.rttm"}])
    assert not list(check_manifest(str(clean)))


def test_a_recording_that_cannot_be_read_costs_its_windows_only(tmp_path, capfd):
    write_conversations(tmp_path, 2)
    index = build_index(str(tmp_path / "manifest0.csv"), tmp_path / "index")
    os.remove(tmp_path / "talk0.wav")
    source = RecordedWindows(index, 2.0)
    names = {source.example(n).name.split()[0] for n in range(20)}
    assert names == {"talk1"}
    assert capfd.readouterr().err.count("not learnt from") == 1
    os.remove(tmp_path / "talk1.wav")
    with pytest.raises(TrainingError, match="in a row"):
        source.example(0)


def test_errors_of_a_manifest_name_the_place(tmp_path):
    bad = write_manifest(tmp_path / "bad.csv", [{"uri": "a.wav"}])
    with pytest.raises(ManifestError, match="no column `rttm`"):
        list(read_training_manifest(str(bad)))
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 x 2 <NA> <NA> ann <NA> <NA>\n")
    bad = write_manifest(tmp_path / "b.csv", [{"uri": "a.wav", "rttm": "a.rttm", "seconds": 5}])
    with pytest.raises(ManifestError, match=r"a\.rttm, line 1 is not RTTM"):
        list(read_training_manifest(str(bad)))
    with pytest.raises(ManifestError, match="no training index"):
        len(TrainingIndex(tmp_path / "nothing"))
