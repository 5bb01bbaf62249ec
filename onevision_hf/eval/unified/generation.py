"""How well pictures were generated: their set against a reference set, whoever made them.

    measure_generation(open_pictures("samples.npz"), open_pictures("reference.npz"), load_inception())

| figure | how |
|---|---|
| `gfid` | Fréchet distance of Inception's features (arXiv 1706.08500) |
| `is`, `is_deviation` | Inception score over 10 parts (arXiv 1606.03498), of the samples alone |
| `precision`, `recall` | 3 neighbours in Inception's features (arXiv 1904.06991) |

A reference .npz that brings `mu` and `sigma`, as ADM's VIRTUAL_imagenet256_labeled.npz, is compared by those
(they are of the whole training set), and its pictures serve precision and recall. gFID falls with the number
of samples, so only equal numbers compare: 50,000, the same number of each class, are what is published.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from . import distances
from .backbones import needs
from .pictures import Pictures, as_bytes, middle, none_left
from .reconstruction import check_metrics

METRICS = ("gfid", "is", "precision", "recall")


def measure_generation(
    samples: Pictures,
    reference: Pictures,
    inception: nn.Module,
    *,
    metrics: Sequence[str] = METRICS,
    size: int | None = None,
    neighbours: int = distances.NEIGHBOURS,
    splits: int = distances.SPLITS,
    batch_size: int = 64,
    workers: int = 4,
    step: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """The figures, and how many pictures they are of.

    Args:
        samples: what was generated.
        reference: what it is compared with.
        inception: pictures uint8 -> features, logits.
        metrics: some of `METRICS`.
        size: bring the central square of every picture of both sets to so many pixels first; without it all
            must have one size.
        neighbours: of precision and recall.
        splits: of the Inception score.
        batch_size: pictures at once.
        workers: threads that decode.
        step: called with the number of pictures that are done.

    Raises:
        ValueError: an unknown metric, pictures of several sizes, too few of them, statistics of another
        network.
    """
    metrics = check_metrics(metrics, METRICS)
    needs("torch_fidelity", "gfid")

    def looked(pictures: Pictures) -> distances.Looked:
        parts: list[distances.Looked] = []
        first: tuple[str, tuple[int, int]] | None = None
        for batch in pictures.batches(batch_size, workers, step):
            shown = [picture if size is None else middle(picture, size) for _, picture in batch]
            for (number, _), picture in zip(batch, shown, strict=True):
                first = first or (pictures.keys[number], picture.size)
                if picture.size != first[1]:
                    raise ValueError(
                        f"{pictures.name} holds pictures of several sizes: {first[0]} has {_by(first[1])} "
                        f"pixels, {pictures.keys[number]} has {_by(picture.size)}: give --size to crop and "
                        "resize all"
                    )
            parts.append(distances.look(inception, as_bytes(shown)))
        if not parts:
            raise none_left(pictures)
        return distances.joined(parts)

    ours = looked(samples)
    figures: dict[str, Any] = {}
    given = _given_statistics(reference, ours.features.shape[1])
    theirs = None
    if {"precision", "recall"} & set(metrics) or ("gfid" in metrics and given is None):
        theirs = looked(reference)
    if "gfid" in metrics:
        against = given or distances.gaussian(theirs.features, reference.name)  # type: ignore[union-attr]
        figures["gfid"] = distances.frechet_distance(distances.gaussian(ours.features, samples.name), against)
    if "is" in metrics:
        figures["is"], figures["is_deviation"] = distances.inception_score(ours.logits, splits)
    if theirs is not None and {"precision", "recall"} & set(metrics):
        parameter = next(inception.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
        found = distances.precision_recall(ours.features, theirs.features, neighbours, device)
        figures |= {
            name: value for name, value in zip(("precision", "recall"), found, strict=True) if name in metrics
        }
    labels = samples.more.get("labels")
    each = sorted(Counter(labels.tolist()).values()) if labels is not None and labels.ndim == 1 else []
    return {
        "figures": figures,
        "samples": len(ours.features),
        "reference": len(theirs.features) if theirs is not None else None,
        "reference_statistics": "its pictures" if given is None else "mu and sigma of the file",
        "rejected": [*samples.rejected, *reference.rejected],
        "samples_of_a_class": [each[0], each[-1]] if each else None,
    }


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _given_statistics(pictures: Pictures, features: int) -> distances.Statistics | None:
    """`mu` and `sigma` of an .npz, where it has them."""
    if not {"mu", "sigma"} <= pictures.more.keys():
        return None
    found = {name: np.asarray(pictures.more[name], np.float64) for name in ("mu", "sigma")}
    mean, covariance = found["mu"].shape, found["sigma"].shape
    if mean != (features,) or covariance != (features, features):
        raise ValueError(
            f"{pictures.name} has mu {mean} and sigma {covariance}, the network gives "
            f"{features} features: they were computed with another one"
        )
    return found
