"""A clip that lies about as pictures: a list of files, a folder, or a pattern such as `shot_%03d.png`.

Nothing takes pictures for a clip by itself: whoever hands them over says so (`frames=True`). Pictures are
read when they are asked for, so that a long folder is never in memory.
"""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from .remote_file import is_url, shown
from .url_access import FETCHED, UrlAccess
from .video_source import VideoReadError, local_path

STILLS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_NUMBER = re.compile(r"%0?(\d*)d")


class FrameFiles(Sequence[np.ndarray]):
    """(H, W, 3) uint8 pictures by number, each read when it is asked for.

    Args:
        frames: a folder (its pictures by the numbers in their names), a pattern with one `%d` or `%03d` in
            the file's name (all numbers that are there, in order), or a list of paths, URLs, bytes, base64.
        urls: whether URLs are fetched, and within which bounds.

    Raises:
        VideoReadError: there are none.
        TypeError: something else.
    """

    def __init__(self, frames: Any, urls: UrlAccess = FETCHED):
        self._urls = urls
        if isinstance(frames, str | os.PathLike):
            self.name = shown(os.fsdecode(frames))
            self._files = _listed(local_path(os.fsdecode(frames)))
        elif isinstance(frames, list | tuple):
            self.name, self._files = f"{len(frames)} frames", list(frames)
        else:
            raise TypeError(
                "frames=True takes a list of pictures, a folder or a pattern like frame_%03d.png, not "
                f"{type(frames).__name__}"
            )
        if not self._files:
            raise VideoReadError(self.name, "holds no frames: an empty list")
        self._shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return FrameFiles(self._files[index], self._urls)
        from .pictures import load_picture  # PIL, which nobody else needs

        source = self._files[index]
        try:
            frame = np.asarray(load_picture(source, self._urls))
        except OSError as error:
            raise VideoReadError(self.name, f"frame {index}: {error}") from error
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise VideoReadError(
                self.name,
                f"frame {index} has {frame.shape[1]} x {frame.shape[0]} pixels, another one "
                f"{self._shape[1]} x {self._shape[0]}: frames of one clip have one size",
            )
        return frame


def _listed(name: str) -> list[str]:
    """The pictures of a folder or a pattern, in the order of the numbers in their names."""
    if os.path.isdir(name):
        found = [str(path) for path in Path(name).iterdir() if path.suffix.lower() in STILLS]
        if not found:
            raise VideoReadError(name, f"is a folder without pictures ({', '.join(sorted(STILLS))})")
        return sorted(found, key=_natural)
    folder, file = os.path.split(name)
    if not (number := _NUMBER.search(file)):
        reason = (
            "is one file: frames=True takes a folder, a pattern like frame_%03d.png, or a list of pictures"
        )
        raise VideoReadError(name, reason if os.path.exists(name) else "no such folder")
    before, after = file[: number.start()], file[number.end() :]
    wanted = re.compile(rf"{re.escape(before)}(\d{{{number[1].lstrip('0') or 1},}}){re.escape(after)}")
    there = [os.path.basename(path) for path in glob.glob(os.path.join(glob.escape(folder), "*"))]
    numbered = sorted((int(hit[1]), path) for path in there if (hit := wanted.fullmatch(path)))
    if not numbered:
        raise VideoReadError(name, "no file is called so with a number in the place of the pattern")
    return [os.path.join(folder, path) for _, path in numbered]


def _natural(name: str) -> list[tuple[int, str]]:
    """frame10 comes after frame9."""
    pieces = re.split(r"(\d+)", os.path.basename(name))
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]


def is_still(medium: Any) -> bool:
    """Whether this names a picture file, which alone would be a video of one frame."""
    named = isinstance(medium, str | os.PathLike) and not (isinstance(medium, str) and is_url(medium))
    return named and os.path.splitext(os.fsdecode(medium))[1].lower() in STILLS


def is_many(medium: Any) -> bool:
    """Whether this is a folder or a pattern, and so a clip of its own in a list of clips."""
    if isinstance(medium, list | tuple):
        return True
    if not isinstance(medium, str | os.PathLike):
        return False
    name = os.fsdecode(medium)
    return os.path.isdir(name) or _NUMBER.search(os.path.basename(name)) is not None


def refuse_stills(videos: Sequence[Any]) -> None:
    """Raise ValueError for a list of picture files: a clip of several frames, or several of one?"""
    if len(videos) > 1 and all(is_still(video) for video in videos):
        raise ValueError(
            f"{len(videos)} pictures were given as videos: frames=True makes one clip of them; videos of one "
            "frame each go in one by one"
        )


def frames_of_decoder(decoder: Any) -> tuple[np.ndarray, list[float]]:
    """All frames (T, H, W, 3) of a torchcodec `VideoDecoder` that has no file to it, and their seconds."""
    batch = decoder.get_frames_in_range(0, len(decoder))
    frames = batch.data.cpu().numpy()
    seconds = batch.pts_seconds.tolist()
    begin = seconds[0] if seconds else 0.0
    return frames, [second - begin for second in seconds]
