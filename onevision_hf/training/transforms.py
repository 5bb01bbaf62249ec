"""What becomes of a row: the tensors of one sample, and which of them a generator decides.

A view is `view(row, rng, position)`. `rng` belongs to (seed, stream, position), so a sample is the same on
any process; `position` counts the samples of the stream and says which mode a video is shown in.

Shapes: p patch side, K patches of a video.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..data.media import open_picture
from ..data.patch_cache import PatchCache
from ..modeling.frame_geometry import FrameGeometry
from ..modeling.frame_sampling import sample_frame_ids
from ..modeling.frame_sequence import is_encoded, open_video
from ..modeling.patch_selection import Placement
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from .config import HeadConfig

Sample = dict[str, np.ndarray]
MODES = ("codec", "uniform", "collage")
NO_LABEL = -100
LABELS = "labels"  # of a sample's own head; of another that shares it, labels/NAME
CLIP_MEAN, CLIP_STD = OneVisionVideoProcessor.image_mean, OneVisionVideoProcessor.image_std


class ImageView:
    """A square crop of a picture: `pixel_values` (3, size, size) float32, CLIP's normalisation.

    The shorter side, or with `min_zoom` a random share of it, becomes `size` pixels; where the crop lies is
    random. Published: no zoom, no mirror. Without a generator the middle of the picture.
    """

    def __init__(self, head: HeadConfig, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD):
        self.head = head
        self._scale = (1 / (255 * np.array(std))).astype(np.float32)[:, None, None]
        self._offset = (-np.array(mean) / np.array(std)).astype(np.float32)[:, None, None]

    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample:
        head = self.head
        picture = square_crop(row.media, head.size, head.min_zoom, head.mirror, rng)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) * self._scale + self._offset
        return {"pixel_values": pixels, "labels": pad_labels(row.labels, head.max_labels)}


def square_crop(
    media: Any, size: int, min_zoom: float, mirror: bool, rng: np.random.Generator | None
) -> Image.Image:
    """A square of a picture, brought to `size` pixels (bicubic): drawn by `rng`, or the middle without one.

    Its side is a share of the shorter side of the picture, `min_zoom` to 1.
    """
    picture = media if isinstance(media, Image.Image) else open_picture(media)
    zoom, x, y, coin = (1.0, 0.5, 0.5, 1.0) if rng is None else rng.random(4)
    if rng is not None:
        zoom = min_zoom + (1 - min_zoom) * zoom
    side = max(1.0, min(picture.size) * zoom)
    left, top = x * (picture.width - side), y * (picture.height - side)
    picture = picture.convert("RGB").resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return ImageOps.mirror(picture) if mirror and coin < 0.5 else picture


class VideoView:
    """K patches of a video in one of three modes, with [t, h, w] of each.

    codec: what codec patchification keeps (a selection in the row is used as it is). uniform: as many whole
    frames as fit in `num_patches`, one drawn from each equal stretch of the sampled frames. collage: the same
    frames as one tall picture, t = 0. Modes follow one another in the configured shares, to the sample. With
    `visible` below 1 a random part of the patches is left out (with a generator).
    `pixel_values_videos` (K, 3*p*p) float32, `patch_positions` (K, 3) int64.
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

    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample:
        mode = "codec" if rng is None else self.mode(position)
        with contextlib.ExitStack() as stack:
            media, height, width, frames = row.media, row.height, row.width, row.frames
            if not (height and width and frames):
                media = stack.enter_context(open_video(media))
                height, width, frames = media.height, media.width, len(media)
            return self._shown(row, media, (height, width, frames), rng, mode)

    def _shown(
        self,
        row: Any,
        media: Any,
        shape: tuple[int, int, int],
        rng: np.random.Generator | None,
        mode: str,
    ) -> Sample:
        """The sample of a clip of `shape` (height, width, frames), of which `media` may be an open reader."""
        height, width, frames = shape
        ids = sample_frame_ids(frames, self.head.num_frames)
        if mode == "codec":
            budget = min(self.head.num_patches, len(ids) * (self.head.size // self.patch_size) ** 2)
            chosen = self._cached(row, height, width)
            if chosen is None and self.head.cache and is_encoded(row.media):
                cut = self._cache(budget)(row.media)
            elif chosen is None:
                cut = self._cut(media, num_frames=self.head.num_frames, num_patches=budget)
            else:
                cut = self._cut(media, selection=chosen)
        else:
            cut = self._cut(media, selection=self._whole_frames(ids, rng, height, width))
        if mode == "collage":
            cut["patch_positions"] = _stacked(cut["patch_positions"])
        if rng is not None and self.head.visible < 1:
            count = len(cut["patch_positions"])
            seen = np.sort(rng.permutation(count)[: max(1, round(self.head.visible * count))])
            cut = {name: array[seen] for name, array in cut.items()}
        return {**cut, "labels": pad_labels(row.labels, self.head.max_labels)}

    def _cut(self, media: Any, **settings: Any) -> Sample:
        cut = self._processor(media, return_tensors="np", **settings)
        return {name: cut[name][0] for name in ("pixel_values_videos", "patch_positions")}

    def _cache(self, budget: int) -> PatchCache:
        if budget not in self._caches:
            settings = {"num_frames": self.head.num_frames, "num_patches": budget}
            self._caches[budget] = PatchCache(self.head.cache, self._processor, **settings)
        return self._caches[budget]

    def _cached(self, row: Any, height: int, width: int) -> Placement | None:
        stored = row.selection
        if stored is None:
            return None
        rows, columns = stored["grid"].tolist()
        geometry = FrameGeometry.fit(height, width, self.head.size, self.patch_size)
        if (geometry.grid_height, geometry.grid_width) != (rows, columns):
            raise ValueError(
                f"{row.key}: its selection has a grid of {rows} x {columns} patches, size {self.head.size} "
                f"and patches of {self.patch_size} pixels give "
                f"{geometry.grid_height} x {geometry.grid_width}; "
                "pack again with the size and patch size of the training"
            )
        positions = stored["positions"].astype(np.int64)
        if (
            len(positions) > self.head.num_patches
        ):  # the strongest; the first ones would be of the first frames
            kept = np.argsort(-stored["scores"], kind="stable")[: self.head.num_patches]
            positions = positions[np.sort(kept)]
        return Placement(positions, stored["frame_ids"], geometry)

    def _whole_frames(self, ids: np.ndarray, rng: Any, height: int, width: int) -> Placement:
        size, p = self.head.size, self.patch_size
        geometry = FrameGeometry.crop(height, width, size, size, size, p)
        count = max(1, min(len(ids), self.head.num_patches // geometry.patches_per_frame))
        edges = np.linspace(0, len(ids), count + 1).astype(np.int64)
        times = rng.integers(edges[:-1], edges[1:])
        grid = np.indices((geometry.grid_height, geometry.grid_width)).reshape(2, -1).T
        positions = np.concatenate([np.column_stack([np.full(len(grid), t), grid]) for t in times])
        return Placement(positions, ids, geometry)


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
