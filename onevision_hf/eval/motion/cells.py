"""Runs cells and keeps what they find, keyed by all settings.

mixed/<budget>-<seed>-<digest>.safetensors: the readers with which cells begin
cells/<reading>-<input>-<budget>-<seed>-<digest>.json: results
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ...jobs.pool import as_done
from ...jobs.run_folder import canonical_json, digest_of, write_atomically
from .clips import in_view
from .frozen import Encoder, encode_input
from .inputs import build
from .interventions import INTERVENTIONS
from .pool import Pool
from .reader import Reader, TokenReader
from .settings import MIXTURE, TUBE, VIEWS, Cell, SuiteSettings
from .training import InputData, most_labels, predict, train


@dataclass(frozen=True)
class Job:
    """What every cell of a run shares; travels to worker processes."""

    folder: Path
    pool: Pool
    settings: SuiteSettings
    encoder: Encoder | None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot be changed

    def key(self, cell: Cell) -> dict[str, Any]:
        model = None if cell.reading == "scratch" or self.encoder is None else self.encoder.digest
        return self.settings.key(cell, source=self.pool.source.identity, model=model)

    def path(self, cell: Cell) -> Path:
        name = f"{cell.reading}-{cell.input}-{cell.budget:g}-{cell.seed}"
        return self.folder / "cells" / f"{name}-{digest_of(self.key(cell))[:12]}.json"

    def mixed_path(self, budget: float, seed: int) -> Path:
        key = self.settings.mixture_key(budget, seed) | {"source": self.pool.source.identity}
        return self.folder / "mixed" / f"{key['budget']:g}-{seed}-{digest_of(key)[:12]}.safetensors"

    def stored(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a cell that ran with these very settings."""
        path = self.path(cell)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        if found["settings"] != json.loads(canonical_json(self.key(cell))):
            raise ValueError(
                f"{path} was made with other settings: remove it or choose another --work folder"
            )
        return found

    def results(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Those of cells that have all run."""
        found = []
        for cell in cells:
            stored = self.stored(cell)
            assert stored is not None
            found.append(stored)
        return found


def run_cells(job: Job, missing: Sequence[Cell], workers: int, say: Callable[[str], None]) -> None:
    """Run cells, `workers` at a time, each as soon as the reader is there with which it begins."""
    for folder in ("cells", "mixed"):
        (job.folder / folder).mkdir(parents=True, exist_ok=True)
    begins = {c: job.mixed_path(c.budget, c.seed) for c in missing if c.reading == "scratch"}
    mixtures = {path: cell for cell, path in begins.items() if not path.exists()}
    tasks = [(cell, True) for cell in mixtures.values()] + [(cell, False) for cell in missing]

    def is_ready(task: tuple[Cell, bool]) -> bool:
        cell, mixes = task
        return mixes or cell not in begins or begins[cell].exists()

    mixed = ran = 0
    for task, found in as_done(partial(_work, job), tasks, workers, is_ready):
        cell, mixes = tasks[task]
        if mixes:
            mixed += 1
            say(f"{mixed} of {len(mixtures)} readers of a mixture of inputs, {found['seconds']:.0f} s")
            continue
        ran += 1
        mean = np.mean([a["all"] for a in found["accuracy"].values() if a["all"] is not None])
        say(
            f"{ran} of {len(missing)} cells: {cell.reading} {cell.input} {100 * cell.budget:.3g} % "
            f"seed {cell.seed}, {mean:.3f} over all families, {found['seconds']:.0f} s"
        )


def _work(job: Job, task: tuple[Cell, bool]) -> dict[str, Any]:
    """Train the reader with which the cell of a task begins, or run the cell."""
    torch.set_num_threads(1)
    cell, mixes = task
    if mixes:
        return {"seconds": _mix(job, cell)}
    result = run_cell(job, cell)
    write_atomically(job.path(cell), canonical_json(result))
    return result


def _mix(job: Job, cell: Cell) -> float:
    """Train the reader with which a cell begins; returns its seconds."""
    began = time.perf_counter()
    settings, families = job.settings, job.pool.source.families
    budget = settings.mixture_key(cell.budget, cell.seed)["budget"]
    torch.manual_seed(cell.seed)
    inputs = [
        build(job.pool, settings, Cell("scratch", name, budget, cell.seed), "train").to(job.device)
        for name in MIXTURE
    ]
    reader = Reader(settings.reader, len(families), most_labels(families)).to(job.device)
    train(reader, inputs, families, settings.mixing, cell.seed, _end_with_parent)
    state = {name: value.cpu().contiguous() for name, value in reader.state_dict().items()}
    write_atomically(job.mixed_path(cell.budget, cell.seed), save(state))
    return time.perf_counter() - began


def run_cell(job: Job, cell: Cell) -> dict[str, Any]:
    """Train a reader on one input and ask it about the test clips."""
    began, spent = time.perf_counter(), time.process_time()
    settings, families = job.settings, job.pool.source.families
    if cell.reading == "frozen":
        assert job.encoder is not None
        settings = job.encoder.fit(settings)
    labels = most_labels(families)
    torch.manual_seed(cell.seed)
    data, held_out = (build(job.pool, settings, cell, split) for split in ("train", "test"))
    data, held_out = data.to(job.device), held_out.to(job.device)
    reader: nn.Module
    if cell.reading == "frozen":
        assert job.encoder is not None
        data, held_out = (encode_input(job.encoder, settings, d) for d in (data, held_out))
        width = data.patches.shape[-1]
        reader = TokenReader(settings.reader, width, len(families), labels).to(job.device)
        train(reader, [data], families, settings.probing, cell.seed, _end_with_parent)
    else:
        tube = TUBE if cell.input == "dense" else 1
        reader = Reader(settings.reader, len(families), labels, tube)
        reader.begin_with(load_file(job.mixed_path(cell.budget, cell.seed)), tube).to(job.device)
        train(reader, [data], families, settings.training, cell.seed, _end_with_parent)
    camera = job.pool.read("test", "camera")
    accuracy = score(reader, held_out, families, camera)
    result: dict[str, Any] = {
        "settings": job.key(cell),
        "accuracy": accuracy,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - spent, 1),
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else "cpu",
    }
    if cell.reading == "scratch" and cell.input == "codec":
        result["interventions"] = {}
        for name, intervene in INTERVENTIONS.items():
            chance = np.random.default_rng(cell.seed)
            changed = intervene(held_out.to(torch.device("cpu")), job.pool, settings, chance)
            result["interventions"][name] = score(reader, changed.to(job.device), families, camera)
    return result


def _end_with_parent(step: int, loss: Tensor) -> None:
    """A cell takes minutes: a worker does not go on with it when the run was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)


def score(
    reader: nn.Module, data: InputData, families: dict[str, tuple[str, ...]], camera: np.ndarray
) -> dict[str, dict[str, float | int | None]]:
    """For each family the share of right answers in each of `VIEWS`, None where no clip was asked, and how
    many were asked."""
    logits = predict(reader, data)
    found: dict[str, dict[str, float | int | None]] = {}
    for row, (name, answers) in enumerate(families.items()):
        target = data.labels[:, row].numpy()
        right = logits[:, row, : len(answers)].argmax(-1).numpy() == target
        asked = target >= 0
        found[name] = {
            **{view: _mean(right[asked & in_view(camera, view)]) for view in VIEWS},
            "asked": int(asked.sum()),
        }
    return found


def _mean(right: np.ndarray) -> float | None:
    return round(float(right.mean()), 5) if len(right) else None
