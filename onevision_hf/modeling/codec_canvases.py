"""Canvases: pictures that carry patches from many frames of a video, as LLaVA-OneVision-2 takes codec input.

    canvases = read_canvases("assets/clip__1a2b3c4d")         # a folder that its preprocessor wrote
    processor(text=prompt, videos=[canvases])

The first canvas of a group is a whole frame; the others hold blocks of 2 x 2 patches from the group's other
frames. A canvas is only a carrier of rows: where each patch is from stands beside it.
"""

import json
from os import PathLike
from pathlib import Path

import numpy as np

from .pictures import load_picture


class CodecCanvases:
    """A video as canvases; it stands for the video in a prompt.

    No dataclass: transformers makes dictionaries of those in a conversation.

    Args:
        pictures: (T, H, W, 3) uint8.
        positions: (T * rows * columns, 3) [source frame, h, w], raster per canvas; a source frame below 0
            marks a canvas that is left out.
        fps: frames a second of the source.

    Raises:
        ValueError: another number of positions than of patches, or a canvas that is left out in part.
    """

    def __init__(self, pictures: np.ndarray, positions: np.ndarray, fps: float):
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
        self.fps = float(fps)

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


__all__ = ["CodecCanvases", "read_canvases"]
