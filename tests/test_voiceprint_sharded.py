"""An index in Ray actors answers like one index, and outlives the loss of any of them."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from voiceprint_corpus import CALIBRATION, Voices, conversations, diarized, write_dataset

from raydiar.errors import ConfigError, VoiceprintIndexError, VoiceprintNotFound
from raydiar.voiceprints import builder, enrolment
from raydiar.voiceprints.batch import search_dataset
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.search import search, search_name, search_speaker
from raydiar.voiceprints.segment_writer import Layout

JOBS = Path(__file__).resolve().parents[1] / "jobs"
VOICES = Voices(40)
TWIN = VOICES.say(np.array([7]))[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[str]:
    """200 recordings in two languages, some of them of one and the same voiceprint."""
    recordings, _ = conversations(VOICES, 180)
    twins = [diarized(f"twin-{n:02d}", TWIN[None], [1.0 if n % 5 else 10.0]) for n in range(20)]
    twins += [diarized(f"twin-{n}", TWIN[None]) for n in range(20, 60)]
    mixed = [r for pair in zip(recordings[::3], twins, strict=True) for r in pair]
    folder = tmp_path_factory.mktemp("corpus")
    rest = [r for n, r in enumerate(recordings) if n % 3]
    english = write_dataset(folder / "en", mixed, files=4)
    return [english, write_dataset(folder / "fr", rest, files=2, language="fr")]


def build(uri: str, corpus: list[str]) -> str:
    """Segments of all kinds, deleted and short voiceprints, and two people with names."""
    exact = Layout(kind="exact", segment_rows=1)
    builder.build(uri, corpus[:1], columns=["language", "episode"], layout=exact)
    builder.add(uri, corpus[1:], layout=Layout(kind="ivf-rabitq", segment_rows=1))
    builder.delete(uri, ["recording-0000", "recording-0001", "twin-05"])
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


@pytest.fixture(scope="module")
def uri(corpus, tmp_path_factory) -> str:
    return build(str(tmp_path_factory.mktemp("index") / "index"), corpus)


@pytest.fixture
def sharded(local_ray):
    """Opens indexes in shards, and closes them at the end."""
    from raydiar.voiceprints.sharded import ShardedIndex

    opened = []

    def open_sharded(uri: str, num_shards: int = 3, **options) -> ShardedIndex:
        opened.append(ShardedIndex.open(uri, num_shards, **{"num_cpus": 0.5} | options))
        return opened[-1]

    yield open_sharded
    for index in opened:
        index.close()


def identical(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


def process_of(index, number: int) -> int:
    """Id of the process of a shard."""
    import ray

    actor = index._shards[number].actor
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))


def test_answers_are_those_of_one_index(corpus, uri, sharded, tmp_path):
    one, index = VoiceprintIndex.open(uri), sharded(uri)
    assert len(one.segments) > 5
    assert {s.entry.kind for s in one.segments} == {"exact", "ivf-rabitq"}
    assert index.num_shards == 3
    assert (len(index), index.names(), index.dimension) == (len(one), ["Ann", "Bob"], 192)
    assert index.info() == one.info()
    assert index.generation == one.generation

    everyone = VOICES.say(np.arange(40))
    for number in (1, 5, 19, 20, 40):
        identical(index.neighbors(everyone[:number], 7), one.neighbors(everyone[:number], 7))
    for options in (
        {"where": {"language": "fr"}},
        {"where": {"language": ["en", "fr"], "episode": [1, 2, 3]}},
        {"where": (pc.field("episode") > 20) & pc.field("speaker").isin(["SPEAKER_01"])},
        {"where": {"language": "de"}},
        {"include_short": True},
        {"exact": True},
        {"probes": 1, "candidates": 5},
    ):
        identical(index.neighbors(everyone, 12, **options), one.neighbors(everyone, 12, **options))
    scores, ids = index.neighbors(everyone[:2], 500)
    identical((scores, ids), one.neighbors(everyone[:2], 500))
    assert ids[0, -1] == -1
    assert scores[0, -1] == -np.inf
    many = VOICES.say(np.arange(9001) % 40)
    identical(index.neighbors(many, 3), one.neighbors(many, 3))

    some = ids[ids >= 0][::-3]
    assert index.columns(some, ["uri", "id"]).equals(one.columns(some, ["uri", "id"]))
    assert index.records(some) == one.records(some)
    identical([index.vectors(some)], [one.vectors(some)])
    assert index.records([]) == []
    french = pc.field("language") == "fr"
    identical([index.ids_where(french)], [one.ids_where(french)])
    assert index.id_of("recording-0100", "SPEAKER_01") == one.id_of("recording-0100", "SPEAKER_01")

    options = {"calibration": CALIBRATION, "where": {"language": "fr"}}
    assert search(index, everyone, 5, **options) == search(one, everyone, 5, **options)
    assert search_name(index, "Ann") == search_name(one, "Ann")
    whom = ("recording-0100", "SPEAKER_01")
    assert search_speaker(index, *whom) == search_speaker(one, *whom)
    meeting = diarized("meeting", VOICES.say(np.array([1, 9, 0])))
    who = enrolment.identify(index, meeting, CALIBRATION)
    assert [identity.name for identity in who] == ["Bob", None, "Ann"]
    assert who == enrolment.identify(one, meeting, CALIBRATION)
    tables = [str(tmp_path / name) for name in ("one", "sharded")]
    for opened, table in zip((one, index), tables, strict=True):
        assert search_dataset(opened, corpus[1], table, calibration=CALIBRATION) > 200
    assert pq.read_table(tables[0]).equals(pq.read_table(tables[1]))


def test_equal_voices_come_in_the_order_of_their_ids(uri, sharded):
    index = sharded(uri, 2)
    twins = index.ids_where(pc.starts_with(pc.field("recording_id"), "twin") & ~pc.field("short"))
    assert len(twins) == 44 - 1
    for k in (5, 30, 43):
        scores, ids = index.neighbors(TWIN[None], k)
        identical((scores, ids), VoiceprintIndex.open(uri).neighbors(TWIN[None], k))
        assert ids[0].tolist() == twins[:k].tolist()
        assert len(set(scores[0])) == 1


def test_a_shard_killed_in_a_search_starts_again(uri, sharded):
    one, index = VoiceprintIndex.open(uri), sharded(uri, 3)
    many = VOICES.say(np.arange(9001) % 40)
    victim, other = process_of(index, 1), process_of(index, 2)
    os.kill(victim, signal.SIGSTOP)  # it cannot have answered when it dies
    with ThreadPoolExecutor() as threads:
        searches = [threads.submit(index.neighbors, queries, 5) for queries in (many, many[:9])]
        time.sleep(0.5)
        assert not any(search.done() for search in searches)
        os.kill(victim, signal.SIGKILL)
        identical(searches[0].result(), one.neighbors(many, 5))
        identical(searches[1].result(), one.neighbors(many[:9], 5))
    assert process_of(index, 1) != victim
    assert process_of(index, 2) == other
    # and one that dies between searches
    os.kill(other, signal.SIGKILL)
    ids = one.neighbors(many, 5)[1][:, 0]
    identical([index.vectors(ids)], [one.vectors(ids)])


def test_readers_keep_their_generation_until_they_refresh(corpus, tmp_path, sharded):
    uri = build(str(tmp_path / "index"), corpus)
    index, one = sharded(uri, 2), VoiceprintIndex.open(uri)
    processes = [process_of(index, n) for n in range(2)]
    expected = one.neighbors(VOICES.means, 9)
    more, _ = conversations(VOICES, 30, prefix="more", seed=1)
    builder.add(uri, [write_dataset(tmp_path / "more", more)])
    builder.delete(uri, [f"recording-{n:04d}" for n in range(20)])
    builder.vacuum(uri, grace=0)
    identical(index.neighbors(VOICES.means, 9), expected)

    later, now = index.refresh(), VoiceprintIndex.open(uri)
    assert later.refresh() is later
    assert later.info() == now.info()
    assert (len(index), len(later)) == (len(one), len(now))
    identical(later.neighbors(VOICES.means, 9), now.neighbors(VOICES.means, 9))
    identical(index.neighbors(VOICES.means, 9), expected)
    assert [process_of(later, n) for n in range(2)] == processes

    # a shard that starts again opens what it held, or says that this is gone
    for process in processes:
        os.kill(process, signal.SIGKILL)
    identical(later.neighbors(VOICES.means, 9), now.neighbors(VOICES.means, 9))
    with pytest.raises(VoiceprintIndexError, match=r"shard \d of 2 .* is missing.*`vacuum`"):
        index.neighbors(VOICES.means, 9)


def test_errors_are_those_of_one_index(corpus, uri, tmp_path, sharded):
    index = sharded(uri)
    for error, message, call in (
        (ConfigError, "192 dimensions", lambda: index.neighbors(np.ones((1, 256)))),
        (ConfigError, "at least 1", lambda: index.neighbors(VOICES.means, 0)),
        (ConfigError, "no columns", lambda: index.neighbors(VOICES.means, where={"genre": 1})),
        (ConfigError, "genre", lambda: index.ids_where(pc.field("genre") == 1)),
        (ConfigError, "num_shards", lambda: sharded(uri, 0)),
        (VoiceprintNotFound, "no voiceprint 123456", lambda: index.vectors([0, 123456])),
        (VoiceprintNotFound, "no voiceprint 123456", lambda: index.records([123456])),
        (VoiceprintNotFound, "of nobody", lambda: search_speaker(index, "nowhere", "SPEAKER_00")),
        (VoiceprintNotFound, "knows Ann, Bob", lambda: search_name(index, "Eve")),
        (VoiceprintIndexError, "holds no voiceprint index", lambda: sharded(str(tmp_path))),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert type(caught.value) is error

    bad = str(tmp_path / "bad")
    builder.build(bad, corpus[:1])
    [path] = Path(bad, "files").glob("*.f32")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(VoiceprintIndexError, match=f"{path.name} is damaged") as caught:
        sharded(bad)
    assert type(caught.value) is VoiceprintIndexError


def test_a_call_that_kills_its_shard_again_and_again_is_an_error(uri, sharded, monkeypatch):
    from raydiar.voiceprints import sharded as module

    index = sharded(uri, 1)
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    monkeypatch.setattr(module, "_MAX_LIVES", 2)
    [shard] = index._shards
    deadly = shard.actor.__ray_call__.remote(lambda _: (time.sleep(2), os.kill(os.getpid(), 9)))
    with pytest.raises(VoiceprintIndexError, match=r"shard 1 of 1 .* died 1 times during one"):
        list(index._answers({deadly: shard}))


def free_cpus() -> float:
    import ray

    return ray.available_resources().get("CPU", 0)


def wait_for_cpus(number: float) -> None:
    deadline = time.monotonic() + 60
    while free_cpus() != number:
        assert time.monotonic() < deadline, f"{free_cpus()} CPUs are free, not {number}"
        time.sleep(0.1)


def test_shards_without_a_place_are_named_and_what_they_held_is_free_again(uri, sharded):
    import ray

    wait_for_cpus(3)
    with pytest.raises(VoiceprintIndexError, match=r"shard \d of 2 .* no process for 1 s"):
        sharded(uri, 2, num_cpus=2, timeout=1)
    wait_for_cpus(3)

    @ray.remote(num_cpus=3)
    class Greedy:
        pass

    index = sharded(uri, 1, num_cpus=1)
    expected = index.neighbors(VOICES.means)
    wait_for_cpus(2)
    greedy = Greedy.remote()  # waits for the CPU that the shard has
    os.kill(process_of(index, 0), signal.SIGKILL)
    ray.get(greedy.__ray_ready__.remote())
    with pytest.raises(VoiceprintIndexError, match=r"shard 1 of 1 .* no process for 1 s"):
        replace(index, timeout=1).neighbors(VOICES.means)
    ray.kill(greedy)
    identical(index.neighbors(VOICES.means), expected)
    index.close()
    wait_for_cpus(3)
    with pytest.raises(VoiceprintIndexError, match=r"shard 1 of 1 .* is lost"):
        index.neighbors(VOICES.means)


def test_an_index_of_nobody_has_no_shards(tmp_path, sharded):
    uri = str(tmp_path / "index")
    builder.build(uri, [write_dataset(tmp_path / "out", [diarized("silence", [])])])
    index = sharded(uri)
    assert (len(index), index.num_shards, index.names()) == (0, 0, [])
    assert index.neighbors(np.ones((2, 192)), 3)[1].tolist() == [[-1] * 3] * 2
    assert index.info() == VoiceprintIndex.open(uri).info()


def test_the_job_searches_in_shards(corpus, uri, local_ray, tmp_path):
    one, shards = (str(tmp_path / name) for name in ("one", "shards"))
    search_dataset(VoiceprintIndex.open(uri), corpus[1], one)
    arguments = ["--index", uri, "--queries", corpus[1], "--output", shards, "--shards", "2"]
    result = subprocess.run(
        [sys.executable, JOBS / "search_voiceprints.py", *arguments],
        env=os.environ | {"RAY_ADDRESS": local_ray},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "the index is open in 2 shards"
    assert pq.read_table(one).equals(pq.read_table(shards))
