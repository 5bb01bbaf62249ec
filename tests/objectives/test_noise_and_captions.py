"""Noise that a seed decides, distances, and the cross-entropy of captions."""

import pytest
import torch
from torch.nn import functional as F

from onevision_hf.objectives import add_noise, caption_targets, caption_terms, mean_absolute_error

TAU = 0.8


def test_the_noise_of_an_image_is_normal_with_a_deviation_of_its_own_up_to_tau():
    clean = torch.ones(64, 100, 31)  # an odd number of values
    noisy, sigma = add_noise(clean, TAU, torch.arange(64))
    assert sigma.shape == (64, 1, 1) and ((sigma > 0) & (sigma < TAU)).all() and len(sigma.unique()) == 64
    unit = (noisy - clean) / sigma
    deviation = unit.flatten(1).std(1)
    torch.testing.assert_close(deviation, torch.ones(64), rtol=0.06, atol=0)
    assert unit.mean().abs() < 0.01 and unit.pow(4).mean() == pytest.approx(3.0, abs=0.1)
    # Uniform: the mean of 64 draws is that of the middle, give or take three of its deviations.
    assert sigma.mean().item() == pytest.approx(TAU / 2, abs=3 * TAU / 12**0.5 / 8)
    # Neither images nor values go together.
    rows = unit.flatten(1)
    products = (rows @ rows.T / rows.shape[1]).fill_diagonal_(0)
    assert products.abs().max() < 6 / rows.shape[1] ** 0.5
    assert (rows[:, 1:] * rows[:, :-1]).mean().abs() < 0.01


def test_a_seed_decides_whatever_the_batch():
    clean = torch.zeros(3, 4, 6)
    seeds = torch.tensor([2**61, 5, 17])
    noisy = add_noise(clean, TAU, seeds).tokens
    assert torch.equal(add_noise(clean, TAU, seeds).tokens, noisy)
    assert torch.equal(add_noise(clean[:2], TAU, seeds[[2, 0]]).tokens, noisy[[2, 0]])
    assert torch.equal(add_noise(clean, 0.0, seeds).tokens, clean)
    with pytest.raises(ValueError, match="tau"):
        add_noise(clean, -1.0, seeds)
    with pytest.raises(ValueError, match=r"needs seeds of shape \(3,\)"):
        add_noise(clean, TAU, seeds[:2])


def test_the_next_token_is_the_target_and_padding_has_none():
    ids = torch.tensor([[1, 7, 8, 2, 0, 0], [1, 9, 2, 0, 0, 0]])
    targets = caption_targets(ids, (ids != 0).long())
    assert targets.tolist() == [[7, 8, 2, -100, -100], [9, 2, -100, -100, -100]]
    logits = torch.randn(2, 5, 12)
    total, count = caption_terms(logits, targets)
    assert count == 5
    torch.testing.assert_close(total / count, F.cross_entropy(logits.transpose(1, 2), targets))


def test_distances_are_means_and_refuse_to_broadcast():
    one, two = torch.zeros(2, 3, 4), torch.stack([torch.ones(3, 4), 3 * torch.ones(3, 4)])
    assert mean_absolute_error(one, two).tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) to \(2, 3, 1\)"):
        mean_absolute_error(one, two[..., :1])
