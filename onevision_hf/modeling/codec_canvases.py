"""Canvases: pictures that carry patches from many frames of a video, as LLaVA-OneVision-2 takes codec input.

    canvases = read_canvases("assets/clip__1a2b3c4d")         # a folder that its preprocessor wrote
    canvases = canvases_of(reader, preset="ov2")              # an open video, as that preprocessor chooses
    processor(text=prompt, videos=[canvases])

The first canvas of a group is a whole frame; the others hold blocks of 2 x 2 patches from the group's other
frames. A canvas is only a carrier of rows: where each patch is from stands beside it.
"""

import json
from os import PathLike
from pathlib import Path

import numpy as np

from .blank_pictures import is_blank
from .canvas_selection import CanvasPlan, CanvasSelection
from .frame_sequence import FrameSequence
from .pictures import load_picture
from .readiness_groups import CANVASES
from .video_reader import VideoReader


class CodecCanvases:
    """A video as canvases; it stands for the video in a prompt.

    No dataclass: transformers makes dictionaries of those in a conversation.

    Args:
        pictures: (T, H, W, 3) uint8.
        positions: (T * rows * columns, 3) [source frame, h, w], raster per canvas; a source frame below 0
            marks a canvas that is left out.
        fps: frames a second of the source.
        missing: what of a truncated file is there, "" of a whole one.

    Raises:
        ValueError: another number of positions than of patches, or a canvas that is left out in part.
    """

    def __init__(self, pictures: np.ndarray, positions: np.ndarray, fps: float, missing: str = ""):
        count = len(pictures)
        if not count or len(positions) % count or positions.shape[1:] != (3,):
            raise ValueError(f"{len(positions)} positions of {positions.shape[1:]} for {count} canvases")
        by_canvas = np.asarray(positions, np.int64).reshape(count, -1, 3)
        out = by_canvas[..., 0] < 0
        if (out.any(1) != out.all(1)).any():
            raise ValueError(
                f"canvas {int(np.argmax(out.any(1) != out.all(1)))} is filled in part (source frames below 0)"
            )
        self.pictures = np.asarray(pictures)[~out.all(1)]
        self.positions = by_canvas[~out.all(1)].reshape(-1, 3)
        self.fps, self.missing = float(fps), missing

    def __len__(self) -> int:
        return len(self.pictures)


def read_canvases(folder: str | PathLike) -> CodecCanvases:
    """Canvases from a folder of the authors' offline preprocessor: its pictures, `src_patch_position.npy` and
    `meta.json`.

    Raises:
        OSError: one of them is not there. ValueError: they do not fit.
    """
    folder = Path(folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    names = meta.get("canvas_files") or sorted(path.name for path in folder.glob("canvas_*"))
    pictures = [np.asarray(load_picture(folder / Path(name).name)) for name in names]
    if not pictures:
        raise FileNotFoundError(f"{folder} holds no canvases")
    positions = np.load(folder / "src_patch_position.npy")
    return CodecCanvases(np.stack(pictures), positions, meta["fps"])


def canvases_of(
    reader: VideoReader | FrameSequence,
    *,
    preset: str = "ov2",
    settings: str = "bundled",
    target_canvas: int = 32,
    patch_size: int = 14,
    merge_size: int = 2,
    max_canvases: int | None = None,
    span: tuple[int, int] | None = None,
    first_frame: int = 0,
) -> CodecCanvases:
    """The canvases of an open video, as `select_canvases` chooses them.

    Args:
        reader: the video.
        preset: "ov2", by bits, or "auto", by the energy of that preset.
        settings: as in `select_canvases`; likewise the others.
        target_canvas: sets how many frames are sampled.
        patch_size: side of a patch, in pixels.
        merge_size: patches along a side of the blocks that are kept.
        max_canvases: the bound, or None.
        span: [start, end) of the reader's frames that are looked at; None: all.
        first_frame: number of the reader's first frame in its source.

    Raises:
        ValueError: an argument is out of range, or the video is too short for a group.
        VideoReadError: it cannot be read.
    """
    plan = CanvasPlan(reader, settings, target_canvas, patch_size, merge_size, max_canvases, span)
    frames, good = [], []
    for planes in plan.pictures():
        frames.append(np.stack(planes, -1))
        good.append(not is_blank(*planes))
    selection = plan.select(np.array(good), preset=preset)
    pictures, positions = _cut(selection, frames)
    positions[:, 0] += first_frame
    return CodecCanvases(pictures, positions, _rate(reader), reader.missing)


def _rate(reader: VideoReader | FrameSequence) -> float:
    """Frames a second of the source, by whose numbers a prompt tells the time."""
    if isinstance(reader, VideoReader):
        return reader.fps if reader.fps > 0 else 30.0
    span = float(np.ptp(reader.timestamps))
    # Pictures without times are counted, as the frames of a prompt are.
    return float(np.ptp(reader.numbers)) / span if span > 0 else 1.0


def _cut(selection: CanvasSelection, frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(canvases, H, W, 3) uint8, and the positions of their patches. Where a group has no block to show its
    whole frame is shown again: a window is four canvases, and a model takes no part of one."""
    rows, columns = selection.grid
    by_group = selection.positions.reshape(-1, CANVASES, rows, columns, 3)
    places = np.where(by_group[..., :1] < 0, by_group[:, :1], by_group).reshape(-1, rows, columns, 3)
    side = frames[0].shape[0] // rows
    canvases = np.empty((len(places), rows, side, columns, side, 3), np.uint8)
    for number, frame in zip(selection.frame_ids.tolist(), frames, strict=True):
        canvas, row, column = np.nonzero(places[..., 0] == number)
        h, w = places[canvas, row, column, 1:].T
        canvases[canvas, row, :, column] = frame.reshape(rows, side, columns, side, 3)[h, :, w]
    return canvases.reshape(len(places), *frames[0].shape), places.reshape(-1, 3)


__all__ = ["CodecCanvases", "canvases_of", "read_canvases"]
