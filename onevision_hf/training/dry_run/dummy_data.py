"""Rows of random tensors in the shapes that a head plans: dry runs without data, benchmarks, tests."""

from typing import Any

import numpy as np
from PIL import Image

from ...data.captions import PairRow
from ..config import HeadConfig
from ..transforms import Sample, pad_labels


class RandomRows:
    """`rows` rows whose tensors and labels their number decides, already in the shape of the head's view."""

    def __init__(
        self, head: HeadConfig, classes: int, patch_size: int, rows: int = 4096, labels: int | None = None
    ):
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
        head, p = self.head, self.patch_size
        if head.kind == "image":
            return {"pixel_values": rng.standard_normal((3, head.size, head.size), np.float32)}
        side = head.size // p
        kept = min(head.num_patches, head.num_frames * side * side)
        flat = np.sort(rng.choice(head.num_frames * side * side, kept, replace=False))
        return {
            "pixel_values_videos": rng.standard_normal((kept, 3 * p * p), np.float32),
            "patch_positions": np.stack(np.unravel_index(flat, (head.num_frames, side, side)), 1),
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
