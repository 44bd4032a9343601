"""Scores of diarizations: equal to pyannote.metrics, and what people see of them."""

import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.detection import DetectionErrorRate
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
from pyannote.metrics.segmentation import SegmentationPurityCoverageFMeasure
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.diarization import Turn, from_turns, read_rttm
from raydiar.errors import EvaluationError
from raydiar.evaluation.confidence import reliability
from raydiar.evaluation.diarization import (
    DiarizationErrors,
    diarization_errors,
    error_timeline,
    optimal_mapping,
    total_errors,
)
from raydiar.evaluation.recordings import Trial, match, read_recordings, read_uem
from raydiar.evaluation.scoring import evaluate
from raydiar.evaluation.significance import bootstrap, difference

CONDITIONS = [
    (0.0, False, None),
    (0.5, False, None),
    (0.25, True, None),
    (0.0, True, [(5.0, 60.0), (50.0, 100.0), (130.0, 1e4)]),
]
KINDS = ["boundaries", "merges", "splits", "overlaps", "all", "empty"]


def perturbed(turns, kind, rng):
    """Turns as a system might find them."""
    if kind == "empty":
        return []
    found = []
    for turn in turns:
        start, end, speaker = turn.start, turn.end, turn.speaker
        if kind in ("boundaries", "all"):
            start, end = max(0.0, start + rng.gauss(0, 0.3)), end + rng.gauss(0, 0.3)
        if end - start < 0.01 or (kind == "all" and rng.random() < 0.1):
            continue
        if kind in ("merges", "all") and rng.random() < 0.2:
            speaker = turns[0].speaker
        if kind in ("splits", "all") and rng.random() < 0.3:
            middle = rng.uniform(start, end)
            found += [Turn(start, middle, speaker), Turn(middle, end, f"{speaker}'")]
            continue
        if kind in ("overlaps", "all") and rng.random() < 0.3:
            found.append(Turn(0.7 * start + 0.3 * end, end + 1, f"other{rng.randrange(3)}"))
        found.append(Turn(start, end, speaker))
    return found


def annotation(turns):
    made = Annotation()
    for track, turn in enumerate(turns):
        made[Segment(turn.start, turn.end), track] = turn.speaker
    return made


@pytest.fixture(scope="module")
def conversations(shared):
    files = sorted((shared / "labels/voxconverse-dev").glob("*.rttm"))
    short = [file for file in files if file.stat().st_size < 4000]
    chosen = random.Random(0).sample(short, 4)
    return [list(next(iter(read_rttm(file).values())).turns) for file in chosen]


@pytest.mark.reference
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:'uem' was approximated")
def test_errors_equal_those_of_pyannote_metrics(conversations, kind):
    rng = random.Random(kind)
    for reference in conversations:
        hypothesis = perturbed(reference, kind, rng)
        ref, hyp = annotation(reference), annotation(hypothesis)
        for collar, skip_overlap, uem in CONDITIONS:
            ours = diarization_errors(reference, hypothesis, uem, collar, skip_overlap)
            regions = None if uem is None else Timeline([Segment(*region) for region in uem])
            options = {"collar": collar, "skip_overlap": skip_overlap}
            metric = DiarizationErrorRate(**options)
            theirs = metric(ref, hyp, uem=regions, detailed=True)
            speech = DetectionErrorRate(**options)(ref, hyp, uem=regions, detailed=True)
            expected = {
                "diarization_error_rate": metric.compute_metric(theirs),
                "total": theirs["total"],
                "correct": theirs["correct"],
                "missed": theirs["missed detection"],
                "false_alarm": theirs["false alarm"],
                "confusion": theirs["confusion"],
                "jaccard_error_rate": JaccardErrorRate(**options)(ref, hyp, uem=regions),
                "speech": speech["total"],
                "speech_missed": speech["miss"],
                "speech_false_alarm": speech["false alarm"],
            }
            for name, value in expected.items():
                assert getattr(ours, name) == pytest.approx(value, abs=1e-6), name
        changes = SegmentationPurityCoverageFMeasure()(ref, hyp, detailed=True)
        assert ours.partition == pytest.approx(changes["pty total duration"], abs=1e-6)
        assert ours.purity_sum == pytest.approx(changes["pty intersection duration"], abs=1e-6)
        assert ours.coverage_sum == pytest.approx(changes["cvg intersection duration"], abs=1e-6)


def test_errors_of_a_conversation_worked_by_hand():
    reference = [Turn(0, 10, "Ann"), Turn(8, 14, "Bob"), Turn(20, 22, "Ann")]
    hypothesis = [Turn(1, 9, "1"), Turn(9, 14, "2"), Turn(16, 17, "2"), Turn(20, 22, "2")]
    errors = diarization_errors(reference, hypothesis)
    # missed: Ann 0-1, one of two 8-9 and 9-10; invented: 16-17; confused: 20-22
    assert (errors.total, errors.missed, errors.false_alarm) == (18, 3, 1)
    assert errors.confusion == 2
    assert errors.diarization_error_rate == pytest.approx(6 / 18)
    assert (errors.speech, errors.speech_missed, errors.speech_false_alarm) == (16, 1, 1)
    assert (errors.overlap, errors.overlap_missed) == (2, 2)
    assert (errors.num_true, errors.num_found, errors.count_exact) == (2, 2, 1)
    assert optimal_mapping(reference, hypothesis) == {"1": "Ann", "2": "Bob"}
    where = error_timeline(reference, hypothesis)
    confused = where.confusion > 0
    assert list(zip(where.starts[confused], where.ends[confused], strict=True)) == [(20, 22)]


def test_nothing_said_and_nothing_found():
    assert diarization_errors([], []).diarization_error_rate == 0
    assert diarization_errors([], [Turn(0, 1, "1")]).diarization_error_rate == 1
    assert diarization_errors([Turn(0, 1, "1")], []).diarization_error_rate == 1
    assert diarization_errors([Turn(0, 9, "1")], [], uem=[]).evaluated == 0
    assert total_errors([]) == DiarizationErrors()


@pytest.mark.parametrize(
    ("turns", "uem", "told"),
    [
        ([Turn(2, 1, "1")], None, "ends before it starts"),
        ([Turn(0, float("nan"), "1")], None, "not a number"),
        ([Turn(0, 1, "1")], [(3, 2)], "UEM"),
    ],
)
def test_times_that_are_none_are_refused(turns, uem, told):
    with pytest.raises(ValueError, match=told):
        diarization_errors(turns, [], uem)


def test_interval_holds_the_true_rate_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for number in range(100):
        totals = rng.uniform(50, 500, 80)
        errors = totals * rng.gamma(2, 0.05, 80)
        interval = bootstrap(errors, totals, num_draws=400, seed=number)
        held += interval.low <= 0.1 <= interval.high
    assert 85 <= held <= 100


def test_a_difference_is_told_from_chance():
    rng = np.random.default_rng(0)
    totals = rng.uniform(50, 500, 100)
    first = totals * rng.gamma(2, 0.05, 100)
    better = difference(first, 0.9 * first, totals)
    assert better.significant
    assert better.high < 0
    assert better.value == pytest.approx(-0.1 * first.sum() / totals.sum())
    noise = first * (1 + 0.1 * rng.choice([-1, 1], 100))
    assert not difference(first, noise, totals).significant
    assert difference(first, first, totals).p == 1


def test_confidences_are_held_against_what_was_seen():
    reference = (Turn(0, 10, "Ann"), Turn(10, 20, "Bob"))
    hypothesis = (Turn(0, 10, "1", 0.95), Turn(10, 15, "2", 0.55), Turn(20, 25, "2", 0.55))
    found = reliability([Trial("a", reference, hypothesis)])
    assert found.seen[9] == 1
    assert found.seen[5] == pytest.approx(0.5)
    assert found.expected_calibration_error == pytest.approx(0.05)
    assert reliability([Trial("a", reference, (Turn(0, 1, "1"),))]) is None


# -- what people have on disk ----------------------------------------------------------------


def write_rttm(path, turns, uri=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = from_turns(uri or path.stem, turns).to_rttm()
    path.write_text(text)


@pytest.fixture
def systems(tmp_path):
    """A reference of 30 recordings, a good system and a bad one."""
    rng = random.Random(1)
    for number in range(30):
        turns, time = [], 0.0
        for _ in range(20):
            length = rng.uniform(1, 6)
            turns.append(Turn(time, time + length, rng.choice("ABC")))
            time += length + rng.uniform(-0.5, 1)
        name = f"call{number:02}.rttm"
        write_rttm(tmp_path / "true" / name, turns)
        good = [Turn(t.start, t.end - 0.1, f"S{t.speaker}") for t in turns]
        write_rttm(tmp_path / "good" / f"sub{number % 3}" / name, good)
        bad = [Turn(t.start, t.end - 0.1, "S1" if rng.random() < 0.3 else t.speaker) for t in turns]
        write_rttm(tmp_path / "bad" / name, bad)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_two_systems_are_compared_on_the_command_line(systems):
    page = systems / "report.html"
    result = run(
        "evaluate", systems / "true", systems / "good", "--compare", systems / "bad",
        "--report", page,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output.count("call") >= 30
    [total] = [line for line in result.output.splitlines() if line.startswith("TOTAL")]
    assert 2 < float(total.split()[3]) < 5
    assert "95 % interval" in result.output
    assert "more than chance (p = 0.000" in result.output
    html = page.read_text()
    assert html.count("<svg") == 11  # ten recordings, and errors over time
    assert "call07" in html
    assert "http" not in html  # nothing is fetched


def test_labels_of_strangers_cannot_run_in_the_report(systems):
    write_rttm(systems / "true" / "zz.rttm", [Turn(0, 900, "<script>alert(1)</script>")])
    page = systems / "report.html"
    assert run("evaluate", systems / "true", systems / "bad", "--report", page).exit_code == 0
    assert "<script>" not in page.read_text()


@pytest.mark.parametrize("form", ["csv", "json", "markdown"])
def test_tables_for_programs(systems, form):
    result = run("evaluate", systems / "true", systems / "good", "--format", form)
    assert result.exit_code == 0
    assert result.output.startswith({"csv": "recording,", "json": "{", "markdown": "| rec"}[form])


def test_recordings_without_a_hypothesis_count_as_missed_and_are_named(systems, capsys):
    (systems / "bad" / "call03.rttm").unlink()
    write_rttm(systems / "bad" / "unknown.rttm", [Turn(0, 1, "1")])
    result = run("evaluate", systems / "true", systems / "bad", "--format", "csv")
    assert result.exit_code == 0
    [row] = [line for line in result.stdout.splitlines() if line.startswith("call03")]
    assert float(row.split(",")[3]) == 1
    assert "call03" in result.stderr
    assert "unknown" in result.stderr


def test_regions_of_a_uem_are_scored(systems):
    uem = systems / "some.uem"
    uem.write_text("call00 1 0.0 10.0\n;; a comment\ncall00 1 20.0 25.0\n")
    reference = read_recordings(systems / "true")
    matched = match(reference, read_recordings(systems / "good"), read_uem(uem))
    assert evaluate(matched.trials).errors["call00"].evaluated == 15
    result = run("evaluate", systems / "true", systems / "good", "--uem", uem)
    assert "29 recordings are not in the UEM" in result.stderr


def test_names_of_a_dataset_are_paths():
    reference = {"ES2004a.Mix-Headset": from_turns("x", [Turn(0, 1, "A")])}
    found = {"/data/ES2004a.Mix-Headset.wav#t=0,10": from_turns("x", [Turn(0, 1, "1")])}
    assert match(reference, found).trials[0].found
    found["s3://other/ES2004a.Mix-Headset.flac"] = from_turns("x", [])
    with pytest.raises(EvaluationError, match="could be each of"):
        match(reference, found)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("SPEAKER a 1 zero 1 <NA> <NA> x <NA> <NA>\n", "not RTTM"),
        ("SPEAKER a 1\n", "not RTTM"),
        ("SPEAKER b 1 0.0 -4.0 <NA> <NA> x <NA> <NA>\n", "not RTTM"),
        ("SPEAKER other 1 0.0 4.0 <NA> <NA> x <NA> <NA>\n", "no recording has a name"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, told):
    write_rttm(tmp_path / "ref.rttm", [Turn(0, 1, "A")], uri="b")
    (tmp_path / "hyp.rttm").write_text(content)
    with pytest.raises(EvaluationError, match=told):
        evaluate(
            match(
                read_recordings(tmp_path / "ref.rttm"), read_recordings(tmp_path / "hyp.rttm")
            ).trials
        )


def test_what_is_no_reference_is_refused(tmp_path):
    for source in (tmp_path, tmp_path / "nothing", tmp_path / "x.wav"):
        with pytest.raises(EvaluationError, match="neither an RTTM file"):
            read_recordings(source)
    (tmp_path / "a.uem").write_text("a 1 0\n")
    with pytest.raises(EvaluationError, match="not UEM"):
        read_uem(tmp_path / "a.uem")


def test_silence_is_an_empty_file(tmp_path):
    (tmp_path / "quiet.rttm").write_text("")
    assert read_recordings(tmp_path)["quiet"].turns == ()


def test_very_many_recordings_are_scored_on_ray(local_ray, systems):
    from raydiar.evaluation.on_ray import evaluate_on_ray

    matched = match(read_recordings(systems / "true"), read_recordings(systems / "bad"))
    trials = matched.trials * 20
    assert evaluate_on_ray(trials).total == evaluate(trials).total


def test_scoring_needs_neither_torch_nor_ray():
    code = "import raydiar.evaluation.scoring, raydiar.evaluation.report, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"torch", "ray", "pyannote"} & set(result.stdout.split())


def test_no_warning_leaves_a_score():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate([Trial("a", (), ()), Trial("b", (), (Turn(0, 1, "x"),))]).to_json()
