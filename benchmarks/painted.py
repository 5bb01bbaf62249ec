"""Painted references: what fields cost, and how right they are on drawn scenes.

    make bench-painted                          # recall and end-point errors on scenes, a row a stream
    python benchmarks/painted.py --speed 12 --seeds 5 6
    make bench-codec ONLY=painted               # times and memory; ONEVISION_CLIPS names the real clips

A scene is a textured ground under a camera, and two to four textured squares that bounce. Recall is that of
benchmarks/codec_table.py; the end-point error is against the drawn motion, over cells of 8 x 8 inside one
object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from codec_table import recall, texture

from onevision_hf import select_patches
from onevision_hf.modeling.motion_field import CELL, DecodedPlanes, FieldReader, MotionField
from onevision_hf.modeling.painted_pictures import iter_painted_pictures
from onevision_hf.modeling.prediction_table import Prediction
from onevision_hf.modeling.video_reader import VideoReader

HEIGHT, WIDTH, FRAMES, PATCH = 192, 320, 40, 16
X265 = "log-level=none:pools=none:frame-threads=1:keyint=1000"
# Name -> encoder, options, pixel format, suffix.
STREAMS: dict[str, tuple[str, dict[str, str], str, str]] = {
    "HEVC": (
        "libx265",
        {"preset": "fast", "crf": "26", "x265-params": X265 + ":bframes=0"},
        "yuv420p",
        "mp4",
    ),
    "HEVC, B": ("libx265", {"preset": "medium", "crf": "26", "x265-params": X265}, "yuv420p", "mp4"),
    "HEVC 10-bit, B": ("libx265", {"preset": "fast", "crf": "26", "x265-params": X265}, "yuv420p10le", "mp4"),
    "HEVC 4:4:4, B": ("libx265", {"preset": "fast", "crf": "26", "x265-params": X265}, "yuv444p", "mp4"),
    "VP8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "b": "800k"}, "yuv420p", "webm"),
    "VP9 realtime": (
        *("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"}),
        *("yuv420p", "webm"),
    ),
    "VP9": ("libvpx-vp9", {"cpu-used": "4", "crf": "32", "b": "0"}, "yuv420p", "webm"),
    "AV1, SVT 10": ("libsvtav1", {"preset": "10", "crf": "36"}, "yuv420p", "mkv"),
    "AV1, SVT 8": ("libsvtav1", {"preset": "8", "crf": "28"}, "yuv420p", "mkv"),
    "AV1 10-bit, SVT 8": ("libsvtav1", {"preset": "8", "crf": "36"}, "yuv420p10le", "mkv"),
    "H.264, B (for comparison)": ("libx264", {"crf": "24", "mbtree": "0"}, "yuv420p", "mp4"),
}
# The real clip in other codecs, as (encoder, options, pixel format, suffix, limit of one pass).
REAL: dict[str, tuple[str, dict[str, str], str, str, str]] = {
    "HEVC, B": (
        *("libx265", {"preset": "fast", "crf": "28", "x265-params": "log-level=none:pools=none"}),
        *("yuv420p", "mp4", "<= 1.1"),
    ),
    "VP9": ("libvpx-vp9", {"crf": "34", "b": "0", "cpu-used": "4"}, "yuv420p", "webm", "<= 1.5"),
    "AV1": ("libsvtav1", {"preset": "8", "crf": "35"}, "yuv420p", "mkv", "<= 1.2"),
}


@dataclass(frozen=True)
class Scene:
    """frames (T, H, W, 3) uint8; owner (T, H, W), 0 the ground, else the square; velocity (T, owners, 2)
    pixels [x, y] from the frame before."""

    frames: np.ndarray
    owner: np.ndarray
    velocity: np.ndarray


def draw_scene(
    seed: int, fastest: float, height: int = HEIGHT, width: int = WIDTH, length: int = FRAMES
) -> Scene:
    """A scene with squares of up to `fastest` pixels a frame, the camera half as fast."""
    rng = np.random.default_rng(seed)

    def speed(most: float) -> float:
        return round(2 * rng.uniform(0.3, 1) * most) / 2 * rng.choice([-1, 1])

    camera = np.array([speed(fastest / 2), speed(fastest / 4)])
    margin = int(np.abs(camera).max() * length + 8)
    # Textures have twice the resolution: places are multiples of half a pixel.
    ground = softened(texture(rng, 2 * (height + 2 * margin), 2 * (width + 2 * margin), 40, 220))
    squares = []
    for _ in range(int(rng.integers(2, 5))):
        side = int(rng.integers(4, 9)) * 8
        place = np.array([rng.integers(0, width - side), rng.integers(0, height - side)], float)
        velocity = np.array([speed(fastest), speed(fastest / 2)])
        squares.append((softened(texture(rng, 2 * side, 2 * side, 40, 220)), side, place, velocity))
    frames, owner = (
        np.empty((length, height, width, 3), np.uint8),
        np.zeros((length, height, width), np.uint8),
    )
    motion = np.zeros((length, len(squares) + 1, 2), np.float32)
    for t in range(length):
        motion[t, 0] = -camera
        left, top = (2 * (margin + camera * t)).round().astype(int)
        frames[t] = ground[top : top + 2 * height : 2, left : left + 2 * width : 2]
        for number, (drawn, side, place, velocity) in enumerate(squares, 1):
            if t:
                for axis, size in enumerate((width, height)):
                    if not 0 <= place[axis] + velocity[axis] <= size - side:
                        velocity[axis] = -velocity[axis]
                place += velocity
            motion[t, number] = velocity
            x, y = np.ceil(place).astype(int)
            half_x, half_y = (place != np.floor(place)).astype(int)
            picture = drawn[half_y::2, half_x::2][: height - y, : width - x]
            here = np.s_[t, y : y + picture.shape[0], x : x + picture.shape[1]]
            frames[here], owner[here] = picture, number
    return Scene(frames, owner, motion)


def softened(picture: np.ndarray) -> np.ndarray:
    """Neighbours averaged, so that half a pixel means something."""
    return (picture + np.roll(picture, 1, 0) + np.roll(picture, 1, 1) + np.roll(picture, (1, 1), (0, 1))) / 4


def encode(path: Path, frames: np.ndarray, codec: str, options: dict[str, str], pix_fmt: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options))
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        context.gop_size, context.thread_count = 1000, 1
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def in_blocks(values: np.ndarray, side: int) -> np.ndarray:
    """(..., H, W) -> (..., H / side, W / side, side * side)."""
    *rest, height, width = values.shape
    cut = values.reshape(*rest, height // side, side, width // side, side)
    return np.moveaxis(cut, -3, -2).reshape(*rest, height // side, width // side, side**2)


def measure_recall(path: Path, scene: Scene) -> float:
    """Of `auto`'s energy."""
    selection = select_patches(path, num_frames=FRAMES, size=HEIGHT, patch_size=PATCH)
    truth = in_blocks(scene.owner > 0, PATCH).mean(-1)[1:] > 0.25
    return recall(selection.energy[1:], truth)


def measure_errors(path: Path, scene: Scene) -> tuple[np.ndarray, np.ndarray, float]:
    """End-point errors of the cells inside one object, whether that is a square, and the share of such cells
    that have a vector."""
    errors, moving, cells = [], [], 0
    with VideoReader(path) as reader:
        for frame_id, picture in iter_painted_pictures(reader, range(len(reader)), passes=1):
            if picture.field is None:
                continue
            owner = in_blocks(scene.owner[frame_id], CELL)
            whole = owner.min(-1) == owner.max(-1)
            truth = -scene.velocity[frame_id][owner[..., 0]]
            error = np.abs(picture.field.velocity - (truth[..., 0] + 1j * truth[..., 1]))
            known = whole & ~np.isnan(error)
            errors.append(error[known])
            moving.append(owner[..., 0][known] > 0)
            cells += whole.sum()
    return np.concatenate(errors), np.concatenate(moving), sum(map(len, errors)) / cells


def print_scenes(seeds: list[int], speed: float, names: list[str]) -> None:
    print(
        f"Squares of up to {speed:g} pixels a frame, seeds {' '.join(map(str, seeds))}; errors of one pass.\n"
    )
    print("| stream | recall of `auto` | lowest | median error, px | of squares | cells known |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            codec, options, pix_fmt, suffix = STREAMS[name]
            recalls, errors, moving, known = [], [], [], []
            for seed in seeds:
                scene, path = draw_scene(seed, speed), Path(folder) / f"clip.{suffix}"
                encode(path, scene.frames, codec, options, pix_fmt)
                recalls.append(measure_recall(path, scene))
                if codec != "libx264":
                    found = measure_errors(path, scene)
                    errors.append(found[0]), moving.append(found[1]), known.append(found[2])
            cells = ["-"] * 3
            if errors:
                every, squares = np.concatenate(errors), np.concatenate(moving)
                cells = [
                    f"{np.median(every):.2f}",
                    f"{np.median(every[squares]):.2f}",
                    f"{np.mean(known):.2f}",
                ]
            line = [name, f"{np.mean(recalls):.2f}", f"{min(recalls):.2f}", *cells]
            print(f"| {' | '.join(line)} |", flush=True)


# -- what it costs: rows of benchmarks/codec.py --


def recode(source: str, path: Path, codec: str, options: dict[str, str], pix_fmt: str) -> None:
    """A clip by another encoder."""
    with av.open(source) as given, av.open(str(path), "w") as container:
        stream = given.streams.video[0]
        out = container.add_stream(codec, rate=stream.average_rate, options=dict(options))
        out.width, out.height, out.pix_fmt, out.time_base = (
            stream.width,
            stream.height,
            pix_fmt,
            stream.time_base,
        )
        for frame in given.decode(stream):
            picture = frame.reformat(format=pix_fmt)
            picture.pts, picture.time_base, picture.pict_type = frame.pts, frame.time_base, 0
            container.mux(out.encode(picture))
        container.mux(out.encode(None))


def decode_all(path: str) -> None:
    """Every frame, by one thread."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        for _ in container.decode(stream):
            pass


def paint_all(path: str, fields: int = 64) -> None:
    """Fields of so many frames, evenly spread."""
    with VideoReader(path) as reader:
        wanted = np.linspace(0, len(reader) - 1, fields).astype(int)
        for _ in iter_painted_pictures(reader, wanted.tolist(), passes=1):
            pass


def one_pass_ratio(path: str, turns: int = 5) -> float:
    """Median of the processor time of one pass with 64 fields, of a plain decode of the file. The index is of
    the plain decode's kind, and is left out."""
    found = []
    for turn in range(turns + 1):
        begin = time.process_time()
        decode_all(path)
        plain = time.process_time() - begin
        with VideoReader(path) as reader:
            wanted = np.linspace(0, len(reader) - 1, 64).astype(int).tolist()
            begin = time.process_time()
            for _ in iter_painted_pictures(reader, wanted, passes=1):
                pass
        if turn:
            found.append((time.process_time() - begin) / plain)
    return median(found)


def field_milliseconds(path: str, count: int = 24, turns: int = 3) -> float:
    """Of a core for a field of a picture, median. The decoders are done by then: beside them a field takes
    longer, by what they leave of the caches and of the memory's speed."""
    calls: list[tuple[FieldReader, tuple[Any, ...]]] = []
    read = FieldReader.read

    def recorded(
        self: FieldReader,
        picture: DecodedPlanes,
        time: float,
        predictions: Sequence[Prediction],
        negative: list[np.ndarray] | None = None,
    ) -> MotionField:
        kept = picture._replace(planes=[plane.copy() for plane in picture.planes])
        other = None if negative is None else [plane.copy() for plane in negative]
        field = read(self, picture, time, predictions, negative)
        calls.append((self, (kept, time, predictions, other)))
        return field

    FieldReader.read = recorded  # type: ignore[method-assign]
    try:
        with VideoReader(path) as reader:
            for _ in iter_painted_pictures(reader, range(count), passes=1):
                pass
    finally:
        FieldReader.read = read  # type: ignore[method-assign]
    spent = []
    for _ in range(turns):
        for field_reader, arguments in calls:
            begin = time.thread_time()
            field_reader.read(*arguments)
            spent.append(1000 * (time.thread_time() - begin))
    return median(spent)


def peak_megabytes(path: str, call: str) -> float:
    """Of a process that does nothing else, above what it held before."""
    code = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import painted
def status(name):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
painted.{call}({path!r})
print(json.dumps(status("VmHWM") - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--speed", type=float, default=6.0, help="pixels a frame of the fastest square")
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS))
    args = parser.parse_args()
    print_scenes(args.seeds, args.speed, args.streams)


if __name__ == "__main__":
    main()
