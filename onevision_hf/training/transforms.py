"""What becomes of an example: the tensors of one sample, and which of them a generator decides.

A transform is `transform(example, rng, position)`. `rng` belongs to (seed, component, position), so a sample
is the same on any process; `position` counts the component's samples and says which mode a video is shown in.

Shapes: p patch side, K patches of a video.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..data.media import open_picture
from ..data.patch_cache import PatchCache
from ..modeling.frame_geometry import FrameGeometry
from ..modeling.frame_sampling import sample_frames
from ..modeling.frame_sequence import FrameSequence, is_encoded, open_video
from ..modeling.patch_cutting import PixelSettings
from ..modeling.patch_selection import Placement
from ..modeling.patchify_config import SETTINGS, PatchifyConfig
from ..modeling.video_reader import VideoReader
from .mixture import Sample
from .schema import ConfigError, nearest
from .tasks.cluster_config import HeadConfig

Reader = VideoReader | FrameSequence

MODES = ("codec", "uniform", "collage")
NO_LABEL = -100
LABELS = "labels"  # of a sample's own head; of another that shares it, labels/NAME
CLIP_MEAN, CLIP_STD = PixelSettings.image_mean, PixelSettings.image_std
_OF_THE_WEIGHTS = ("patch_size", "rope_temporal_size")


class ImageTransform:
    """A square crop of a picture: `pixel_values` (3, size, size) float32, CLIP's normalisation.

    The shorter side, or with `min_crop_scale` a random share of it, becomes `size` pixels; where the crop
    lies is random. Published: neither `min_crop_scale` nor `horizontal_flip`. Without a generator the middle.

    Args:
        head: whose `image_size`, crop, flip and labels these are.
        mean: of each channel, of pixels from 0 to 1.
        std: likewise.
    """

    def __init__(self, head: HeadConfig, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD):
        self.head = head
        pixels = PixelSettings(image_mean=tuple(mean), image_std=tuple(std))
        self._scale, self._offset = (values[:, None, None] for values in pixels.scale_and_offset)

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        head = self.head
        picture = square_crop(example.media, head.image_size, head.min_crop_scale, head.horizontal_flip, rng)
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
    whole frames as fit in the budget, one drawn from each equal segment of the sampled frames. collage: the
    same frames as one tall picture, t = 0. Modes follow one another in the configured shares, to the sample.
    With `patch_keep_rate` below 1 a random part of the patches is dropped (with a generator).
    `pixel_values_videos` (K, 3*p*p) float32, `patch_positions` (K, 3) int64.

    Args:
        head: the shares of the modes, labels, and where patches are cached.
        config: what is shown of a video; one that has fewer patches than asked for gives all.
    """

    def __init__(self, head: HeadConfig, config: PatchifyConfig):
        self.head, self.config = head, config
        self._cache = PatchCache(head.cache, config) if head.cache else None

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
        if mode == "codec" and self._cache and example.selection is None and is_encoded(example.media):
            cut = self._cache(example.media)
        else:
            with open_video(example.media) as reader:
                placement = (
                    self._packed(example, reader) if mode == "codec" else self._whole_frames(reader, rng)
                )
                found = self.config.within(reader).patchify(reader, placement)
            cut = {"pixel_values_videos": found.patches, "patch_positions": found.positions}
        if mode == "collage":
            cut["patch_positions"] = _stacked(cut["patch_positions"])
        if rng is not None and self.head.patch_keep_rate < 1:
            count = len(cut["patch_positions"])
            seen = np.sort(rng.permutation(count)[: max(1, round(self.head.patch_keep_rate * count))])
            cut = {name: array[seen] for name, array in cut.items()}
        return {**cut, "labels": pad_labels(example.labels, self.head.max_labels)}

    def _packed(self, example: Any, reader: Reader) -> Placement | None:
        """The selection that was packed with the clip, or None."""
        stored, layout = example.selection, self.config.layout
        if stored is None:
            return None
        rows, columns = stored["grid"].tolist()
        size = min(layout.size.values())
        geometry = FrameGeometry.fit(reader.height, reader.width, size, layout.patch_size)
        if (geometry.grid_height, geometry.grid_width) != (rows, columns):
            raise ValueError(
                f"{example.key}: its selection has a grid of {rows} x {columns} patches, size {size} and "
                f"patches of {layout.patch_size} pixels give {geometry.grid_height} x {geometry.grid_width}; "
                "pack again with the size and patch size of the training"
            )
        positions, frame_ids = stored["positions"].astype(np.int64), stored["frame_ids"]
        most = _most(self.config, len(frame_ids), geometry)
        if len(positions) > most:  # the strongest; the first ones would be of the first frames
            kept = np.argsort(-stored["scores"], kind="stable")[:most]
            positions = positions[np.sort(kept)]
        return Placement(positions, frame_ids, geometry)

    def _whole_frames(self, reader: Reader, rng: Any) -> Placement:
        ids = sample_frames(reader, self.config.sampling)
        geometry = self.config.geometry(reader.height, reader.width)
        most = _most(self.config, len(ids), geometry)
        count = max(1, min(len(ids), most // geometry.patches_per_frame))
        edges = np.linspace(0, len(ids), count + 1).astype(np.int64)
        times = rng.integers(edges[:-1], edges[1:])
        whole = Placement.whole_frames(ids, geometry)
        return Placement(whole.positions[np.isin(whole.positions[:, 0], times)], ids, geometry)


def with_overrides(config: PatchifyConfig, overrides: Mapping[str, Any], at: str = "") -> PatchifyConfig:
    """What differs from `config` in what is named alone.

    Args:
        config: of the encoder's own processor.
        overrides: settings by name. A budget replaces the stored one of either kind.
        at: where they stand in a config, for messages.

    Raises:
        ConfigError: an unknown name, a value out of range, or one that the encoder's weights are made for.
    """
    said = f"{at}: " if at else ""
    for name, value in overrides.items():
        if name not in SETTINGS:
            raise ConfigError(f"{said}the processor has no setting {name!r}{nearest(name, list(SETTINGS))}")
        own = config.to_dict()[name]
        if name in _OF_THE_WEIGHTS and value != own:
            raise ConfigError(f"{said}{name} is {own} in the encoder's weights, it cannot be {value}")
    try:
        return config.replace(**overrides)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{said}the processor cannot be used so: {error}") from error


def largest_clip(config: PatchifyConfig) -> tuple[int, FrameGeometry, int]:
    """Sampled frames of a square clip that has enough of them, how each is laid out, and patches kept.

    Raises:
        ConfigError: the sizes do not fit the patches.
    """
    side = min(config.layout.size.values())
    try:
        geometry = config.geometry(side, side)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    frames = config.sampling.num_frames
    return frames, geometry, _most(config, frames, geometry)


def _most(config: PatchifyConfig, frames: int, geometry: FrameGeometry) -> int:
    """The budget in patches, of a clip of so many sampled frames."""
    total, wanted = frames * geometry.patches_per_frame, config.budget.num_patches
    return min(total, wanted or round((config.budget.keep_ratio or 0) * total))


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
