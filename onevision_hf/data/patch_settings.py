"""What is kept of a clip: the settings of a folder of patch shards."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..modeling.frame_sampling import sample_frame_ids
from ..modeling.patch_selection import check_budget, check_positive
from ..modeling.video_processing_onevision import OneVisionVideoProcessor, frame_layout
from ..modeling.video_reader import VideoReader


@dataclass(frozen=True)
class PatchSettings:
    """Those of a training's head: the same patches come out of the shards as out of the videos.

    num_frames, size, patch_size: as in the processor. crop: the middle square of `size`, as in training;
    otherwise the whole frame. num_patches (2048 if neither is given) or keep_ratio: the budget; a clip that
    has fewer patches gives all. preset, camera, anchors: see `OneVisionVideoProcessor`.

    Raises:
        ValueError: one is out of range.
    """

    num_frames: int = 64
    size: int = 224
    patch_size: int = 14
    num_patches: int | None = None
    keep_ratio: float | None = None
    preset: str = "auto"
    camera: str | None = None
    anchors: str | int = "first"
    crop: bool = True

    def __post_init__(self) -> None:
        for name in ("num_frames", "size", "patch_size"):
            check_positive(name, getattr(self, name))
        check_budget(self.num_patches, self.keep_ratio)
        if self.num_patches is None and self.keep_ratio is None:
            object.__setattr__(self, "num_patches", 2048)
        if self.crop and self.size % self.patch_size:
            raise ValueError(f"size {self.size} is no multiple of the patch size {self.patch_size}")
        self.processor.resolve_settings({})  # checks preset, camera and anchors

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PatchSettings":
        """From a plan's settings, which hold more than these."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @cached_property
    def processor(self) -> OneVisionVideoProcessor:
        """Gives pixels as they are, 0..255, and t as the number of the sampled frame."""
        side = {"height": self.size, "width": self.size}
        return OneVisionVideoProcessor(
            num_frames=self.num_frames,
            size={"shortest_edge": self.size},
            do_center_crop=self.crop,
            crop_size=side if self.crop else None,
            patch_size=self.patch_size,
            preset=self.preset,
            camera=self.camera,
            anchors=self.anchors,
            rope_temporal_size=None,
            do_rescale=False,
            do_normalize=False,
        )

    def cut(self, reader: VideoReader) -> tuple[np.ndarray, Any]:
        """(patches (K, 3, p, p) uint8, the `Selection`) of an open video."""
        given: dict[str, Any] = {"keep_ratio": self.keep_ratio}
        if self.num_patches is not None:
            layout = frame_layout(reader.height, reader.width, self.processor.resolve_settings({}))
            frames = len(sample_frame_ids(len(reader), self.num_frames))
            given = {"num_patches": min(self.num_patches, frames * layout.patches_per_frame)}
        found = self.processor.process_reader(reader, self.processor.resolve_settings(given))
        pixels = found["patches"].astype(np.uint8)
        return pixels.reshape(-1, 3, self.patch_size, self.patch_size), found["selection"]
