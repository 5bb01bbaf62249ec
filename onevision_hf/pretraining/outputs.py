"""What `UnifiedForPreTraining` gives. Shapes as in modeling_unified.py."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from transformers.modeling_outputs import ModelOutput

Grid = tuple[int, int]
REBUILD, PIXELS = ("pixel", "latent", "lpips"), ("pixel", "lpips")


class Encoded(NamedTuple):
    """tokens (B, N, D), their grid (gh, gw), and features (B, E), not normalised."""

    tokens: Tensor
    grid: Grid
    features: Tensor


@dataclass
class UnifiedPreTrainingOutput(ModelOutput):
    """loss: (), the weighted sum. losses: name -> () unweighted, of those that have a weight: pixel, latent,
    lpips, caption, contrastive. metrics: name -> () detached: token_rms, noise_share (tau / RMS),
    logit_scale, contrastive_accuracy. tokens (B, N, D) without noise, image_features (B, E), text_features
    (B, T, E).

    Losses and metrics are those of the batches of all processes together, and equal on each.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    metrics: dict[str, Tensor] | None = None
    tokens: Tensor | None = None
    image_features: Tensor | None = None
    text_features: Tensor | None = None


class Part(NamedTuple):
    """What a chunk of the batch gives: sums over its images (or words), and rows."""

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]
    tokens: Tensor
    image_features: Tensor | None
    text_features: Tensor | None
