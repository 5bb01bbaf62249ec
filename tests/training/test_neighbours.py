"""Nearest-neighbour accuracy against what can be worked out by hand."""

import pytest
import torch

from onevision_hf.training.neighbours import neighbour_accuracy


def groups(classes, each, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.eye(classes).repeat_interleave(each, 0)
    return directions + noise * torch.randn(directions.shape, generator=generator), torch.arange(
        classes
    ).repeat_interleave(each)


def test_groups_that_lie_apart_are_told_apart_and_noise_is_not():
    assert neighbour_accuracy(*groups(8, 10, 0.05)) == 1.0
    features, labels = groups(8, 200, 0.05)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    assert neighbour_accuracy(features, shuffled) == pytest.approx(1 / 8, abs=0.05)


def test_a_sample_is_not_its_own_neighbour_but_may_be_in_a_bank():
    features, labels = torch.eye(4), torch.arange(4)
    assert neighbour_accuracy(features, labels, 1) == 0.0
    assert neighbour_accuracy(features, labels, 1, bank=(features, labels)) == 1.0


def test_neighbours_vote_by_how_near_they_are():
    # Two far ones of class 1 against a near one of class 0.
    bank = torch.tensor([[1.0, 0.0], [0.3, 0.95], [0.3, 0.95]]), torch.tensor([0, 1, 1])
    assert neighbour_accuracy(torch.tensor([[1.0, 0.1]]), torch.tensor([0]), 3, bank=bank) == 1.0


def test_lengths_of_features_do_not_matter():
    features, labels = groups(5, 20, 0.3)
    scaled = features * torch.rand(len(features), 1, generator=torch.Generator().manual_seed(2)).add(0.1)
    assert neighbour_accuracy(scaled, labels) == neighbour_accuracy(features, labels)


def test_what_cannot_be_compared_is_an_error():
    with pytest.raises(ValueError, match="too few"):
        neighbour_accuracy(torch.ones(1, 3), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="expected"):
        neighbour_accuracy(torch.ones(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="not finite"):
        neighbour_accuracy(torch.full((2, 3), torch.nan), torch.zeros(2, dtype=torch.long))
