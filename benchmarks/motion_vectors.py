"""Motion vectors of each codec against the truth, beside mv-extractor (H.264) and dense optical flow.

    make bench-vectors
    python benchmarks/motion_vectors.py --write docs/painted-references.md

Scenes of which one knows what moves: textured squares that bounce over a ground that a camera pans. An
end-point error is the distance in pixels a frame between what was read and the truth, the median over cells
of 8 x 8 pixels that lie within one object and have a vector; `known` is the share of those that have one.
Times are of the processor, as multiples of a plain decode of the same file in the same turn, medians.

mv-extractor (`pip install motion-vector-extractor`) and OpenCV (`opencv-python-headless`) are measured where
they are installed.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
from codec_table import texture, write_between_markers

from onevision_hf import iter_codec_signals

FRAMES, HEIGHT, WIDTH, FPS, CELL = 24, 256, 448, 25, 8
START = "<!-- motion-vectors: written by `make bench-vectors` -->"
END = "<!-- /motion-vectors -->"
X265 = "log-level=error:pools=none:keyint=250"
# Name -> encoder, its options, B pictures between references, suffix.
STREAMS = {
    "H.264": ("libx264", {"preset": "medium", "crf": "24", "refs": "1"}, 0, "mp4"),
    "HEVC, B": ("libx265", {"preset": "fast", "crf": "26", "x265-params": f"{X265}:bframes=3"}, 3, "mp4"),
    "VP9": ("libvpx-vp9", {"crf": "32", "b": "0", "deadline": "good", "cpu-used": "4"}, None, "webm"),
    "AV1": ("libsvtav1", {"preset": "8", "crf": "34"}, None, "mkv"),
}
Fields = list[np.ndarray | None]  # of each frame (H/8, W/8, 2) pixels a frame towards the past, NaN: none


def draw_scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(T, H, W, 3) uint8 frames; (T, H, W) uint8, which object each pixel is of, 0 the ground; (T, objects,
    2) how many pixels each of them moved since the frame before."""
    rng = np.random.default_rng(seed)
    pan = int(rng.integers(1, 4))
    ground = texture(rng, HEIGHT, WIDTH + pan * FRAMES, 40, 220)
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    owner = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    motion = np.zeros((FRAMES, 4, 2), np.float32)
    squares = []
    for _ in range(3):
        side = int(rng.integers(5, 9)) * 8
        room = np.array([WIDTH - side, HEIGHT - side])
        speed = rng.integers(1, 7, 2) * rng.choice([-1, 1], 2)
        squares.append((texture(rng, side, side, 40, 220), side, room, rng.integers(0, room), speed))
    for t in range(FRAMES):
        frames[t] = ground[:, pan * t : pan * t + WIDTH]
        motion[t, 0] = -pan, 0
        for number, (pixels, side, room, place, speed) in enumerate(squares, 1):
            if t:
                speed[((place + speed) < 0) | ((place + speed) > room)] *= -1
                place += speed
                motion[t, number] = speed
            here = np.s_[t, place[1] : place[1] + side, place[0] : place[0] + side]
            frames[here], owner[here] = pixels, number
    return frames, owner, motion


def encode(path: Path, frames: np.ndarray, name: str) -> None:
    codec, options, bframes, _ = STREAMS[name]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context.gop_size, context.thread_count = 250, 1
        if bframes is not None:
            context.max_b_frames = bframes
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def plain_decode(path: str) -> None:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def read_here(path: str) -> Fields:
    fields: Fields = []
    for frame in iter_codec_signals(path, signals=("vectors",)):
        # One reference, the frame before, in the H.264 stream: pixels to it are pixels a frame.
        assert frame.vectors is not None
        fields.append(frame.vectors[::2, ::2])
    return fields


def read_mv_extractor(path: str) -> Fields:
    from mvextractor.videocap import VideoCap

    capture, fields = VideoCap(), []
    if not capture.open(path):
        raise ValueError(f"mv-extractor cannot open {path}")
    capture.set_decode_frames(False)  # no colours
    while True:
        found, _, records, *_ = capture.read()
        if not found:
            return fields
        field = np.full((HEIGHT // CELL, WIDTH // CELL, 2), np.nan, np.float32)
        for _, width, height, _, _, x, y, dx, dy, scale in records:
            rows = slice(max(0, y - height // 2) // CELL, -(-(y + height // 2) // CELL))
            columns = slice(max(0, x - width // 2) // CELL, -(-(x + width // 2) // CELL))
            field[rows, columns] = dx / scale, dy / scale
        fields.append(field)


def read_optical_flow(path: str) -> Fields:
    """OpenCV's DIS, medium, from each frame to the one before."""
    import cv2

    cv2.setNumThreads(1)
    flow, before, fields = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), None, []
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            luma = frame.to_ndarray(format="gray")
            dense = None if before is None else flow.calc(luma, before, None)
            cells = (HEIGHT // CELL, CELL, WIDTH // CELL, CELL, 2)
            fields.append(None if dense is None else np.median(dense.reshape(cells), (1, 3)))
            before = luma
    return fields


def errors_of(fields: Fields, owner: np.ndarray, motion: np.ndarray) -> tuple[list[float], list[float], int]:
    """(errors of all known cells, of those of moving squares, cells that could be known)."""
    every: list[float] = []
    moving: list[float] = []
    possible = 0
    for t, field in enumerate(fields):
        if field is None or t == 0:
            continue
        cells = owner[t].reshape(HEIGHT // CELL, CELL, WIDTH // CELL, CELL)
        number = cells.max((1, 3))
        inside = number == cells.min((1, 3))
        error = np.linalg.norm(field + motion[t][number], axis=-1)
        known = np.isfinite(error) & inside
        every += error[known].tolist()
        moving += error[known & (number > 0)].tolist()
        possible += int(inside.sum())
    return every, moving, possible


def processor_time(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def make_table(seeds: list[int], turns: int) -> str:
    methods: dict[str, tuple[str, Callable[[str], Fields]]] = {
        "here": ("", read_here),
        "mv-extractor": ("mvextractor", read_mv_extractor),
        "optical flow (DIS)": ("cv2", read_optical_flow),
    }
    head = ["stream", "read by", "error, px a frame", "of what moves by itself", "known", "x plain decode"]
    lines, reasons = [head, ["---"] * len(head)], []
    scenes = [draw_scene(seed) for seed in seeds]
    with tempfile.TemporaryDirectory() as folder:
        for name in STREAMS:
            paths = []
            for seed, (frames, *_) in zip(seeds, scenes, strict=True):
                paths.append(Path(folder) / f"{seed}.{STREAMS[name][-1]}")
                encode(paths[-1], frames, name)
            for method, (module, read) in methods.items():
                if method == "mv-extractor" and name != "H.264":
                    continue
                if module and importlib.util.find_spec(module) is None:
                    reasons.append(f"{method} is not measured: {module} is not installed.")
                    continue
                every: list[float] = []
                moving: list[float] = []
                possible = 0
                for path, (_, owner, motion) in zip(paths, scenes, strict=True):
                    found = errors_of(read(str(path)), owner, motion)
                    every, moving, possible = every + found[0], moving + found[1], possible + found[2]
                ratios = [
                    processor_time(lambda: read(str(path))) / processor_time(lambda: plain_decode(str(path)))
                    for path in paths
                    for _ in range(turns)
                ]
                cells = [f"{median(every):.2f}", f"{median(moving):.2f}", f"{len(every) / possible:.2f}"]
                lines.append([name, method, *cells, f"{median(ratios):.1f}"])
                print(" | ".join(lines[-1]), flush=True)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([table, *(["", *dict.fromkeys(reasons)] if reasons else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the scenes")
    parser.add_argument("--turns", type=int, default=3, help="of each time")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the page that has the markers")
    args = parser.parse_args()
    table = make_table(args.seeds, args.turns)
    print(table)
    if args.write:
        write_between_markers(args.write, table, START, END)


if __name__ == "__main__":
    main()
