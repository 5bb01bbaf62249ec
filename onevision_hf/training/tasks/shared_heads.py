"""Heads that share samples: a clip is decoded and encoded once, and each head has labels of its own for it.

What moves and how it moves are clustered apart, so a clip has a row in two packs; one head reads the clips,
the other (`clips_of`) only its labels, which belong to the same keys.
"""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..mixture import Sample, Transform
from ..schema import ConfigError
from ..transforms import LABELS, pad_labels


@runtime_checkable
class KeyedLabels(Protocol):
    """A dataset whose labels can be had without its media, as that of `onevision cluster pack`."""

    def labels_by_key(self) -> Iterable[tuple[str, np.ndarray]]:
        """Key and labels (M,) int64 of each example."""


class Labels:
    """The labels of a head by key: `labels(example)` is (columns,) int64, -100 where there is none.

    Args:
        head: its name.
        dataset: its pack.
        columns: labels that are kept of an example.

    Raises:
        ConfigError: a source whose labels cannot be had without its media.
    """

    def __init__(self, head: str, dataset: Any, columns: int):
        self.columns = columns
        if not isinstance(dataset, KeyedLabels):
            raise ConfigError(
                f"cluster.heads.{head}.clips_of: labels by key are those of `onevision cluster pack`, "
                f"cluster.heads.{head}.source is no such folder"
            )
        self._of = {key: pad_labels(found, columns) for key, found in dataset.labels_by_key()}

    def __call__(self, example: Any) -> np.ndarray:
        found = self._of.get(example.key)
        return pad_labels(np.empty(0, np.int64), self.columns) if found is None else found


class SharedTransform:
    """A transform, and the labels of other heads with those of its own: `labels/NAME`."""

    def __init__(self, transform: Transform, labels: dict[str, Labels]):
        self.transform, self.labels = transform, labels

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        sample = self.transform(example, rng, position)
        return sample | {f"{LABELS}/{name}": labels(example) for name, labels in self.labels.items()}
