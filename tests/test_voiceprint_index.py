"""The voiceprint index: what it holds, and what writers, crashes and damage can do to it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from object_store import object_store
from voiceprint_corpus import DIMENSION, PIPELINE, Voices, conversations, diarized, write_dataset

from raydiar.errors import (
    ConfigError,
    OutputError,
    VoiceprintIndexConflict,
    VoiceprintIndexError,
    VoiceprintNotFound,
)
from raydiar.storage.folder import Folder
from raydiar.voiceprints import builder
from raydiar.voiceprints.generation import publish, read_current
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.next_segments import NextSegments, silent
from raydiar.voiceprints.segment_writer import Layout
from raydiar.voiceprints.segments import best

VOICES = Voices(60)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A dataset of 100 recordings with two speakers each, and who they are."""
    recordings, people = conversations(VOICES, 100)
    return write_dataset(tmp_path_factory.mktemp("corpus") / "out", recordings, files=3), people


@pytest.fixture
def index(corpus, tmp_path) -> str:
    uri = str(tmp_path / "index")
    builder.build(uri, [corpus[0]], columns=["language", "episode"])
    return uri


def seen(uri: str) -> dict[tuple[str, str], bytes]:
    """All voiceprints of an index by recording and speaker."""
    index = VoiceprintIndex.open(uri)
    found = {}
    table = index.table(["recording_id", "speaker"], include_short=True).to_pylist()
    vectors = [v for _, block in index.stream(include_short=True) for v in block]
    for row, vector in zip(table, vectors, strict=True):
        found[row["recording_id"], row["speaker"]] = vector.tobytes()
    assert len(found) == len(table)
    return found


def content(uri: str) -> dict[str, bytes]:
    return {str(p.relative_to(uri)): p.read_bytes() for p in Path(uri).rglob("*") if p.is_file()}


def test_every_voiceprint_of_a_dataset_is_found_again(corpus, index):
    opened = VoiceprintIndex.open(index)
    assert len(opened) == 200
    scores, ids = opened.neighbors(VOICES.means, k=20)
    people = corpus[1].ravel()
    for person in range(VOICES.num_people):
        own = np.flatnonzero(people == person)
        best = ids[person, : len(own)]
        assert np.all(np.diff(scores[person]) <= 0)
        # a voice's own voiceprints come before all others
        found = {(r["recording_id"], r["speaker"]) for r in opened.records(best)}
        assert found == {(f"recording-{n // 2:04d}", f"SPEAKER_{n % 2:02d}") for n in own}
    [record] = opened.records(ids[0, :1])
    assert record["uri"] == f"s3://audio/{record['recording_id']}.mp3"
    assert (record["seconds"], record["num_embeddings"], record["language"]) == (10.0, 10, "en")
    assert not record["short"]


def test_an_index_can_be_read_while_it_is_made_again_and_vacuumed(corpus, index, tmp_path):
    reader = VoiceprintIndex.open(index)
    before = reader.neighbors(VOICES.means[:5])
    more, _ = conversations(VOICES, 30, prefix="more", seed=1)
    change = builder.add(index, [corpus[0], write_dataset(tmp_path / "more", more)])
    assert (change.added, change.known) == (60, 100)
    assert builder.delete(index, [f"recording-{n:04d}" for n in range(60)]).deleted == 120
    assert builder.vacuum(index) == 0, "files younger than the grace period stay"
    assert builder.vacuum(index, grace=0) > 0
    for old, now in zip(before, reader.neighbors(VOICES.means[:5]), strict=True):
        assert np.array_equal(old, now)
    reader.records(before[1][0])
    reopened = VoiceprintIndex.open(index)
    assert len(reopened) == 140
    assert reopened.generation.number == reader.generation.number + 2


def test_deleted_recordings_are_gone(index):
    opened = VoiceprintIndex.open(index)
    kept = seen(index)
    victim = opened.id_of("recording-0007", "SPEAKER_01")
    query = opened.vectors([victim])
    assert opened.neighbors(query)[1][0, 0] == victim
    builder.delete(index, ["recording-0007", "never-there"])
    opened = VoiceprintIndex.open(index)
    assert victim not in opened.neighbors(query, k=200)[1]
    with pytest.raises(VoiceprintNotFound, match="of nobody in that recording"):
        opened.id_of("recording-0007", "SPEAKER_01")
    del kept["recording-0007", "SPEAKER_00"], kept["recording-0007", "SPEAKER_01"]
    assert seen(index) == kept
    # its numbers still lie in the segment, until that is written anew
    vector = query[0].astype("<f4").tobytes()
    assert any(vector in data for data in content(index).values())
    builder.vacuum(index, grace=0, compact=True)
    assert not any(vector in data for data in content(index).values())
    assert seen(index) == kept
    assert builder.delete(index, ["recording-0007"]).deleted == 0


def test_what_a_writer_has_prepared_is_not_vacuumed_away(corpus, index):
    """However long it takes: it may name its files any moment."""
    folder = Folder(index)
    generation, version = read_current(folder)
    opened = VoiceprintIndex.open(index)
    ids = opened.table(["recording_id", "uri", "speaker", "seconds", "num_embeddings"]).slice(0, 1)
    ids = ids.set_column(0, "recording_id", pa.array(["late"]))
    with NextSegments(folder, generation, Layout(), silent) as writer:
        writer.write([(ids, opened.vectors(opened.ids_where(pc.field("id") == 0)))])
        for file in Path(index).glob("files/*"):  # a day has passed
            os.utime(file, (file.stat().st_mtime - 86400,) * 2)
        [sign] = Path(index).glob("writers/*")
        os.utime(sign, (sign.stat().st_mtime - 90000,) * 2)
        assert builder.vacuum(index, grace=0) == 0
        writer.publish(version)
    assert not list(Path(index).glob("writers/*"))
    assert len(VoiceprintIndex.open(index)) == len(opened) + 1
    # a writer that died is not waited for without end
    (Path(index) / "writers" / "dead").touch()
    os.utime(Path(index) / "writers" / "dead", (0, 0))
    told = []
    builder.vacuum(index, grace=0, report=told.append)
    assert "has died" in told[0]
    # what is gone all the same is not published
    generation, version = read_current(folder)
    with NextSegments(folder, generation, Layout(), silent) as writer:
        writer.write([(ids, opened.vectors(opened.ids_where(pc.field("id") == 0)))])
        folder.delete(writer.entries[-1].ids.name)
        with pytest.raises(VoiceprintIndexConflict, match="was removed while"):
            writer.publish(version)
    VoiceprintIndex.open(index)


def test_a_deleted_recording_can_come_again(corpus, index):
    kept = seen(index)
    builder.delete(index, ["recording-0007"])
    change = builder.add(index, [corpus[0]])
    assert (change.added, change.known) == (2, 99)
    assert seen(index) == kept
    ids = [i for block, _ in VoiceprintIndex.open(index).stream() for i in block]
    assert len(set(ids)) == 200
    assert max(ids) == 201, "ids are never given twice"


def test_merged_indexes_hold_both_corpora_once(corpus, index, tmp_path):
    more, _ = conversations(VOICES, 20, prefix="more", seed=1)
    other = str(tmp_path / "other")
    builder.build(other, [write_dataset(tmp_path / "more", more), corpus[0]])
    change = builder.merge(index, [other])
    assert (change.added, change.known) == (40, 100)
    assert seen(index).keys() == seen(other).keys()


def test_growing_indexes_fold_their_small_segments(index, tmp_path):
    expected = seen(index)
    layout = Layout(exact_limit=250, num_lists=4)
    lines = []
    for number in range(12):
        more, _ = conversations(VOICES, 5, prefix=f"more-{number}", seed=number)
        folder = write_dataset(tmp_path / f"more-{number}", more)
        builder.add(index, [folder], layout=layout, report=lines.append)
    opened = VoiceprintIndex.open(index)
    assert len(opened) == 320
    assert len(opened.segments) < 10
    assert {s.entry.kind for s in opened.segments} == {"exact", "pq-fastscan"}
    assert any("pq-fastscan: 260 voiceprints, more than 250" in line for line in lines)
    assert seen(index).keys() >= expected.keys()
    for (recording, speaker), vector in expected.items():
        close = opened.vectors([opened.id_of(recording, speaker)])[0] @ np.frombuffer(vector, "f4")
        assert close > 0.9999, "int8 rows are the voiceprints, almost"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A dataset of 24,000 voiceprints of 3,000 people."""
    voices = Voices(3000, seed=3)
    recordings, _ = conversations(voices, 4800, speakers=5)
    return write_dataset(tmp_path_factory.mktemp("many") / "out", recordings), voices


@pytest.mark.parametrize("kind", ["pq-fastscan", "ivf-rabitq", "ivf-sq8"])
def test_approximate_search_finds_what_exact_search_finds(kind, many, tmp_path):
    folder, voices = many
    uri = str(tmp_path / "index")
    builder.build(uri, [folder], layout=Layout(kind=kind))
    index = VoiceprintIndex.open(uri)
    queries = voices.say(np.arange(200))
    scores, exact = index.neighbors(queries, exact=True)
    found_scores, found = index.neighbors(queries)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    assert recall > {"pq-fastscan": 0.995, "ivf-rabitq": 0.97, "ivf-sq8": 0.95}[kind]
    same = np.mean(np.isclose(scores, found_scores, atol=0.01))
    assert same > 0.95, "scores come from the rows, not from the codes"
    assert index.info()["bytes a vector"] < 250
    # what is not allowed is not found, through the lists either
    episodes = pc.field("recording_id") < "recording-4500"
    _, allowed = index.neighbors(queries, where=episodes)
    found = index.columns(np.unique(allowed), ["recording_id"])["recording_id"]
    assert pc.max(found).as_py() < "recording-4500"


def test_a_filter_that_leaves_out_what_is_alike_hides_nothing(many, tmp_path):
    """A scan proposes the most similar rows; if none is allowed, all others are compared."""
    folder, voices = many
    uri = str(tmp_path / "index")
    builder.build(uri, [folder], layout=Layout(kind="pq-fastscan", candidates=10))
    index = VoiceprintIndex.open(uri)
    query = voices.say(np.array([7]))
    _, nearest = index.neighbors(query, 400, exact=True)
    recordings = index.columns(nearest[0], ["recording_id"])["recording_id"].unique()
    others = ~pc.field("recording_id").isin(recordings)
    expected = index.neighbors(query, 10, where=others, exact=True)
    found = index.neighbors(query, 10, where=others)
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", ["exact", "pq-fastscan", "ivf-rabitq", "ivf-sq8"])
def test_a_voice_that_is_there_many_times_is_found_in_the_order_of_ids(kind, tmp_path):
    rng = np.random.default_rng(0)
    people = rng.permutation(np.repeat(np.arange(60), [300, 10] + [5] * 58))
    queries = VOICES.say(np.zeros(40, int))
    vectors = VOICES.means[people]
    vectors[people == 1] = queries[0]
    dataset = write_dataset(tmp_path / "out", [diarized("a", vectors)])
    uri = str(tmp_path / "index")
    builder.build(uri, [dataset], layout=Layout(kind=kind))
    index = VoiceprintIndex.open(uri)
    best, same = (np.flatnonzero(people == person) for person in (1, 0))
    scores, ids = index.neighbors(queries, 50)
    assert ids[0].tolist() == [*best, *same[:40]]
    assert len(set(scores[0, 10:])) == 1
    for number, query in enumerate(queries):
        alone = index.neighbors(query[None], 50)
        assert np.array_equal(alone[0][0], scores[number])
        assert np.array_equal(alone[1][0], ids[number])


def test_the_same_corpus_gives_the_same_files(corpus, tmp_path):
    for name in ("a", "b"):
        builder.build(str(tmp_path / name), [corpus[0]], layout=Layout(kind="ivf-rabitq"))
    a, b = (content(tmp_path / name) for name in ("a", "b"))
    assert {n for n in a if n.startswith("files")} == {n for n in b if n.startswith("files")}


def test_too_little_speech_is_marked_and_left_out(tmp_path):
    vectors = VOICES.say(np.arange(3))
    dataset = write_dataset(tmp_path / "out", [diarized("a", vectors, [30.0, 2.0, 5.0])])
    change = builder.build(str(tmp_path / "index"), [dataset], min_seconds=4.0)
    assert (change.added, change.short) == (3, 1)
    index = VoiceprintIndex.open(str(tmp_path / "index"))
    assert set(index.neighbors(vectors)[1].ravel()) == {0, 2, -1}
    assert index.neighbors(vectors, include_short=True)[1][1, 0] == 1
    assert [r["short"] for r in index.records([0, 1, 2])] == [False, True, False]


def test_voices_without_voiceprint_are_counted_not_indexed(tmp_path):
    vectors = [*VOICES.say(np.arange(2)), None, np.zeros(DIMENSION, np.float32)]
    dataset = write_dataset(tmp_path / "out", [diarized("a", vectors)])
    change = builder.build(str(tmp_path / "index"), [dataset])
    assert (change.added, change.without_voice) == (2, 2)


@pytest.mark.parametrize("field", ["embedding", "embedding_mode"])
def test_other_embeddings_are_refused(index, tmp_path, field):
    recordings, _ = conversations(VOICES, 2, prefix="other")
    other = PIPELINE | {field: "another"}
    dataset = write_dataset(tmp_path / "other", recordings, pipeline=other)
    before = content(index)
    with pytest.raises(VoiceprintIndexError, match="cannot be compared"):
        builder.add(index, [dataset])
    builder.build(str(tmp_path / "index2"), [dataset])
    with pytest.raises(VoiceprintIndexError, match="cannot be compared"):
        builder.merge(index, [str(tmp_path / "index2")])
    assert content(index)["CURRENT"] == before["CURRENT"]


def test_what_cannot_be_built_is_said(corpus, index, tmp_path):
    with pytest.raises(VoiceprintIndexError, match="holds an index already"):
        builder.build(index, [corpus[0]])
    with pytest.raises(OutputError, match="no diarization dataset"):
        builder.build(str(tmp_path / "new"), [str(tmp_path)])
    with pytest.raises(ConfigError, match="no column 'genre'; it has recording_id"):
        builder.build(str(tmp_path / "new"), [corpus[0]], columns=["genre"])
    with pytest.raises(VoiceprintIndexError, match="holds no voiceprint index"):
        VoiceprintIndex.open(str(tmp_path / "new"))
    opened = VoiceprintIndex.open(index)
    with pytest.raises(ConfigError, match="192 dimensions"):
        opened.neighbors(np.ones((1, 256)))
    with pytest.raises(ConfigError, match="zero, or holds NaN"):
        opened.neighbors(np.zeros((1, DIMENSION)))
    with pytest.raises(ConfigError, match=r"no columns \['genre'\]"):
        opened.neighbors(VOICES.means[:1], where={"genre": "news"})


def test_of_two_writers_the_second_is_told_and_nothing_is_lost(corpus, index):
    folder = Folder(index)
    generation, version = read_current(folder)
    builder.delete(index, ["recording-0000"])
    after = content(index)
    with pytest.raises(VoiceprintIndexConflict, match="changed by another writer"):
        publish(folder, generation.next(segments=()), version)
    assert content(index) == after
    with pytest.raises(VoiceprintIndexConflict):  # who finds no index does not overwrite one
        publish(folder, generation, None)


def test_many_writers_at_once_lose_nothing(index):
    script = f"""
import sys
from raydiar.errors import VoiceprintIndexConflict
from raydiar.voiceprints import builder
for number in range(int(sys.argv[1]), 12, 3):
    while True:
        try:
            builder.delete({index!r}, [f"recording-{{number:04d}}"])
            break
        except VoiceprintIndexConflict:
            print("again")
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(n)], stdout=subprocess.PIPE)
        for n in range(3)
    ]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    index = VoiceprintIndex.open(index)
    assert index.generation.number == 1 + 12
    names = set(index.table(["recording_id"])["recording_id"].to_pylist())
    assert names == {f"recording-{n:04d}" for n in range(12, 100)}


def test_a_writer_killed_in_the_middle_leaves_the_old_generation(corpus, tmp_path):
    uri = str(tmp_path / "index")
    few, _ = conversations(VOICES, 5)
    builder.build(uri, [write_dataset(tmp_path / "few", few)])
    before = seen(uri)
    script = f"""
import time
from raydiar.voiceprints import builder, next_segments
next_segments.publish = lambda *_: (print("ready", flush=True), time.sleep(60))
builder.add({uri!r}, [{corpus[0]!r}])
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"  # all is written but CURRENT
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert seen(uri) == before
    assert builder.vacuum(uri, grace=0) >= 2
    assert builder.add(uri, [corpus[0]]).added == 190
    assert len(seen(uri)) == 200


def damaged(index: str, suffix: str, how: str) -> Path:
    [path] = [p for p in Path(index, "files").iterdir() if p.suffix == suffix]
    data = bytearray(path.read_bytes())
    if how == "truncated":
        del data[len(data) // 2 :]
    elif how == "changed":
        data[len(data) // 2] ^= 255
    path.write_bytes(data)
    if how == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize("how", ["truncated", "changed", "missing"])
@pytest.mark.parametrize("suffix", [".int8", ".faiss", ".parquet", ".deleted"])
def test_damage_is_told_from_which_file(corpus, tmp_path, suffix, how):
    uri = str(tmp_path / "index")
    builder.build(uri, [corpus[0]], layout=Layout(kind="ivf-rabitq"))
    builder.delete(uri, ["recording-0000"])
    path = damaged(uri, suffix, how)
    with pytest.raises(VoiceprintIndexError, match=path.name) as caught:
        VoiceprintIndex.open(uri)
    assert "rebuild it from its diarization datasets" in str(caught.value)


def forged(index: str, suffix: str, data: bytes) -> None:
    """Put another file in place of one of an index, as someone who can compute hashes would."""
    [path] = [p for p in Path(index, "files").iterdir() if p.suffix == suffix]
    current = json.loads(Path(index, "CURRENT").read_text())
    sha256 = hashlib.sha256(data).hexdigest()
    for segment in current["segments"]:
        for name in ("ids", "vectors", "codes", "deleted"):
            if segment[name] and segment[name]["sha256"] == path.stem:
                segment[name] |= {"sha256": sha256, "num_bytes": len(data)}
    path.with_stem(sha256).write_bytes(data)
    Path(index, "CURRENT").write_text(json.dumps(current))


@pytest.mark.parametrize("kind", ["pq-fastscan", "ivf-rabitq"])
def test_a_forged_index_is_an_error_and_runs_no_code(corpus, tmp_path, kind):
    good = str(tmp_path / "good")
    builder.build(good, [corpus[0]], layout=Layout(kind=kind))
    small = str(tmp_path / "small")
    few, _ = conversations(VOICES, 40)
    builder.build(small, [write_dataset(tmp_path / "few", few)], layout=Layout(kind=kind))
    marker = tmp_path / "ran"
    pickled = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    for suffix in (".int8", ".faiss", ".parquet"):
        [other] = [p for p in Path(small, "files").iterdir() if p.suffix == suffix]
        [own] = [p for p in Path(good, "files").iterdir() if p.suffix == suffix]
        garbled = own.read_bytes()[:8] + pickled + own.read_bytes()[8 + len(pickled) :]
        for data in (pickled, b"", other.read_bytes(), garbled):
            if suffix == ".int8" and data is garbled:
                continue  # any bytes are rows of int8
            bad = str(tmp_path / "bad")
            shutil.copytree(good, bad)
            forged(bad, suffix, data)
            with pytest.raises(VoiceprintIndexError):
                VoiceprintIndex.open(bad)
            shutil.rmtree(bad)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=99), "format is 99"),
        (lambda c: c.pop("segments"), "not a generation"),
        (lambda c: c["segments"][0]["ids"].update(sha256="../../etc/passwd"), "no name of a file"),
        (lambda c: c["segments"][0].update(kind="pickle"), "no such segment"),
        (lambda c: c["segments"][0].update(vectors=None), "lacks a file"),
        (lambda c: c.update(dimension=-1), "out of range"),
    ],
)
def test_a_strange_current_is_refused(index, change, message):
    path = Path(index, "CURRENT")
    current = json.loads(path.read_text())
    change(current)
    path.write_text(json.dumps(current))
    with pytest.raises(VoiceprintIndexError, match=message):
        VoiceprintIndex.open(index)
    path.write_bytes(b"\xff\x00 not json")
    with pytest.raises(VoiceprintIndexError, match="CURRENT cannot be read"):
        VoiceprintIndex.open(index)


def test_an_index_in_an_object_store(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYDIAR_CACHE", str(tmp_path / "cache"))
    uri = "s3://bucket/index"
    with object_store(monkeypatch) as objects:
        builder.build(uri, [corpus[0]], layout=Layout(kind="ivf-rabitq"))
        first = VoiceprintIndex.open(uri)
        [cached] = [p for p in (tmp_path / "cache").rglob("*.int8") if p.is_file()]
        fetched = cached.stat().st_mtime_ns
        builder.delete(uri, ["recording-0000"])
        assert (len(first), len(VoiceprintIndex.open(uri))) == (200, 198)
        assert cached.stat().st_mtime_ns == fetched, "what is here is not fetched again"

        # of two writers that start from one generation, the store lets one through
        generation, version = read_current(first.folder)
        builder.delete(uri, ["recording-0001"])
        after = dict(objects)
        for stale in (version, None):
            with pytest.raises(VoiceprintIndexConflict, match="run the command again"):
                publish(first.folder, generation.next(), stale)
        assert objects == after
        # a PUT that is sent again because its answer was lost
        generation, version = read_current(first.folder)
        following = generation.next()
        publish(first.folder, following, version)
        publish(first.folder, following, version)

        assert builder.vacuum(uri, grace=0) == 1
        assert len(VoiceprintIndex.open(uri)) == 196
        [name] = [name for name in objects if name.endswith(".deleted")]
        objects[name] = b"damaged!"
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(VoiceprintIndexError, match="expected SHA-256"):
            VoiceprintIndex.open(uri)


def test_a_store_without_conditions_still_tells_the_later_writer(corpus):
    uri = f"memory://voices-{time.monotonic_ns()}/index"
    builder.build(uri, [corpus[0]])
    generation, version = read_current(Folder(uri))
    builder.delete(uri, ["recording-0000"])
    with pytest.raises(VoiceprintIndexConflict):
        publish(Folder(uri), generation.next(), version)
    assert len(VoiceprintIndex.open(uri)) == 198


def test_one_shard_opens_its_segments_only(corpus, tmp_path):
    uri = str(tmp_path / "index")
    builder.build(uri, [corpus[0]], layout=Layout(segment_rows=50, kind="exact"))
    whole = VoiceprintIndex.open(uri)
    assert len(whole.segments) > 2
    shards = [VoiceprintIndex.open(uri, [n]) for n in range(len(whole.segments))]
    assert sum(map(len, shards)) == len(whole)
    parts = [shard.neighbors(VOICES.means, k=5) for shard in shards]
    scores, ids = best(*(np.hstack(arrays) for arrays in zip(*parts, strict=True)), 5)
    expected = whole.neighbors(VOICES.means, k=5)
    assert np.array_equal(scores, expected[0])
    assert np.array_equal(ids, expected[1])
