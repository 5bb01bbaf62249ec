"""One decoded picture: its planes as stored, its colours as displayed, its motion vectors and its type."""

import threading
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

_LOCAL = threading.local()
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
# FFmpeg's AVPictureType; S(GMC), SI, SP, BI are folded in.
PICTURE_TYPES = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "B"}


@dataclass(frozen=True)
class DecodedFrame:
    """One decoded picture: planes as stored, `rgb` as displayed. `frame_id` counts in display order."""

    av_frame: av.VideoFrame
    frame_id: int
    rotation: int

    @property
    def picture_type(self) -> str:
        """I, P, B, or ? where the decoder does not say."""
        return PICTURE_TYPES.get(int(self.av_frame.pict_type), "?")

    @property
    def luma(self) -> np.ndarray:
        """(H, W) uint8 brightness as stored; deeper formats are reduced to 8 bits, RGB is converted."""
        return luma_plane(self.av_frame)

    @property
    def motion_vectors(self) -> np.ndarray | None:
        """FFmpeg's records (source, w, h, dst_x, dst_y, motion_x, motion_y, motion_scale...), or None.

        Read the fields, never the raw bytes: the records hold uninitialised padding.
        """
        records = side_data(self.av_frame, "MOTION_VECTORS")
        return None if records is None else records.to_ndarray()

    def rgb_planes(self, width: int, height: int) -> list[np.ndarray]:
        """Red, green and blue, (height, width) uint8 each, as displayed: resized bicubically by swscale in
        one step, then turned. Planes are what it writes fastest, and it interpolates the chroma fully for
        them."""
        turned = self.rotation % 180 != 0
        size = {"width": height, "height": width} if turned else {"width": width, "height": height}
        if (size["width"], size["height"]) == (self.av_frame.width, self.av_frame.height):
            # swscale's shortcut to planes at the same size leaves columns unwritten (widths of 8 mod 16).
            picture = turn(converted(self.av_frame, format="rgb24").to_ndarray(), self.rotation)
            return [picture[..., channel] for channel in range(3)]
        frame = converted(self.av_frame, format="gbrp", interpolation="BICUBIC", **size)
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes
        ]
        green, blue, red = (turn(plane[: frame.height, : frame.width], self.rotation) for plane in planes)
        return [red, green, blue]

    def rgb(self, width: int, height: int) -> np.ndarray:
        """The same as one picture (height, width, 3)."""
        return np.stack(self.rgb_planes(width, height), -1)


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


def turn(array: np.ndarray, degrees: int) -> np.ndarray:
    """Turn the first two axes counter-clockwise by a multiple of 90 degrees: from stored to displayed."""
    return np.ascontiguousarray(np.rot90(array, degrees // 90 % 4)) if degrees % 360 else array
