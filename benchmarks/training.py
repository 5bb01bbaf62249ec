"""What the training loop costs over a bare step, and what data, checkpointing and checkpoints cost.

    make bench-training

Everything is measured in this run, on the processor. Repetitions of what is compared are interleaved, first
one then the other in front; a figure is the median with the quartiles beside it. Where other programs run,
the time that the process computed says more than the time that passed, so the overhead is told in both; the
machine's load is printed.
"""

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from onevision_hf import bundled_clip
from onevision_hf.data.labelled import Example
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.objectives import draw_together
from onevision_hf.training import checkpoint
from onevision_hf.training.config import from_dict
from onevision_hf.training.dry_run.dummy_data import DummyExamples, as_drawn
from onevision_hf.training.loader import MicroBatches, open_loader
from onevision_hf.training.loop import Trainer
from onevision_hf.training.mixture import MixtureComponent, RankSlice
from onevision_hf.training.optimisation import Optimizers
from onevision_hf.training.report import RunReport, read_lines
from onevision_hf.training.sampler import Sampler
from onevision_hf.training.tasks.cluster_config import HeadConfig
from onevision_hf.training.transforms import VideoTransform

SIZES = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6}
REPEATS = 30

Spread = tuple[float, float, float]  # median, lower and upper quartile


CROPS = {"do_center_crop": True, "num_frames": 32, "num_patches": 1024}


def spread(values: list[float]) -> Spread:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def make_config(out: Path, **optim: object) -> object:
    heads = {
        "image": {"batch_size": 8, "classes": 5000, "processor": {"size": 112}},
        "video": {
            "kind": "video",
            "batch_size": 4,
            "classes": 5000,
            "processor": {"size": 112, "do_center_crop": True, "num_frames": 16, "num_patches": 128},
        },
    }
    return from_dict(
        {
            "out": str(out), "max_steps": 10_000, "dataloader_num_workers": 0, "report_to": [],
            "device": "cpu", "logging_steps": 10,
            "model": {"size": "tiny", "overrides": {**SIZES, "image_size": 112}},
            "cluster": {"heads": heads}, "optim": {"learning_rate": 1e-4, **optim},
        }
    )  # fmt: skip


class Kept:
    """Dummy examples that are made once, so that a loop is timed and not a generator of random numbers."""

    def __init__(self, examples: DummyExamples):
        self.classes = examples.classes
        self._samples = [as_drawn(examples[index], None, 0) for index in range(16)]

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> "KeptExample":
        return KeptExample(str(index), self._samples[index])


class KeptExample:
    def __init__(self, key: str, sample: dict):
        self.key, self._sample = key, sample

    def sample(self) -> dict:
        return self._sample


def make_trainer(out: Path, **optim: object) -> Trainer:
    config = make_config(out, **optim)
    heads = config.cluster.heads
    dummies = {name: DummyExamples(head, head.classes, 14, count=16) for name, head in heads.items()}
    trainer = Trainer(config, {name: examples.transformed() for name, examples in dummies.items()})
    for component in trainer.task.mixture:
        component.dataset = Kept(dummies[component.name])
    return trainer


def loop_overhead(folder: Path) -> dict[str, Spread]:
    """Our step over forward, backward and update alone, of the same model on a batch that is there
    already.
    """
    ours, bare = make_trainer(folder / "ours"), make_trainer(folder / "bare")
    report = RunReport(ours.config, ours.accelerator, ours.total, ours.samples_per_step)
    batch = MicroBatches(bare.task.mixture, RankSlice(0))[0].inputs
    plain = Optimizers(bare.task.model, bare.task.sharded, bare.optim)
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
        runs = {"ours": lambda: next(steps), "bare": bare_step}
        passed: dict[str, list[float]] = {"ours": [], "bare": []}
        computed: dict[str, list[float]] = {"ours": [], "bare": []}
        for repeat in range(REPEATS + 4):
            for name in sorted(runs, reverse=repeat % 2 == 0):
                clocks = time.perf_counter(), time.process_time()
                runs[name]()
                if repeat >= 4:
                    passed[name].append(time.perf_counter() - clocks[0])
                    computed[name].append(time.process_time() - clocks[1])
    return {
        "bare step, ms": spread([1000 * seconds for seconds in passed["bare"]]),
        "loop over bare, time that passed": spread(quotients(passed)),
        "loop over bare, time computed": spread(quotients(computed)),
    }


def quotients(times: dict[str, list[float]]) -> list[float]:
    """Of repetitions two by two, so that each sum holds one with ours in front and one with the bare."""
    pairs = {name: [a + b for a, b in zip(t[::2], t[1::2], strict=True)] for name, t in times.items()}
    return [a / b for a, b in zip(pairs["ours"], pairs["bare"], strict=True)]


class Clip:
    """A source of one clip, again and again."""

    classes = None

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Example:
        import numpy as np

        return Example(str(index), "video", str(bundled_clip()), np.array([0]))


def decoding() -> dict[str, Spread]:
    """Samples a second of each video mode in one process, and through two workers."""
    found: dict[str, list[float]] = {}
    components = {}
    for mode in ("codec", "uniform", "collage"):
        shares = {name: float(name == mode) for name in ("codec", "uniform", "collage")}
        transform = VideoTransform(HeadConfig(kind="video", **shares), PatchifyConfig.from_dict(CROPS))
        components[mode] = MixtureComponent("video", Clip(), transform, 8, Sampler(64, 0, 0))
    for _ in range(5):
        for mode, component in components.items():
            began = time.perf_counter()
            for k in range(2):
                MicroBatches([component], RankSlice(0))[k]
            rate = 16 / (time.perf_counter() - began)
            found.setdefault(f"{mode} samples/s, alone", []).append(rate)
    for mode, component in components.items():
        batches = iter(open_loader([component], RankSlice(0), 0, 16, workers=2))
        for _ in range(6):  # what was decoded ahead while the workers started
            next(batches)
        for _ in range(5):
            began = time.perf_counter()
            next(batches), next(batches)
            rate = 16 / (time.perf_counter() - began)
            found.setdefault(f"{mode} samples/s, 2 workers", []).append(rate)
    return {name: spread(rates) for name, rates in found.items()}


def waiting(folder: Path) -> dict[str, Spread]:
    """The share of the time that a training waits for its data, with two workers that decode clips."""
    heads = {"video": {"kind": "video", "batch_size": 8, "classes": 5000, "processor": CROPS}}
    config = from_dict(
        {
            "out": str(folder / "waiting"), "max_steps": 24, "dataloader_num_workers": 2, "report_to": [],
            "device": "cpu", "logging_steps": 2, "model": {"size": "tiny", "overrides": SIZES},
            "cluster": {"heads": heads},
        }
    )  # fmt: skip
    Trainer(config, {"video": Clip()}).fit()
    lines = read_lines(folder / "waiting" / "log.jsonl")[3:]  # after the workers have started
    return {"data-wait share, 2 workers": spread([line["data_wait"] for line in lines])}


def peak(checkpointing: bool, out: str, result: object) -> None:
    trainer = make_trainer(Path(out), gradient_checkpointing=checkpointing)
    batch = MicroBatches(trainer.task.mixture, RankSlice(0))[0]
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


def memory(folder: Path) -> dict[str, Spread]:
    context = multiprocessing.get_context("spawn")
    found: dict[str, Spread] = {}
    for name, checkpointing in (("without", False), ("with", True)):
        result = context.Queue()
        process = context.Process(target=peak, args=(checkpointing, str(folder / name), result))
        process.start()
        found[f"memory MiB {name} checkpointing"] = (result.get(timeout=600),) * 3
        process.join()
    return found


def checkpoints(folder: Path) -> dict[str, Spread]:
    trainer, saves, loads = make_trainer(folder / "saved"), [], []
    size = sum(t.nbytes for t in trainer.tensors().values()) / 2**20
    for step in range(7):
        trainer.step = step + 1
        began = time.perf_counter()
        path = trainer.save()
        saves.append(time.perf_counter() - began)
        began = time.perf_counter()
        checkpoint.load(path, trainer.tensors())
        loads.append(time.perf_counter() - began)
    return {
        "checkpoint MiB": (size,) * 3,
        "save, s": spread(saves),
        "resume, s": spread(loads),
    }


def load() -> list[float]:
    return [round(value, 1) for value in os.getloadavg()]


def main() -> None:
    loads = {"before": load()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            **loop_overhead(folder),
            **checkpoints(folder),
            **memory(folder),
            **decoding(),
            **waiting(folder),
        }
    loads["after"] = load()
    if "--json" in sys.argv:
        print(json.dumps({**figures, "load": loads}))
        return
    print(f"{torch.get_num_threads()} threads, {torch.__version__}; load {loads}, {os.cpu_count()} cores")
    for key, (middle, low, high) in figures.items():
        print(f"{key:<36}{middle:>10.3f}" + (f"   [{low:.3f}, {high:.3f}]" if low != high else ""))


if __name__ == "__main__":
    main()
