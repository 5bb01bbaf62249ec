"""Dummy data in the shapes that a head plans: dry runs without data, benchmarks, tests."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...data.captions import CaptionedImage
from ...modeling.patchify_config import PatchifyConfig
from ..mixture import Sample, Transformed
from ..tasks.cluster_config import HeadConfig
from ..transforms import largest_clip, pad_labels, with_overrides


@dataclass(frozen=True)
class DummyExample:
    """A sample already; its tensors are drawn when they are wanted."""

    key: str
    labels: np.ndarray
    rng: np.random.Generator
    source: "DummyExamples"

    def sample(self) -> Sample:
        return {**self.source.draw(self.rng), "labels": self.labels}


class DummyExamples:
    """Random tensors and labels, decided by the example's number, in the shapes that a head wants.

    Args:
        head: whose shapes.
        classes: of the labels.
        patch_size: pixels to a side of one token.
        count: examples.
        own: what the encoder's own processor is set to; a fresh one's if left out.
    """

    def __init__(
        self,
        head: HeadConfig,
        classes: int,
        patch_size: int,
        count: int = 4096,
        own: PatchifyConfig | None = None,
    ):
        self.own = own or PatchifyConfig.from_dict({}, patch_size=patch_size)
        self.head, self.patch_size, self._count = head, patch_size, count
        self.classes = classes

    def transformed(self) -> Transformed:
        """With the transform that takes the examples as they are."""
        return Transformed(self, as_drawn)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> DummyExample:
        rng = np.random.default_rng(index)
        labels = rng.choice(self.classes, min(self.head.max_labels, self.classes), replace=False)
        return DummyExample(f"random/{index}", pad_labels(labels, self.head.max_labels), rng, self)

    def labels_by_key(self) -> Iterator[tuple[str, np.ndarray]]:
        for index in range(self._count):
            yield f"random/{index}", self[index].labels

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


class DummyPairs:
    """Random pictures of `size` pixels, each with a caption longer than any head takes."""

    def __init__(self, size: int, count: int = 4096):
        self.size, self._count = size, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> CaptionedImage:
        pixels = np.random.default_rng(index).integers(0, 256, (self.size, self.size, 3), np.uint8)
        return CaptionedImage(f"random/{index}", Image.fromarray(pixels), ("a word " * 200,))


def as_drawn(example: Any, rng: np.random.Generator | None, position: int) -> Sample:
    """The transform of dummy examples, which are samples already.

    Args:
        example: a `DummyExample`.
        rng: of no use.
        position: of no use.
    """
    return example.sample()
