"""Heads that share samples: a clip is decoded and encoded once, and each head has labels of its own for it.

What moves and how it moves are clustered apart, so a clip has a row in two packs; one head reads the clips,
the other (`clips_of`) only its labels, which belong to the same keys.
"""

from typing import Any

import numpy as np

from ...data.media_shards import PackedShards
from ..config import ConfigError
from ..dry_run.dummy_data import RandomRows
from ..transforms import LABELS, Sample, pad_labels


class Labels:
    """The labels of a head by key: `labels(row)` is (columns,) int64, -100 where there is none.

    Raises:
        ConfigError: a source whose labels cannot be had without its media.
    """

    def __init__(self, head: str, rows: Any, columns: int):
        self.columns = columns
        if isinstance(rows, RandomRows):  # of a dry run: any labels will do
            self._of = {f"random/{i}": rows[i].labels for i in range(len(rows))}
            return
        if not isinstance(rows, PackedShards):
            raise ConfigError(
                f"cluster.heads.{head}.clips_of: labels by key are those of `onevision cluster pack`, "
                f"cluster.heads.{head}.source is no such folder"
            )
        self._of = {}
        for shard in range(len(rows.shard_rows)):
            table = rows.table(shard)
            for key, found in zip(table["key"].to_pylist(), table["labels"].to_pylist(), strict=True):
                self._of[key] = pad_labels(np.asarray(found, np.int64), columns)

    def __call__(self, row: Any) -> np.ndarray:
        found = self._of.get(row.key)
        return pad_labels(np.empty(0, np.int64), self.columns) if found is None else found


class SharedView:
    """A view with the labels of other heads beside those of its own: `labels/NAME`."""

    def __init__(self, view: Any, labels: dict[str, Labels]):
        self.view, self.labels = view, labels

    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample:
        sample = self.view(row, rng, position)
        return sample | {f"{LABELS}/{name}": labels(row) for name, labels in self.labels.items()}
