"""Which codec gives which signal, and how well each finds what moves: the table of docs/codec-signals.md.

    make codec-table
    python benchmarks/codec_table.py --streams "VP9" "MPEG-2, B"          # some rows only, printed

A scene of which one knows what moves (two textured squares, over a ground that a camera pans) is encoded with
every encoder at hand. A figure is a recall: of the N patches of P and B pictures that lie on a square, how
many are among the N that the signal ranks highest. A random choice recalls the squares' share of the picture.
"""

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from onevision_hf import select_patches
from onevision_hf.modeling.signal_settings import SIGNALS, SignalSettings
from onevision_hf.modeling.video_reader import VideoReader
from onevision_hf.view import read_signals

FRAMES, HEIGHT, WIDTH, FPS, SIDE = 48, 176, 320, 25, 48
PAN = 3  # pixels a frame
PATCH = 16
START, END = "<!-- codec-table: written by `make codec-table` -->", "<!-- /codec-table -->"

X264 = {"preset": "medium", "crf": "24", "mbtree": "0"}
X265 = {"preset": "fast", "crf": "26"}
VPX = {"deadline": "realtime", "cpu-used": "8"}
# Name -> encoder, its options, B pictures between references, pixel format, suffix.
STREAMS: dict[str, tuple[str, dict[str, str], int, str, str]] = {
    "H.264 baseline": ("libx264", X264 | {"profile": "baseline"}, 0, "yuv420p", "mp4"),
    "H.264 main, B": ("libx264", X264 | {"profile": "main"}, 3, "yuv420p", "mp4"),
    "H.264 10-bit": ("libx264", X264, 3, "yuv420p10le", "mkv"),
    "H.264 4:4:4": ("libx264", X264, 3, "yuv444p", "mkv"),
    "H.264 interlaced": ("libx264", X264 | {"x264-params": "tff=1"}, 3, "yuv420p", "mkv"),
    "HEVC": ("libx265", X265, 0, "yuv420p", "mp4"),
    "HEVC, B": ("libx265", X265, 3, "yuv420p", "mp4"),
    "HEVC 10-bit, B": ("libx265", X265, 3, "yuv420p10le", "mkv"),
    "VP8": ("libvpx", VPX | {"b": "400k"}, 0, "yuv420p", "webm"),
    "VP9": ("libvpx-vp9", VPX | {"crf": "32", "b": "0"}, 0, "yuv420p", "webm"),
    "AV1": ("libsvtav1", {"preset": "10", "crf": "36"}, 0, "yuv420p", "mkv"),
    "MPEG-4, B": ("mpeg4", {"b": "600k"}, 2, "yuv420p", "avi"),
    "MPEG-2, B": ("mpeg2video", {"b": "900k"}, 2, "yuv420p", "ts"),
    "MJPEG": ("mjpeg", {"q:v": "4"}, 0, "yuvj420p", "avi"),
}


def texture(rng: np.random.Generator, height: int, width: int, low: int, high: int) -> np.ndarray:
    """Noise of three sizes, (height, width, 3) in low..high."""
    total = np.zeros((height, width, 3))
    for cell, weight in ((16, 0.6), (4, 0.3), (1, 0.1)):
        grid = rng.random((height // cell + 1, width // cell + 1, 3))
        total += weight * grid.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return low + (high - low) * total


def draw_scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) uint8, and where a square is, (T, H, W) bool."""
    rng = np.random.default_rng(seed)
    ground = texture(rng, HEIGHT, WIDTH + PAN * FRAMES, 40, 220)
    squares = [texture(rng, SIDE, SIDE, 40, 220) for _ in range(2)]
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    moving = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    for t in range(FRAMES):
        frames[t] = ground[:, PAN * t : PAN * t + WIDTH]
        for square, (top, left) in zip(squares, ((20 + t, 10 + 5 * t), (110 - t, 220 + t)), strict=True):
            here = np.s_[t, top : top + SIDE, left : left + SIDE]
            frames[here], moving[here] = square, True
    return frames, moving


def encode(path: Path, frames: np.ndarray, stream_name: str) -> None:
    codec, options, bframes, pix_fmt, _ = STREAMS[stream_name]
    settings = dict(options)
    if codec == "libx265":
        settings["x265-params"] = f"log-level=error:pools=none:keyint={FRAMES}:bframes={bframes}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=settings)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, pix_fmt
        context.gop_size, context.thread_count = FRAMES, 1
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            context.max_b_frames = bframes
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def measure(path: Path, moving: np.ndarray) -> dict[str, str]:
    """The row of one stream: what `auto` uses, a recall a signal, "-" where there is none, and why."""
    selection = select_patches(path, num_frames=FRAMES, size=HEIGHT, patch_size=PATCH)
    with VideoReader(path) as reader:
        signals, weights = read_signals(reader, selection, SignalSettings())
    kinds = np.array(selection.picture_types)
    # Of codecs that are intra coded throughout all pictures count but the first.
    inter = np.flatnonzero((kinds != "I") | (kinds == "I").all())
    inter = inter[inter > 0]
    blocks = moving[selection.frame_ids].reshape(len(kinds), HEIGHT // PATCH, PATCH, WIDTH // PATCH, PATCH)
    truth = blocks.mean((2, 4))[inter] > 0.25
    terms = [name if weights[name] == 1 else f"{weights[name]:g} {name}" for name in weights]
    row = {"auto": " + ".join(terms), "energy": f"{recall(selection.energy[inter], truth):.2f}"}
    for name, values in signals.items():
        row[name] = "-" if isinstance(values, str) else f"{recall(values[inter], truth):.2f}"
    reasons = {values.removeprefix("none: ") for values in signals.values() if isinstance(values, str)}
    return row | {"random": f"{truth.mean():.2f}", "why": "; ".join(sorted(reasons))}


def recall(values: np.ndarray, truth: np.ndarray) -> float:
    best = np.argsort(-values.ravel(), kind="stable")[: truth.sum()]
    return float(truth.ravel()[best].mean())


def make_table(names: list[str]) -> str:
    frames, moving = draw_scene()
    rows, reasons = [], []
    # Painted vectors and residuals are the only ones of their codecs, but for MPEG-4's.
    columns = [name for name in SIGNALS if not name.startswith("painted_")]
    head = ["stream", *columns, "`auto` adds up", "its energy"]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"clip.{STREAMS[name][-1]}"
            encode(path, frames, name)
            row = measure(path, moving)
            rows.append([name, *(row[signal] for signal in (*columns, "auto", "energy"))])
            if row["why"]:
                reasons.append(f"* {name}: {row['why']}.")
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    # The measured part of all rows is the same scene, so the share of its squares is one figure.
    end = f"A random choice recalls {row['random']}. What stands in the way where there is no figure:"
    return "\n".join([table, "", end, "", *reasons]) if reasons else table


def write_between_markers(page: Path, table: str, first: str = START, last: str = END) -> None:
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise ValueError(f"{page} has no place for the table: it needs the lines {first} and {last}")
    page.write_text(f"{before}{first}\n{table}\n{last}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS), help="rows")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the page that has the markers")
    args = parser.parse_args()
    table = make_table(args.streams)
    print(table)
    if args.write:
        write_between_markers(args.write, table)


if __name__ == "__main__":
    main()
