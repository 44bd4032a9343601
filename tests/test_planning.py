"""The plan: its arithmetic, checked by hand, and where its numbers come from."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.errors import ConfigError
from raydiar.planning import make_plan, parse_bitrate, read_rates

ROOT = Path(__file__).resolve().parents[1]


def seconds_of(plan) -> dict[str, float]:
    return {step.name.partition(" (")[0]: step.seconds for step in plan.steps}


def test_the_arithmetic_is_that_of_the_rates():
    plan = make_plan(1e6, 2048, "h100", 64, bitrate=64_000, audio="44k-128kbit.mp3")
    seconds = seconds_of(plan)
    # TFLOP an hour, over a quarter of what 64 GPUs could give
    assert seconds["GPUs"] == pytest.approx(1e6 * (9.5 + 40.3) / (67 * 0.24) / 64)
    assert seconds["CPU cores"] == pytest.approx(1e6 * (3600 / 1694 + 0.62) / (2048 - 64))
    assert seconds["network"] == pytest.approx(1e6 * 115.2e6 / (8 * 100e9 / 8))
    assert seconds["storage"] == pytest.approx(1e6 * 28.8e6 / 4 / 2**20 / 5500)
    assert plan.bottleneck.name == "GPUs (networks)"
    assert plan.wall_seconds == pytest.approx(seconds["GPUs"] * 1.065)
    assert plan.output_bytes == pytest.approx(1e6 * read_rates()["output"].value)


def test_without_gpus_the_cores_do_it_all():
    plan = make_plan(1000, 64, audio="opus")
    seconds = seconds_of(plan)
    assert seconds.keys() == {"CPU cores", "storage"}
    assert seconds["CPU cores"] == pytest.approx(1000 * (3600 / 783 + 0.62 + 3600 / 10.2) / 64)


@pytest.mark.parametrize(
    ("cluster", "bottleneck"),
    [
        ({"cpus": 2048, "gpus": 8}, "GPUs (networks)"),
        ({"cpus": 140, "gpus": 128}, "CPU cores (decoding, clustering)"),
        ({"cpus": 100_000, "gpus": 4096, "bitrate": 1.4e6}, "storage"),
    ],
)
def test_the_slowest_step_is_named(cluster, bottleneck):
    plan = make_plan(1e6, gpu="h100", **cluster)
    assert plan.bottleneck.name == bottleneck
    assert f"bottleneck  {bottleneck}" in str(plan)


def test_one_driver_feeds_so_many_gpus_and_no_more():
    plan = make_plan(1e6, 2048, "h100", 64)
    assert plan.num_jobs == 1
    assert "1,300,000 packs / 40 packs/s = 9.0 h: one job feeds the cluster" in str(plan)
    many = make_plan(1e6, 100_000, "h100", 4096)
    assert many.num_jobs == math.ceil(1.3e6 / 40 / many.bottleneck.seconds) > 10
    assert f"split the manifest, and run {many.num_jobs} jobs at once" in str(many)


def test_a_slow_network_holds_the_job_up(tmp_path):
    file = tmp_path / "rates.json"
    file.write_text('{"network": {"value": 1, "unit": "Gbit/s per GPU node", "source": "assumed"}}')
    plan = make_plan(1e6, 2048, "h100", 64, rates=read_rates(str(file)))
    assert plan.bottleneck.name == "network (into GPU nodes)"


def test_an_ending_stands_for_its_slowest_format():
    shown = str(make_plan(1, 4, audio="mp3"))
    assert "decode/44k-stereo-128kbit.mp3 = 1,326 x real time per core; measured: make" in shown


def test_every_rate_says_where_it_comes_from():
    for name, rate in read_rates().items():
        kind, _, _ = rate.source.partition(":")
        assert kind in {"measured", "arithmetic", "published", "assumed"}, name
        assert rate.value > 0
        assert rate.unit
        # no GPU was measured
        assert not (kind == "measured" and name.startswith(("gpu", "flop")))


def test_the_command_shows_the_plan():
    command = ["plan", "--hours", "1e6", "--gpu", "h100", "--gpus", "64", "--cpus", "2048"]
    result = CliRunner().invoke(app, [*command, "--bitrate", "64k"])
    assert result.exit_code == 0, result.output
    for line in (
        "1,000,000 h of mp3 at 64 kbit/s on 64 x h100, 2,048 CPU cores",
        "  segmentation 9.5 + campplus 40.3 = 49.8 TFLOP an hour",
        "  64 kbit/s / 8 x 3,600 s = 28.8 MB an hour, in all 28.8 TB",
        "The GPU's speed is arithmetic, not measured: try an hour of audio first.",
    ):
        assert line in result.output.splitlines()


def test_what_is_unknown_is_refused_with_what_is_known():
    with pytest.raises(ConfigError, match=r"GPU 'h1000'; known: a100, .*h100"):
        make_plan(1, 8, "h1000")
    with pytest.raises(ConfigError, match=r"'tape'; known: .*mp3.* or exactly: 16k-32kbit.mp3"):
        make_plan(1, 8, audio="tape")
    with pytest.raises(ConfigError, match=r"network 'x'; known: campplus, resnet34$"):
        make_plan(1, 8, "h100", embedding="x")
    with pytest.raises(ConfigError, match="do not serve 8 GPUs"):
        make_plan(1, 8, "h100", 8)
    with pytest.raises(ConfigError, match="64k"):
        parse_bitrate("fast")
    with pytest.raises(ConfigError, match="hours"):
        make_plan(0, 8)


@pytest.mark.parametrize("content", [None, "[]", '{"output": 3}', '{"output": {"value": 1}}'])
def test_a_wrong_rates_file_is_refused(tmp_path, content):
    file = tmp_path / "rates.json"
    if content:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"rates\.json"):
        read_rates(str(file))


def test_a_measured_gpu_takes_the_place_of_arithmetic(tmp_path):
    file = tmp_path / "rates.json"
    measured = {"value": 2000, "unit": "x real time per GPU", "source": "measured: run 1"}
    file.write_text(json.dumps({"inference/mine/campplus": measured}))
    plan = make_plan(1000, 512, "mine", 2, rates=read_rates(str(file)))
    assert seconds_of(plan)["GPUs"] == pytest.approx(1000 * 1.8 / 2)
    assert "not measured" not in str(plan)


def test_bench_results_become_rates(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    decoding = [{"file": "48k-32kbit.ogg", "times_real_time": {"raydiar": 9, "child": 600.0}}]
    written = {
        "decoding": decoding,
        "campplus": {"threads": 4, "raydiar": {"real_time_factor": 0.05}},
        "resolve_long": {"seconds": 12.0, "hours": 24.0},
    }
    for name, result in written.items():
        (results / f"{name}.json").write_text(json.dumps(result))
    file = tmp_path / "rates.json"
    command = [sys.executable, "benchmarks/rates.py", "--results", results, "--json", file]
    subprocess.run([*command, "--machine", "my server"], cwd=ROOT, check=True)
    rates = read_rates(str(file))
    assert rates["decode/48k-32kbit.opus"].value == 600
    assert (
        rates["decode/48k-32kbit.opus"].source == "measured: make bench BENCH=decoding, my server"
    )
    assert rates["inference/cpu/campplus"].value == 5.0
    assert rates["resolve"].value == 0.5
    assert rates["decode/16k.wav"].value == 9024  # what was not measured stays as it ships
