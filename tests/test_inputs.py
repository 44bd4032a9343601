"""The doors of `raydiar diarize`: files, URIs, folders, globs, standard input, excerpts."""

import io
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem

from raydiar import audio
from raydiar.cli import main
from raydiar.clustering.parameters import speaker_bounds
from raydiar.devices import parse_device
from raydiar.errors import AudioDecodeError, AudioNotFound, ConfigError, EmptyAudio
from raydiar.pipelines.inputs import find_inputs
from raydiar.serving.failures import message


def named(arguments, **options) -> dict[str, object]:
    return {one.name: one.source for one in find_inputs([str(a) for a in arguments], **options)}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a/call.wav", "b/call.wav", "b/Title [x7].mp3", "notes.txt", ".hidden/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.wav")
    return tmp_path


def test_a_folder_gives_its_audio(folder):
    found = named([folder])
    assert {name: Path(path).parent.name for name, path in found.items()} == {
        "a-call": "a",
        "b-call": "b",
        "Title_[x7]": "b",
    }
    assert list(named([folder.as_uri()])) == list(found)


def test_a_path_that_exists_is_no_pattern(folder):
    for argument in (folder / "b/Title [x7].mp3", (folder / "b/Title [x7].mp3").as_uri()):
        assert named([argument]) == {"Title_[x7]": str(folder / "b/Title [x7].mp3")}
    assert list(named([folder / "*/*.mp3"])) == ["Title_[x7]"]
    # a file that is missing is told when it is read, with the others read nevertheless
    assert named([folder / "absent.wav"]) == {"absent": str(folder / "absent.wav")}


def test_names_that_are_no_utf8(folder):
    odd = os.fsencode(folder) + b"/b/caf\xe9.wav"
    Path(os.fsdecode(odd)).touch()
    found = named([folder])
    assert found["caf_xe9"] == os.fsdecode(odd)
    assert "".join(found).encode()


def test_what_gives_nothing_costs_the_others_nothing(folder):
    (folder / "empty").mkdir()
    told = []
    arguments = [folder / "empty", folder / "a/call.wav", folder / "no*such.wav"]
    found = named(arguments, on_error=lambda argument, error: told.append(str(error)))
    assert list(found) == ["call"]
    assert [message.partition(": ")[2] for message in told] == ["no audio files there."] * 2
    with pytest.raises(AudioNotFound, match="no audio files"):
        named(arguments)


def test_standard_input_once(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"RIFF")))
    [stdin] = find_inputs(["-"])
    assert (stdin.name, stdin.source.read()) == ("stdin", b"RIFF")
    with pytest.raises(ConfigError, match="once"):
        find_inputs(["-", "-"])


def test_a_prefix_and_a_glob_of_an_object_store(s3):
    s3.make("inputs", "talks/{}", [__file__])
    fs = S3FileSystem(skip_instance_cache=True)
    fs.pipe({f"inputs/{key}": b"1" for key in ("a/x.wav", "b/x.wav", "b/y?[1].wav", "n.txt")})
    assert list(named(["s3://inputs/a/", "s3://inputs/b/x.wav"])) == ["a-x", "b-x"]
    assert list(named(["s3://inputs/*/x.wav"])) == ["a-x", "b-x"]
    assert named(["s3://inputs/b/y?[1].wav"]) == {"y?[1]": "s3://inputs/b/y?[1].wav"}


def test_an_excerpt_has_the_times_of_its_file(pipeline, sample_wav):
    whole = pipeline({"audio": sample_wav, "duration": 12})
    samples = audio.decode(sample_wav).astype(np.float32)[None] / 32768
    for file in (
        {"audio": sample_wav, "start": 5.0, "duration": 6.0},
        {"waveform": samples, "sample_rate": 16000, "start": 5.0, "duration": 6.0},
    ):
        excerpt = pipeline(file)
        assert excerpt.duration == pytest.approx(6.0)
        assert all(5.0 <= turn.start < turn.end <= 11.0 for turn in excerpt.turns)
        first = next(turn for turn in whole.turns if turn.start > 5.5)
        assert min(abs(turn.start - first.start) for turn in excerpt.turns) < 0.2
    with pytest.raises(EmptyAudio, match="has ended"):
        pipeline({"waveform": samples, "sample_rate": 16000, "start": 500.0})
    for wrong in ({"start": -1.0}, {"duration": 0}, {"start": "ten"}):
        with pytest.raises(ConfigError, match="an excerpt has"):
            pipeline({"audio": sample_wav} | wrong)


def test_equal_names_in_two_folders_run(pipeline, talk, tmp_path):
    paths = [tmp_path / "mon/call.wav", tmp_path / "tue/call.wav"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(talk)
    assert [output.uri for _, output in pipeline(paths)] == ["mon-call", "tue-call"]


def test_no_limit_of_speakers_is_clamped(pipeline, talk):
    outputs = [
        pipeline(io.BytesIO(talk), **{name: 1000})
        for name in ("max_speakers", "min_speakers", "num_speakers")
    ]
    for output in outputs:
        assert any("is taken as 255" in warning for warning in output.warnings)
        assert output.turns
    assert outputs[0].turns == pipeline(io.BytesIO(talk)).turns
    assert speaker_bounds(None, 300, 10**30).maximum == 255
    assert not speaker_bounds(1, max_speakers=1000).warnings
    silence = {"waveform": np.zeros((1, 16000), np.float32), "sample_rate": 16000}
    assert "255" in pipeline(silence, max_speakers=1000).warnings[0]


def _diarize(pipeline, talk, results):
    try:
        pipeline(io.BytesIO(talk))
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")
    else:
        results.put("no error")


def test_a_fork_is_told_the_way_out(pipeline, talk):
    """It would hang in torch without a word."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_diarize, args=(pipeline, talk, results))
    process.start()
    try:
        message = results.get(timeout=60)
    finally:
        process.kill()
        process.join()
    assert message.startswith("ForkedProcess: ")
    assert "spawn" in message
    assert pipeline(io.BytesIO(talk)).turns


def raydiar(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raydiar", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **options)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "xpu", "mps", "meta", "cuda:99", ""])
def test_a_device_that_is_none_is_one_line(device, tmp_path, monkeypatch, capsys, pipeline):
    command = ["raydiar", "diarize", str(tmp_path / "absent.wav"), "--device", device]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="2"):
        main()
    out, told = capsys.readouterr()
    assert out == ""
    [line] = told.splitlines()
    assert "cpu" in line or "GPU" in line
    with pytest.raises(ConfigError):
        pipeline.to(device)
    with pytest.raises(ConfigError, match="auto, cuda or cpu"):
        parse_device(device, of_cluster=True)


def test_every_door_of_the_command(talk, tmp_path):
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks/Title [x7].wav").write_bytes(talk)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/talks/caf\xe9.wav")
    Path(odd).write_bytes(talk)
    (tmp_path / "talks/50% off.wav").write_bytes(talk)
    uri = (tmp_path / "talks/50% off.wav").as_uri()
    result = raydiar(
        *("diarize", "-", uri, tmp_path / "talks", tmp_path / "absent.wav"),
        *("--start", 1, "--duration", 3.5, "--format", "csv", "--max-speakers", 1000),
        input=talk,
    )
    told, lines = result.stderr.decode(), result.stdout.decode().splitlines()
    assert result.returncode == 1, told
    assert "Traceback" not in told
    assert "1 of 6 files failed" in told
    assert told.count("is taken as 255") == 5
    rows = [line.split(",") for line in lines[1:]]
    assert {row[0] for row in rows} == {
        *("stdin", "50%_off-1", "50%_off-2", "Title_[x7]", "caf_xe9"),
    }
    assert all(1.0 <= float(row[1]) < float(row[2]) <= 4.5 for row in rows)


def test_advice_names_what_the_interface_has(shared):
    with pytest.raises(AudioDecodeError) as raised:
        audio.decode(shared / "audio/odd-files/trunc.mp3")
    assert "`duration`" in str(raised.value)  # of mappings and manifests, --duration of the command
    assert len(audio.decode(shared / "audio/odd-files/trunc.mp3", duration=25.0)) == 400_000
    told = message(raised.value, "media://a")
    assert "duration" not in told
    assert told.endswith("Send the file again, or only the part of it that is whole.")
