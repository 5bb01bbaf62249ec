"""Motion vectors of each codec against the truth, beside mv-extractor (H.264) and dense optical flow.

    make bench-vectors
    python benchmarks/motion_vectors.py --write docs/painted-references.md

The scenes are those of benchmarks/painted.py: textured squares that bounce over a ground that a camera pans,
in steps of half a pixel. An end-point error is the distance in pixels a frame between what was read and the
truth, the median over cells of 8 x 8 pixels that lie within one object and have a vector; `known` is the
share of those that have one.
Times are of the processor, as multiples of a plain decode of the same file in the same turn, medians.

mv-extractor (`pip install motion-vector-extractor`) and OpenCV (`opencv-python-headless`) are measured where
they are installed.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import av
import numpy as np
from codec_table import write_between_markers
from painted import Scene, draw_scene, encode, in_blocks

from onevision_hf import iter_codec_signals

FRAMES, HEIGHT, WIDTH, CELL, FASTEST = 24, 256, 448, 8, 6.0  # the fastest square, pixels a frame
START = "<!-- motion-vectors: written by `make bench-vectors` -->"
END = "<!-- /motion-vectors -->"
X265 = "log-level=none:pools=none:keyint=250"
# Name -> encoder, its options, suffix.
STREAMS = {
    "H.264": ("libx264", {"preset": "medium", "crf": "24", "refs": "1", "bf": "0"}, "mp4"),
    "HEVC, B": ("libx265", {"preset": "medium", "crf": "26", "x265-params": X265}, "mp4"),
    "VP9": ("libvpx-vp9", {"crf": "32", "b": "0", "deadline": "good", "cpu-used": "4"}, "webm"),
    "AV1": ("libsvtav1", {"preset": "8", "crf": "34"}, "mkv"),
}
Fields = list[np.ndarray | None]  # of each frame (H/8, W/8, 2) pixels a frame towards the past, NaN: none


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


def errors_of(fields: Fields, scene: Scene) -> tuple[list[float], list[float], int]:
    """(errors of all known cells, of those of moving squares, cells that could be known)."""
    every: list[float] = []
    moving: list[float] = []
    possible = 0
    owners = in_blocks(scene.owner, CELL)
    for t, field in enumerate(fields):
        if field is None or t == 0:
            continue
        number = owners[t].max(-1)
        inside = number == owners[t].min(-1)
        error = np.linalg.norm(field + scene.velocity[t][number], axis=-1)
        known = np.isfinite(error) & inside
        every += error[known].tolist()
        moving += error[known & (number > 0)].tolist()
        possible += int(inside.sum())
    return every, moving, possible


def processor_time(work: Callable[[str], object], path: str) -> float:
    began = time.process_time()
    work(path)
    return time.process_time() - began


def make_table(seeds: list[int], turns: int) -> str:
    methods: dict[str, tuple[str, Callable[[str], Fields]]] = {
        "here": ("", read_here),
        "mv-extractor": ("mvextractor", read_mv_extractor),
        "optical flow (DIS)": ("cv2", read_optical_flow),
    }
    head = ["stream", "read by", "error, px a frame", "of what moves by itself", "known", "x plain decode"]
    lines, reasons = [head, ["---"] * len(head)], []
    scenes = [draw_scene(seed, FASTEST, HEIGHT, WIDTH, FRAMES) for seed in seeds]
    with tempfile.TemporaryDirectory() as folder:
        for name in STREAMS:
            paths = []
            codec, options, suffix = STREAMS[name]
            for seed, scene in zip(seeds, scenes, strict=True):
                paths.append(Path(folder) / f"{seed}.{suffix}")
                encode(paths[-1], scene.frames, codec, options, "yuv420p")
            for method, (module, read) in methods.items():
                if method == "mv-extractor" and name != "H.264":
                    continue
                if module and importlib.util.find_spec(module) is None:
                    reasons.append(f"{method} is not measured: {module} is not installed.")
                    continue
                every: list[float] = []
                moving: list[float] = []
                possible = 0
                for path, scene in zip(paths, scenes, strict=True):
                    found = errors_of(read(str(path)), scene)
                    every, moving, possible = every + found[0], moving + found[1], possible + found[2]
                ratios = [
                    processor_time(read, str(path)) / processor_time(plain_decode, str(path))
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
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the scenes")
    parser.add_argument("--turns", type=int, default=2, help="of each time")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the page that has the markers")
    args = parser.parse_args()
    table = make_table(args.seeds, args.turns)
    print(table)
    if args.write:
        write_between_markers(args.write, table, START, END)


if __name__ == "__main__":
    main()
