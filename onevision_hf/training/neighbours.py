"""How often the nearest neighbours of a sample have its label: the quality of features without training a
probe.

neighbour_accuracy(features, labels, neighbours=10)                      # each against all others
neighbour_accuracy(features, labels, 10, bank=(train_features, train_labels))
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

_ROWS = 1024  # queries at once


@torch.no_grad()
def neighbour_accuracy(
    features: Tensor, labels: Tensor, neighbours: int = 10, *, bank: tuple[Tensor, Tensor] | None = None
) -> float:
    """The share of samples whose label wins among the nearest by cosine, each neighbour voting with
    exp(cos/0.07).

    The vote is DINO's (arXiv 2104.14294, evaluation by k-NN).

    Args:
        features: (N, D).
        labels: (N,) integers >= 0.
        neighbours: how many vote.
        bank: (M, D) features and (M,) labels among which neighbours are sought; default: the samples
            themselves, each without itself.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, or nothing to compare with.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features are {tuple(features.shape)} and labels {tuple(labels.shape)}, expected (N, D), (N,)"
        )
    others, other_labels = (features, labels) if bank is None else bank
    if not (features.isfinite().all() and others.isfinite().all()):
        raise ValueError("features have values that are not finite")
    available = len(others) - (bank is None)
    if available < 1 or not len(features):
        raise ValueError(f"{len(features)} samples and {len(others)} to compare with are too few")
    queries, others = normalize(features.float(), dim=1), normalize(others.float(), dim=1)
    classes = int(max(labels.max(), other_labels.max())) + 1
    hits = 0
    for start in range(0, len(queries), _ROWS):
        block = queries[start : start + _ROWS]
        cosine = block @ others.T
        if bank is None:
            rows = torch.arange(len(block), device=cosine.device)
            cosine[rows, start + rows] = -torch.inf
        near = cosine.topk(min(neighbours, available), dim=1)
        votes = torch.zeros(len(block), classes, dtype=torch.float64, device=cosine.device)
        votes.scatter_add_(1, other_labels[near.indices], (near.values.double() / 0.07).exp())
        hits += int((votes.argmax(1) == labels[start : start + _ROWS]).sum())
    return hits / len(features)
