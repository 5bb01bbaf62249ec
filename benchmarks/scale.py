"""Patch shards at scale: clips a second by engine and workers, bytes a clip, and how long a training waits.

    make bench-scale
    python benchmarks/scale.py --clips 32 --engines local

Clips are copies of the bundled one (120 frames, 640 x 360). Rates count from the first shards on, so that
starting processes (seconds, once) is told apart. Cases take turns; everything is measured in this run.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from onevision_hf import bundled_clip
from onevision_hf.patches import PatchSettings, extract_patches
from onevision_hf.training.config import from_dict
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines

SHARD_ITEMS = 2
HEAD = {"kind": "video", "batch_size": 4, "codec": 1.0, "uniform": 0.0, "collage": 0.0}
STEPS = 12


def write_corpus(folder: Path, clips: int) -> Path:
    for number in range(clips):
        part = folder / f"class-{number % 2}"
        part.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundled_clip(), part / f"{number:05d}.mp4")
    return folder


def extraction(corpus: Path, out: Path, engine: str, workers: int) -> dict[str, float]:
    """Seconds until the first shards, and clips a second after them."""
    began = time.time()
    summary = extract_patches(str(corpus), out, shard_items=SHARD_ITEMS, engine=engine, workers=workers)
    ended = sorted(file.stat().st_mtime for file in out.glob("patches-*.tar"))
    # The first shard of each worker contains its start.
    rest = ended[workers - 1 :]
    rate = SHARD_ITEMS * (len(rest) - 1) / (rest[-1] - rest[0])
    return {"start": rest[0] - began, "rate": rate, "items": summary["items"], "total": time.time() - began}


def core_seconds(corpus: Path, out: Path) -> float:
    """Processor time of a clip, all threads of this process: other jobs on the machine hardly change it."""
    began = time.process_time()
    summary = extract_patches(str(corpus), out, shard_items=SHARD_ITEMS, workers=0)
    return (time.process_time() - began) / summary["items"]


def sizes(corpus: Path, shards: Path) -> dict[str, float]:
    source = sum(file.stat().st_size for file in corpus.rglob("*.mp4"))
    tars = sum(file.stat().st_size for file in shards.glob("*.tar"))
    clips = len(list(corpus.rglob("*.mp4")))
    return {"source": source / clips, "shard": tars / clips}


def training(source: Path, out: Path) -> dict[str, float]:
    """A tiny encoder on one process with one loading worker: samples a second, and the share of waiting."""
    config = from_dict(
        {
            "out": str(out), "steps": STEPS, "workers": 1, "trackers": [], "device": "cpu", "log_every": 1,
            "model": {"size": "tiny"}, "cluster": {"heads": {"video": HEAD | {"source": str(source)}}},
        }
    )  # fmt: skip
    Trainer(config).fit()
    # The first steps wait for the worker's start.
    lines = [line for line in read_lines(out / "log.jsonl") if "data_wait" in line][STEPS // 3 :]
    names = ("data_wait", "samples_per_second")
    return {name: statistics.median(line[name] for line in lines) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", default="local,ray")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cases = [(engine, workers) for engine in args.engines.split(",") for workers in (1, 2)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        corpus = write_corpus(root / "clips", args.clips)
        core = core_seconds(corpus, root / "here")
        for turn in range(args.rounds):
            for engine, workers in cases:
                out = root / f"{engine}-{workers}-{turn}"
                found[engine, workers].append(extraction(corpus, out, engine, workers))
        shards = root / "here"
        bytes_of = sizes(corpus, shards)
        waits = {
            "videos": training(corpus, root / "run-videos"),
            "shards": training(shards, root / "run-shards"),
        }
    figures: dict[str, Any] = {
        "settings": PatchSettings().to_dict(),
        "extraction": {
            f"{engine} {workers}": {
                name: statistics.median(run[name] for run in runs) for name in ("rate", "start", "total")
            }
            for (engine, workers), runs in found.items()
        },
        "core_seconds": core,
        "bytes": bytes_of,
        "training": waits,
    }
    print(report(figures, args.clips))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def report(figures: dict[str, Any], clips: int) -> str:
    lines = [f"{clips} clips of 120 frames, 640 x 360; 64 frames sampled, 2048 patches of 14 x 14 kept", ""]
    lines += ["| engine, workers | clips/s | start, s | all, s |", "|---|---|---|---|"]
    rates = figures["extraction"]
    for case, run in rates.items():
        lines.append(f"| {case} | {run['rate']:.2f} | {run['start']:.1f} | {run['total']:.1f} |")
    for workers in (1, 2):
        if f"ray {workers}" in rates and f"local {workers}" in rates:
            ratio = rates[f"local {workers}"]["rate"] / rates[f"ray {workers}"]["rate"]
            lines.append(f"\ntime of a clip with Ray over the pool, {workers} worker(s): {ratio:.2f}")
    lines.append(f"\nprocessor time of a clip: {figures['core_seconds']:.2f} s of one core")
    source, shard = figures["bytes"]["source"], figures["bytes"]["shard"]
    lines.append(f"\nbytes a clip: {shard:,.0f} in shards, {source:,.0f} as video: {shard / source:.2f} x")
    lines += ["", "| training from | samples/s | waiting for data |", "|---|---|---|"]
    for name, run in figures["training"].items():
        lines.append(f"| {name} | {run['samples_per_second']:.2f} | {run['data_wait']:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
