"""Numbers with which nothing finite comes out are refused where they enter, by name."""

import math

import numpy as np
import pytest
import torch

from onevision_hf import (
    OneVisionImageProcessor,
    OneVisionVideoProcessor,
    OneVisionVLImageProcessor,
    OpenVision3ImageProcessor,
)
from onevision_hf.objectives import ClusterDiscriminationLoss

CLIP = np.full((3, 28, 28, 3), 128, np.uint8)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-12, 1e-6])
def test_embeddings_without_length_give_a_bounded_gradient(length):
    loss = ClusterDiscriminationLoss(20, 8)
    embeddings = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) * length
    embeddings.requires_grad_()
    value = loss(embeddings, torch.arange(4)[:, None])
    value.backward()
    assert value.isfinite() and loss.centers.grad.isfinite().all()
    assert embeddings.grad.norm() <= 2 * loss.scale / 1e-3


def test_embeddings_of_any_other_length_are_told_by_their_direction():
    loss = ClusterDiscriminationLoss(20, 8)
    embeddings = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)[:, None]
    lengths = embeddings.norm(dim=1, keepdim=True)
    for length in (2e-3, 1.0, 1e6):
        assert torch.allclose(
            loss(embeddings / lengths * length, labels, step=0), loss(embeddings, labels, step=0)
        )


@pytest.mark.parametrize(("name", "value"), [("scale", math.inf), ("scale", math.nan), ("margin", math.nan)])
def test_a_loss_of_numbers_that_are_none_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ClusterDiscriminationLoss(20, 8, **{name: value})


@pytest.mark.parametrize("std", [0, [0.2, 0.0, 0.2], [0.2, math.nan, 0.2], [0.2, -0.1, 0.2], math.inf])
def test_a_deviation_that_is_none_is_refused(std):
    images = torch.zeros(3, 28, 28, dtype=torch.uint8)
    for call in (
        lambda: OneVisionVideoProcessor(image_std=std)(CLIP),
        lambda: OneVisionImageProcessor(image_std=std)(images),
        lambda: OneVisionVLImageProcessor(image_std=std)(images),
        lambda: OpenVision3ImageProcessor(image_std=std)(images),
    ):
        with pytest.raises(ValueError, match="image_std must be finite numbers above 0"):
            call()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_are_no_numbers_are_refused(value):
    frames = np.zeros((3, 28, 28, 3), np.float32)
    frames[2, 5, 5, 0] = value
    with pytest.raises(ValueError, match="NaN or infinite pixels in frame 2"):
        OneVisionVideoProcessor()(frames)
    with pytest.raises(ValueError, match="NaN or infinite pixels"):
        OneVisionImageProcessor()(frames[2])


def test_a_scale_of_pixels_that_is_none_is_refused():
    for factor in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="rescale_factor must be a finite number but 0"):
            OneVisionVideoProcessor(rescale_factor=factor)(CLIP)
