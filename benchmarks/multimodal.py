"""Speed and memory of the multimodal model: what codec selection saves the language model.

    make bench-multimodal                                   # minutes on two cores
    python benchmarks/multimodal.py --rows tokens,prefill   # some rows
    python benchmarks/multimodal.py --device cuda --llm large --json figures.json

A base encoder and a language model of Qwen3's shape (12 layers of 768 by default), both with random weights:
time does not depend on them. 64 frames of a clip (16 on processors, where all patches of 64 would take an
hour), three ways: `codec` keeps 12.5 % of their patches, `frames` an eighth of the frames whole, which is the
same budget, `dense` all. Comparisons are interleaved; a ratio is the median of the ratios of neighbours.
"""

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config

from onevision_hf import OneVisionConfig, OneVisionVLConfig, OneVisionVLForConditionalGeneration
from onevision_hf.modeling.frame_geometry import whole_grid

SIDE = 16  # patches of 14 pixels along 224
KEPT = 8  # an eighth
WAYS = ("codec", "frames", "dense")
CONNECTORS = ("mlp2x_gelu", "patch_merger")
TEXT = 32  # tokens of the question
ANSWER = 32  # tokens of an answer
LANGUAGE: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    },
    "small": {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64,
    },
    "large": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    },
}  # fmt: skip


def make_model(connector: str, llm: str, device: str) -> Any:
    torch.manual_seed(0)
    text = Qwen3Config(**LANGUAGE[llm], vocab_size=32000, max_position_embeddings=32768)
    vision = OneVisionConfig.tiny() if llm == "tiny" else OneVisionConfig.base()
    config = OneVisionVLConfig(
        text_config=text, vision_config=vision, connector=connector,
        image_token_id=31998, video_token_id=31999,
    )  # fmt: skip
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        return OneVisionVLForConditionalGeneration(config).to(dtype).eval()


def make_inputs(way: str, merge: int, frames: int, device: str) -> dict[str, torch.Tensor]:
    """Patches of one clip and a prompt about it."""
    whole = whole_grid(frames, SIDE, SIDE, merge)
    budget = len(whole) // KEPT
    if way == "frames":
        kept = whole[np.isin(whole[:, 0], np.linspace(0, frames - 1, frames // KEPT).astype(int))]
    elif way == "codec":
        blocks = whole.reshape(-1, merge**2, 3)
        anchor = SIDE**2 // merge**2  # the first frame is kept whole
        rest = anchor + np.random.default_rng(0).permutation(len(blocks) - anchor)
        chosen = [*range(anchor), *rest[: budget // merge**2 - anchor]]
        kept = blocks[np.sort(chosen)].reshape(-1, 3)
    else:
        kept = whole
    generator = torch.Generator().manual_seed(0)
    tokens = len(kept) // merge**2
    ids = torch.cat([torch.full((tokens,), 31999), torch.randint(0, 31000, (TEXT,), generator=generator)])
    inputs = {
        "input_ids": ids[None],
        "pixel_values_videos": torch.randn(len(kept), 588, generator=generator),
        "video_patch_positions": torch.from_numpy(kept),
        "video_cu_seqlens": torch.tensor([0, len(kept)], dtype=torch.int32),
    }
    return {name: value.to(device) for name, value in inputs.items()}


def timed(work: Callable[[], Any], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.inference_mode():
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(works: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, list[float]]:
    for work in works.values():
        timed(work, device)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(work, device))
    return seconds


def report(title: str, seconds: dict[str, list[float]], against: str) -> dict[str, list[float]]:
    """Print, and give for each name milliseconds and the ratio to `against`."""
    print(f"\n{title}")
    found = {}
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds[against], strict=True))
        found[name] = [1000 * statistics.median(own), ratio]
        print(f"  {name:<28}{found[name][0]:>10.0f} ms{ratio:>8.2f} x {against}", flush=True)
    return found


def tokens(args: argparse.Namespace) -> dict[str, Any]:
    print(f"\nvisual tokens of {args.frames} frames of 224 x 224 pixels")
    found = {}
    for connector in CONNECTORS:
        merge = 2 if connector == "patch_merger" else 1
        counts = [len(make_inputs(way, merge, args.frames, "cpu")["input_ids"][0]) - TEXT for way in WAYS]
        found[connector] = dict(zip(WAYS, counts, strict=True))
        print(
            f"  {connector:<14}" + "   ".join(f"{way} {count:,}" for way, count in found[connector].items())
        )
    return found


def prefill(args: argparse.Namespace) -> dict[str, Any]:
    """Encoder, connector and language model up to the first answer token."""
    found = {}
    for connector in CONNECTORS:
        model = make_model(connector, args.llm, args.device)
        inputs = {way: make_inputs(way, model.config.merge_size, args.frames, args.device) for way in WAYS}
        works = {
            way: (lambda own=own, model=model: model(**own, use_cache=True, logits_to_keep=1))
            for way, own in inputs.items()
        }
        media = {way: {k: v for k, v in own.items() if k != "input_ids"} for way, own in inputs.items()}
        towers = {way: (lambda own=own, model=model: model.encode_media(**own)) for way, own in media.items()}
        found[connector] = {
            part: report(f"{part}, {connector} (median of {args.rounds})", seconds, "codec")
            for part, seconds in (
                ("prefill", interleaved(works, args.rounds, args.device)),
                ("of it the encoder", interleaved(towers, args.rounds, args.device)),
            )
        }
    return found


@torch.inference_mode()
def decode(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens of an answer, one after the other, after prompts of each way's length."""
    found = {}
    for connector in CONNECTORS:
        model, works = make_model(connector, args.llm, args.device), {}
        for way in WAYS:
            inputs = make_inputs(way, model.config.merge_size, args.frames, args.device)
            cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
            works[way] = functools.partial(_answer, model, inputs["input_ids"], cache)
        seconds = interleaved(works, args.rounds, args.device)
        found[connector] = report(f"{ANSWER} answer tokens, {connector}", seconds, "codec")
    return found


def _answer(model: Any, prompt: torch.Tensor, cache: Any) -> None:
    for _ in range(ANSWER):  # the last word of the question again and again: any token takes as long
        model(input_ids=prompt[:, -1:], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.crop(-ANSWER)


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """Several questions about a clip, its features computed for each or once."""
    model = make_model("patch_merger", args.llm, args.device)
    inputs = make_inputs("codec", 2, args.frames, args.device)
    ids = inputs["input_ids"]
    media = {name: value for name, value in inputs.items() if name != "input_ids"}

    def each(count: int) -> None:
        for _ in range(count):
            model(input_ids=ids, **media, logits_to_keep=1)

    def once(count: int) -> None:
        features = model.encode_media(**media)
        for _ in range(count):
            model(input_ids=ids, mm_encoder_outputs=features, logits_to_keep=1)

    found = {}
    for count in (3, 9):  # questions a clip of VideoMME and of NExT-QA
        works = {"encoded for each": lambda n=count: each(n), "encoded once": lambda n=count: once(n)}
        seconds = interleaved(works, args.rounds, args.device)
        found[str(count)] = report(f"{count} questions about a clip", seconds, "encoded once")
    return found


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak of a fresh process, or of the device, during one prefill, above the weights."""
    print("\npeak memory of a prefill above the weights")
    found: dict[str, Any] = {}
    for connector in CONNECTORS:
        found[connector] = {}
        for way in WAYS:
            if args.device == "cpu":  # a process only ever remembers the highest of its peaks
                command = [sys.executable, __file__, "--peak", connector, way, "--llm", args.llm]
                command += ["--frames", str(args.frames)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                megabytes = float(done.stdout)
            else:
                megabytes = peak(connector, way, args)
            found[connector][way] = megabytes
            print(f"  {connector:<14}{way:<8}{megabytes:>8.0f} MB", flush=True)
    return found


def peak(connector: str, way: str, args: argparse.Namespace) -> float:
    model = make_model(connector, args.llm, args.device)
    inputs = make_inputs(way, model.config.merge_size, args.frames, args.device)
    if args.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = _highest(args.device)
    with torch.inference_mode():
        model(**inputs, use_cache=True, logits_to_keep=1)
    return (_highest(args.device) - before) / 1e6


def _highest(device: str) -> float:
    """Bytes: of the device since the last reset, or of this process since its start."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


ROWS = {"tokens": tokens, "prefill": prefill, "decode": decode, "shared": shared, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, help="of the clip; a multiple of 8 (default: 64, or 16 on cpu)")
    parser.add_argument("--llm", choices=LANGUAGE, default="small", help="large: the shape of Qwen3-4B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.frames = args.frames or (16 if args.device == "cpu" else 64)
    if args.peak:
        print(peak(*args.peak, args))
        return
    where = args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    found = {row: ROWS[row](args) for row in args.rows.split(",")}
    if args.json:
        args.json.write_text(
            json.dumps({"device": where, "llm": args.llm, "frames": args.frames, **found}, indent=1)
        )


if __name__ == "__main__":
    main()
