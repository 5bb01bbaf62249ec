"""Learning rates, decay, clipping and averages: what the published trainer got wrong among them."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from onevision_hf import OneVisionConfig, OneVisionModel
from onevision_hf.objectives import ClusterDiscriminationLoss
from onevision_hf.training.config import OptimConfig
from onevision_hf.training.optimisation import Average, Optimizers, decays, learning_rate_factor


def factors(total=1000, **settings):
    return [learning_rate_factor(OptimConfig(**settings), step, total) for step in range(total + 1)]


def test_a_polynomial_of_power_two_is_not_nearly_linear():
    found = factors(lr_scheduler_type="poly", power=2.0)
    assert found[500] == pytest.approx(0.25) and found[750] == pytest.approx(0.0625)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "poly"])
def test_schedules_rise_to_one_at_the_end_of_the_warm_up_and_fall_to_the_final_share(schedule):
    found = factors(lr_scheduler_type=schedule, warmup_steps=100, final_lr_scale=0.1)
    assert (
        found[0] == pytest.approx(1 / 101)
        and found[100] == pytest.approx(1)
        and found[1000] == pytest.approx(0.1)
    )
    assert all(a < b for a, b in pairwise(found[:101]))
    assert all(a >= b for a, b in pairwise(found[100:]))
    assert factors(total=10, warmup_steps=20)[5] == pytest.approx(6 / 21)  # a run shorter than its warm-up


def test_norms_biases_probes_and_positions_do_not_decay_and_everything_else_does():
    model = OneVisionModel(OneVisionConfig.tiny())
    kept = {n for n, p in model.named_parameters() if not decays(n, p)}
    assert {"head.probe", "layernorm_pre.weight", "head.norm.weight", "head.attention.in_proj_bias"} <= kept
    assert all(n.endswith(("bias", "probe")) or "norm" in n for n in kept)
    assert "embeddings.patch_embedding.weight" not in kept and "head.attention.in_proj_weight" not in kept


def one_step(clip, factor=1.0, **settings):
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    loss = ClusterDiscriminationLoss(9, 4, sample_rate=1.0, labels_per_sample=1)
    optimizers = Optimizers(model, {"a": loss}, OptimConfig(max_grad_norm=clip, **settings))
    loss(model(torch.randn(6, 5)), torch.arange(6)[:, None]).backward()
    gradients = [model.weight.grad.clone(), model.bias.grad.clone(), loss.centers.grad.clone()]
    before = loss.centers.detach().clone()
    norm = optimizers.clip()
    clipped = [model.weight.grad, model.bias.grad, loss.centers.grad]
    found = [g.clone() for g in clipped]
    optimizers.step(factor)
    return gradients, found, norm, before, loss.centers.detach()


def test_clipping_is_by_one_norm_over_the_backbone_and_the_centers():
    gradients, clipped, norm, *_ = one_step(clip=0.5)
    assert norm.item() == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-5)
    assert torch.cat([g.flatten() for g in clipped]).norm().item() == pytest.approx(0.5, rel=1e-4)
    for before, after in zip(gradients, clipped, strict=True):
        torch.testing.assert_close(
            after / before, torch.full_like(before, 0.5 / norm.item()), rtol=1e-4, atol=0
        )
    gradients, clipped, *_ = one_step(clip=0)
    assert all(torch.equal(a, b) for a, b in zip(gradients, clipped, strict=True))


def test_centers_have_their_own_rate_and_decay():
    *_, before, after = one_step(clip=0, learning_rate=1e-2, centers_lr_scale=0.5, centers_weight_decay=0.0)
    # The first step of Adam is the rate itself, whatever the gradient.
    assert (after - before).abs().max().item() == pytest.approx(5e-3, rel=1e-3)
    *_, before, after = one_step(clip=0, factor=0.0)
    assert torch.equal(before, after)


def test_an_average_follows_the_weights_with_its_decay():
    model = nn.Linear(3, 2)
    average = Average(model, 0.75)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update()
    torch.testing.assert_close(average.weights["weight"], start + 0.25)
