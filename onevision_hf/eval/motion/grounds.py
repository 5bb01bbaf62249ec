"""Real grounds for drawn clips: footage with its own camera, or pictures, out of a folder.

No file is the ground of both train and test clips. Footage keeps its pace, frame after frame; what is shorter
than a clip is played there and back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ...data.items import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from ...jobs.run_folder import digest_of
from ...modeling.video_reader import VideoReader
from ...synthetic.clips import ClipSettings
from ...synthetic.rng import StableRNG
from .settings import OWN_CAMERA, STILL

TEST_EVERY = 3  # each third file, in an order of chance, is for test clips
MOST_FRAMES = 512  # of a file that are used, from its middle
DETAIL = 2  # the shorter side of footage that is kept, in sides of a clip; a ground is half of it or more
GAP, MOVES = 4, 1.0  # frames, and by how many pixels the picture is displaced in them where the camera moves


@dataclass(frozen=True)
class Grounds:
    """The files of a folder, those for train and those for test clips.

    Attributes:
        folder: that holds them.
        files: split -> paths.
    """

    folder: Path
    files: dict[str, tuple[Path, ...]]

    @classmethod
    def open(cls, folder: Path, seed: int) -> "Grounds":
        """Raises ValueError where the folder has no two files that can be grounds."""
        wanted = {f".{extension}" for extension in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)}
        found = sorted(path for path in folder.glob("*") if path.suffix.lower() in wanted)
        if len(found) < 2:
            raise ValueError(
                f"{folder} has {len(found)} videos or pictures: --grounds takes a folder of two or more, "
                "some for train clips and others for test clips"
            )
        found = StableRNG(seed, "grounds").shuffled(found)
        test = found[::TEST_EVERY]
        return cls(folder, {"train": tuple(p for p in found if p not in test), "test": tuple(test)})

    @property
    def identity(self) -> str:
        """A digest of what the clips depend on: the names and sizes of each split's files."""
        return digest_of(
            {split: [[p.name, p.stat().st_size] for p in paths] for split, paths in self.files.items()}
        )

    def ground(self, split: str, key: tuple[int, int], settings: ClipSettings) -> np.ndarray:
        """What `draw_clip` takes: (T, H, W, 3) uint8 of a video, (H, W, 3) of a picture.

        Args:
            split: "train" or "test".
            key: what the file, the part of its frames and their crop are drawn from.
            settings: of the clip.
        """
        rng = StableRNG(*key, "ground")
        path = rng.pick(self.files[split])
        if path.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS:
            with Image.open(path) as picture:
                return next(_cropped(rng, [np.asarray(picture.convert("RGB"))], settings.world_size))
        frames = footage(path, DETAIL * min(settings.height, settings.width))
        count, last = settings.num_frames, len(frames) - 1
        place = rng.below(max(len(frames) - count, 0) + 1) + np.arange(count)
        # There and back: 0, 1, ... last, last - 1, ... 1, 0, 1, ...
        place = last - np.abs(last - place % max(2 * last, 1))
        return np.stack(list(_cropped(rng, frames[place], (settings.height, settings.width))))


@lru_cache(maxsize=16)
def footage(path: Path, side: int) -> np.ndarray:
    """(T, H, W, 3) uint8: up to `MOST_FRAMES` frames of a video, the shorter side resized to `side`.

    Raises:
        VideoReadError: it cannot be read.
    """
    with VideoReader(path) as reader:
        count = min(len(reader), MOST_FRAMES)
        first = (len(reader) - count) // 2
        shorter = min(reader.height, reader.width)
        height, width = (max(side, round(side * s / shorter)) for s in (reader.height, reader.width))
        return np.stack([frame.rgb(width, height) for frame in reader.frames(range(first, first + count))])


def _cropped(rng: StableRNG, frames: np.ndarray | list, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The same part of every frame, half to all of what fits, resized to `size` (height, width)."""
    height, width = frames[0].shape[:2]
    fitting = min(height / size[0], width / size[1])
    scale = fitting * rng.between(512, 1024) / 1024
    left = rng.below(1025) / 1024 * (width - scale * size[1])
    top = rng.below(1025) / 1024 * (height - scale * size[0])
    box = (left, top, left + scale * size[1], top + scale * size[0])
    for frame in frames:
        resized = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
        yield np.asarray(resized)


def camera_of(frames: np.ndarray) -> str:
    """`OWN_CAMERA` where footage (T, H, W, 3) is displaced as a whole by a pixel or more in four frames (the
    median over the clip, by phase correlation), else `STILL`."""
    luma = frames[::GAP].mean(-1)
    luma -= luma.mean((1, 2), keepdims=True)
    window = np.outer(np.hanning(luma.shape[1]), np.hanning(luma.shape[2]))
    spectra = np.fft.rfft2(luma * window)
    cross = spectra[:-1].conj() * spectra[1:]
    peaks = np.fft.irfft2(cross / (np.abs(cross) + 1e-6), s=luma.shape[1:]).reshape(len(cross), -1).argmax(1)
    y, x = np.unravel_index(peaks, luma.shape[1:])
    y, x = (np.minimum(d, n - d) for d, n in zip((y, x), luma.shape[1:], strict=True))
    return OWN_CAMERA if np.median(np.hypot(y, x)) >= MOVES else STILL
