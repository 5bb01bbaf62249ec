"""Rebuilding an image from its tokens: the noise that they get first, and distances (arXiv 2601.15369, 3.2).

Shapes: B images, N tokens, D width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .cluster_sampling import keyed_hash

_OFFSETS, _SIGMA, _NORMAL = 21, 22, 23  # what a hash is for


class Noised(NamedTuple):
    """tokens (B, N, D) with noise, and sigma (B, 1, 1), its deviation."""

    tokens: Tensor
    sigma: Tensor


def add_noise(tokens: Tensor, tau: float, seeds: Tensor) -> Noised:
    """tokens + sigma * eps, eps ~ N(0, I), sigma ~ U[0, tau] once an image (equation 3).

    Args:
        tokens: (B, ...).
        tau: the largest deviation of the noise, 0 or more.
        seeds: (B,) int64: the noise of an image is a function of its seed alone, whatever the batch, the
            process or the device (up to the rounding of log, sin and cos).

    Raises:
        ValueError: a negative tau, or seeds for another number of images.
    """
    if tau < 0:
        raise ValueError(f"tau is the largest deviation of the noise, 0 or more, found {tau}")
    batch, count = len(tokens), tokens[0].numel()
    if seeds.shape != (batch,):
        raise ValueError(f"noise for {batch} images needs seeds of shape ({batch},), found {seeds.shape}")
    # Each image counts on from a place of its own among 2^63.
    start = keyed_hash(seeds.to(tokens.device, torch.int64), _OFFSETS)[:, None]
    sigma = tau * _uniform(start, _SIGMA)[..., None]
    pairs = start + torch.arange(-(-count // 2), device=tokens.device)
    radius = (-2 * _uniform(pairs, _NORMAL).log()).sqrt()
    angle = 2 * math.pi * _uniform(pairs, _NORMAL + 1)
    noise = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]  # Box and Muller
    sigma = sigma.to(tokens.dtype)
    return Noised(tokens + sigma * noise.view(tokens.shape).to(tokens.dtype), sigma)


def _uniform(items: Tensor, key: int) -> Tensor:
    """Numbers in (0, 1), never 0 or 1, in float32."""
    return ((keyed_hash(items, key) >> 40).float() + 0.5) * 2.0**-23


def mean_absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean over everything but the batch of |prediction - target|.

    Args:
        prediction: (B, ...).
        target: (B, ...), the same shape.

    Returns:
        (B,) float32.

    Raises:
        ValueError: two shapes, which would be broadcast.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"a distance of {tuple(prediction.shape)} to {tuple(target.shape)}")
    return (prediction.float() - target.float()).abs().flatten(1).mean(1)
