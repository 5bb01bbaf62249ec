"""Which patches of which frames are kept: a budget, whole anchor frames, and the best of the rest by energy.

selection = select_patches("clip.mp4", num_frames=64, keep_ratio=0.125)
selection.positions        # (K, 3) [t, h, w]: t counts the sampled frames, h and w the patch grid
selection.signal           # how the energy was obtained
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .codec_signals import sample_frame_ids
from .frame_geometry import FrameGeometry
from .frame_sequence import FrameSequence, open_video
from .signal_energy import PRESETS, frame_energies, SignalSettings
from .video_reader import VideoReader

DEFAULT_KEEP_RATIO = 0.125


@dataclass(frozen=True, eq=False)
class Selection:
    """The patches kept of a clip of T sampled frames on a grid of gh x gw patches.

    positions: (K, 3) int64 [t, h, w] sorted; t = 0..T-1 indexes `frame_ids`, h and w are in patches.
    frame_ids: (T,) int64, the sampled frames' numbers in display order.
    timestamps: (T,) float64, their seconds from the first frame; NaN for frames that came without times.
    scores: (K,) float32, the energy of each kept patch.
    energy: (T, gh, gw) float32 >= 0.
    signal: what the energy was made of.
    picture_types: T of "I", "P", "B", "?".
    geometry: how a frame is laid onto the grid.
    """

    positions: np.ndarray
    frame_ids: np.ndarray
    timestamps: np.ndarray
    scores: np.ndarray
    energy: np.ndarray
    signal: str
    picture_types: tuple[str, ...]
    geometry: FrameGeometry

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def keep_ratio(self) -> float:
        """The share of all patches of the sampled frames that is kept."""
        return len(self.positions) / self.energy.size


def resolve_budget(
    num_patches: int | None,
    keep_ratio: float | None,
    num_frames: int,
    patches_per_frame: int,
    num_anchors: int = 1,
) -> int:
    """The number of patches K to keep. With neither given, `keep_ratio` is 0.125.

    A ratio gives round(keep_ratio * T * gh * gw), and at least what the anchors need; a number is a number.

    Raises:
        ValueError: both given, out of range, more than there are, or fewer than the anchors need.
    """
    total, anchored = num_frames * patches_per_frame, num_anchors * patches_per_frame
    check_budget(num_patches, keep_ratio)
    if num_patches is None:
        ratio = DEFAULT_KEEP_RATIO if keep_ratio is None else keep_ratio
        return min(total, max(round(ratio * total), anchored))
    if num_patches > total:
        raise ValueError(
            f"num_patches={num_patches}, but {num_frames} frames of {patches_per_frame} patches have only "
            f"{total}"
        )
    if num_patches < anchored:
        raise ValueError(
            f"num_patches={num_patches} is below the {anchored} patches of {num_anchors} anchor frame(s) "
            f"which are kept whole ({patches_per_frame} each): ask for {anchored} or more, or for a smaller size"
        )
    return num_patches


def check_budget(num_patches: int | None, keep_ratio: float | None) -> None:
    """Refuse budgets that no clip can have."""
    if num_patches is not None and keep_ratio is not None:
        raise ValueError(
            f"num_patches={num_patches} and keep_ratio={keep_ratio} are both given: give one of them"
        )
    if num_patches is not None and (
        isinstance(num_patches, bool) or not isinstance(num_patches, numbers.Integral) or num_patches <= 0
    ):
        raise ValueError(f"num_patches must be a positive integer, not {num_patches!r}")
    if keep_ratio is not None and (
        isinstance(keep_ratio, bool) or not isinstance(keep_ratio, numbers.Real) or not 0 < keep_ratio <= 1
    ):
        raise ValueError(f"keep_ratio must be in (0, 1], not {keep_ratio!r}")


def top_patches(
    energy: np.ndarray, num_patches: int, anchors: Sequence[int] = (0,), allowed: np.ndarray | None = None
) -> np.ndarray:
    """The frames in `anchors` whole, then the patches of highest energy over the rest of the clip.

    Args:
        energy: (T, gh, gw).
        num_patches: K, at least the anchors' patches.
        allowed: (gh, gw) bool; patches outside (padding) are taken only when all the others are.

    Returns:
        (K, 3) int64 [t, h, w], sorted. Of equal energies the one with the lower flat index is kept.
    """
    rank = energy.astype(np.float32, copy=True)
    if allowed is not None:
        rank[:, ~allowed] = -1
    rank[list(anchors)] = np.inf
    flat = rank.reshape(-1)
    if num_patches < flat.size:
        last = np.partition(flat, flat.size - num_patches)[flat.size - num_patches]
        above = np.flatnonzero(flat > last)
        level = np.flatnonzero(flat == last)[: num_patches - len(above)]
        kept = np.sort(np.concatenate([above, level]))
    else:
        kept = np.arange(flat.size)
    return np.stack(np.unravel_index(kept, energy.shape), -1).astype(np.int64)


def select(
    energy: np.ndarray,
    *,
    frame_ids: np.ndarray,
    timestamps: np.ndarray,
    picture_types: Sequence[str],
    signal: str,
    geometry: FrameGeometry,
    num_patches: int | None = None,
    keep_ratio: float | None = None,
) -> Selection:
    """Spend a budget on the energy (T, gh, gw) of a clip whose first frame is the anchor."""
    budget = resolve_budget(num_patches, keep_ratio, len(energy), geometry.patches_per_frame)
    positions = top_patches(energy, budget, allowed=geometry.inside)
    scores = energy[tuple(positions.T)]
    return Selection(
        positions,
        np.asarray(frame_ids),
        np.asarray(timestamps),
        scores,
        energy,
        signal,
        tuple(picture_types),
        geometry,
    )


def read_selection(
    reader: VideoReader | FrameSequence,
    geometry: FrameGeometry,
    *,
    num_frames: int = 64,
    num_patches: int | None = None,
    keep_ratio: float | None = None,
    settings: SignalSettings | None = None,
) -> Selection:
    """Select patches of the video that `reader` has open, laid out by `geometry`."""
    frame_ids = sample_frame_ids(len(reader), num_frames)
    # Fail on the budget before the time is spent.
    resolve_budget(num_patches, keep_ratio, len(frame_ids), geometry.patches_per_frame)
    energy, picture_types, signal = frame_energies(reader, frame_ids, geometry, settings)
    return select(
        energy,
        frame_ids=frame_ids,
        timestamps=reader.timestamps[frame_ids],
        picture_types=picture_types,
        signal=signal,
        geometry=geometry,
        num_patches=num_patches,
        keep_ratio=keep_ratio,
    )


def select_patches(
    video: Any,
    *,
    num_frames: int = 64,
    size: int = 224,
    patch_size: int = 14,
    num_patches: int | None = None,
    keep_ratio: float | None = None,
    preset: str = "auto",
) -> Selection:
    """Choose the patches of a video that its codec says matter, without building pixels.

    Args:
        video: a path, bytes, a binary file object, or decoded frames.
        num_frames: frames sampled uniformly, floor(linspace(0, N - 1, num_frames)); a shorter clip gives all.
        size: pixels of the shorter side, both then rounded to the patch; `published`: of the longer side.
        patch_size: pixels.
        num_patches, keep_ratio: the budget, one of them; 12.5 % of all patches by default.
        preset: `auto`, or `published`: the geometry of the published pipeline, a black square of `size` with
            the picture in its middle, frame 0 kept whole with its padding.

    Raises:
        VideoReadError: the video cannot be read. ValueError: an argument is out of range.
    """
    for name, value in (("num_frames", num_frames), ("size", size), ("patch_size", patch_size)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value <= 0:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    check_budget(num_patches, keep_ratio)
    with open_video(video) as reader:
        layout = FrameGeometry.pad_square if preset == "published" else FrameGeometry.fit
        geometry = layout(reader.height, reader.width, int(size), int(patch_size))
        return read_selection(
            reader, geometry, num_frames=num_frames, num_patches=num_patches, keep_ratio=keep_ratio, settings=SignalSettings(preset=preset)
        )
