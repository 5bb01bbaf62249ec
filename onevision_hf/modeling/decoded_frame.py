"""One decoded picture: its planes as stored, its colours as displayed, its motion vectors and its type."""

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

_LOCAL = threading.local()
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
# FFmpeg's bicubic with accurate_rnd, for pictures that keep their size. It keeps swscale off a shortcut that
# repeats chroma instead of interpolating it, and to planes leaves columns unwritten (widths of 8 mod 16).
ACCURATE = 0x4 | 0x40000
MAX_LATE = 16  # frames that wait for one that is shown before them
# FFmpeg's AVPictureType; S(GMC), SI, SP, BI are folded in.
PICTURE_TYPES = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "B"}


@dataclass(frozen=True)
class DecodedFrame:
    """One decoded picture: planes as stored, `rgb` as displayed. `frame_id` counts in display order;
    `rotation` and `mirrored` are what `turn` does to it.
    """

    av_frame: av.VideoFrame
    frame_id: int
    rotation: int
    mirrored: bool = False

    @property
    def picture_type(self) -> str:
        """I, P, B, or ? where the decoder does not say."""
        return PICTURE_TYPES.get(int(self.av_frame.pict_type), "?")

    @property
    def is_damaged(self) -> bool:
        """Whether the decoder met errors in it, and made up what it could not read: no signal, then."""
        return bool(self.av_frame.is_corrupt)

    @property
    def luma(self) -> np.ndarray:
        """(H, W) uint8 brightness as stored; deeper formats are reduced to 8 bits, RGB is converted."""
        return luma_plane(self.av_frame)

    @property
    def motion_vectors(self) -> np.ndarray | None:
        """FFmpeg's records (source, w, h, dst_x, dst_y, motion_x, motion_y, motion_scale...), or None, as of
        a damaged picture.

        Read the fields, never the raw bytes: the records hold uninitialised padding.
        """
        records = None if self.is_damaged else side_data(self.av_frame, "MOTION_VECTORS")
        return None if records is None else records.to_ndarray()

    def rgb_planes(self, width: int, height: int) -> list[np.ndarray]:
        """Red, green and blue, (height, width) uint8 each, as displayed: resized bicubically by swscale in
        one step, then turned and mirrored. Planes are what it writes fastest, and it interpolates the chroma
        fully for them."""
        turned = self.rotation % 180 != 0
        size = {"width": height, "height": width} if turned else {"width": width, "height": height}
        same = (size["width"], size["height"]) == (self.av_frame.width, self.av_frame.height)
        interpolation = ACCURATE if same else "BICUBIC"
        frame = converted(self.av_frame, format="gbrp", interpolation=interpolation, **size)
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes
        ]
        green, blue, red = (self.turned(plane[: frame.height, : frame.width]) for plane in planes)
        return [red, green, blue]

    def turned(self, array: np.ndarray) -> np.ndarray:
        """An array on this picture's grid, from stored to displayed."""
        return turn(array, self.rotation, self.mirrored)

    def rgb(self, width: int, height: int) -> np.ndarray:
        """The same as one picture (height, width, 3)."""
        return np.stack(self.rgb_planes(width, height), -1)


def in_order(frames: Iterable[DecodedFrame], wanted: Sequence[int]) -> Iterator[DecodedFrame]:
    """The wanted ones of a decoder's frames by their numbers, whatever order they come in.

    Where a container's times are damaged, and the numbers with them, a decoder's own order is another.

    Args:
        frames: as they are decoded.
        wanted: sorted numbers. A frame that comes over `MAX_LATE` wanted ones late is left out.
    """
    due, coming, held = deque(wanted), set(wanted), dict[int, DecodedFrame]()
    for frame in frames:
        if frame.frame_id in coming:
            coming.discard(frame.frame_id)
            held[frame.frame_id] = frame
        while due and (due[0] in held or len(held) > MAX_LATE):
            first = due.popleft()
            coming.discard(first)
            if first in held:
                yield held.pop(first)
    yield from (held[number] for number in due if number in held)


def converted(frame: av.VideoFrame, **to: Any) -> av.VideoFrame:
    """`frame.reformat(**to)`, several times faster on small pictures.

    A frame's own `reformat` sets swscale up anew for each frame, since PyAV 17 with a thread a core, and ends
    those again. What was set up is kept here for the frames to come.
    """
    if not hasattr(_LOCAL, "reformatter"):
        _LOCAL.reformatter = VideoReformatter()
    return _LOCAL.reformatter.reformat(frame, **to, **_ONE_THREAD)


def luma_plane(frame: av.VideoFrame) -> np.ndarray:
    """(H, W) uint8 brightness of a picture, a view where it has an 8-bit luma plane."""
    if not frame.format.name.startswith(("yuv4", "yuvj4", "nv12", "nv21", "gray")):
        frame = converted(frame, format="gray")
    plane, depth = frame.planes[0], frame.format.components[0].bits
    if depth == 8:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        return rows[: frame.height, : frame.width]
    order = ">u2" if frame.format.name.endswith("be") else "<u2"
    deep = np.frombuffer(memoryview(plane), order).reshape(-1, plane.line_size // 2)
    return (deep[: frame.height, : frame.width] >> (depth - 8)).astype(np.uint8)


def side_data(frame: av.VideoFrame, kind: str) -> Any:
    """A frame's side data of one kind, or None.

    `frame.side_data` would tie frame and container into a circle, so that pictures are held until the
    garbage collector comes by: tens of megabytes for a clip.
    """
    return SideDataContainer(frame).get(kind)  # type: ignore[call-arg]


def orientation_of(frame: av.VideoFrame) -> tuple[int, bool]:
    """How a picture is shown, by its display matrix: (degrees, mirrored) for `turn`.

    Of the matrix (a b; c d), by which (x, y) is shown at (ax + cy, bx + dy), only turns by a quarter and
    mirrors are followed, as FFmpeg's players do.
    """
    matrix: Any = side_data(frame, "DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(float)
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    if not (a or c) or not (b or d):
        return 0, False
    degrees = -math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    return round(degrees / 90) * 90 % 360, mirrored


def turn(array: np.ndarray, degrees: int, mirrored: bool = False) -> np.ndarray:
    """The first two axes from stored to displayed.

    Args:
        array: (rows, columns, ...).
        degrees: counter-clockwise, a multiple of 90.
        mirrored: left and right change places first.
    """
    if mirrored:
        array = array[:, ::-1]
    return np.ascontiguousarray(np.rot90(array, degrees // 90 % 4)) if degrees % 360 or mirrored else array


def overhang(
    height: int, width: int, block: int, degrees: int, mirrored: bool = False
) -> tuple[float, float]:
    """By how much the first blocks of a map stick out of the picture once `turn` has turned it.

    Args:
        height: of the picture as stored, in pixels; its last row of blocks may be over its edge.
        width: likewise.
        block: pixels of a block's side.
        degrees: of `turn`.
        mirrored: of `turn`.

    Returns:
        Above and to the left of the picture as displayed, in blocks.
    """
    below, right = (-side % block / block for side in (height, width))
    row, column = turn(np.array([[(0, 0), (0, 1)], [(1, 0), (1, 1)]]), degrees, mirrored)[0, 0]
    return (column * right, row * below) if degrees % 180 else (row * below, column * right)


def with_neighbours(
    frames: Iterator[DecodedFrame],
) -> Iterator[tuple[DecodedFrame, np.ndarray | None, np.ndarray | None, np.ndarray | None]]:
    """(frame, luma of the picture before, of the I or P picture before, of the I or P picture after)."""
    waiting: list[tuple[DecodedFrame, np.ndarray | None, np.ndarray | None]] = []
    before = past = None
    for frame in frames:
        luma = frame.luma
        if frame.picture_type != "B":
            for held in waiting:
                yield *held, luma
            waiting = []
            yield frame, before, past, None
            past = luma
        else:
            waiting.append((frame, before, past))
        before = luma
    for held in waiting:
        yield *held, None
