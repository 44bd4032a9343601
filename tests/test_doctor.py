"""`raydiar doctor`: what works here, what does not, and what to do."""

import json

from typer.testing import CliRunner

from raydiar import doctor
from raydiar.cli import app


def run(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments])


def states(result) -> dict[str, str]:
    return {one["subject"]: one["state"] for one in json.loads(result.stdout)}


def test_everything_that_the_tests_need_is_found():
    result = run("--json")
    assert result.exit_code == 0, result.stdout
    found = states(result)
    for subject in (
        "python",
        "torch",
        "ffmpeg",
        "faiss",
        "cache",
        "[corpus]",
        "[serve]",
        "[train]",
    ):
        assert found[subject] == "ok", result.stdout
    assert "problem" not in found.values()


def test_a_cache_that_cannot_be_written_is_a_problem_with_a_way_out(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYDIAR_CACHE", str(tmp_path / "file" / "cache"))
    result = run()
    assert result.exit_code == 1
    [line] = [line for line in result.stdout.splitlines() if line.startswith("cache")]
    assert "PROBLEM" in line
    assert "RAYDIAR_CACHE" in line


def test_a_missing_extra_is_no_problem_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(doctor._EXTRAS, "plot", "a_package_that_is_not_there")
    result = run()
    assert result.exit_code == 0
    assert "pip install 'raydiar[plot]'" in result.stdout


def test_what_is_broken_is_told_and_the_rest_is_still_looked_at(monkeypatch):
    def broken():
        raise OSError("libcublas.so.13: cannot open shared object file")
        yield

    monkeypatch.setitem(doctor._LOOKS, "torch", broken)
    result = run("--json")
    assert result.exit_code == 1
    assert states(result)["torch"] == "problem"
    assert states(result)["ffmpeg"] == "ok"
