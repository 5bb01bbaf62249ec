"""Patch shards at scale: clips a second by engine and workers, bytes a clip, and how long a training waits.

    make bench-scale
    python benchmarks/scale.py --clips 8 --engines local

Clips are copies of the bundled one (120 frames, 640 x 360). Rates count from the first shards on, so that
starting processes (seconds, once) is told apart. Cases take turns; everything is measured in this run. The
last table multiplies the measured parts; 19 clips/s is what `docs/training.md` reckons a GPU takes.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

from onevision_hf import bundled_clip
from onevision_hf.data.items import Item
from onevision_hf.data.patch_extraction import DEFAULT, extract_patches
from onevision_hf.training.config import from_dict
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines

SHARD_ITEMS = 2
SHOWN = {"do_center_crop": True, "num_patches": 2048}
HEAD = {"kind": "video", "batch_size": 4, "codec": 1.0, "uniform": 0.0, "collage": 0.0, "processor": SHOWN}
CORES, GPU_RATE = 512, 19
LISTED = 20_000


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


def listing() -> float:
    """Bytes that the driver holds of a clip's name, place and labels."""
    tracemalloc.start()
    items = [
        Item(f"class-{n % 2}/{n:09d}.mp4", "video", f"/data/clips/class-{n % 2}/{n:09d}.mp4", n, n, 0, n)
        for n in range(LISTED)
    ]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(items)


def training(
    source: Path, out: Path, steps: int, head: dict[str, Any] = HEAD, **settings: Any
) -> dict[str, float]:
    """Samples a second of a training, and the share of waiting; nothing is saved.

    Args:
        source: videos or patch shards.
        out: the run's folder.
        steps: of which the first third is not counted: it waits for the workers' start.
        head: its batch and what it shows of a clip.
        settings: of the config; a tiny encoder on one process with one loading worker if left out.
    """
    usual = {
        "dataloader_num_workers": 1, "report_to": [], "device": "cpu", "logging_steps": 1,
        "model": {"size": "tiny"},
    }  # fmt: skip
    heads = {"video": head | {"source": str(source)}}
    # One step of the schedule is left, so that the model is not exported either.
    run = {"out": str(out), "max_steps": steps + 1, "cluster": {"heads": heads}}
    Trainer(from_dict(usual | settings | run), max_steps=steps, checkpoints=False).fit()
    lines = [line for line in read_lines(out / "log.jsonl") if "data_wait" in line]
    names = ("data_wait", "samples_per_second")
    return {name: statistics.median(line[name] for line in lines[len(lines) // 3 :]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="of each training (%(default)s)")
    parser.add_argument("--engines", default="local,ray")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    if args.clips < 8:
        parser.error(f"--clips {args.clips} are too few: a rate needs more shards than workers, so 8 or more")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the pool's; Ray's own choice is 15
    cases = [(engine, workers) for engine in args.engines.split(",") for workers in (1, 2)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        corpus = write_corpus(root / "clips", args.clips)
        core = core_seconds(corpus, root / "here")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        for turn in range(args.rounds):
            for engine, workers in cases:
                out = root / f"{engine}-{workers}-{turn}"
                found[engine, workers].append(extraction(corpus, out, engine, workers))
        shards = root / "here"
        bytes_of = sizes(corpus, shards)
        waits = {
            "videos": training(corpus, root / "run-videos", args.steps),
            "shards": training(shards, root / "run-shards", args.steps),
        }
    figures: dict[str, Any] = {
        "settings": DEFAULT.as_stored().to_dict(),
        "extraction": {
            f"{engine} {workers}": {
                name: statistics.median(run[name] for run in runs) for name in ("rate", "start", "total")
            }
            for (engine, workers), runs in found.items()
        },
        "core_seconds": core,
        "peak_bytes": peak,
        "bytes": bytes_of,
        "listing": listing(),
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
    lines.append(f"\npeak memory of a process that cuts: {figures['peak_bytes'] / 1e6:,.0f} MB")
    source, shard = figures["bytes"]["source"], figures["bytes"]["shard"]
    lines.append(f"\nbytes a clip: {shard:,.0f} in shards, {source:,.0f} as video: {shard / source:.2f} x")
    lines += ["", "| training from | samples/s | waiting for data |", "|---|---|---|"]
    for name, run in figures["training"].items():
        lines.append(f"| {name} | {run['samples_per_second']:.2f} | {run['data_wait']:.0%} |")
    return "\n".join(lines + costs(figures))


def costs(figures: dict[str, Any]) -> list[str]:
    """What a corpus of clips like these takes: the measured parts, multiplied."""
    lines = [
        "",
        f"| clips | cutting, core hours | on {CORES} cores, hours | shards, TB | videos, TB | "
        "listing in the driver, GB | an epoch, GPU hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for clips in (1_000_000, 100_000_000):
        hours, epoch = figures["core_seconds"] * clips / 3600, clips / GPU_RATE / 3600
        size = {name: figures["bytes"][name] * clips / 1e12 for name in ("shard", "source")}
        lines.append(
            f"| {clips:,} | {hours:,.0f} | {hours / CORES:,.1f} | {size['shard']:.1f} | "
            f"{size['source']:.1f} | {figures['listing'] * clips / 1e9:.1f} | {epoch:,.0f} |"
        )
    reads = GPU_RATE * figures["bytes"]["shard"] / 1e6
    lines.append(f"\na GPU that takes {GPU_RATE} clips/s reads {reads:.0f} MB/s of shards")
    return lines


if __name__ == "__main__":
    main()
