"""What the training loop costs over a bare step, and what data, checkpointing and checkpoints cost.

    make bench-training

Everything is measured in this run, on the processor; ratios are medians of interleaved repetitions.
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from onevision_hf import bundled_clip
from onevision_hf.objectives import draw_together
from onevision_hf.training import checkpoint
from onevision_hf.training.config import HeadConfig, from_dict
from onevision_hf.training.data import MicroBatches, Share, Stream, open_loader
from onevision_hf.training.loop import Trainer
from onevision_hf.training.optimisation import Optimizers
from onevision_hf.training.order import Order
from onevision_hf.training.report import Report, read_lines
from onevision_hf.training.sources import Row
from onevision_hf.training.stand_in import RandomRows, as_drawn
from onevision_hf.training.views import VideoView

SIZES = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
REPEATS = 15


def make_config(out: Path, **optim: object) -> object:
    heads = {
        "image": {"batch_size": 8, "classes": 5000, "size": 112},
        "video": {
            "kind": "video",
            "batch_size": 4,
            "classes": 5000,
            "size": 112,
            "num_frames": 16,
            "num_patches": 128,
        },
    }
    return from_dict(
        {
            "out": str(out), "steps": 10_000, "workers": 0, "trackers": [], "device": "cpu", "log_every": 10,
            "model": {"size": "tiny", "overrides": {**SIZES, "image_size": 112}},
            "cluster": {"heads": heads}, "optim": {"lr": 1e-4, **optim},
        }
    )  # fmt: skip


class Kept:
    """Random rows that are made once, so that a loop is timed and not a generator of random numbers."""

    def __init__(self, rows: RandomRows):
        self.classes = rows.classes
        self._rows = [as_drawn(rows[index], None, 0) for index in range(16)]

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> "KeptRow":
        return KeptRow(str(index), self._rows[index])


class KeptRow:
    def __init__(self, key: str, sample: dict):
        self.key, self._sample = key, sample

    def sample(self) -> dict:
        return self._sample


def make_trainer(out: Path, **optim: object) -> Trainer:
    config = make_config(out, **optim)
    rows = {name: RandomRows(head, head.classes, 14, rows=16) for name, head in config.cluster.heads.items()}
    trainer = Trainer(config, rows)
    for stream in trainer.task.streams:
        stream.rows = Kept(rows[stream.name])
    return trainer


def loop_overhead(folder: Path) -> dict[str, float]:
    """Our step over forward, backward and update alone, of the same model on a batch that is there
    already.
    """
    ours, bare = make_trainer(folder / "ours"), make_trainer(folder / "bare")
    report = Report(ours.config, ours.accelerator, ours.total, ours.samples_per_step)
    batch = MicroBatches(bare.task.streams, Share(0))[0].inputs
    plain = Optimizers(bare.task.model, bare.task.sharded, bare.optim, False)
    step = 0

    def bare_step() -> None:
        nonlocal step
        draws = draw_together(
            bare.task.sharded, {n: batch[n]["labels"] for n in bare.task.sharded}, step=step
        )
        sum(bare.task.losses(bare.model(batch), draws).values()).backward()
        for optimizer in (plain.model, *plain.sharded.values()):
            optimizer.step()
        plain.zero_grad()
        step += 1

    with report:
        report.start(0, False, [])
        steps = ours._steps(report)
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for repeat in range(REPEATS + 3):
            for name, run in (("ours", lambda: next(steps)), ("bare", bare_step)):
                began = time.perf_counter()
                run()
                if repeat >= 3:
                    times[name].append(time.perf_counter() - began)
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["bare"], strict=True))
    return {"bare ms": 1000 * statistics.median(times["bare"]), "loop over bare": ratio}


class Clip:
    """A source of one clip, again and again."""

    classes = None

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Row:
        import numpy as np

        return Row(str(index), "video", str(bundled_clip()), np.array([0]))


def decoding() -> dict[str, float]:
    """Samples a second of each video mode in one process, and through two workers."""
    found = {}
    for mode in ("codec", "uniform", "collage"):
        shares = {name: float(name == mode) for name in ("codec", "uniform", "collage")}
        view = VideoView(HeadConfig(kind="video", num_frames=32, num_patches=1024, **shares), 14, 64)
        stream = Stream("video", Clip(), view, 8, Order(64, 0, 0))
        for workers in (0, 2):
            batches = iter(open_loader([stream], Share(0), 0, 12, workers=workers))
            next(batches)
            began = time.perf_counter()
            count = sum(1 for _ in zip(range(3 if workers == 0 else 8), batches, strict=False))
            found[f"{mode} samples/s, {workers} workers"] = 8 * count / (time.perf_counter() - began)
    return found


def waiting(folder: Path) -> dict[str, float]:
    """The share of the time that a training waits for its data, with two workers that decode clips."""
    heads = {
        "video": {"kind": "video", "batch_size": 8, "classes": 5000, "num_frames": 32, "num_patches": 1024}
    }
    config = from_dict(
        {
            "out": str(folder / "waiting"), "steps": 12, "workers": 2, "trackers": [], "device": "cpu",
            "log_every": 4, "model": {"size": "tiny", "overrides": SIZES}, "cluster": {"heads": heads},
        }
    )  # fmt: skip
    Trainer(config, {"video": Clip()}).fit()
    return {"data-wait share, 2 workers": read_lines(folder / "waiting" / "log.jsonl")[-1]["data_wait"]}


def peak(checkpointing: bool, out: str, result: object) -> None:
    trainer = make_trainer(Path(out), gradient_checkpointing=checkpointing)
    batch = MicroBatches(trainer.task.streams, Share(0))[0]
    before = high_water()
    for _ in range(2):
        trainer._accumulate(batch, 0, True)
    result.put((high_water(reset=False) - before) / 1024)


def high_water(reset: bool = True) -> int:
    """KiB that the process holds at most since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory(folder: Path) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    found = {}
    for name, checkpointing in (("without", False), ("with", True)):
        result = context.Queue()
        process = context.Process(target=peak, args=(checkpointing, str(folder / name), result))
        process.start()
        found[f"memory MiB {name} checkpointing"] = result.get(timeout=120)
        process.join()
    return found


def checkpoints(folder: Path) -> dict[str, float]:
    trainer, saves, loads = make_trainer(folder / "saved"), [], []
    size = sum(t.nbytes for t in trainer.tensors().values()) / 2**20
    for step in range(5):
        trainer.step = step + 1
        began = time.perf_counter()
        path = trainer.save()
        saves.append(time.perf_counter() - began)
        began = time.perf_counter()
        checkpoint.load(path, trainer.tensors())
        loads.append(time.perf_counter() - began)
    seconds = {"save": statistics.median(saves), "resume": statistics.median(loads)}
    return {"checkpoint MiB": size, **{f"{n} MiB/s": size / s for n, s in seconds.items()}}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            **loop_overhead(folder),
            **checkpoints(folder),
            **memory(folder),
            **decoding(),
            **waiting(folder),
        }
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    print(f"{torch.get_num_threads()} threads, {torch.__version__}")
    for key, value in figures.items():
        print(f"{key:<34}{value:>10.3f}")


if __name__ == "__main__":
    main()
