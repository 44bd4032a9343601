"""Whatever bytes come: samples or an error of ours, in time and in memory."""

from audio_fuzz import fuzz

# `make bench BENCH=fuzz` takes ten minutes, and other numbers.
SECONDS = 30


def test_no_file_does_any_harm(tmp_path):
    # a number of files that every machine reaches: the same ones everywhere
    report = fuzz(tmp_path, SECONDS, seed=20251125, most=400)
    assert not report.faults, [fault for fault, _ in report.faults]
    assert report.num_files >= 20
    assert report.outcomes["samples"] > 0
    assert report.outcomes["AudioDecodeError"] > 0
