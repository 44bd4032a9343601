"""Local inference gives one answer, however recordings are batched or sliced."""

import numpy as np
import pytest
import torch

from raydiar import audio
from raydiar.errors import ConfigError, InvalidSamples
from raydiar.inference.batches import Slice
from raydiar.inference.local import LocalInference, speaker_masks
from raydiar.inference.segmenter import Segmenter
from raydiar.local_speakers import LocalSpeakers
from raydiar.models import Model, PyanNet, WeSpeakerResNet34
from raydiar.models.specifications import Problem, Specifications
from raydiar.pipelines.config import DEFAULT


def load(embedding: str, batch_size: int) -> LocalInference:
    networks = {"campplus": lambda: Model.from_pretrained(DEFAULT.embedding.uri)}
    networks["resnet"] = lambda: WeSpeakerResNet34().eval().requires_grad_(False)
    torch.manual_seed(0)
    return LocalInference(
        Model.from_pretrained(DEFAULT.segmentation.uri),
        networks[embedding](),
        segmentation_batch_size=batch_size,
        embedding_batch_size=batch_size,
    )


def assert_same(one: LocalSpeakers, other: LocalSpeakers) -> None:
    np.testing.assert_array_equal(one.activity, other.activity)
    np.testing.assert_array_equal(one.owners, other.owners)
    np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-4)
    assert np.abs(one.posteriors.astype(int) - other.posteriors).max() <= 1
    assert (one.num_samples, one.first_window) == (other.num_samples, other.first_window)


@pytest.fixture(scope="module")
def samples(sample_wav) -> np.ndarray:
    return audio.decode(sample_wav)


@pytest.mark.parametrize("embedding", ["campplus", "resnet"])
def test_batches_cross_recordings(samples, embedding):
    recordings = [samples[: 11 * 16000 + 5], samples[100_000:100_500], samples[200_000:400_000]]
    together = list(load(embedding, 16)(recordings))
    one_by_one = load(embedding, 1)
    for recording, local in zip(recordings, together, strict=True):
        [alone] = one_by_one([recording])
        assert_same(local, alone)
        assert local.complete
    assert [local.num_windows for local in together] == [3, 1, 4]
    # 4 windows of two people in conversation; nobody speaks in 30 ms.
    assert len(together[1].owners) == 0
    assert len(together[2].owners) >= 4


def test_slices_join_into_the_whole(samples):
    inference = load("campplus", 4)
    recording = samples[: 15 * 16000]
    [whole] = inference([recording])
    slices = [Slice(recording, 4, 2), Slice(recording, 0, 1), Slice(recording, 1, 3)]
    parts = list(inference(slices))
    assert not any(part.complete for part in parts)
    assert_same(LocalSpeakers.concat(parts), whole)
    with pytest.raises(ValueError, match="without gap or overlap"):
        LocalSpeakers.concat(parts[:2])
    with pytest.raises(ValueError, match="different recordings"):
        LocalSpeakers.concat([parts[0], *inference([samples[:16000]])])


def test_int16_and_float32_samples_agree(samples):
    inference = load("campplus", 8)
    recording = samples[: 11 * 16000]
    whole, floats = inference([recording, recording / np.float32(32768)])
    assert_same(whole, floats)


def test_read_only_samples_are_enough(samples):
    recording = samples[:16000].copy()
    recording.flags.writeable = False
    [local] = load("campplus", 1)([recording])
    assert local.num_windows == 1


@pytest.mark.parametrize(
    "recording", [np.zeros(0, np.int16), np.zeros((2, 16000), np.int16), np.zeros(16000)]
)
def test_what_is_not_a_recording(recording):
    with pytest.raises(InvalidSamples):
        list(load("campplus", 1)([recording]))


def test_overlap_is_left_out_where_enough_remains():
    active = torch.zeros(1, 20, 3)
    active[0, :10, 0] = 1
    active[0, 7:10, 1] = 1  # only ever overlapped
    masks = speaker_masks(active, exclude_overlap=True, min_num_frames=2)
    assert masks[0].sum(dim=1).tolist() == [7, 3, 0]
    masks = speaker_masks(active, exclude_overlap=True, min_num_frames=7)
    assert masks[0].sum(dim=1).tolist() == [10, 3, 0]
    masks = speaker_masks(active, exclude_overlap=False, min_num_frames=2)
    assert masks[0].sum(dim=1).tolist() == [10, 3, 0]


def test_segmentation_of_other_classes_is_refused():
    task = Specifications(problem=Problem.MULTI_LABEL_CLASSIFICATION, classes=["dog", "cat"])
    with pytest.raises(ConfigError, match="local speakers"):
        Segmenter(PyanNet(specifications=task))


def test_result_is_a_tenth_of_the_pcm(samples):
    [local] = load("campplus", 32)([samples[: 20 * 16000]])
    assert local.nbytes < samples[: 20 * 16000].nbytes / 8
