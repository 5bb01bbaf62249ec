"""Codec input of LLaVA-OneVision-2: seconds of each step, beside codec-video-prep, and prefill.

    ONEVISION_CLIPS=clips python benchmarks/ov2.py
    ONEVISION_PEER_PYTHON=peer/bin/python python benchmarks/ov2.py --clip clip.mp4 --runs 9

Medians of wall and processor seconds for 256 frames: bits, groups (with the blocks), canvases (decoding,
cutting), tensors. codec-video-prep 0.2.5 takes its turn in each round where `ONEVISION_PEER_PYTHON` names the
Python of an environment that has it (it wants numpy < 2, and ffprobe on the path): its bits, with pixels as
its own path reads them, and its whole path, which ends with canvases in files. Ratios are medians of those of
the rounds. Then tokens a second of a small model's prefill with a window for each group of four canvases,
against one window for all.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2VLImageProcessor

from onevision_hf import LlavaOnevision2Config, LlavaOnevision2ForConditionalGeneration, VideoReader
from onevision_hf.modeling.canvas_selection import CanvasPlan
from onevision_hf.modeling.codec_canvases import canvases_of

FOLDER = Path(__file__).parents[1] / "tests" / "fixtures" / "llava_onevision2"
PEER = """
import contextlib, io, os, sys, tempfile, time
from codec_video_prep.api import run_preinfer
for path in sys.stdin:
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter(), time.process_time()
        result = run_preinfer(
            path.strip(), out, num_sampled_frames=256, max_pixels=150_000, thread_count=os.cpu_count()
        )
        took = time.perf_counter() - began[0], time.process_time() - began[1]
    print(*took, result.timings["cv_reader_fetch_bitcost"], flush=True)
"""


def steps(clip: str) -> Iterator[tuple[str, float, float]]:
    """(step, wall seconds, processor seconds), of which the last three hold the ones before."""
    processor = AutoProcessor.from_pretrained(FOLDER)
    processor.image_processor = Qwen2VLImageProcessor.from_pretrained(FOLDER, patch_size=14, merge_size=2)

    def bits() -> None:
        with VideoReader(clip) as reader:
            CanvasPlan(reader, "bundled", 32, 14, 2, None)._bits(reader)

    def groups() -> None:
        with VideoReader(clip) as reader:
            plan = CanvasPlan(reader, "bundled", 32, 14, 2, None)
            plan.select(torch.ones(len(plan.frame_ids), dtype=torch.bool).numpy())

    def canvases() -> None:
        with VideoReader(clip) as reader:
            canvases_of(reader)

    yield "bits", *timed(bits)
    yield "bits and groups", *timed(groups)
    yield "and canvases", *timed(canvases)
    yield "and tensors", *timed(lambda: processor.read_video(clip, preset="ov2"))


class Peer:
    """codec-video-prep, in a process of its own that takes one turn after the other."""

    def __init__(self, python: str):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([python, "-c", PEER], **pipes)

    def turn(self, clip: str) -> Iterator[tuple[str, float, float]]:
        assert self._process.stdin and self._process.stdout
        print(clip, file=self._process.stdin, flush=True)
        wall, processor, bits = map(float, self._process.stdout.readline().split())
        yield "codec-video-prep, bits and pixels", bits, math.nan
        yield "codec-video-prep, whole", wall, processor

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def prefill(rows: int, columns: int, canvases: int) -> Iterator[tuple[str, float]]:
    """(what, tokens a second) of a small model, a quarter as wide as the large one."""
    config = LlavaOnevision2Config(
        vision_config={
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4,
            "spatial_merge_size": 2, "out_hidden_size": 128, "patch_size": 14,
        },
        text_config={
            "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512,
        },
        image_token_id=500, video_token_id=501,
    )  # fmt: skip
    model = LlavaOnevision2ForConditionalGeneration(config).eval()
    count = canvases * rows * columns
    grid = torch.tensor([[canvases, rows, columns]])
    places = [
        (t, 2 * y + i, 2 * x + j)
        for t in range(canvases) for y in range(rows // 2) for x in range(columns // 2)
        for i in range(2) for j in range(2)
    ]  # fmt: skip
    inputs = {
        "input_ids": torch.full((1, count // 4), 500),
        "pixel_values": torch.randn(count, 588),
        "image_grid_thw": grid,
        "patch_positions": torch.tensor(places),
    }
    for name, frames in (("a window a group", 4), ("one window", None)):
        model.config.frame_windows_size = frames
        with torch.inference_mode():
            wall, _ = timed(lambda: model(**inputs, logits_to_keep=1))
        yield name, count / 4 / wall


def timed(call: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", help="default: beach.mp4 of $ONEVISION_CLIPS")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--canvases", type=int, default=8, help="of the prefill")
    args = parser.parse_args()
    clip = args.clip or str(Path(os.environ.get("ONEVISION_CLIPS", "")) / "beach.mp4")
    if not Path(clip).is_file():
        sys.exit(f"{clip} is not there: set ONEVISION_CLIPS, or give --clip")
    python = os.environ.get("ONEVISION_PEER_PYTHON")
    peer = Peer(python) if python else None
    found: dict[str, list[tuple[float, float]]] = {}
    for run in range(args.runs + 1):
        for name, *seconds in (*steps(clip), *(peer.turn(clip) if peer else ())):
            if run:  # the first is what is imported and allocated once
                found.setdefault(name, []).append((seconds[0], seconds[1]))
    for name, rounds in found.items():
        wall, processor = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:<38}{wall:8.2f} s {processor:8.2f} s of processors")
    if peer:
        peer.end()
        for name, ours, theirs in (
            ("bits", "bits", "codec-video-prep, bits and pixels"),
            ("whole", "and tensors", "codec-video-prep, whole"),
        ):
            pairs = zip(found[ours], found[theirs], strict=True)
            ratio = statistics.median(own[0] / other[0] for own, other in pairs)
            print(f"{'ours / theirs, ' + name:<38}{ratio:8.2f}")
    else:
        print("ONEVISION_PEER_PYTHON names no Python with codec-video-prep: ours stands alone")
    for name, speed in prefill(36, 20, args.canvases):
        print(f"prefill, {name:<29}{speed:8.0f} tokens/s")


if __name__ == "__main__":
    main()
