"""Which patches of which frames are kept: a budget, anchor frames whole, the best of the rest by energy."""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .content_budget import (
    DEFAULT_KEEP_RATIO,
    MOST_KEEP_RATIO,
    STILL,
    outstanding_energy,
    patches_of_energy,
)
from .frame_geometry import FrameGeometry, check_positive, whole_grid
from .frame_sampling import SamplingSettings, sample_frames
from .frame_sequence import FrameSequence
from .shot_cuts import Shots, ShotSearch, evenly
from .signal_energy import frame_energies
from .signal_settings import SignalSettings
from .video_reader import VideoReader, VideoReadError

MAX_PATCHES = 1 << 17  # of a clip: 300 MB at 14 x 14 pixels
ANCHORS = ("first", "keyframes", "shots")


@dataclass(frozen=True, eq=False)
class Placement:
    """What is cut of a clip of T sampled frames: which patches of which frames, on a grid of gh x gw patches.

    Attributes:
        positions: (K, 3) int64 [t, h, w] sorted (with merge blocks: in block order); t = 0..T-1 indexes
            `frame_ids`, h and w are in patches.
        frame_ids: (T,) int64, the sampled frames' numbers in display order.
        geometry: how a frame is laid onto the grid.
    """

    positions: np.ndarray
    frame_ids: np.ndarray
    geometry: FrameGeometry

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def keep_ratio(self) -> float:
        """The fraction of all patches of the sampled frames that is kept."""
        return len(self.positions) / (len(self.frame_ids) * self.geometry.patches_per_frame)

    @classmethod
    def whole_frames(cls, frame_ids: np.ndarray, geometry: FrameGeometry, merge_size: int = 1) -> "Placement":
        """Every patch of these frames, frame by frame: in raster order, or merge block by merge block.

        Args:
            frame_ids: (T,) int64, numbers in display order.
            geometry: how a frame is laid onto the grid.
            merge_size: patches along the side of a merge block, of which the grid has a whole number.
        """
        positions = whole_grid(len(frame_ids), geometry.grid_height, geometry.grid_width, merge_size)
        return cls(positions, np.asarray(frame_ids), geometry)


@dataclass(frozen=True, eq=False)
class Selection(Placement):
    """A `Placement` that was chosen by energy, and what was thought of the clip.

    Attributes:
        timestamps: (T,) float64, seconds of the sampled frames from the first frame; NaN for frames that
            came without times.
        scores: (K,) float32, the energy of each kept patch.
        energy: (T, gh, gw) float32 >= 0.
        signal: what the energy was made of.
        picture_types: T of "I", "P", "B", "?".
        absolute: (T, gh, gw) float32 >= 0, the energy in one unit for all pictures, see `signal_energy`: what
            `keep_energy` counts above the noise.
        shots: (n,) float64, when the first picture of each shot is shown, in seconds from the first frame of
            the file, 0.0 the first; of `anchors="shots"`, else 0.0 alone. NaN for frames that came without
            times.
        shots_seen: (n,) int64, the first sampled frame (t) of each, or behind it where none was sampled.
        note: the end of `signal`, what is said of the budget.
    """

    timestamps: np.ndarray
    scores: np.ndarray
    energy: np.ndarray
    signal: str
    picture_types: tuple[str, ...]
    absolute: np.ndarray
    shots: np.ndarray = field(default_factory=lambda: np.zeros(1))
    shots_seen: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    note: str = ""


@dataclass(frozen=True)
class BudgetSettings:
    """How many patches are kept, and what is kept whatever its energy.

    Attributes:
        num_patches: the budget as a number of patches.
        keep_ratio: or as a fraction of all patches of the sampled frames, 0.125 if neither is given (with
            `keep_energy` 0.25).
        keep_energy: a share of the clip's energy, above 0 and up to 1: the strongest patches are kept until
            they have it together with the anchors, and never more than the budget. What is counted is the
            absolute energy of `signal_energy`, in one unit for all pictures, above their noise.
            Nothing is kept for its own sake where nothing moves: a still clip is its anchors.
        anchors: frames kept whole: "first", "shots" (the first sampled frame of each shot, of evenly chosen
            ones where all would take more than half of the budget), "keyframes" (the first and all sampled
            I pictures), or n: every n-th frame.
        time_buckets: split the frames that are no anchors into so many spans of equal budget.
        merge_size: m x m patches are scored and kept together, for models that merge them.
        max_patches: a clip that would have more is refused, and one whose frames alone have more: a few bytes
            can ask for frames of any shape, and gigabytes of patches.

    Raises:
        ValueError: one is out of range, or both budgets are given.
    """

    num_patches: int | None = None
    keep_ratio: float | None = None
    anchors: str | int = "first"
    time_buckets: int = 1
    merge_size: int = 1
    keep_energy: float | None = None
    max_patches: int = MAX_PATCHES

    def __post_init__(self) -> None:
        check_budget(self.num_patches, self.keep_ratio, self.keep_energy)
        if self.num_patches is None and self.keep_ratio is None:
            default = DEFAULT_KEEP_RATIO if self.keep_energy is None else MOST_KEEP_RATIO
            object.__setattr__(self, "keep_ratio", default)
        for name in ("time_buckets", "merge_size", "max_patches"):
            check_positive(name, getattr(self, name))
        if isinstance(self.anchors, str):
            if self.anchors not in ANCHORS:
                raise ValueError(
                    f"anchors must be {', '.join(ANCHORS)} or a positive integer, not {self.anchors!r}"
                )
        else:
            check_positive("anchors", self.anchors)
        block = self.merge_size**2
        if self.num_patches is not None and self.num_patches % block:
            raise ValueError(
                f"num_patches={self.num_patches} is no multiple of the {block} patches of a merge block"
            )

    def anchor_frames(self, picture_types: Sequence[str]) -> list[int]:
        """The sampled frames (t) that are kept whole whatever the budget; `Shots.anchors` adds those of
        shots."""
        if self.anchors == "keyframes":
            return [t for t, kind in enumerate(picture_types) if t == 0 or kind == "I"]
        return list(range(0, len(picture_types), self.anchors)) if isinstance(self.anchors, int) else [0]


def default_anchors(preset: str | None) -> str:
    """The frames that a preset keeps whole where nobody says which."""
    return "shots" if preset in (None, "auto") else "first"


def check_budget(num_patches: int | None, keep_ratio: float | None, keep_energy: float | None = None) -> None:
    """Refuse budgets that no clip can have.

    Args:
        num_patches: of the clip, or None.
        keep_ratio: a share of its patches, or None.
        keep_energy: a share of its energy, or None.

    Raises:
        ValueError: one is out of range, or both of the first two are given.
    """
    if num_patches is not None and keep_ratio is not None:
        raise ValueError(
            f"num_patches={num_patches} and keep_ratio={keep_ratio} are both given: give one of them"
        )
    if num_patches is not None:
        check_positive("num_patches", num_patches)
    for name, share in (("keep_ratio", keep_ratio), ("keep_energy", keep_energy)):
        if share is not None and (
            isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share <= 1
        ):
            raise ValueError(f"{name} must be in (0, 1], not {share!r}")


def resolve_budget(
    num_patches: int | None,
    keep_ratio: float | None,
    num_frames: int,
    patches_per_frame: int,
    num_anchors: int = 1,
    block: int = 1,
) -> int:
    """The number of patches K to keep. With neither given, `keep_ratio` is 0.125.

    A ratio gives round(keep_ratio * T * gh * gw), at least what the anchors need, in whole merge blocks; a
    number is a number.

    Args:
        num_patches: K as it was asked for, or None.
        keep_ratio: of all the patches, above 0 and up to 1, or None.
        num_frames: T.
        patches_per_frame: gh * gw.
        num_anchors: frames that are kept whole.
        block: patches of a merge block.

    Raises:
        ValueError: both given, out of range, more than there are, or fewer than the anchors need.
    """
    total, anchored = num_frames * patches_per_frame, num_anchors * patches_per_frame
    check_budget(num_patches, keep_ratio)
    if num_patches is None:
        ratio = DEFAULT_KEEP_RATIO if keep_ratio is None else keep_ratio
        return min(total, max(round(ratio * total) // block * block, anchored))
    if num_patches > total:
        raise ValueError(
            f"num_patches={num_patches}, but {num_frames} frames of {patches_per_frame} patches have {total}"
        )
    if num_patches < anchored:
        raise ValueError(
            f"num_patches={num_patches} is below the {anchored} patches of {num_anchors} anchor frame(s), "
            f"kept whole ({patches_per_frame} each): ask for {anchored} or more, or for a smaller size"
        )
    return int(num_patches)


def top_patches(
    energy: np.ndarray,
    num_patches: int,
    anchors: Sequence[int] = (0,),
    allowed: np.ndarray | None = None,
    time_buckets: int = 1,
) -> np.ndarray:
    """The frames in `anchors` whole, then the patches of highest energy over the rest of the clip.

    Args:
        energy: (T, gh, gw).
        num_patches: K, at least the anchors' patches.
        anchors: numbers of the frames that are kept whole.
        allowed: (gh, gw) bool; patches outside (padding) are taken only when all the others are.
        time_buckets: spans of time (of the frames that are no anchors) among which the rest is shared
            evenly.

    Returns:
        (K, 3) int64 [t, h, w], sorted. Of equal energies the one with the lower flat index is kept.
    """
    rank = energy.astype(np.float32, copy=True)
    if allowed is not None:
        rank[:, ~allowed] = -1
    per_frame = energy[0].size
    anchors = sorted(set(anchors))
    others = np.setdiff1d(np.arange(len(energy)), anchors)
    kept = [np.arange(per_frame) + t * per_frame for t in anchors]
    left = num_patches - len(anchors) * per_frame
    spans = [frames for frames in np.array_split(others, time_buckets) if len(frames)]
    for place, frames in enumerate(spans):
        # What a full span cannot take is left to those after it.
        quota = -(-left // (len(spans) - place))
        later = sum(len(span) for span in spans[place + 1 :]) * per_frame
        quota = min(len(frames) * per_frame, max(quota, left - later))
        best = largest(rank[frames].reshape(-1), quota)
        kept.append(frames[best // per_frame] * per_frame + best % per_frame)
        left -= quota
    return np.stack(np.unravel_index(np.sort(np.concatenate(kept)), energy.shape), -1).astype(np.int64)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest values by a partial sort; of equal ones the first."""
    if count >= len(values):
        return np.arange(len(values))
    if count <= 0:
        return np.empty(0, np.int64)
    last = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > last)
    return np.concatenate([above, np.flatnonzero(values == last)[: count - len(above)]])


def select(
    energy: np.ndarray,
    *,
    frame_ids: np.ndarray,
    timestamps: np.ndarray,
    picture_types: Sequence[str],
    signal: str,
    geometry: FrameGeometry,
    budget: BudgetSettings | None = None,
    absolute: np.ndarray | None = None,
    shots: Shots | None = None,
) -> Selection:
    """Spend a budget on the energy of a clip. Where nothing moves, whole frames are kept uniformly, unless
    the budget follows the content (`keep_energy`).

    Args:
        energy: (T, gh, gw) float32, >= 0.
        frame_ids: (T,) numbers of the sampled frames.
        timestamps: (T,) seconds.
        picture_types: T of "I", "P", "B", "?".
        signal: the name of what the energy is made of.
        geometry: how a frame lies on the grid.
        budget: how much is kept; the defaults of `BudgetSettings`.
        absolute: (T, gh, gw) float32 >= 0, the energy in one unit for all pictures; `energy` by default.
        shots: of the clip, for `anchors="shots"`; one if not given.

    Raises:
        ValueError: the budget is more than there is, or less than the anchors need.
    """
    budget = budget or BudgetSettings()
    absolute = energy if absolute is None else absolute
    side = budget.merge_size
    anchors = budget.anchor_frames(picture_types)
    count = resolve_budget(
        budget.num_patches, budget.keep_ratio, len(energy), geometry.patches_per_frame, len(anchors), side**2
    )
    blocks, allowed = _merge(energy, side), _merge(geometry.inside[None], side)[0] == 1
    shots, note = shots or Shots(np.zeros(1), np.zeros(1, np.int64)), ""
    if budget.anchors == "shots" and len(shots.seen) > 1:
        anchors = shots.anchors(len(energy), count // (2 * geometry.patches_per_frame))
        note = f" ({len(shots.seen)} shots, of {len(anchors)} a frame is kept whole)"
    if budget.keep_energy is not None:
        count = side**2 * patches_of_energy(
            budget.keep_energy,
            outstanding_energy(_merge(absolute, side), allowed),
            count // side**2,
            lambda k: top_patches(blocks, k, anchors, allowed, budget.time_buckets),
            fewest=len(set(anchors)) * blocks[0].size,
        )
    positions = top_patches(blocks, count // side**2, anchors, allowed, budget.time_buckets)
    moving = np.delete(blocks, anchors, axis=0)
    if budget.keep_energy is None and len(moving) and _strongest(moving) < STILL:
        whole = np.linspace(0, len(energy) - 1, max(1, count // geometry.patches_per_frame)).astype(np.int64)
        others = np.setdiff1d(whole, anchors)
        others = others[evenly(len(others), count // geometry.patches_per_frame - len(anchors))]
        if len(others):
            positions = top_patches(blocks, count // side**2, [*anchors, *others.tolist()], allowed)
            note += " (nothing moves: uniform whole frames)"
    if side > 1:
        within = np.stack(np.unravel_index(np.arange(side**2), (side, side)), -1)
        positions = positions.repeat(side**2, axis=0)
        positions[:, 1:] = positions[:, 1:] * side + np.tile(within, (len(positions) // side**2, 1))
    scores = energy[tuple(positions.T)]
    frame_ids, timestamps = np.asarray(frame_ids), np.asarray(timestamps)
    return Selection(
        positions,
        frame_ids,
        geometry,
        timestamps,
        scores,
        energy,
        signal + note,
        tuple(picture_types),
        absolute,
        shots.seconds,
        shots.seen,
        note,
    )


def reselect(selection: Selection, budget: BudgetSettings) -> Selection:
    """Spend another budget on the same clip, read with `anchors="shots"` if with that. Raises as `select`."""
    return select(
        selection.energy,
        frame_ids=selection.frame_ids,
        timestamps=selection.timestamps,
        picture_types=selection.picture_types,
        signal=selection.signal.removesuffix(selection.note),
        geometry=selection.geometry,
        budget=budget,
        absolute=selection.absolute,
        shots=Shots(selection.shots, selection.shots_seen),
    )


def _strongest(energy: np.ndarray) -> float:
    """Mean of the strongest hundredth."""
    flat, count = energy.reshape(-1), max(1, energy.size // 100)
    return float(np.partition(flat, len(flat) - count)[len(flat) - count :].mean())


def _merge(values: np.ndarray, side: int) -> np.ndarray:
    """Means over side x side patches."""
    if side == 1:
        return values
    frames, rows, columns = values.shape
    return values.reshape(frames, rows // side, side, columns // side, side).mean((2, 4))


def check_size(
    reader: VideoReader | FrameSequence, geometry: FrameGeometry, kept: int, max_patches: int
) -> None:
    """Refuse a video of more patches than anybody wants, before any of them is cut.

    Args:
        reader: the video.
        geometry: how its frames lie on the patch grid.
        kept: patches that would be kept.
        max_patches: of those, and of one frame.

    Raises:
        VideoReadError: there are more.
    """
    per_frame = geometry.patches_per_frame
    if max(kept, per_frame) > max_patches:
        raise VideoReadError(
            reader.name,
            f"its frames of {geometry.width} x {geometry.height} pixels have {per_frame} patches each at "
            f"{geometry.canvas_width} x {geometry.canvas_height}, and {kept} would be kept, over "
            f"max_patches={max_patches}: lower size, num_frames or keep_ratio, set max_pixels, or "
            "raise max_patches",
        )


def read_selection(
    reader: VideoReader | FrameSequence,
    geometry: FrameGeometry,
    *,
    sampling: SamplingSettings | None = None,
    signals: SignalSettings | None = None,
    budget: BudgetSettings | None = None,
) -> Selection:
    """Select patches of an open video.

    Args:
        reader: the video.
        geometry: how its frames lie on the patch grid.
        sampling: which frames are looked at; the defaults of `SamplingSettings`.
        signals: what counts; the defaults of `SignalSettings`.
        budget: how much is kept; the defaults of `BudgetSettings`.

    Raises:
        ValueError: a setting does not fit this video; the budget is checked before anything is decoded.
        VideoReadError: a frame cannot be read.
    """
    frame_ids = sample_frames(reader, sampling or SamplingSettings())
    budget = budget or BudgetSettings()
    # Fail on the budget before the time is spent.
    kept = resolve_budget(budget.num_patches, budget.keep_ratio, len(frame_ids), geometry.patches_per_frame)
    check_size(reader, geometry, kept, budget.max_patches)
    search = ShotSearch.over(reader, frame_ids) if budget.anchors == "shots" else None
    energy, picture_types, signal, absolute = frame_energies(reader, frame_ids, geometry, signals, search)
    return select(
        energy,
        frame_ids=frame_ids,
        timestamps=reader.timestamps[frame_ids],
        picture_types=picture_types,
        signal=signal,
        geometry=geometry,
        budget=budget,
        absolute=absolute,
        shots=None if search is None else search.shots(frame_ids),
    )
