"""`raydiar voiceprint …` and the jobs, as people type them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from voiceprint_corpus import Voices, conversations, write_dataset

from raydiar import audio
from raydiar.cli import app
from raydiar.errors import ConfigError, VoiceprintIndexError, VoiceprintNotFound
from raydiar.voiceprints import commands
from raydiar.voiceprints.builder import build

JOBS = Path(__file__).resolve().parents[1] / "jobs"
VOICES = Voices(10)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["voiceprint", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def corpus(tmp_path) -> str:
    recordings, _ = conversations(VOICES, 20)
    return write_dataset(tmp_path / "corpus", recordings)


def test_from_a_dataset_to_a_table_of_hits(corpus, tmp_path):
    index = str(tmp_path / "index")
    assert "generation 1, 40 voiceprints added" in run(
        "build", index, corpus, "--column", "episode"
    )
    more, _ = conversations(VOICES, 10, prefix="more", seed=1)
    more = write_dataset(tmp_path / "more", more)
    assert "20 voiceprints added, 20 recordings were there" in run("add", index, more, corpus)

    printed = run("search", index, "--recording", "recording-0003", "--speaker", "SPEAKER_01")
    query, header, *hits = printed.splitlines()
    assert query == "SPEAKER_01 of recording-0003"
    assert header.split() == ["sure", "score", "speaker", "recording", "when"]
    assert len(hits) == 10
    assert re.fullmatch(
        r"  -  +0\.[89]\d\d  SPEAKER_0[01]  (recording|more)-\d{4}  0:[02]0\.0-0:[13]0\.0", hits[0]
    )

    asked = ["--recording", "recording-0003", "--speaker", "SPEAKER_01", "--json"]
    lines = run("search", index, *asked, "--where", "episode=4", "--where", "episode=5")
    hits = [json.loads(line) for line in lines.splitlines()]
    assert {hit["columns"]["episode"] for hit in hits} == {4, 5}
    assert all(turn["speaker"] == hit["speaker"] for hit in hits for turn in hit["turns"])

    assert "2 voiceprints deleted" in run("delete", index, "recording-0003")
    with pytest.raises(VoiceprintNotFound, match="nobody in that recording"):
        run("search", index, *asked)
    info = dict(line.split(maxsplit=1) for line in run("info", index).splitlines())
    assert (info["voiceprints"], info["generation"], info["deleted"]) == ("58", "3", "2")
    run("vacuum", index, "--grace", "0", "--compact")
    assert "deleted          0" in run("info", index)

    other = str(tmp_path / "other")
    run("build", other, more)
    assert "20 recordings were there" not in run("merge", other, index)
    assert "voiceprints      58" in run("info", other)


def test_to_delete_what_is_not_there_is_told(corpus, tmp_path):
    index = str(tmp_path / "index")
    run("build", index, corpus)

    def delete(*arguments):
        result = CliRunner().invoke(app, ["voiceprint", "delete", index, *arguments])
        assert result.exit_code == 1
        return result

    assert "no voiceprint of the recording 'nope'" in delete("nope").stderr
    assert "nobody named 'Nobody'" in delete("--name", "Nobody").stderr
    assert "generation       1" in run("info", index)
    both = delete("nope", "recording-0003")
    assert "2 voiceprints deleted" in both.stdout
    assert "'nope'" in both.stderr
    assert "recording-0003" not in both.stderr
    assert "no voiceprint of the recording 'recording-0003'" in delete("recording-0003").stderr


def test_what_is_wrong_is_one_line(corpus, tmp_path):
    index = str(tmp_path / "index")
    run("build", index, corpus)
    with pytest.raises(ConfigError, match="say whom to seek"):
        run("search", index)
    with pytest.raises(ConfigError, match="COLUMN=VALUE"):
        run("search", index, "--name", "Ann", "--where", "episode")
    with pytest.raises(ConfigError, match="say what to delete"):
        run("delete", index)
    with pytest.raises(VoiceprintIndexError, match="holds no voiceprint index"):
        run("info", str(tmp_path))
    script = "from raydiar.cli import main; main()"
    command = [sys.executable, "-c", script, "voiceprint", "info", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == f"raydiar: {tmp_path} holds no voiceprint index: it has no CURRENT\n"


def test_people_of_a_real_conversation(pipeline, sample_wav, tmp_path, monkeypatch):
    """Two people talk: found in the corpus by a clip, learned by name, and named again."""
    from audio_files import write

    monkeypatch.setattr(commands, "_pipeline", lambda checkpoint, token: pipeline)
    samples = audio.decode(str(sample_wav)) / 32768

    def clip(name: str, start: float, end: float) -> str:
        part = samples[round(16000 * start) : round(16000 * end)]
        return str(write(tmp_path / f"{name}.wav", part, 16000, "pcm_s16le"))

    index = str(tmp_path / "index")
    whole = pipeline(str(sample_wav))
    build(index, [write_dataset(tmp_path / "out", [whole], pipeline=pipeline.describe())])

    end = clip("end", 18.75, 30)
    printed = run("search", index, end, "-k", "1").splitlines()
    assert [line.split(" of ")[0] for line in printed[::3]] == ["SPEAKER_00", "SPEAKER_01"]
    hits = [line.split() for line in printed[2::3]]
    assert {hit[4 + (hit[1] == "over")] for hit in hits} == {"SPEAKER_00", "SPEAKER_01"}
    assert all("sample" in hit and hit[0] == "likely," for hit in hits)

    # the longest stretches in which one person speaks, by the diarization of the whole
    turns = sorted(whole.exclusive_turns, key=lambda turn: turn.duration)[::-1]
    longest = {turn.speaker: turn for turn in reversed(turns)}
    for number, (speaker, turn) in enumerate(sorted(longest.items())):
        name, said = ("Ann", "Bob")[number], clip(speaker, turn.start, turn.end)
        if turn.duration >= 6:
            assert re.match(rf"{name}: \d+\.\d s of speech in ", run("enroll", index, name, said))
    enrolled = [line for line in run("info", index).splitlines() if line.startswith("enrolled")]
    assert enrolled[0].split(maxsplit=1)[1] != "-"
    named = run("identify", index, end)
    assert all(name in named for name in enrolled[0].split(maxsplit=1)[1].split(", "))

    first, second = (clip(f"half-{n}", *times) for n, times in enumerate([(6.5, 14), (21, 28)]))
    same = CliRunner().invoke(app, ["voiceprint", "verify", first, second])
    assert re.match(r"(same person|different people): score 0\.\d{3}, probability", same.stdout)
    assert same.exit_code == (0 if same.stdout.startswith("same") else 1)
    run("verify", first, first)


def test_the_jobs_index_and_search_a_corpus(corpus, tmp_path):
    index, hits = str(tmp_path / "index"), str(tmp_path / "hits.parquet")

    def job(name: str, *arguments: str) -> str:
        command = [sys.executable, JOBS / name, *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "40 voiceprints added" in job("build_voiceprint_index.py", corpus, "--index", index)
    again = job("build_voiceprint_index.py", corpus, "--index", index)
    assert "generation 2, 20 recordings were there already" in again
    asked = ["--index", index, "--queries", corpus, "--output", hits, "-k", "2"]
    assert "40 voices sought" in job("search_voiceprints.py", *asked)
    table = pq.read_table(hits)
    assert np.array_equal(table["rank"], np.tile([1, 2], 40))
