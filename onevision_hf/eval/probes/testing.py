"""The test set of a probe, after every epoch: each process some of the blocks, the figures the same on all.

    predictions-last.npz, predictions-best.npz    rows, labels, predicted (the classes)
    best.safetensors                              the head of the best epoch so far

Published is the best epoch *on the test set*; both are kept, and both are reported.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from ...data.media import BROKEN, reason_of
from ...jobs.processes import Processes
from ...jobs.run_folder import atomic_files, save_arrays
from ...training.loader import collate
from ...training.loop import TrainingError
from ...training.mixture import Transform
from ...training.report import VALIDATION, RunReport, read_lines
from ...training.workers import Ahead, Notes
from .config import ProbeConfig
from .task import COMPONENT, ProbeTask

_BLOCK = 8  # clips at once, whatever the number of processes: the same products, the same bits
BEST = "best.safetensors"


class TestBlocks:
    """Blocks of a test set: numbers of the rows that can be read, their inputs (None without any), and
    records of those that cannot."""

    __test__ = False  # no test of pytest's

    def __init__(self, rows: Any, transform: Transform):
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return -(-len(self.rows) // _BLOCK)

    def part(self, own: range, worker: int, workers: int, notes: Notes) -> Iterator[Any]:
        """Those of a worker among the blocks `own`.

        Args:
            own: numbers of this process's blocks.
            worker: which of its workers this is.
            workers: how many it has.
            notes: what is being read, for messages.
        """
        return (self.make(block, notes) for block in own[worker::workers])

    def make(self, block: int, notes: Notes) -> tuple[list[int], Any, list[dict[str, str]]]:
        numbers, samples, broken = [], [], []
        for number in range(block * _BLOCK, min((block + 1) * _BLOCK, len(self.rows))):
            notes.sample("test clips", self.rows.keys[number])
            try:
                samples.append(self.transform(self.rows[number], None, number))
                numbers.append(number)
            except BROKEN as error:
                broken.append({"key": self.rows.keys[number], "reason": reason_of(error)})
        return numbers, collate(samples) if samples else None, broken


class Predictions(NamedTuple):
    """Numbers (N,) of the clips that could be read, in order, their logits (N, C) float32, `figures` of them,
    and records of the others."""

    numbers: np.ndarray
    logits: np.ndarray
    figures: dict[str, float]
    broken: list[dict[str, str]]


@torch.no_grad()
def predict(
    task: ProbeTask, rows: Any, transform: Transform, config: ProbeConfig, device: torch.device
) -> Predictions:
    """What a probe says of clips; the same on every process.

    Raises TrainingError when more than `max_broken` cannot be read, DataError for a worker that fails.

    Args:
        task: with its model.
        rows: the clips, or their tokens.
        transform: how they are shown.
        config: of the probe.
        device: of the model.
    """
    processes = Processes.current()
    blocks = TestBlocks(rows, transform)
    own = range(processes.rank, len(blocks), processes.world)
    loader = Ahead(partial(blocks.part, own), len(own), config.dataloader_num_workers)
    model = task.model.eval()
    low = config.optim.precision == "bfloat16"
    parts: list[tuple[list[int], np.ndarray]] = []
    broken: list[dict[str, str]] = []
    for numbers, inputs, records in loader:
        broken += records
        if numbers:
            moved = {name: tensor.to(device) for name, tensor in inputs.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                logits = model({COMPONENT: moved})
            parts.append((numbers, logits.float().cpu().numpy()))
    model.train()
    everyone = processes.gather((parts, broken))
    found = sorted((part for own_parts, _ in everyone for part in own_parts), key=lambda part: part[0])
    broken = sorted((r for _, records in everyone for r in records), key=lambda record: record["key"])
    if len(broken) > config.max_broken * len(rows) or not found:
        raise too_many_broken(f"{len(rows)} test clips", broken, config)
    read = np.concatenate([np.asarray(numbers, np.int64) for numbers, _ in found])
    logits = np.concatenate([part for _, part in found])
    measured = figures(logits, rows.labels[read], [rows.keys[i] for i in read], config.mean_average_precision)
    return Predictions(read, logits, measured, broken)


def too_many_broken(clips: str, broken: list[dict[str, str]], config: ProbeConfig) -> TrainingError:
    """The error for more broken clips than the config allows.

    Args:
        clips: how many there are, of what.
        broken: records of those that cannot be read.
        config: of the probe.
    """
    named = "; ".join(f"{record['key']}: {record['reason']}" for record in broken[:3])
    return TrainingError(
        f"{len(broken)} of {clips} cannot be read, more than max_broken = {config.max_broken:g}: {named}"
    )


def figures(logits: np.ndarray, labels: np.ndarray, keys: list[str], precision: bool) -> dict[str, float]:
    """Fractions: `accuracy` (top-1), `top5`, `class_accuracy` (mean over the classes that occur), perhaps the
    `mean_average_precision`.

    Args:
        logits: (N, C).
        labels: (N,) numbers of the classes.
        keys: of the clips.
        precision: give the mean average precision too.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order[:, 0] == labels
    present = np.unique(labels)
    found = {
        "accuracy": float(hits.mean()),
        "top5": float((order[:, :5] == labels[:, None]).any(1).mean()),
        "class_accuracy": float(np.mean([hits[labels == label].mean() for label in present])),
    }
    if precision:
        found["mean_average_precision"] = mean_average_precision(logits, labels, keys)
    return found


def mean_average_precision(logits: np.ndarray, labels: np.ndarray, keys: list[str]) -> float:
    """Mean over the classes that occur of the average precision of the clips' scores for it.

    Rows of one key are one clip that has all of their labels: a list with one label a line loses nothing.

    Args:
        logits: (N, C).
        labels: (N,) numbers of the classes.
        keys: of the clips.
    """
    from sklearn.metrics import average_precision_score

    clips = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    places = np.array([clips[key] for key in keys])
    truth = np.zeros((len(clips), logits.shape[1]), bool)
    truth[places, labels] = True
    scores = np.zeros(truth.shape)
    scores[places] = torch.from_numpy(logits).double().softmax(1).numpy()
    occurring = truth.any(0)
    return float(average_precision_score(truth[:, occurring], scores[:, occurring], average="macro"))


class ProbeTest:
    """The trainer's validation: due after each epoch.

    Args:
        config: of the probe.
        task: with its model.
        ends: the last step of each epoch.
        out: the folder of the seed.
        device: of the model.
    """

    def __init__(
        self, config: ProbeConfig, task: ProbeTask, ends: list[int], out: Path, device: torch.device
    ):
        self.config, self.task, self.ends, self.out, self.device = config, task, ends, out, device
        self.broken: list[dict[str, str]] = []

    def due(self, step: int, total: int) -> bool:
        return step in self.ends

    def report(self, report: RunReport, step: int) -> None:
        data = self.task.data
        rows = data.test
        numbers, logits, values, self.broken = predict(
            self.task, rows, data.test_transform, self.config, self.device
        )
        epoch = self.ends.index(step) + 1
        before = [line["accuracy"] for line in read_lines(self.out / VALIDATION) if line["step"] < step]
        if report.main:
            names = ["last"]
            if values["accuracy"] > max(before, default=-1.0):
                names.append("best")
                head = {
                    k: v.detach().cpu().contiguous() for k, v in self.task.model.head.state_dict().items()
                }
                with atomic_files(self.out / BEST) as (path,):
                    save_file(head, path, metadata={"epoch": str(epoch)})
            for name in names:
                predicted = {"rows": numbers, "labels": rows.labels[numbers], "predicted": logits.argmax(1)}
                save_arrays(self.out / f"predictions-{name}.npz", **predicted)
        accuracy = values.pop("accuracy")
        report.validated(step, accuracy, message=f"epoch {epoch}: top-1", epoch=epoch, **values)
