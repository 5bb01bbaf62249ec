"""Cuts selected patches straight from decoded frames: the dense clip is never built."""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from .decoded_frame import DecodedFrame
from .frame_sequence import FrameSequence
from .patch_selection import Placement
from .video_reader import VideoReader

HELD_FRAMES = 2  # decoded frames that wait to be cut
MAX_DECODERS = 4  # each holds its own reference pictures


def cut_patches(
    reader: VideoReader | FrameSequence, placement: Placement, settings: dict[str, Any]
) -> np.ndarray:
    """(K, C*p*p) float32, the selected patches rescaled and normalised. Other frames never become RGB."""
    geometry, positions = placement.geometry, placement.positions
    p, channels = geometry.patch_size, 3
    scale, offset = pixel_scale(settings, channels)

    patches = np.empty((len(positions), channels, p * p), np.float32)
    rows_of: dict[int, list[np.ndarray]] = {}
    for t in np.unique(positions[:, 0]):
        rows_of.setdefault(int(placement.frame_ids[t]), []).append(np.flatnonzero(positions[:, 0] == t))

    def cut(frame: DecodedFrame) -> None:
        planes = frame.rgb_planes(geometry.resized_width, geometry.resized_height)
        for channel, plane in enumerate(planes):
            grid = geometry.place(plane).reshape(geometry.grid_height, p, geometry.grid_width, p)
            for rows in rows_of[frame.frame_id]:
                cut_out = grid[positions[rows, 1], :, positions[rows, 2]]
                patches[rows, channel] = cut_out.reshape(len(rows), p * p) * scale[channel] + offset[channel]

    def cut_stretch(frame_ids: np.ndarray) -> None:
        for frame in reader.frames(frame_ids):
            cut(frame)

    def cut_beside_decoder(frame_ids: np.ndarray) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting: deque[Future[None]] = deque()
            for frame in reader.frames(frame_ids):
                waiting.append(pool.submit(cut, frame))
                if len(waiting) > HELD_FRAMES:
                    waiting.popleft().result()
            for job in waiting:
                job.result()

    # PyAV gives up the interpreter lock, so stretches between keyframes are decoded beside each other; of a
    # single one, the resizing and cutting go beside the decoder.
    stretches = reader.stretches(rows_of, min(MAX_DECODERS, os.cpu_count() or 1))
    if len(stretches) == 1:
        cut_beside_decoder(stretches[0])
    else:
        with ThreadPoolExecutor(len(stretches)) as decoders:
            list(decoders.map(cut_stretch, stretches))
    return patches.reshape(len(positions), -1)


def pixel_scale(settings: dict[str, Any], channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(scale, offset), (channels,) float32 each: what a pixel of 0..255 is multiplied with and what is added
    to make it what the model takes."""
    scale: np.ndarray = np.full(channels, settings["rescale_factor"] if settings["do_rescale"] else 1.0)
    offset: np.ndarray = np.zeros(channels)
    if settings["do_normalize"]:
        mean, std = (np.broadcast_to(settings[name], channels) for name in ("image_mean", "image_std"))
        scale, offset = scale / std, -mean / std
    return scale.astype(np.float32), offset.astype(np.float32)


def check_placement(placement: Placement, reader: VideoReader | FrameSequence, patch_size: int) -> None:
    """Raise ValueError where a given placement does not belong to this video or processor."""
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
