"""What becomes of a clip for a frozen encoder: patches with their positions, from one of three inputs.

codec   what codec patchification keeps of `num_frames` frames
frames  as many whole frames as `num_patches` makes: the middle of equal stretches (while training: a random
        place in each), as published
dense   every patch of `num_frames` frames

All see the same square: the frame's shorter side brought to `size` pixels, the middle of it.

Shapes: K patches, p patch side.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...data.labelled import Rows
from ...data.media import BROKEN
from ...modeling.frame_geometry import FrameGeometry
from ...modeling.frame_sampling import SamplingSettings, sample_frame_ids
from ...modeling.frame_sequence import open_video
from ...modeling.patch_cutting import cut_patches
from ...modeling.patch_selection import BudgetSettings, Selection, read_selection
from ...training.config import ConfigError
from ...training.transforms import Sample
from .color_jitter import jitter

# Arxiv 2602.08683, Table 6; half of the patches outside of frame 0 is the share there.
INTERVENTIONS = ("replace", "foreign", "shuffle")
_PARTNERS = 16  # clips that are tried as a source of foreign patches


@dataclass(frozen=True)
class ViewSettings:
    """Everything that the tensors of a clip depend on, as JSON values in `dataclasses.asdict`.

    `temporal_size` is the encoder's time grid; None keeps the frame's index.
    """

    kind: str
    num_patches: int
    num_frames: int
    size: int
    patch_size: int
    temporal_size: int | None
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    def check(self) -> None:
        """Raise ConfigError for a budget that no clip can give."""
        if self.size % self.patch_size:
            raise ConfigError(
                f"input.size is {self.size}, no multiple of the encoder's patch, {self.patch_size}"
            )
        frame = (self.size // self.patch_size) ** 2
        if self.kind == "dense":
            return
        if self.num_patches > frame * self.num_frames:
            raise ConfigError(
                f"input.num_patches is {self.num_patches}, but {self.num_frames} frames of {self.size} x "
                f"{self.size} pixels have {frame * self.num_frames} patches of {self.patch_size}: ask for "
                "fewer, or for more frames (input.num_frames)"
            )
        if self.num_patches < frame:
            raise ConfigError(
                f"input.num_patches is {self.num_patches}, less than the {frame} of one whole frame"
            )


class ClipView:
    """`view(row, rng, position)` -> `pixel_values_videos` (K, 3*p*p) float32, `patch_positions` (K, 3) int64,
    `labels` (1,).

    Args:
        augment: with a generator, draw frames and colours anew.
        intervene: one of `INTERVENTIONS`, on codec input.
        rows: where `foreign` takes other clips from; `position` is then the row's number there.

    A clip with fewer frames than asked gives all it has.
    """

    def __init__(
        self,
        settings: ViewSettings,
        augment: bool = False,
        intervene: str | None = None,
        rows: Rows | None = None,
    ):
        settings.check()
        self.settings, self.augment, self.intervene, self.rows = settings, augment, intervene, rows
        self._cutting = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False}
        self._mean, self._std = (
            np.asarray(values, np.float32)[:, None] for values in (settings.image_mean, settings.image_std)
        )

    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample:
        with open_video(row.media) as reader:
            selection = self.select(reader, rng if self.augment else None)
            pixels, positions = self._cut(reader, selection), self._times(selection, len(reader))
            if self.intervene is not None:
                chance = np.random.default_rng([INTERVENTIONS.index(self.intervene), position])
                if self.intervene == "shuffle":
                    positions = positions[chance.permutation(len(positions))]
                elif self.intervene == "replace":
                    pixels = self._cut(reader, without_motion(selection, chance))
                else:
                    self._mix_in(pixels, selection, position, chance)
        if self.augment and rng is not None:
            pixels = jitter(pixels, rng)
        pixels = (pixels - self._mean) / self._std
        return {
            "pixel_values_videos": pixels.reshape(len(pixels), -1),
            "patch_positions": positions,
            "labels": np.asarray(row.labels[:1], np.int64),
        }

    def select(self, reader: Any, rng: np.random.Generator | None) -> Selection:
        """The patches of an open video."""
        s = self.settings
        geometry = FrameGeometry.crop(reader.height, reader.width, s.size, s.size, s.size, s.patch_size)
        if s.kind == "codec":
            total = min(len(reader), s.num_frames) * geometry.patches_per_frame
            budget = BudgetSettings(num_patches=min(s.num_patches, total))
            return read_selection(reader, geometry, sampling=SamplingSettings(s.num_frames), budget=budget)
        if s.kind == "dense":
            return whole_frames(sample_frame_ids(len(reader), s.num_frames), geometry)
        return whole_frames(stretch_frames(len(reader), s.num_patches // geometry.patches_per_frame, rng),
                            geometry)  # fmt: skip

    def _cut(self, reader: Any, selection: Selection) -> np.ndarray:
        """(K, 3, p*p) float32 in [0, 1]."""
        return cut_patches(reader, selection, self._cutting).reshape(len(selection), 3, -1)

    def _times(self, selection: Selection, frames: int) -> np.ndarray:
        """Positions on the encoder's time grid. Frames that stand alone keep their place in the clip, as
        published; sampled frames are counted, as the processor does."""
        positions, size = selection.positions.copy(), self.settings.temporal_size
        sampled = len(selection.frame_ids)
        if size is not None and self.settings.kind == "frames":
            times = np.rint(selection.frame_ids / max(1, frames - 1) * (size - 1)).astype(np.int64)
            positions[:, 0] = times[positions[:, 0]]
        elif size is not None and sampled != size:
            positions[:, 0] = np.linspace(0, size - 1, sampled).astype(np.int64)[positions[:, 0]]
        return positions

    def _mix_in(
        self, pixels: np.ndarray, selection: Selection, position: int, rng: np.random.Generator
    ) -> None:
        """Patches from the motion of another clip in place of half of this one's."""
        chosen = half_of_motion(selection, rng)
        assert self.rows is not None
        for step in rng.integers(1, max(2, len(self.rows)), _PARTNERS):
            other = self.rows[(position + int(step)) % len(self.rows)]
            try:
                with open_video(other.media) as reader:
                    found = self.select(reader, None)
                    moving = np.flatnonzero(found.positions[:, 0] > 0)
                    if not len(moving):
                        continue
                    taken = np.sort(rng.choice(moving, len(chosen), replace=len(moving) < len(chosen)))
                    pixels[chosen] = self._cut(reader, replace(found, positions=found.positions[taken]))
                    return
            except BROKEN:
                continue
        raise ConfigError(
            f"none of {_PARTNERS} other clips has motion to put into number {position} (intervene=foreign)"
        )


def stretch_frames(frames: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """One frame of each of `count` equal stretches, its middle or a random place; all frames if there are no
    more."""
    if frames <= count:
        return np.arange(frames)
    stretch = (frames - 1) / count
    places = np.full(count, 0.5) if rng is None else rng.random(count)
    return (stretch * (np.arange(count) + places)).astype(np.int64)


def whole_frames(frame_ids: np.ndarray, geometry: FrameGeometry) -> Selection:
    """Every patch of these frames, frame by frame in raster order."""
    shape = (len(frame_ids), geometry.grid_height, geometry.grid_width)
    positions = np.indices(shape).reshape(3, -1).T
    ones, unknown = np.ones(len(positions), np.float32), np.full(len(frame_ids), np.nan)
    energy = np.broadcast_to(np.float32(0), shape)
    kinds = ("?",) * len(frame_ids)
    return Selection(positions, frame_ids, unknown, ones, energy, "whole frames", kinds, geometry)


def half_of_motion(selection: Selection, rng: np.random.Generator) -> np.ndarray:
    """Places of half of the patches that are not of frame 0, which is kept whole."""
    moving = np.flatnonzero(selection.positions[:, 0] > 0)
    return np.sort(rng.choice(moving, len(moving) // 2, replace=False))


def without_motion(selection: Selection, rng: np.random.Generator) -> Selection:
    """Half of the motion patches replaced by what lay at the same place when least happened there.

    Only what is cut changes: the caller keeps the positions of the original. The paper's "non-motion patch
    replacement (same video, same position)" is read so.
    """
    chosen = half_of_motion(selection, rng)
    positions = selection.positions.copy()
    energy = np.array(selection.energy, np.float32)
    energy[tuple(positions.T)] = np.inf  # what is kept is shown already
    energy[0] = np.inf
    calm = energy.argmin(axis=0)[positions[chosen, 1], positions[chosen, 2]]
    free = np.isfinite(energy[calm, positions[chosen, 1], positions[chosen, 2]])
    positions[chosen[free], 0] = calm[free]
    return replace(selection, positions=positions)
