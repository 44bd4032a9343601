"""Inference when memory runs out, a network gives nonsense, or a call is left half-way."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from raydiar.audio import decode
from raydiar.errors import ScoresNotFinite
from raydiar.failures import MACHINE, RECORDING, failure_cause, is_device_error, is_out_of_memory
from raydiar.inference.health import HealthCheck
from raydiar.pipelines.config_file import load_config
from raydiar.pipelines.speaker_diarization import local_inference

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture(scope="module")
def inference():
    return local_inference(load_config().localize())


@pytest.fixture(scope="module")
def recordings(sample_wav) -> list[np.ndarray]:
    samples = decode(sample_wav)
    return [samples[: 14 * 16000], samples[14 * 16000 : 20 * 16000], samples[20 * 16000 :]]


@pytest.fixture(scope="module")
def expected(inference, recordings):
    return list(inference(recordings))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.activity, other.activity)
        np.testing.assert_array_equal(one.owners, other.owners)
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-4)


def networks(inference) -> list[torch.nn.Module]:
    return [inference._segmenter.model, inference._embedder.model]


@contextmanager
def changed(network, change):
    """A network whose results, and inputs, go through `change(run, inputs)`."""
    # the embedding network is called by its parts
    name = "frames" if hasattr(network, "frames") else "forward"
    run = getattr(network, name)
    setattr(network, name, lambda inputs: change(run, inputs))
    try:
        yield
    finally:
        delattr(network, name)


def failing(network, most: int, error: Exception):
    """Lets a network raise for more than so many inputs at a time."""

    def check(run, inputs):
        if len(inputs) > most:
            raise error
        return run(inputs)

    return changed(network, check)


@pytest.mark.parametrize("which", [0, 1], ids=["segmentation", "embedding"])
@pytest.mark.parametrize("most", [1, 3])
def test_batches_that_do_not_fit_are_done_in_halves(inference, recordings, expected, which, most):
    with failing(networks(inference)[which], most, RuntimeError(OUT_OF_MEMORY)):
        assert_same(inference(recordings), expected)


def test_a_window_that_does_not_fit_alone_is_told(inference, recordings, expected):
    with (
        failing(networks(inference)[0], 0, RuntimeError(OUT_OF_MEMORY)),
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        list(inference(recordings))
    assert_same(inference(recordings), expected)


def test_nothing_waits_after_a_failure_or_an_abandoned_call(inference, recordings, expected):
    """What a failed call left in the embedder's queue went into the next call's batches."""
    embedder = inference._embedder
    for error in (RuntimeError("CUDA error: an illegal memory access"), ValueError("odd")):
        with failing(networks(inference)[1], 0, error), pytest.raises(type(error)):
            list(inference(recordings))
        assert (embedder._queue, embedder._waiting) == ([], 0)
    results = inference(recordings * 3)
    next(results)
    results.close()
    assert (embedder._queue, embedder._waiting) == ([], 0)
    assert_same(inference(recordings), expected)


def test_calls_that_take_turns_keep_what_is_theirs(inference, recordings, expected):
    one, other = inference(recordings), inference(recordings)
    first = [next(one), next(other)]
    other.close()
    assert_same([first[0], *one], expected)


@pytest.mark.parametrize("which", [0, 1], ids=["segmentation", "embedding"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_an_error_and_never_silence(inference, recordings, which, value):
    network = networks(inference)[which]
    [weight, *_] = [p for p in network.parameters() if p.dim() > 1][-1:]
    before = weight.detach().clone()
    with torch.no_grad():
        weight[..., 0] = value
    try:
        with pytest.raises(ScoresNotFinite):
            list(inference(recordings))
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_a_known_window_tells_a_broken_device_from_an_odd_recording(inference, recordings):
    health = HealthCheck(inference)
    assert health.failure() is None
    list(inference(recordings))
    assert health.failure() is None

    def off(run, inputs):  # what a device that miscounts does
        return run(inputs).flip(1)

    for network in networks(inference):
        with changed(network, off):
            assert health.failure() is not None
    with failing(networks(inference)[0], 0, RuntimeError("whatever a driver may say")):
        assert "whatever" in str(health.failure())
    assert health.failure() is None


class OutOfResources(Exception):
    """As Triton has it: no RuntimeError."""

    __module__ = "triton.runtime.errors"


# as torch 2.x and the libraries below it word them
DEVICE = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"),
    RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1090"),
    RuntimeError("Can't initialize NVML"),
    RuntimeError("nvrtc: error: failed to open libnvrtc-builtins.so.12.4."),
    RuntimeError("NVRTC_ERROR_COMPILATION"),
    RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
    RuntimeError("PTXAS error: Internal Triton PTX codegen error"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("Found no NVIDIA driver on your system."),
    RuntimeError("Attempting to deserialize object on CUDA device 3: CUDA-capable device busy"),
    RuntimeError("device-side assert triggered"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"),
    RuntimeError("HIP error: invalid device function"),
    OutOfResources("out of resource: shared memory"),
]
MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError(OUT_OF_MEMORY),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    RuntimeError("std::bad_alloc"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
]
OF_RECORDING = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("CUDA error is the title of this podcast"),
    KeyError("out of memory"),
    ScoresNotFinite("the segmentation network gave NaN or infinity"),
]


def names(errors) -> list[str]:
    return [f"{type(error).__name__}: {error}"[:60] for error in errors]


@pytest.mark.parametrize("error", DEVICE, ids=names(DEVICE))
def test_a_failing_device_is_the_machines_failure(error):
    assert is_device_error(error)
    assert not is_out_of_memory(error)
    assert failure_cause(error) == MACHINE


@pytest.mark.parametrize("error", MEMORY, ids=names(MEMORY))
def test_want_of_memory_is_the_machines_failure(error):
    assert is_out_of_memory(error)
    assert failure_cause(error) == MACHINE


@pytest.mark.parametrize("error", OF_RECORDING, ids=names(OF_RECORDING))
def test_what_says_nothing_of_a_device_is_the_recordings(error):
    assert not is_device_error(error)
    assert not is_out_of_memory(error)
    assert failure_cause(error) == RECORDING


def test_torch_itself_says_it_so():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        torch.empty(1, device="cuda")
    assert is_device_error(caught.value) or torch.cuda.is_available()
