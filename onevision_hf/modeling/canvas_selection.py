"""Which patches of a video LLaVA-OneVision-2 is shown as codec input: canvases of whole frames and of blocks.

    selection = select_canvases("clip.mp4")             # settings of the released checkpoint, 32 canvases
    selection.positions         # (canvases * S, 3) [source frame, h, w], raster per canvas
    selection.groups            # (G, 2) [start, end) into selection.frame_ids; four canvases each

Frames are sampled evenly and scored by what each block cost in bits; `readiness_groups` makes groups of them.
Of the bits there is our estimate (`bit_cost`, which reads them with a stock FFmpeg), and where a codec gives
none the energy of `preset="auto"`.

Shapes: T sampled frames, S patches of a canvas, G groups.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .blank_pictures import is_blank
from .codec_signals import bits as estimate_bits
from .codec_signals import read_standalone_pictures
from .decoded_frame import turn
from .frame_geometry import FrameGeometry, check_positive
from .frame_sampling import sample_frame_ids
from .frame_sequence import FrameSequence, Video, open_video
from .patch_selection import frame_energies
from .readiness_groups import (
    CANVASES,
    MIN_GROUP_FRAMES,
    best_blocks,
    block_scores,
    merge_groups,
    readiness_groups,
)
from .standalone_decoder import STANDALONE_CODECS, UnsupportedStreamError
from .video_reader import VideoReader

FRAMES_PER_GROUP = 32  # that are sampled
LEAST_PIXELS = 56 * 56
CTU = 4  # macroblocks along a side of HEVC's 64 x 64
# Of a macroblock; fitted to what was read of one real clip, and checked on four other encodes.
RICH_BITS, RICH_POWER = 32, 0.6


class CanvasSettings(NamedTuple):
    """What the authors' two settings differ in.

    Attributes:
        max_pixels: of a canvas.
        avoids_keyframes: whether the frame beside a keyframe is taken.
        max_group_frames: frames of a group at most.
        is_fine: whether costs are read of the finest blocks, not of the codec's macroblocks or tree units.
    """

    max_pixels: int
    avoids_keyframes: bool
    max_group_frames: int
    is_fine: bool


# Of the released checkpoint's processor, and of the branch that the published scores were made with.
SETTINGS = {
    "bundled": CanvasSettings(150_000, True, 64, False),
    "tuned": CanvasSettings(313_600, False, 128, True),
}


@dataclass(frozen=True, eq=False)
class CanvasSelection:
    """What is shown of a video.

    Args:
        positions: (canvases * S, 3) int64 [source frame, h, w], raster per canvas; h and w are where the
            patch lies in its frame. -1 where a group has fewer blocks than its canvases hold (blank frames).
        frame_ids: (T,) int64, the sampled frames' numbers in display order.
        groups: (G, 2) int64 [start, end) into `frame_ids`; each is four canvases, and one attention window.
        grid: rows and columns of patches of a frame, and of a canvas.
        signal: what the blocks were chosen by.
    """

    positions: np.ndarray
    frame_ids: np.ndarray
    groups: np.ndarray
    grid: tuple[int, int]
    signal: str

    @property
    def by_canvas(self) -> np.ndarray:
        """(canvases, rows, columns, 3): the positions as they lie on the canvases."""
        return self.positions.reshape(-1, *self.grid, 3)


def select_canvases(
    video: Video,
    *,
    settings: str = "bundled",
    target_canvas: int = 32,
    patch_size: int = 14,
    merge_size: int = 2,
    max_canvases: int | None = None,
    bits: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> CanvasSelection:
    """The canvases that the authors' preprocessor makes of a video.

    Args:
        video: a path, URL, bytes, reader, or frames.
        settings: "bundled", those of the released checkpoint's processor, or "tuned", those of the published
            scores.
        target_canvas: sets how many frames are sampled: 32 for each four. How many canvases there are depends
            on the groups; it is no bound.
        patch_size: side of a patch, in pixels.
        merge_size: patches along a side of the blocks that are kept.
        max_canvases: never more than this; the shortest neighbouring groups are put together.
        bits: (T, rows, columns) what each block of each sampled frame cost, in stored orientation, instead of
            our estimate; NaN counts as nothing.
        groups: (G, 2) [start, end) into the sampled frames, instead of readiness groups.

    Returns:
        the selection.

    Raises:
        ValueError: an argument is out of range, or the video is too short for a group.
        VideoReadError: it cannot be read.
    """
    with open_video(video) as reader:
        plan = CanvasPlan(reader, settings, target_canvas, patch_size, merge_size, max_canvases)
        good = np.array([not is_blank(*planes) for planes in plan.pictures()])
        return plan.select(good, bits, groups)


class CanvasPlan:
    """The frames of an open video that canvases are made of.

    Args:
        reader: the video.
        settings: "bundled" or "tuned".
        target_canvas: as in `select_canvases`; likewise the others.
        patch_size: side of a patch, in pixels.
        merge_size: patches along a side of a block.
        max_canvases: the bound, or None.
        span: [start, end) of the reader's frames that are looked at; None: all.

    Attributes:
        frame_ids: (T,) int64, the sampled frames.
        geometry: how a frame lies on the patch grid.
    """

    def __init__(
        self,
        reader: VideoReader | FrameSequence,
        settings: str,
        target_canvas: int,
        patch_size: int,
        merge_size: int,
        max_canvases: int | None,
        span: tuple[int, int] | None = None,
    ):
        if settings not in SETTINGS:
            raise ValueError(f"canvas settings must be {' or '.join(SETTINGS)}, not {settings!r}")
        for name, value in (("patch_size", patch_size), ("merge_size", merge_size)):
            check_positive(name, value)
        for name, count in (("target_canvas", target_canvas), ("max_canvases", max_canvases)):
            if count is not None and (not isinstance(count, int) or count < CANVASES):
                raise ValueError(f"{name} must be {CANVASES} or more, the canvases of a group, not {count!r}")
        if target_canvas % CANVASES:
            raise ValueError(f"target_canvas={target_canvas} is no multiple of the {CANVASES} of a group")
        self.reader, self.settings, self.merge_size = reader, SETTINGS[settings], merge_size
        self.most_groups = None if max_canvases is None else max_canvases // CANVASES
        first, end = span or (0, len(reader))
        chosen = sample_frame_ids(end - first, min(target_canvas // CANVASES * FRAMES_PER_GROUP, end - first))
        if self.settings.avoids_keyframes and isinstance(reader, VideoReader):
            chosen = beside_keyframes(chosen, reader.index.keyframe[first:end])
        self.frame_ids = first + chosen
        height, width = canvas_size(
            reader.height, reader.width, patch_size * merge_size, self.settings.max_pixels
        )
        grid = height // patch_size, width // patch_size
        self.geometry = FrameGeometry(reader.height, reader.width, height, width, 0, 0, patch_size, *grid)

    def pictures(self) -> Iterable[list[np.ndarray]]:
        """Red, green and blue (H, W) uint8 of each sampled frame, in canvas size."""
        size = self.geometry.resized_width, self.geometry.resized_height
        return (frame.rgb_planes(*size) for frame in self.reader.frames(self.frame_ids))

    def select(
        self,
        good: np.ndarray,
        bits: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        preset: str = "ov2",
    ) -> CanvasSelection:
        """Choose blocks.

        Args:
            good: (T,) bool, False for frames on which nothing can be seen.
            bits: as in `select_canvases`.
            groups: as in `select_canvases`.
            preset: "ov2": by bits, as theirs; "auto": by the energy of that preset, whatever the codec.
        """
        costs, signal = (self._turned(bits), "bits, given") if bits is not None else self._costs(preset)
        if len(costs) != len(self.frame_ids):
            raise ValueError(
                f"bits are of {len(costs)} frames, and {len(self.frame_ids)} are sampled: read those of "
                "CanvasSelection.frame_ids"
            )
        size = self.geometry.resized_height, self.geometry.resized_width
        block = self.geometry.patch_size * self.merge_size
        scores = np.stack([block_scores(cost, *size, block) for cost in costs])
        budget = (CANVASES - 1) * scores[0].size
        if groups is None:
            chosen = readiness_groups(scores, budget, self.settings.max_group_frames)
            if not len(chosen):
                raise ValueError(
                    f"{len(scores)} frames, and a group of canvases has {MIN_GROUP_FRAMES} or more: show a "
                    "video as short as this as frames"
                )
            chosen = chosen if self.most_groups is None else merge_groups(chosen, self.most_groups)
        else:
            chosen = self._checked(np.asarray(groups, np.int64))
        positions = [self._canvases(start, end, scores, good, budget) for start, end in chosen.tolist()]
        grid = self.geometry.grid_height, self.geometry.grid_width
        return CanvasSelection(
            np.concatenate(positions).reshape(-1, 3), self._numbers(), chosen, grid, signal
        )

    def _numbers(self) -> np.ndarray:
        """(T,) the sampled frames' numbers in the source."""
        if isinstance(self.reader, FrameSequence):
            return self.reader.numbers[self.frame_ids]
        return self.frame_ids

    def _checked(self, groups: np.ndarray) -> np.ndarray:
        count = len(self.frame_ids)
        ends = groups.reshape(-1)
        if groups.ndim != 2 or groups.shape[1:] != (2,) or not len(groups):
            raise ValueError(f"groups must be (G, 2) [start, end), not of shape {groups.shape}")
        if ends[0] < 0 or ends[-1] > count or (np.diff(ends) < 0).any():
            raise ValueError(f"groups must rise and lie within the {count} sampled frames: {groups.tolist()}")
        if (shortest := int(np.diff(groups).min())) < CANVASES:
            raise ValueError(f"a group of {shortest} frames does not fill its {CANVASES} canvases")
        if self.most_groups is not None and len(groups) > self.most_groups:
            raise ValueError(
                f"{len(groups)} groups are {len(groups) * CANVASES} canvases, above max_canvases"
            )
        return groups

    def _canvases(
        self, start: int, end: int, scores: np.ndarray, good: np.ndarray, budget: int
    ) -> np.ndarray:
        """(4, rows, columns, 3) positions of one group."""
        seen = start + np.flatnonzero(good[start:end])
        whole = int(seen[0]) if len(seen) else start
        others = seen[1:]
        rows, columns = scores.shape[1:]
        blocks = np.full((CANVASES * rows * columns, 3), -1, np.int64)
        blocks[: rows * columns] = [(whole, h, w) for h in range(rows) for w in range(columns)]
        best = best_blocks(scores[others], budget)
        time, h, w = np.unravel_index(best, (len(others), rows, columns))
        kept = blocks[rows * columns :][: len(best)]
        kept[:] = np.stack([others[time], h, w], -1)
        side = self.merge_size
        laid = blocks.reshape(CANVASES, rows, columns, 3).repeat(side, 1).repeat(side, 2)
        used = laid[..., 0] >= 0
        inner = np.indices((rows * side, columns * side)) % side
        for axis in (0, 1):
            laid[..., 1 + axis] = np.where(used, laid[..., 1 + axis] * side + inner[axis], -1)
        laid[..., 0] = np.where(used, self._numbers()[laid[..., 0]], -1)
        return laid

    def _turned(self, bits: Iterable[np.ndarray]) -> list[np.ndarray]:
        """From stored orientation to that in which frames are shown."""
        return [turn(np.asarray(cost), self.reader.rotation, self.reader.mirrored) for cost in bits]

    def _costs(self, preset: str) -> tuple[list[np.ndarray], str]:
        """What each frame's blocks cost, and what that is."""
        reader, note = self.reader, ""
        if preset == "ov2":
            if isinstance(reader, VideoReader) and reader.codec in STANDALONE_CODECS:
                try:
                    return self._turned(self._bits(reader)), "bits, estimated"
                except UnsupportedStreamError as error:
                    note = f" (no bits: {error})"
            else:
                note = f" (no bits of {reader.codec})"
        energy, _, signal, _ = frame_energies(reader, self.frame_ids, self.geometry)
        return list(energy), signal + note

    def _bits(self, reader: VideoReader) -> list[np.ndarray]:
        """Our estimate, on the grid that theirs has."""
        pictures = read_standalone_pictures(reader, self.frame_ids)
        costs, _ = estimate_bits(pictures, reader.index.size[self.frame_ids].tolist())
        known = [cost * (not picture.is_damaged) for picture, cost in zip(pictures, costs, strict=True)]
        if reader.codec == "h264":
            known = [_tempered(cost) for cost in known]
        if self.settings.is_fine:
            # Theirs spreads a macroblock's bits over its blocks of 4 x 4; to a logarithm the unit matters.
            return [cost / 16 for cost in known]
        if reader.codec == "hevc":
            return [_by_ctu(cost) for cost in known]
        # FFmpeg's rows of macroblocks have one more, always empty, and theirs stretches the whole over the
        # picture: what is kept lies up to a column too far left. The models have seen it so.
        return [np.pad(cost, ((0, 0), (0, 1))) for cost in known]


def _tempered(cost: np.ndarray) -> np.ndarray:
    """Bits of an H.264 picture's blocks as its adaptive coder spends them: the estimate counts levels of a
    rich block alike, and so makes too much of rich blocks beside poor ones. The sum stays."""
    rich = np.maximum(cost / RICH_BITS, 1)
    tempered = cost * rich ** (RICH_POWER - 1)
    return tempered * (cost.sum() / max(float(tempered.sum()), 1e-6))


def _by_ctu(cost: np.ndarray) -> np.ndarray:
    rows, columns = (-side % CTU for side in cost.shape)
    padded = np.pad(cost, ((0, rows), (0, columns)))
    return padded.reshape(padded.shape[0] // CTU, CTU, -1, CTU).sum((1, 3))


def canvas_size(height: int, width: int, unit: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of a canvas for frames of this size: multiples of `unit`, at most `max_pixels`.

    Args:
        height: of the frame, in pixels.
        width: likewise.
        unit: pixels along a side of a block.
        max_pixels: of a canvas.
    """
    area = height * width
    sides = [round(side / unit) for side in (height, width)]
    if area > max_pixels:
        shrink = math.sqrt(area / max_pixels)
        sides = [math.floor(side / shrink / unit) for side in (height, width)]
    elif area < LEAST_PIXELS:
        grow = math.sqrt(LEAST_PIXELS / area)
        sides = [math.ceil(side * grow / unit) for side in (height, width)]
    return max(sides[0], 1) * unit, max(sides[1], 1) * unit


def beside_keyframes(frame_ids: np.ndarray, keyframes: np.ndarray) -> np.ndarray:
    """Frames that are no keyframes, as far as there are enough: a keyframe is replaced by the one after it,
    or before it, and so on up to four away; where two became one, the nearest that are left take the place.

    Args:
        frame_ids: (T,) sorted numbers.
        keyframes: (N,) bool, of all frames.

    Returns:
        (T,) int64 sorted.
    """
    total, beside = len(keyframes), []
    for number in frame_ids.tolist():
        near = (number + step for away in (1, 2, 3, 4) for step in (away, -away))
        free = (other for other in near if 0 <= other < total and not keyframes[other])
        beside.append(next(free, number) if keyframes[number] else number)
    found = np.unique(np.array(beside, np.int64))
    left = np.setdiff1d(np.arange(total), found)
    place = np.clip(np.searchsorted(found, left), 1, max(len(found) - 1, 1))
    around = np.stack([found[np.minimum(place, len(found) - 1)], found[place - 1]])
    is_key = keyframes[left]  # the last that are taken, in their order
    distance, from_middle = np.abs(around - left).min(0) * ~is_key, np.abs(left - total // 2) * ~is_key
    order = np.lexsort((left, from_middle, distance, is_key))
    return np.sort(np.concatenate([found, left[order][: len(frame_ids) - len(found)]]))


__all__ = ["SETTINGS", "CanvasPlan", "CanvasSelection", "select_canvases"]
