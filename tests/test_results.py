"""Results as people get them: every form, a folder of files, pictures, notebooks, terminals."""

import csv
import io
import json
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from raydiar.cli import main
from raydiar.diarization import Diarization, Speaker, Turn, from_turns, read_rttm
from raydiar.errors import ConfigError
from raydiar.formats import FORMATS, document
from raydiar.picture import draw_svg
from raydiar.pipelines.inputs import Input, find_inputs
from raydiar.pipelines.results import ResultFolder

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def talk_of_two() -> Diarization:
    turns = (
        Turn(0.5, 4.25, "SPEAKER_00", 0.914),
        Turn(4.0, 65.0625, "SPEAKER_01", 0.8),
        Turn(70.0, 71.0, "SPEAKER_00"),
    )
    speakers = (Speaker("SPEAKER_00", 4.75, 4.0, 3), Speaker("SPEAKER_01", 61.0625, 7.0, 5))
    return Diarization("talk", 72.0, turns, turns[:1], speakers, warnings=("take care",))


def test_every_form_says_who_speaks_when(talk_of_two):
    text = {name: format.text(talk_of_two) for name, format in FORMATS.items()}
    assert text["rttm"].splitlines()[0] == (
        "SPEAKER talk 1 0.500 3.750 <NA> <NA> SPEAKER_00 <NA> <NA>"
    )
    rows = list(csv.reader(io.StringIO(text["csv"])))
    assert rows[1:] == [
        ["talk", "0.500", "4.250", "SPEAKER_00", "0.914"],
        ["talk", "4.000", "65.062", "SPEAKER_01", "0.800"],
        ["talk", "70.000", "71.000", "SPEAKER_00", ""],
    ]
    assert text["lab"].splitlines()[2] == "70.000 71.000 SPEAKER_00"
    assert text["audacity"].splitlines()[0] == "0.500000\t4.250000\tSPEAKER_00"
    assert text["vtt"].startswith("WEBVTT\n\n00:00:00.500 --> 00:00:04.250\n<v SPEAKER_00>")
    assert "\n00:00:04.000 --> 00:01:05.062\n" in text["vtt"]
    assert text["txt"] == str(talk_of_two) + "\n"
    told = json.loads(text["json"])
    assert told["diarization"][0] == {
        "start": 0.5,
        "end": 4.25,
        "speaker": "SPEAKER_00",
        "confidence": 0.914,
    }
    assert told["exclusive_diarization"][0]["confidence"] == 0.914
    assert "confidence" not in told["diarization"][2], "what is not known is not said"
    assert told["warnings"] == ["take care"]
    assert told["speakers"][1] == {"speaker": "SPEAKER_01", "speech_seconds": 61.062}
    # pyannote's own form is as it was
    assert talk_of_two.serialize()["diarization"][0].keys() == {"start", "end", "speaker"}


def test_several_recordings_in_one_file(talk_of_two):
    other = from_turns("other", [Turn(0, 1, "a")])
    for name in ("lab", "audacity", "vtt"):
        with pytest.raises(ConfigError, match="--into DIR"):
            FORMATS[name].write([talk_of_two, other], io.StringIO())
    file = io.StringIO()
    FORMATS["json"].write([talk_of_two, other], file)
    assert [one["uri"] for one in json.loads(file.getvalue())] == ["talk", "other"]
    file = io.StringIO()
    FORMATS["txt"].write([talk_of_two, other], file)
    assert "\n\nother: 1 speaker in 1.0 s\n" in file.getvalue()


def test_labels_that_a_form_cannot_hold():
    odd = from_turns("talk", [Turn(0, 1, "Ann <ann@b.c> & co")])
    assert "<v Ann &lt;ann@b.c&gt; &amp; co>" in FORMATS["vtt"].text(odd)
    assert FORMATS["audacity"].text(odd).endswith("\tAnn <ann@b.c> & co\n")
    for name in ("rttm", "lab"):
        with pytest.raises(ValueError, match="rename the speaker"):
            FORMATS[name].text(odd)
    for name in ("audacity", "vtt"):
        with pytest.raises(ValueError, match="rename the speaker"):
            FORMATS[name].text(from_turns("talk", [Turn(0, 1, "a\nb")]))


def test_a_terminal_shows_a_table(talk_of_two):
    lines = str(talk_of_two).splitlines()
    assert lines[0] == "talk: 2 speakers in 1:12.0"
    assert lines[2].split() == ["start", "end", "duration", "speaker", "confidence"]
    assert lines[4].split() == ["0:04.00", "1:05.06", "61.06", "s", "SPEAKER_01", "0.80"]
    assert lines[-1].split() == ["SPEAKER_01", "1", "1:01.06", "93", "%"]
    assert str(Diarization("silence", 5.0)) == "silence: 0 speakers in 5.0 s"


def bars(svg: str) -> list[tuple[str, str]]:
    """(colour, tooltip) of each bar of a picture."""
    return [
        (group.get("fill"), bar.find(f"{SVG}title").text)
        for group in ElementTree.fromstring(svg).iter(f"{SVG}g")
        for bar in group.iter(f"{SVG}rect")
    ]


def test_a_notebook_shows_a_picture(talk_of_two):
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(talk_of_two)
    assert shown["text/plain"] == str(talk_of_two)
    assert shown["image/svg+xml"] in shown["text/html"]
    assert [note for _, note in bars(shown["image/svg+xml"])] == [
        "SPEAKER_00: 0:00.50 – 0:04.25, confidence 0.91",
        "SPEAKER_00: 1:10.00 – 1:11.00",
        "SPEAKER_01: 0:04.00 – 1:05.06, confidence 0.80",
    ]
    assert len({color for color, _ in bars(shown["image/svg+xml"])}) == 2


def test_pictures_of_odd_recordings():
    odd = from_turns("<a> & b", [Turn(0, 1, "x" * 300), Turn(5 * 3600, 90 * 3600, "<b>")])
    many = from_turns("many", [Turn(i, i + 0.9, f"s{i % 40}") for i in range(40_000)])
    svg = draw_svg([odd, Diarization("silence", 5.0), Diarization("nothing", 0.0), many])
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert "<a> & b: 2 speakers, 90:00:00" in texts
    assert texts.count("nobody speaks") == 2
    assert all(len(text) < 80 for text in texts)
    assert len(svg) < 8_000_000
    day = from_turns("day", [Turn(i / 10, i / 10 + 0.09, "a") for i in range(864_000)])
    assert len(draw_svg([day])) < 100_000, "turns that no eye can part are one bar"


def raydiar(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["raydiar", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


@pytest.fixture
def recordings(talk, tmp_path):
    folder = tmp_path / "in"
    for name in ("mon/call.wav", "tue/call.wav", "tue/My talk.wav", "tue/My talk.mp3.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(talk)
    return folder


def test_a_folder_becomes_a_folder(recordings, tmp_path, monkeypatch, capsys):
    into = tmp_path / "out" / "deep"
    (recordings / "tue/broken.wav").write_bytes(b"no audio")
    code = raydiar(
        monkeypatch,
        *("diarize", recordings, "--into", into),
        *("--set", "clustering.threshold=0.6", "--set", "segmentation.min_duration_off=0.1"),
    )
    out, told = capsys.readouterr()
    assert (code, out) == (1, "")
    assert "broken.wav" in told
    assert "1 of 5 files failed" in told
    found = sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file())
    assert found == sorted(
        f"{name}.{kind}"
        for name in ("mon/call", "tue/call", "tue/My_talk", "tue/My_talk.mp3")
        for kind in ("rttm", "json")
    )
    [(uri, again)] = read_rttm(into / "tue/call.rttm").items()
    assert uri == "tue-call"
    told = json.loads((into / "tue/call.json").read_text())
    assert [turn["speaker"] for turn in told["diarization"]] == [t.speaker for t in again.turns]
    assert all(0 <= turn["confidence"] <= 1 for turn in told["diarization"])


def test_settings_reach_the_pipeline(talk, pipeline, tmp_path, monkeypatch, capsys):
    (tmp_path / "talk.wav").write_bytes(talk)
    arguments = ["diarize", tmp_path / "talk.wav", "--format", "json"]
    assert raydiar(monkeypatch, *arguments, "--set", "segmentation.min_duration_off=60") == 0
    told = json.loads(capsys.readouterr().out)
    speakers = [turn["speaker"] for turn in told["diarization"]]
    assert len(speakers) == len(set(speakers)), "no pause is left"
    for wrong in ("clustering.thresold=1", "clustering.threshold=high", "threshold=1", "a.b=["):
        assert raydiar(monkeypatch, *arguments, "--set", wrong) == 2
        out, told = capsys.readouterr()
        assert (out, len(told.splitlines())) == ("", 1)


def test_what_cannot_be_written_is_told_before_work(recordings, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("here")
    for arguments in (
        (recordings, "--format", "vtt"),
        (recordings, "--format", "vtt", "--format", "lab"),
        (recordings, "--into", tmp_path / "file"),
    ):
        assert raydiar(monkeypatch, "diarize", *arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    for arguments in (
        (recordings / "mon/call.wav", "-o", tmp_path / "x.gif"),
        (tmp_path / "nowhere.rttm", "-o", tmp_path / "x.svg"),
    ):
        assert raydiar(monkeypatch, "plot", *arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_names_in_a_folder(recordings, tmp_path, talk_of_two):
    def names(*arguments):
        inputs = find_inputs([str(one) for one in arguments])
        folder = ResultFolder(str(tmp_path / "out"), [FORMATS["audacity"], FORMATS["txt"]], inputs)
        return sorted(folder._names.values())

    assert names(recordings / "mon/call.wav", recordings / "tue/call.wav") == [
        "mon-call",
        "tue-call",
    ]
    assert names(recordings / "*" / "call.wav") == ["mon/call", "tue/call"]
    assert names(f"{recordings}/**/call.wav") == ["mon/call", "tue/call"]
    assert names(recordings / "mon", recordings / "tue/call.wav") == ["mon-call", "tue-call"]
    (recordings / "mon/Call.wav").write_bytes(b"")
    assert len({name.casefold() for name in names(recordings / "mon")}) == 2
    one = Input("x.wav", "talk", "a")
    ResultFolder(str(tmp_path), [FORMATS["audacity"], FORMATS["txt"]], [one]).write([talk_of_two])
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"x.labels.txt", "x.txt"}


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_plot_of_labels(kind, tmp_path, monkeypatch, talk_of_two):
    rttm, picture = tmp_path / "two.rttm", tmp_path / f"two.{kind}"
    other = from_turns("other", [Turn(0, 1, "a")])
    rttm.write_text(talk_of_two.to_rttm() + other.to_rttm())
    assert raydiar(monkeypatch, "plot", rttm, "-o", picture) == 0
    if kind == "svg":
        assert len(bars(picture.read_text())) == 4
    else:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_plot_of_a_recording(talk, tmp_path, monkeypatch, pipeline):
    (tmp_path / "talk.wav").write_bytes(talk)
    assert raydiar(monkeypatch, "plot", tmp_path / "talk.wav", "-o", tmp_path / "x.svg") == 0
    expected = pipeline(tmp_path / "talk.wav")
    assert len(bars((tmp_path / "x.svg").read_text())) == len(expected.turns)
    assert document(expected)["uri"] == "talk"
