"""Clips for the tests, drawn with numpy and encoded with PyAV: no binary file is kept in the repository.

frames = moving_scene(48, 144, 192, seed=0)                     # (48, 144, 192, 3) uint8
path = write_clip(tmp_path / "clip.mp4", frames, gop=12, bframes=2)
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Quick settings under which the same frames give the same file again. x264's macroblock tree is off: with
# AVX-512 it is not reproducible: 3 of 24 encodes of one clip came out different.
SETTINGS = {
    "libx264": {"preset": "fast", "crf": "23", "mbtree": "0"},
    "libx265": {"preset": "fast", "crf": "26"},
    "libvpx-vp9": {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12", "crf": "40"},
}


def moving_scene(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A textured ground that pans by a pixel a frame, and three textured squares that go their own ways.

    Returns (num_frames, height, width, 3) uint8 RGB. The squares move one to four pixels a frame and bounce.
    """
    rng = np.random.default_rng(seed)
    ground = _texture(rng, height, width + num_frames, low=40, high=170)
    side = max(8, min(height, width) // 5)
    squares = [_texture(rng, side, side, low=90 + 30 * i, high=255) for i in range(3)]
    room = np.maximum(np.array([height - side, width - side]), 1)
    starts = rng.integers(0, room, size=(3, 2))
    steps = rng.integers(1, 5, size=(3, 2)) * rng.choice([-1, 1], size=(3, 2))
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:] = ground[:, t : t + width]
        for square, start, step in zip(squares, starts, steps, strict=True):
            folded = (start + step * t) % (2 * room)  # a triangle wave: the square turns back at the borders
            top, left = np.where(folded > room, 2 * room - folded, folded)
            visible = frame[top : top + side, left : left + side]
            visible[:] = square[: visible.shape[0], : visible.shape[1]]
    return frames


def write_clip(
    path: str | Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    fps: int | Fraction = 25,
    gop: int = 12,
    bframes: int = 2,
    pix_fmt: str = "yuv420p",
    sample_aspect_ratio: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB `frames` (T, H, W, 3) uint8 into `path`, whose suffix names the container; return the path.

    `gop` frames lie between keyframes, `bframes` between references (H.264, HEVC, MPEG-4, MPEG-2). 4:2:0
    needs even sizes; pass `pix_fmt="yuv444p"` for odd ones. The encoder's `options` win over `SETTINGS`.
    """
    path = Path(path)
    settings = SETTINGS.get(codec, {}) | (options or {})
    if codec == "libx265":
        own = f"log-level=error:pools=none:frame-threads=1:keyint={gop}:min-keyint={gop}:bframes={bframes}"
        settings["x265-params"] = ":".join(filter(None, [own, settings.get("x265-params")]))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=settings)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        context.gop_size, context.thread_count = gop, 1
        if codec in ("libx264", "libx265", "mpeg4", "mpeg2video"):
            context.max_b_frames = bframes
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = t, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: str | Path, seconds: float = 0.5) -> Path:
    """A file with a sound track and no picture: a 440 Hz tone, AAC, mono."""
    path, rate = Path(path), 16000
    tone = (0.2 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _texture(rng: np.random.Generator, height: int, width: int, low: int, high: int) -> np.ndarray:
    """Smooth coloured noise plus fine grain: detail for block matching, few bytes."""
    coarse = rng.random((height // 8 + 2, width // 8 + 2, 3))
    y, x = np.arange(height) / 8, np.arange(width) / 8
    top, left = y.astype(int), x.astype(int)
    dy, dx = (y - top)[:, None, None], (x - left)[None, :, None]
    rows = coarse[top] * (1 - dy) + coarse[top + 1] * dy
    smooth = rows[:, left] * (1 - dx) + rows[:, left + 1] * dx
    grain = rng.normal(0, 0.04, (height, width, 1))
    return (low + (high - low) * np.clip(smooth + grain, 0, 1)).astype(np.uint8)
