"""A corpus of simulated conversations: what training takes, and what goes on after a kill."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from audio_files import write
from training_files import people, structure
from typer.testing import CliRunner

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.cli import app
from raydiar.diarization import from_turns
from raydiar.errors import ManifestError, OutputError, SimulationError
from raydiar.training import SpeakerDiarization, build_index, check_manifest
from raydiar.training.sources import AllWindows, RecordedWindows

LIMIT = 300  # s, that nothing here takes on any machine


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Utterances by person, and who speaks when in two conversations."""
    folder = tmp_path_factory.mktemp("sources")
    for person, utterances in people(3).items():
        (folder / "voices" / person).mkdir(parents=True)
        for number, samples in enumerate(utterances):
            path = folder / "voices" / person / f"{number}.wav"
            write(path, samples / 32768.0, SAMPLE_RATE, "pcm_s16le")
    (folder / "rttm").mkdir()
    for count in (2, 3):
        turns = from_turns(f"real{count}", structure(count, seed=count).turns)
        (folder / "rttm" / f"{count}.rttm").write_text(turns.to_rttm())
    return folder


def command(sources: Path, output: Path, number: int, *more: str) -> list[str]:
    told = ["corpus", "simulate", "--output", str(output), "--number", str(number)]
    told += ["--voices", str(sources / "voices"), "--structures", str(sources / "rttm")]
    return [*told, "--duration", "5-6", "--speakers", "2-3", "--per-block", "2", *more]


def simulate(sources: Path, output: Path, number: int, *more: str):
    return CliRunner().invoke(app, command(sources, output, number, *more))


def test_a_corpus_is_what_training_takes(local_ray, sources, tmp_path):
    result = simulate(sources, tmp_path / "corpus", 5)
    assert result.exit_code == 0, result.output
    assert "5 conversations" in result.output
    manifest = str(tmp_path / "corpus/manifest.parquet")
    assert list(check_manifest(manifest)) == []
    rows = pq.read_table(manifest).to_pylist()
    assert len({row["recording_id"] for row in rows}) == 5
    assert all(5 <= row["seconds"] <= 6.1 and 2 <= row["num_speakers"] <= 3 for row in rows)
    task = SpeakerDiarization(manifest, duration=2.0, max_speakers_per_chunk=3)
    task.setup()
    assert set(task.source.index.labels) <= set(people(3))
    assert np.abs(task.source.example(0).samples).max() > 500

    more = simulate(sources, tmp_path / "corpus", 7)
    assert "7 conversations" in more.output
    assert "(3 of them new" in more.output  # the block that was not full is made again
    again = pq.read_table(manifest).to_pylist()
    assert again[:5] == rows

    other = simulate(sources, tmp_path / "corpus", 7, "--seed", "1")
    assert other.exit_code == 1
    assert "holds another simulation (seed was 0, now 1)" in other.output


def test_what_a_kill_left_is_gone_on_with(local_ray, sources, tmp_path):
    output = tmp_path / "corpus"
    job = subprocess.Popen(
        [sys.executable, "-m", "raydiar", *command(sources, output, 100_000)],
        env=os.environ | {"RAY_ADDRESS": local_ray},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + LIMIT
    while len(list((output / "_raydiar/parts").glob("*.parquet"))) < 3:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    # what its tasks had begun is over: only who holds the lock writes
    parts = {path.name: path.stat().st_mtime_ns for path in (output / "_raydiar/parts").iterdir()}
    number = 2 * (max(int(name.partition("-")[0]) for name in parts) + 2)
    result = simulate(sources, output, number)
    assert result.exit_code == 0, result.output
    now = {path.name: path.stat().st_mtime_ns for path in (output / "_raydiar/parts").iterdir()}
    assert parts.items() <= now.items(), "blocks that were done were made again"
    assert list(check_manifest(str(output / "manifest.parquet"), audio=False)) == []

    whole = tmp_path / "whole"
    assert simulate(sources, whole, number).exit_code == 0
    assert files(whole) == {
        name: data for name, data in files(output).items() if name in files(whole)
    }
    assert pq.read_table(whole / "manifest.parquet") == pq.read_table(output / "manifest.parquet")


def files(corpus: Path) -> dict[str, bytes]:
    found = [path for kind in ("audio", "labels") for path in (corpus / kind).rglob("*.*")]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in found}


def test_shards_are_learnt_from_without_unpacking(local_ray, sources, tmp_path):
    """The same windows as from files; and from object storage only what is wanted of a shard."""
    for form in ("files", "shards"):
        more = ["--shards"] if form == "shards" else []
        result = simulate(sources, tmp_path / form, 4, *more)
        assert result.exit_code == 0, result.output
    indices = [
        build_index(str(tmp_path / form / "manifest.parquet"), tmp_path / f"index-{form}")
        for form in ("files", "shards")
    ]
    assert "shards/000001.tar#" in indices[1].uri(3)
    assert indices[0].place(3) is None
    assert indices[1].place(3)[1] < (tmp_path / "shards/shards/000001.tar").stat().st_size
    drawn = [RecordedWindows(index, 2.0) for index in indices]
    for number in range(6):
        one, other = (source.example(number) for source in drawn)
        assert np.array_equal(one.samples, other.samples)
        assert np.array_equal(one.starts, other.starts)
        assert one.name == other.name
    assert len(AllWindows(indices[1], 2.0)) == len(AllWindows(indices[0], 2.0))
    assert list(check_manifest(str(tmp_path / "shards/manifest.parquet"))) == []


def test_members_that_cannot_be_read_by_excerpts_are_told(sources, tmp_path):
    voice = (sources / "voices/person0/0.wav").read_bytes()
    header = tarfile.TarInfo("a.wav")
    header.size = len(voice)
    for name, mode in (("a.tar", "w"), ("a.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            tar.addfile(header, io.BytesIO(voice))
    (tmp_path / "a.rttm").write_text("SPEAKER a 1 0.0 2.0 <NA> <NA> ann <NA> <NA>\n")
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 1000)
    manifest = tmp_path / "m.csv"

    def index(uri: str):
        manifest.write_text(f"uri,rttm\n{uri},a.rttm\n")
        return build_index(str(manifest), tmp_path / "index")

    made = index("a.tar#a.wav")
    assert np.array_equal(
        RecordedWindows(made, 6.0).example(0).samples, decode(sources / "voices/person0/0.wav")
    )
    for uri, said in (
        ("a.tar#b.wav", "has no member 'b.wav'; it has a.wav"),
        ("a.tar.gz#a.wav", "without compression"),
        ("broken.tar#a.wav", "is no tar"),
    ):
        with pytest.raises(ManifestError, match=said):
            index(uri)


def test_sources_of_nothing_are_told_in_one_line(sources, tmp_path):
    cases = [
        (["--voices", str(tmp_path)], "there is no audio in"),
        (["--voices", str(sources / "voices/person0")], "belongs to nobody"),
        (["--structures", str(sources / "voices")], "there is no .rttm file in"),
        (["--speakers", "5-9"], "are too few for conversations of up to 9"),
        (["--duration", "long"], "--duration is a range such as 2-4"),
        (["--rooms", str(tmp_path / "no")], "there is no audio in"),
    ]
    for more, said in cases:
        result = simulate(sources, tmp_path / "corpus", 2, *more)
        assert result.exit_code == 1, (more, result.output)
        assert said in result.output, (more, result.output)
        assert len(result.output.strip().splitlines()) <= 2, result.output


def test_voices_of_a_table(sources, tmp_path):
    from raydiar.corpus.job.simulating import Simulation

    rows = ["path,speaker,subset"]
    for person in ("person0", "person1"):
        rows += [f"{sources}/voices/{person}/{n}.wav,{person},train" for n in range(2)]
    (tmp_path / "voices.csv").write_text("\n".join(rows) + "\n")
    made = Simulation(str(tmp_path / "voices.csv"), str(sources / "rttm/2.rttm")).simulator()
    assert {name: len(found) for name, found in made.voices.items()} == {"person0": 2, "person1": 2}
    (tmp_path / "voices.csv").write_text("path,person\na.wav,b\n")
    with pytest.raises(SimulationError, match="no column `speaker`"):
        Simulation(str(tmp_path / "voices.csv"), str(sources / "rttm")).simulator()


def test_two_runs_do_not_write_one_corpus(sources, tmp_path):
    from raydiar.corpus.job.simulating import Simulation, simulate_corpus
    from raydiar.storage.folder import Folder
    from raydiar.storage.lock import OutputLock

    simulation = Simulation(str(sources / "voices"), str(sources / "rttm"), num_conversations=1)
    with (
        OutputLock(Folder(str(tmp_path)), "another"),
        pytest.raises(OutputError, match="another"),
    ):
        simulate_corpus(simulation, str(tmp_path))
