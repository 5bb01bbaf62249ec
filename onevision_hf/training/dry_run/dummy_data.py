"""Rows of random tensors in the shapes that a head plans: dry runs without data, benchmarks, tests."""

import math
from typing import Any

import numpy as np
from PIL import Image

from ...data.captions import PairRow
from ...modeling.patchify_config import PatchifyConfig
from ..config import HeadConfig
from ..transforms import Sample, largest_clip, pad_labels, with_overrides


class RandomRows:
    """`rows` rows whose tensors and labels their number decides, already in the shape of the head's view.

    Args:
        head: whose samples they stand for.
        classes: labels are below that.
        patch_size: pixels.
        rows: how many there are.
        labels: of each; `max_labels` of the head if left out.
        own: what the encoder's own processor is set to; a fresh one's if left out.
    """

    def __init__(
        self,
        head: HeadConfig,
        classes: int,
        patch_size: int,
        rows: int = 4096,
        labels: int | None = None,
        own: PatchifyConfig | None = None,
    ):
        self.own = own or PatchifyConfig.from_dict({}, patch_size=patch_size)
        self.head, self.patch_size, self._rows = head, patch_size, rows
        self.classes = classes
        self.labels = head.max_labels if labels is None else labels

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> "RandomRow":
        rng = np.random.default_rng(index)
        labels = rng.choice(self.classes, min(self.labels, self.classes), replace=False)
        return RandomRow(f"random/{index}", pad_labels(labels, self.head.max_labels), rng, self)

    def draw(self, rng: np.random.Generator) -> Sample:
        size, p = self.head.image_size, self.patch_size
        if self.head.kind == "image":
            return {"pixel_values": rng.standard_normal((3, size, size), np.float32)}
        frames, geometry, kept = largest_clip(with_overrides(self.own, self.head.processor))
        grid = (frames, geometry.grid_height, geometry.grid_width)
        flat = np.sort(rng.choice(math.prod(grid), kept, replace=False))
        return {
            "pixel_values_videos": rng.standard_normal((kept, 3 * p * p), np.float32),
            "patch_positions": np.stack(np.unravel_index(flat, grid), 1),
        }


class RandomRow:
    def __init__(self, key: str, labels: np.ndarray, rng: np.random.Generator, rows: RandomRows):
        self.key, self.labels, self._rng, self._rows = key, labels, rng, rows

    def sample(self) -> Sample:
        return {**self._rows.draw(self._rng), "labels": self.labels}


class RandomPairs:
    """`rows` random pictures of `size` pixels, each with a caption longer than any head takes."""

    classes = None

    def __init__(self, size: int, rows: int = 4096):
        self.size, self._rows = size, rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> PairRow:
        pixels = np.random.default_rng(index).integers(0, 256, (self.size, self.size, 3), np.uint8)
        return PairRow(f"random/{index}", Image.fromarray(pixels), ("a word " * 200,))


def as_drawn(row: Any, rng: np.random.Generator | None, position: int) -> Sample:
    """The view of random rows: they are samples already."""
    return row.sample()
