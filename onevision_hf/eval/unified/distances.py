"""Sets of pictures against sets of pictures: Fréchet distance, Inception score, precision and recall.

torch-fidelity's arithmetic on features that were computed once. Shapes: N pictures, F features, L logits.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

NEIGHBOURS = 3  # of precision and recall, as published (arXiv 1904.06991) and in ADM's evaluator
SPLITS = 10  # of the Inception score


class Looked(NamedTuple):
    """What a network says of N pictures: features (N, F), logits (N, L), on the CPU."""

    features: Tensor
    logits: Tensor


Statistics = dict[str, np.ndarray]  # as torch-fidelity has them: mu (F,), sigma (F, F), float64


def look(backbone: nn.Module, pictures: Tensor) -> Looked:
    """`backbone` (see `backbones.Inception`) over pictures (N, 3, H, W) uint8, where it is."""
    parameter = next(backbone.parameters(), None)
    with torch.no_grad():
        features, logits = backbone(pictures if parameter is None else pictures.to(parameter.device))
    return Looked(features.float().cpu(), logits.float().cpu())


def joined(parts: list[Looked]) -> Looked:
    return Looked(torch.cat([part.features for part in parts]), torch.cat([part.logits for part in parts]))


def gaussian(features: Tensor, what: str) -> Statistics:
    """Raises ValueError for fewer than two rows: they have no covariance."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(features) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 pictures, {what} has {len(features)}")
    return fid_features_to_statistics(features.double())


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """Of two sets' features, FID where they are Inception's (arXiv 1706.08500). Biased upwards for few
    pictures.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(one, other, verbose=False)[KEY_METRIC_FID])


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """(mean, deviation) over `splits` shuffled parts (arXiv 1606.03498). Raises ValueError for fewer
    pictures.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if len(logits) < splits:
        raise ValueError(
            f"an Inception score over {splits} parts needs as many pictures, found {len(logits)}"
        )
    found = isc_features_to_metric(logits, splits)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]


def precision_recall(
    samples: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """(fraction of the samples inside the reference's neighbourhoods, the other way about), arXiv 1904.06991.

    Raises ValueError when a set has no more pictures than neighbours.

    Args:
        samples: (N, F) features.
        reference: (M, F) features.
        neighbours: whose distance is the radius of a neighbourhood.
        device: where distances are computed.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    fewest = min(len(samples), len(reference))
    if fewest <= neighbours:
        raise ValueError(
            f"precision and recall over {neighbours} neighbours need more pictures, found {fewest}"
        )
    given: dict[str, Any] = {"prc_neighborhood": neighbours, "prc_batch_size": 10000, "save_cpu_ram": True}
    found = prc_features_to_metric(samples.to(device), reference.to(device), **given, verbose=False)
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]
