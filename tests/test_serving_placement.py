"""How many replicas infer, and on what."""

import pytest

from raydiar.corpus.job.placement import Placement
from raydiar.errors import ConfigError
from raydiar.serving.deployments import placement
from raydiar.serving.settings import ServeSettings


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster of nodes with so many CPUs each, and of GPUs."""

    def make(cpus: list[int], gpus: int = 0) -> None:
        nodes = [{"Alive": True, "Resources": {"CPU": float(number)}} for number in cpus]
        found = Placement("cuda", gpus, gpus, 1, "") if gpus else Placement("cpu", 1, 1, 1, "")
        monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)
        monkeypatch.setattr(placement, "place", lambda device: found)

    return make


# `raydiar serve` gives Ray one CPU more than there are cores.
@pytest.mark.parametrize(
    ("cpus", "replicas", "each"),
    [(2, 1, 1), (3, 2, 1), (5, 4, 1), (9, 4, 2), (17, 4, 4), (33, 8, 4)],
)
def test_cpus_are_shared_among_few_threads(cluster, cpus, replicas, each):
    cluster([cpus])
    found = placement.place_inference(ServeSettings())
    assert (found.min_replicas, found.max_replicas, found.num_cpus) == (replicas, replicas, each)
    assert (found.device, found.num_gpus, found.slice_seconds) == ("cpu", 0.0, 30.0)


def test_an_operator_decides(cluster):
    cluster([9])
    settings = ServeSettings(num_inference_replicas=1, max_inference_replicas=3, slice_seconds=60)
    found = placement.place_inference(settings)
    assert (found.min_replicas, found.max_replicas, found.slice_seconds) == (1, 3, 60.0)
    found = placement.place_inference(ServeSettings(max_inference_replicas=2))
    assert (found.min_replicas, found.max_replicas) == (2, 2)
    with pytest.raises(ConfigError, match="do not fit"):
        placement.place_inference(ServeSettings(num_inference_replicas=9))


def test_a_gpu_is_one_replica_and_can_be_shared(cluster):
    cluster([16], gpus=2)
    found = placement.place_inference(ServeSettings())
    assert (found.max_replicas, found.num_gpus, found.slice_seconds) == (1, 1.0, 120.0)
    found = placement.place_inference(ServeSettings(max_inference_replicas=5))
    assert (found.min_replicas, found.max_replicas) == (1, 5)
    assert found.num_gpus == pytest.approx(1 / 3)  # five thirds fit on two GPUs
