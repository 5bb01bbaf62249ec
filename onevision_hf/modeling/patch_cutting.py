"""Cuts selected patches straight from decoded frames: the dense clip is never built."""

import math
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from .decoded_frame import DecodedFrame
from .frame_geometry import FrameGeometry
from .frame_sequence import FrameSequence
from .patch_selection import Placement
from .video_reader import VideoReader, VideoReadError

CHANNELS = 3
HELD_FRAMES = 2  # decoded frames that wait to be cut
MOST_PLACED_BYTES = 64 << 20
ROWS_AT_ONCE = 1 << 13  # patches whose pixels become floating point together: a frame may have 131,072
MAX_DECODERS = 4  # each holds its own reference pictures


@dataclass(frozen=True)
class PixelSettings:
    """What becomes of pixels 0..255 on their way to the model; the defaults are CLIP's.

    Attributes:
        do_rescale: multiply them by `rescale_factor`.
        rescale_factor: 1/255 makes them 0..1.
        do_normalize: then take off `image_mean` and divide by `image_std`.
        image_mean: red, green, blue; or one number for all.
        image_std: likewise.
    """

    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std"):
            value = np.asarray(getattr(self, name), np.float64).reshape(-1)
            if len(value) not in (1, CHANNELS):
                raise ValueError(
                    f"{name} must be {CHANNELS} numbers, or one for all, not {getattr(self, name)!r}"
                )
            if not np.isfinite(value).all() or (name == "image_std" and not (value > 0).all()):
                what = "finite numbers" if name == "image_mean" else "finite numbers above 0"
                raise ValueError(f"{name} must be {what}, not {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(np.broadcast_to(value, CHANNELS).tolist()))
        if not 0 < abs(self.rescale_factor) < np.inf:
            raise ValueError(f"rescale_factor must be a finite number but 0, not {self.rescale_factor!r}")

    @cached_property
    def scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        """(C,) float32 each: what a pixel of 0..255 is multiplied with, and what is added then."""
        scale: np.ndarray = np.full(CHANNELS, self.rescale_factor if self.do_rescale else 1.0)
        offset: np.ndarray = np.zeros(CHANNELS)
        if self.do_normalize:
            mean, std = np.asarray(self.image_mean), np.asarray(self.image_std)
            scale, offset = scale / std, -mean / std
        return scale.astype(np.float32), offset.astype(np.float32)

    def scale(self, levels: np.ndarray) -> np.ndarray:
        """(..., C, pixels) of 0..255 -> the same in float32, as the model takes it."""
        scale, offset = self.scale_and_offset
        scaled = np.empty(levels.shape, np.float32)
        for channel in range(CHANNELS):
            scaled[..., channel, :] = levels[..., channel, :] * scale[channel] + offset[channel]
        return scaled


STORED = PixelSettings(do_rescale=False, do_normalize=False)  # patches on disk: pixels as they are


def read_placed_frames(
    reader: VideoReader, frame_ids: np.ndarray, geometry: FrameGeometry
) -> dict[int, np.ndarray] | None:
    """Frames as they lie on the patch grid, to be cut later: for videos whose selection takes long, while it
    is made.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        geometry: how a frame lies on the grid.

    Returns:
        (3, H, W) uint8 by number; None where one cannot be decoded (perhaps nothing is cut of it), or where
        they take more than 64 MB.
    """
    shape = CHANNELS, geometry.grid_height * geometry.patch_size, geometry.grid_width * geometry.patch_size
    if len(frame_ids) * math.prod(shape) > MOST_PLACED_BYTES:
        return None
    size = geometry.resized_width, geometry.resized_height
    try:
        return {
            frame.frame_id: np.stack([geometry.place(plane) for plane in frame.rgb_planes(*size)])
            for frame in reader.frames(frame_ids)
        }
    except VideoReadError:
        return None


def cut_patches(
    reader: VideoReader | FrameSequence,
    placement: Placement,
    pixels: PixelSettings,
    placed: dict[int, np.ndarray] | None = None,
) -> np.ndarray:
    """Decode the frames of which something is cut, and cut it. Other frames never become RGB.

    Args:
        reader: the open video.
        placement: K patches of it.
        pixels: how they are scaled.
        placed: its frames, of `read_placed_frames`, which are then not decoded again.

    Returns:
        (K, C*p*p) float32.
    """
    geometry, positions = placement.geometry, placement.positions
    p, channels = geometry.patch_size, CHANNELS
    scale, offset = pixels.scale_and_offset

    patches = np.empty((len(positions), channels, p * p), np.float32)
    rows_of: dict[int, list[np.ndarray]] = {}
    for t in np.unique(positions[:, 0]):
        rows, chunks = (
            np.flatnonzero(positions[:, 0] == t),
            rows_of.setdefault(int(placement.frame_ids[t]), []),
        )
        chunks += (rows[begin : begin + ROWS_AT_ONCE] for begin in range(0, len(rows), ROWS_AT_ONCE))

    def cut(frame: DecodedFrame) -> None:
        width, height = geometry.resized_width, geometry.resized_height
        try:
            planes = frame.rgb_planes(width, height)
        except av.FFmpegError as error:  # of shapes for which swscale has no filter
            shapes = f"{geometry.width} x {geometry.height} pixels cannot be made {width} x {height}"
            raise VideoReadError(reader.name, f"frames of {shapes}: {error.strerror}") from error
        cut_planes(frame.frame_id, (geometry.place(plane) for plane in planes))

    def cut_planes(frame_id: int, planes: Iterable[np.ndarray]) -> None:
        for channel, plane in enumerate(planes):
            grid = plane.reshape(geometry.grid_height, p, geometry.grid_width, p)
            for rows in rows_of[frame_id]:
                cut_out = grid[positions[rows, 1], :, positions[rows, 2]]
                patches[rows, channel] = cut_out.reshape(len(rows), p * p) * scale[channel] + offset[channel]

    def cut_segment(frame_ids: np.ndarray) -> None:
        for frame in reader.frames(frame_ids):
            cut(frame)

    def cut_while_decoding(frame_ids: np.ndarray) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[None]] = deque()
            for frame in reader.frames(frame_ids):
                waiting.append(pool.submit(cut, frame))
                if len(waiting) > HELD_FRAMES:
                    waiting.popleft().result()
            for job in waiting:
                job.result()

    if placed is not None:
        for frame_id in rows_of:
            cut_planes(frame_id, placed[frame_id])
        return patches.reshape(len(positions), -1)
    # PyAV gives up the interpreter lock, so segments between keyframes are decoded side by side; of a
    # single one, the resizing and cutting go on while it is decoded.
    segments = reader.decode_segments(rows_of, min(MAX_DECODERS, os.cpu_count() or 1))
    if len(segments) == 1:
        cut_while_decoding(segments[0])
    else:
        with ThreadPoolExecutor(len(segments)) as decoders:
            list(decoders.map(cut_segment, segments))
    return patches.reshape(len(positions), -1)


def check_placement(placement: Placement, reader: VideoReader | FrameSequence, patch_size: int) -> None:
    """Refuse a given placement that does not belong to this video or processor.

    Args:
        placement: what is to be cut.
        reader: the open video.
        patch_size: of the processor, in pixels.

    Raises:
        ValueError: another patch size or frame size, a frame that the video does not have, a position off
            the grid.
    """
    geometry = placement.geometry
    if geometry.patch_size != patch_size:
        raise ValueError(
            f"the selection has patches of {geometry.patch_size} pixels, the processor of {patch_size}"
        )
    if (geometry.height, geometry.width) != (reader.height, reader.width):
        raise ValueError(
            f"the selection was made for frames of {geometry.height} x {geometry.width} pixels, this video "
            f"has {reader.height} x {reader.width}"
        )
    if placement.frame_ids.max() >= len(reader):
        raise ValueError(
            f"the selection names frame {placement.frame_ids.max()}, this video has "
            f"frames 0 to {len(reader) - 1}"
        )
    limits = np.array([len(placement.frame_ids), geometry.grid_height, geometry.grid_width])
    positions = np.asarray(placement.positions)
    if positions.ndim != 2 or positions.shape[1] != 3 or not np.issubdtype(positions.dtype, np.integer):
        raise ValueError(
            f"positions must be (K, 3) integers, found {positions.dtype} of shape {positions.shape}"
        )
    outside = (positions < 0) | (positions >= limits)
    if outside.any():
        bad = positions[outside.any(1)][0].tolist()
        raise ValueError(f"position {bad} is out of the selection's grid of {limits.tolist()} [t, h, w]")
