"""The contrastive loss is what is written in the papers, on one, two and three processes."""

import math

import contrastive_workers as workers
import pytest
import torch
from contrastive_workers import FORMS, SIZES, TEXTS
from processes import run
from torch.nn import functional as F

from onevision_hf.objectives import capped_scale, contrastive_loss


@pytest.fixture(scope="module")
def results():
    """{(size, what, ...): [result of each process]}, from three processes."""
    ranks = run(workers.main, size=3)
    return {key: [rank[key] for rank in ranks if key in rank] for key in ranks[0] | ranks[1] | ranks[2]}


def by_hand(form, texts):
    """The whole batch at once, written out."""
    both = workers.Both()
    images, captions = workers.batch(texts)
    image, text, log_scale, bias = both(images, captions)
    total = 0
    for t in range(texts):
        cosine = F.normalize(image, dim=-1) @ F.normalize(text[:, t], dim=-1).T
        logits, own = log_scale.exp() * cosine, torch.arange(len(images))
        if form == "softmax":
            total = total + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2 / texts
        else:
            sign = 2 * torch.eye(len(images), dtype=torch.float64) - 1
            total = total - F.logsigmoid(sign * (logits + bias)).sum() / len(images) / texts
    (total + 0 * bias.sum()).backward()
    return total.detach(), {name: p.grad for name, p in both.named_parameters()}


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("form", FORMS)
def test_any_number_of_processes_gives_the_loss_and_the_gradients_of_the_whole_batch(results, form, texts):
    loss, gradients = by_hand(form, texts)
    for size in SIZES:
        for rank in results[size, form, texts]:
            torch.testing.assert_close(rank["loss"], loss, rtol=1e-12, atol=0)
            for name, gradient in gradients.items():
                torch.testing.assert_close(rank["gradients"][name], gradient, rtol=1e-9, atol=1e-12)
            assert rank["accuracy"] == results[1, form, texts][0]["accuracy"]


def test_means_are_over_the_items_of_all_processes(results):
    for size in SIZES:
        for found in results[size, "means"]:
            counts = [float(sum(range(size))), 2.0 * size, 0.0]
            sums = [sum(1.0 + r for r in range(size)), 2.0 * size, 0.0]
            expected = [s / max(1.0, c) for s, c in zip(sums, counts, strict=True)]
            torch.testing.assert_close(found["means"], torch.tensor(expected))
            # Multiplied by the number of processes, which DDP divides by.
            factor = [size / max(1.0, c) for c in counts]
            torch.testing.assert_close(found["gradient"], torch.tensor(factor))


def test_the_accuracy_is_the_share_of_nearest_matches():
    features = torch.eye(4)
    assert contrastive_loss(features, features, torch.tensor(0.0)).accuracy == 1
    assert contrastive_loss(features, features.roll(1, 0), torch.tensor(0.0)).accuracy == 0


def test_the_cap_stops_the_scale_and_lets_it_come_back():
    for gradient, expected in ((-1.0, 0.0), (1.0, 100.0)):
        scale = torch.tensor(math.log(100) + 1, requires_grad=True)
        found = capped_scale(scale)
        assert found.item() == pytest.approx(100)
        (gradient * found).backward()
        assert scale.grad.item() == pytest.approx(expected)
    below = torch.tensor(1.0, requires_grad=True)
    capped_scale(below).backward()
    assert below.grad.item() == pytest.approx(math.e)


def test_wrong_arguments_are_named():
    images, texts, scale = torch.randn(3, 4), torch.randn(3, 2, 4), torch.tensor(0.0)
    with pytest.raises(ValueError, match=r"expected \(b, E\) and \(b, T, E\)"):
        contrastive_loss(images, texts[:2], scale)
    with pytest.raises(ValueError, match="'softmax' or 'sigmoid'"):
        contrastive_loss(images, texts, scale, form="hinge")
    with pytest.raises(ValueError, match="give logit_bias"):
        contrastive_loss(images, texts, scale, form="sigmoid")
