"""What becomes of an example: the tensors of one sample, and which of them a generator decides.

A transform is `transform(example, rng, position)`. `rng` belongs to (seed, component, position), so a sample
is the same on any process; `position` counts the component's samples and says which mode a video is shown in.

Shapes: p patch side, K patches of a video.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..data.media import open_picture
from ..data.patch_cache import PatchCache
from ..modeling.frame_geometry import FrameGeometry
from ..modeling.frame_sampling import sample_frame_ids
from ..modeling.frame_sequence import FrameSequence, is_encoded
from ..modeling.patch_selection import Selection
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from ..modeling.video_reader import VideoReader
from .mixture import Sample
from .tasks.cluster_config import HeadConfig

MODES = ("codec", "uniform", "collage")
NO_LABEL = -100
LABELS = "labels"  # of a sample's own head; of another that shares it, labels/NAME
CLIP_MEAN, CLIP_STD = OneVisionVideoProcessor.image_mean, OneVisionVideoProcessor.image_std


class ImageTransform:
    """A square crop of a picture: `pixel_values` (3, size, size) float32, CLIP's normalisation.

    The shorter side, or with `min_crop_scale` a random share of it, becomes `size` pixels; where the crop
    lies is random. Published: neither `min_crop_scale` nor `horizontal_flip`. Without a generator the middle.

    Args:
        head: whose `size`, crop, flip and labels these are.
        mean: of each channel, of pixels from 0 to 1.
        std: likewise.
    """

    def __init__(self, head: HeadConfig, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD):
        self.head = head
        self._scale = (1 / (255 * np.array(std))).astype(np.float32)[:, None, None]
        self._offset = (-np.array(mean) / np.array(std)).astype(np.float32)[:, None, None]

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        head = self.head
        picture = square_crop(example.media, head.size, head.min_crop_scale, head.horizontal_flip, rng)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) * self._scale + self._offset
        return {"pixel_values": pixels, "labels": pad_labels(example.labels, head.max_labels)}


def square_crop(
    media: Any, size: int, min_scale: float, flip: bool, rng: np.random.Generator | None
) -> Image.Image:
    """A square of a picture, resized (bicubic): drawn by `rng`, or the middle without one.

    Args:
        media: a path, bytes, or a PIL image.
        size: side of the result in pixels.
        min_scale: the side of the square as a share of the picture's shorter side is drawn from here to 1.
        flip: turn half of the pictures left to right.
        rng: of the sample.

    Returns:
        An RGB image of `size` x `size` pixels.
    """
    picture = media if isinstance(media, Image.Image) else open_picture(media)
    scale, x, y, coin = (1.0, 0.5, 0.5, 1.0) if rng is None else rng.random(4)
    if rng is not None:
        scale = min_scale + (1 - min_scale) * scale
    side = max(1.0, min(picture.size) * scale)
    left, top = x * (picture.width - side), y * (picture.height - side)
    picture = picture.convert("RGB").resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return ImageOps.mirror(picture) if flip and coin < 0.5 else picture


class VideoTransform:
    """K patches of a video in one of three modes, with [t, h, w] of each.

    codec: what codec patchification keeps (a selection in the example is used as it is). uniform: as many
    whole frames as fit in `num_patches`, one drawn from each equal segment of the sampled frames. collage:
    the same frames as one tall picture, t = 0. Modes follow one another in the configured shares, to the
    sample.
    With `patch_keep_rate` below 1 a random part of the patches is dropped (with a generator).
    `pixel_values_videos` (K, 3*p*p) float32, `patch_positions` (K, 3) int64.

    Args:
        head: whose frames, patches, modes and labels these are.
        patch_size: p, pixels.
        temporal_size: of the model's time grid; None keeps the frame's number.
    """

    def __init__(self, head: HeadConfig, patch_size: int, temporal_size: int | None):
        self.head, self.patch_size = head, patch_size
        side = {"height": head.size, "width": head.size}
        self._processor = OneVisionVideoProcessor(
            size={"shortest_edge": head.size},
            do_center_crop=True,
            crop_size=side,
            patch_size=patch_size,
            camera=head.camera,
            rope_temporal_size=temporal_size,
        )
        # A clip whose frames are too few for the budget keeps all of its patches, so budgets differ by clip.
        self._caches: dict[int, PatchCache] = {}

    def mode(self, position: int) -> str:
        """Spread by van der Corput's sequence: shares that are eighths hold in every aligned eight
        samples.
        """
        bits = f"{position % 2**32:032b}"
        place = int(bits[::-1], 2) / 2**32
        edges = np.cumsum([self.head.codec, self.head.uniform])
        return MODES[int(np.searchsorted(edges, place, side="right"))]

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        mode = "codec" if rng is None else self.mode(position)
        height, width, frames = example.height, example.width, example.frames
        if not (height and width and frames):
            with (
                VideoReader(example.media)
                if is_encoded(example.media)
                else FrameSequence(example.media) as reader
            ):
                height, width, frames = reader.height, reader.width, len(reader)
        ids = sample_frame_ids(frames, self.head.num_frames)
        if mode == "codec":
            budget = min(self.head.num_patches, len(ids) * (self.head.size // self.patch_size) ** 2)
            chosen = self._cached(example, height, width)
            if chosen is None and self.head.cache and is_encoded(example.media):
                cut = self._cache(budget)(example.media)
            elif chosen is None:
                cut = self._cut(example, num_frames=self.head.num_frames, num_patches=budget)
            else:
                cut = self._cut(example, selection=chosen)
        else:
            cut = self._cut(example, selection=self._whole_frames(ids, rng, height, width))
        if mode == "collage":
            cut["patch_positions"] = _stacked(cut["patch_positions"])
        if rng is not None and self.head.patch_keep_rate < 1:
            count = len(cut["patch_positions"])
            seen = np.sort(rng.permutation(count)[: max(1, round(self.head.patch_keep_rate * count))])
            cut = {name: array[seen] for name, array in cut.items()}
        return {**cut, "labels": pad_labels(example.labels, self.head.max_labels)}

    def _cut(self, example: Any, **settings: Any) -> Sample:
        cut = self._processor(example.media, return_tensors="np", **settings)
        return {name: cut[name][0] for name in ("pixel_values_videos", "patch_positions")}

    def _cache(self, budget: int) -> PatchCache:
        if budget not in self._caches:
            settings = {"num_frames": self.head.num_frames, "num_patches": budget}
            self._caches[budget] = PatchCache(self.head.cache, self._processor, **settings)
        return self._caches[budget]

    def _cached(self, example: Any, height: int, width: int) -> Selection | None:
        stored = example.selection
        if stored is None:
            return None
        rows, columns = stored["grid"].tolist()
        geometry = FrameGeometry.fit(height, width, self.head.size, self.patch_size)
        if (geometry.grid_height, geometry.grid_width) != (rows, columns):
            raise ValueError(
                f"{example.key}: its selection has a grid of {rows} x {columns} patches, size "
                f"{self.head.size} and patches of {self.patch_size} pixels give "
                f"{geometry.grid_height} x {geometry.grid_width}; "
                "pack again with the size and patch size of the training"
            )
        positions = stored["positions"].astype(np.int64)
        if (
            len(positions) > self.head.num_patches
        ):  # the strongest; the first ones would be of the first frames
            kept = np.argsort(-stored["scores"], kind="stable")[: self.head.num_patches]
            positions = positions[np.sort(kept)]
        return _selection(positions, stored["frame_ids"], geometry)

    def _whole_frames(self, ids: np.ndarray, rng: Any, height: int, width: int) -> Selection:
        size, p = self.head.size, self.patch_size
        geometry = FrameGeometry.crop(height, width, size, size, size, p)
        count = max(1, min(len(ids), self.head.num_patches // geometry.patches_per_frame))
        edges = np.linspace(0, len(ids), count + 1).astype(np.int64)
        times = rng.integers(edges[:-1], edges[1:])
        grid = np.indices((geometry.grid_height, geometry.grid_width)).reshape(2, -1).T
        positions = np.concatenate([np.column_stack([np.full(len(grid), t), grid]) for t in times])
        return _selection(positions, ids, geometry)


def _selection(positions: np.ndarray, frame_ids: np.ndarray, geometry: FrameGeometry) -> Selection:
    """A selection that is only cut, so nobody wants its energies."""
    times = np.full(len(frame_ids), np.nan)
    shape = (len(frame_ids), geometry.grid_height, geometry.grid_width)
    return Selection(
        positions,
        frame_ids,
        times,
        np.ones(len(positions), np.float32),
        np.broadcast_to(np.float32(0), shape),
        "given",
        ("?",) * len(frame_ids),
        geometry,
    )


def _stacked(positions: np.ndarray) -> np.ndarray:
    """Whole frames, one below the other: (t, h, w) -> (0, frame * gh + h, w)."""
    frame = np.unique(positions[:, 0], return_inverse=True)[1]
    rows = positions[:, 1].max() + 1
    return np.stack([np.zeros_like(frame), frame * rows + positions[:, 1], positions[:, 2]], 1)


def pad_labels(labels: np.ndarray, columns: int) -> np.ndarray:
    """(columns,) int64; no label is -100, never class 0."""
    padded = np.full(columns, NO_LABEL, np.int64)
    padded[: len(labels)] = labels[:columns]
    return padded
