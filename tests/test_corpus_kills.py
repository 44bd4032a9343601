"""A job that is killed and doubled: a small version of `benchmarks/kills.py`."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import kills


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    home = tmp_path_factory.mktemp("kills")
    manifest, ids = kills.make_corpus(home / "corpus", 36, in_tar=10)
    kills.keep_inference(home)
    return home, manifest, ids


def test_drivers_killed_at_random_moments_lose_and_double_nothing(local_ray, corpus):
    home, manifest, ids = corpus
    output = kills.Output(str(home / "killed"), manifest, ids, home / "killed.log")
    rng = random.Random()
    # seven packs, of which a kill waits for four at most: whoever looks on may be slow
    assert kills.kills(output, local_ray, 2, rng, with_rays=(), pause=1.5)["kills"] >= 1


def test_a_second_driver_is_refused_and_disturbs_nothing(local_ray, corpus):
    home, manifest, ids = corpus
    output = kills.Output(str(home / "two"), manifest, ids, home / "two.log")
    assert kills.two(output, local_ray)["refused"]
