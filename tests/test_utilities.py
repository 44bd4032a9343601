"""Utilities that users of pyannote.audio know."""

import numpy as np
import pytest
import torch
from pyannote.core import Annotation, Segment, SlidingWindow

from raydiar.errors import ConfigError, InvalidSamples
from raydiar.inference.permutation import permutate
from raydiar.pipelines.oracle import oracle_segmentation
from raydiar.pipelines.preview import listen, preview
from raydiar.sample import SAMPLE_FILE


def test_sample_file():
    assert SAMPLE_FILE["audio"].stat().st_size > 900_000
    assert len(SAMPLE_FILE["annotation"].labels()) == 2
    assert SAMPLE_FILE["annotated"].duration() == 30.0


def test_permutate_finds_the_order_again():
    rng = np.random.default_rng(1)
    y1 = rng.random((2, 50, 3))
    orders = [(2, 0, 1), (1, 2, 0)]
    y2 = np.stack([y1[b][:, np.argsort(order)] for b, order in enumerate(orders)])
    found, permutations, cost = permutate(y1, y2, return_cost=True)
    np.testing.assert_array_equal(found, y1)
    assert permutations == orders
    assert cost.shape == (2, 3, 3)
    # one for all of a batch; a speaker too few, and one too many
    found, permutations = permutate(torch.from_numpy(y1), torch.from_numpy(y1[0][:, [1, 0]]))
    assert isinstance(found, torch.Tensor)
    assert permutations[0] == (1, 0, None)
    assert not found[0, :, 2].any()
    found, permutations = permutate(y1[:, :, :2], y1, cost_func=lambda a, b: np.abs(a - b).mean())
    assert permutations == [(0, 1), (0, 1)]
    for wrong in (y1[:, :10], y1[0, 0]):
        with pytest.raises(InvalidSamples, match="num_frames"):
            permutate(y1, wrong)


def test_oracle_segmentation():
    reference = Annotation()
    reference[Segment(0.0, 4.0)] = "b"
    reference[Segment(3.0, 12.0)] = "a"
    file = {"annotation": reference, "duration": 12.0}
    window = SlidingWindow(duration=10.0, step=1.0)
    found = oracle_segmentation(file, window, 0.1, num_speakers=3)
    assert found.data.shape == (3, 100, 3)
    np.testing.assert_allclose(found.data[0].sum(axis=0) * 0.1, [7.0, 4.0, 0.0], atol=0.2)
    np.testing.assert_allclose(found.data[2].sum(axis=0) * 0.1, [9.0, 2.0, 0.0], atol=0.2)
    assert oracle_segmentation(SAMPLE_FILE, window, window).data.shape[0] == 21
    for wrong, match in (
        ({"duration": 12.0}, "annotation"),
        ({"annotation": reference}, "duration"),
        ({"annotation": reference, "duration": 5.0}, "shorter"),
    ):
        with pytest.raises(ConfigError, match=match):
            oracle_segmentation(wrong, window, 0.1)
    with pytest.raises(ConfigError, match="2 speakers"):
        oracle_segmentation(file, window, 0.1, num_speakers=1)


def test_listen_and_preview():
    segment = Segment(6.0, 9.0)
    player = listen(SAMPLE_FILE, segment)
    assert len(player.data) > 3 * 16000 * 2
    shown = preview(SAMPLE_FILE, segment, reference=SAMPLE_FILE["annotation"]).data
    assert "<audio" in shown
    assert "reference: 2 speakers, 3.0 s" in shown
    with pytest.raises(ConfigError, match="cannot draw a int"):
        preview(SAMPLE_FILE, view=3)
