"""Losses and metrics against implementations that are slow and plain."""

import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch

from raydiar.inference.powerset import powerset_mapping
from raydiar.training.losses import (
    AngularMargin,
    best_permutation,
    multilabel_loss,
    powerset_loss,
    to_powerset,
)
from raydiar.training.metrics import SegmentationErrors, best_threshold, count_errors


def random_case(num_speakers=3, most=2, batch=5, num_frames=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mapping = powerset_mapping(num_speakers, most)
    logits = torch.randn(batch, num_frames, len(mapping), generator=generator, dtype=torch.float64)
    target = (torch.rand(batch, num_frames, num_speakers, generator=generator) < 0.4).double()
    return logits.log_softmax(-1), target, mapping.double()


def plain_powerset_loss(scores, target, num_speakers, most, weight=None):
    """By the words of the definition, one frame after the other."""
    sets = [c for n in range(most + 1) for c in combinations(range(num_speakers), n)]
    total = count = 0.0
    for b in range(len(scores)):
        decided = [sets[int(frame.argmax())] for frame in scores[b]]
        errors = {}
        for order in permutations(range(num_speakers)):
            errors[order] = sum(
                ((speaker in decided[f]) - float(target[b, f, order[speaker]])) ** 2
                for f in range(len(decided))
                for speaker in range(num_speakers)
            )
        order = min(errors, key=lambda one: (errors[one], one))
        for f in range(len(decided)):
            active = [s for s in range(num_speakers) if target[b, f, order[s]]]
            shared = [len(set(active) & set(one)) for one in sets]
            w = 1.0 if weight is None else float(weight[b, f])
            total -= w * float(scores[b, f, shared.index(max(shared))])
            count += w
    return total, count


@pytest.mark.parametrize(("num_speakers", "most"), [(3, 2), (4, 2), (2, 1), (3, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_powerset_loss_is_its_definition(num_speakers, most, weighted):
    scores, target, mapping = random_case(num_speakers, most, seed=num_speakers)
    weight = torch.rand(target.shape[:2], dtype=torch.float64) if weighted else None
    total, count = powerset_loss(scores, target, mapping, weight)
    expected = plain_powerset_loss(scores, target, num_speakers, most, weight)
    assert float(total) / float(count) == pytest.approx(expected[0] / expected[1], abs=1e-6)


def test_the_order_of_speakers_in_the_labels_does_not_matter():
    scores, target, mapping = random_case()
    target[..., 2] *= target[..., :2].sum(-1) < 2  # two at once have one class, whatever the order
    wanted = torch.nn.functional.one_hot(to_powerset(target, mapping), len(mapping))
    scores = (scores + 4 * wanted).log_softmax(-1)
    losses = [
        float(powerset_loss(scores, target[..., list(order)], mapping)[0])
        for order in permutations(range(3))
    ]
    assert max(losses) - min(losses) < 1e-4


def test_many_speakers_are_matched_as_few_are():
    generator = torch.Generator().manual_seed(1)
    target = (torch.rand(3, 200, 8, generator=generator) < 0.3).float()
    order = torch.stack([torch.randperm(8, generator=generator) for _ in range(3)])
    prediction = torch.stack([t[:, o] for t, o in zip(target, order, strict=True)])
    assert torch.equal(best_permutation(prediction, target), order)


def test_more_speakers_at_once_than_there_are_classes_for():
    mapping = powerset_mapping(3, 2)
    active = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]]).float()
    assert to_powerset(active, mapping).tolist() == [0, 2, 6, 4]


def test_binary_cross_entropy_leaves_out_what_is_unknown():
    scores = torch.tensor([[[0.2, 0.9], [0.6, 0.5]]])
    target = torch.tensor([[[0.0, 1.0], [-1.0, 1.0]]])
    total, count = multilabel_loss(scores, target, torch.tensor([[1.0, 3.0]]))
    expected = -math.log(0.8) - math.log(0.9) - 3 * math.log(0.5)
    assert float(total) == pytest.approx(expected, abs=1e-6)
    assert float(count) == 5


@pytest.mark.parametrize("num_centres", [1, 3])
@pytest.mark.parametrize("margin", [0.0, 11.5, 28.6])
def test_angular_margin_is_its_definition(num_centres, margin):
    torch.manual_seed(0)
    loss = AngularMargin(6, 5, margin, scale=20.0, num_centres=num_centres)
    embeddings, speakers = torch.randn(7, 6), torch.tensor([0, 1, 2, 3, 4, 0, 2])
    total, count = loss(embeddings, speakers)
    expected = 0.0
    weight = loss.weight.detach().double().numpy()
    for vector, own in zip(embeddings.double().numpy(), speakers.tolist(), strict=True):
        logits = []
        for speaker in range(5):
            cosines = [
                centre @ vector / np.linalg.norm(centre) / np.linalg.norm(vector)
                for centre in weight[:, speaker]
            ]
            angle = math.acos(max(cosines))
            if speaker == own:
                angle += math.radians(margin)
            logits.append(20.0 * math.cos(angle))
        expected -= logits[own] - math.log(sum(map(math.exp, logits)))
    assert total.item() / count.item() == pytest.approx(expected / 7, abs=1e-5)


def test_a_margin_never_makes_a_wrong_answer_look_better():
    loss = AngularMargin(3, 2, margin=60.0, scale=1.0)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))
    angles = torch.linspace(0, math.pi, 50)
    vectors = torch.stack([angles.cos(), 0 * angles, angles.sin()], dim=1)
    losses = [loss(v[None], torch.tensor([0]))[0].item() for v in vectors]
    assert all(nearer < farther for nearer, farther in pairwise(losses))


def test_errors_are_counted_as_pyannote_counts_them():
    generator = torch.Generator().manual_seed(2)
    target = (torch.rand(2, 50, 3, generator=generator) < 0.4).float()
    found = (torch.rand(2, 50, 3, generator=generator) < 0.4).float()
    [counts] = count_errors(found, target)
    false_alarm = missed = confusion = 0.0
    for b in range(2):
        best = min(
            permutations(range(3)), key=lambda o: float((found[b] - target[b][:, o]).square().sum())
        )
        for hypothesis, reference in zip(found[b], target[b][:, best], strict=True):
            surplus = float(hypothesis.sum() - reference.sum())
            false_alarm += max(0.0, surplus)
            missed += max(0.0, -surplus)
            confusion += float((hypothesis * (hypothesis != reference)).sum()) - max(0.0, surplus)
    assert counts.tolist() == [false_alarm, missed, confusion, float(target.sum())]
    assert SegmentationErrors(*counts.tolist()).rate == pytest.approx(
        (false_alarm + missed + confusion) / float(target.sum())
    )


def test_the_best_threshold_is_found():
    target = torch.tensor([[[1.0], [1.0], [0.0], [0.0]]])
    scores = torch.tensor([[[0.35], [0.4], [0.1], [0.2]]])
    thresholds = torch.linspace(0, 1, 51)
    threshold, rate = best_threshold(count_errors(scores, target, thresholds), thresholds)
    assert 0.2 <= threshold < 0.35
    assert rate == 0
