"""Stage 3: features -> centers, by spherical k-means.

    onevision cluster kmeans out/features out/kmeans --clusters 2000 --dedup out/dedup

`centers.safetensors` holds `centers` (K, D) float32, each of length one; `objective.json` the mean cosine of
the items to their centers and the number of clusters found empty, iteration by iteration. One level compares
every item with every center; two levels (`--cells`) cluster coarsely first and then within each cell, in
proportion to its items, which costs about sqrt(K) / 2 times less. Every iteration and every finished cell is
saved.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch.nn.functional import normalize

from ..data.tensor_files import seal, unseal
from ..jobs.digests import checked
from ..jobs.processes import Processes
from ..jobs.progress import progress
from ..jobs.run_folder import FinishedRun, RunFolder, canonical_json, digest_of
from .dedup import dropped_rows
from .features import FeatureShards
from .matrix import RowFile, blocks, group_rows
from .spherical import State, lloyd, nearest, random_start, share_out

STAGE = "kmeans"
CENTERS, OBJECTIVE = "centers.safetensors", "objective.json"
# What only an unfinished run needs.
STATES = ("state.safetensors", "cell-*.safetensors", ".cells.tmp")


class CenterFile:
    """Centers on disk, read in blocks. `path` is a `centers.safetensors` or a finished k-means folder."""

    def __init__(self, path: str | Path):
        path = Path(path)
        if path.is_dir():
            run = FinishedRun(path, STAGE)
            self.path, self.digest = run.file(CENTERS), run.digest
        else:
            self.path, self.digest = checked(path), digest_of(path.read_bytes())
        with safe_open(self.path, "pt") as file:
            if "centers" not in file.keys():  # noqa: SIM118 - not a mapping
                raise ValueError(f"{self.path} holds {sorted(file.keys())}, expected `centers`")
            shape = file.get_slice("centers").get_shape()
        if len(shape) != 2:
            raise ValueError(f"{self.path} holds `centers` of shape {shape}, expected two dimensions")
        self.count, self.dim = shape

    def read(self) -> torch.Tensor:
        """(K, D) float32, all of them."""
        return load_file(self.path)["centers"].float()

    def blocks(self, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(first center, (<= size, D) float32 of length one)."""
        for start in range(0, self.count, size):
            with safe_open(self.path, "pt") as file:
                yield start, normalize(file.get_slice("centers")[start : start + size].float(), dim=1)


def find_centers(
    features: str | Path,
    out: str | Path,
    clusters: int,
    *,
    dedup: str | Path | None = None,
    iterations: int = 20,
    cells: int = 0,
    start: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    redo: bool = False,
) -> dict[str, Any]:
    """Cluster a finished features folder; a run that was stopped goes on after its last iteration or cell.

    Args:
        features: a finished features folder.
        out: the folder to fill.
        clusters: K.
        dedup: a finished dedup of the same features, whose dropped items are left out.
        iterations: of Lloyd's algorithm, a level (20, as published).
        cells: two-level k-means with so many cells; 0 for one level.
        start: a `centers.safetensors` to begin from, of K centers, instead of K items drawn with `seed`.
        seed: of what is drawn by chance.
        device: where it is computed, `cpu`, `cuda`, ...
        redo: empty a folder that was made otherwise, instead of refusing it.

    Returns:
        The summary: `clusters`, `dim`, `items`, `objective` (mean cosine at the last iteration, weighted over
        cells).

    Raises:
        ValueError: fewer items than clusters, or `out` was made from something else.
    """
    processes = Processes.current()
    if cells and start is not None:
        raise ValueError("--start gives the centers of one level: leave out --cells")
    if cells and not 1 <= cells <= clusters:
        raise ValueError(f"{cells} cells for {clusters} clusters: at most one cell a cluster")
    shards = FeatureShards(features)
    dropped, dedup_digest = dropped_rows(dedup, shards)
    settings = {
        "clusters": clusters,
        "iterations": iterations,
        "cells": cells,
        "start": digest_of(Path(start).read_bytes()) if start is not None else None,
        "backend": "torch",  # in the plans of runs, since some were made when there was another
        "seed": seed,
    }
    sources = digest_of([shards.run.digest, dedup_digest])
    with processes.open_run(out, stage=STAGE, settings=settings, sources=sources, redo=redo) as run:
        if run.finished:
            run.remove(*STATES)
            return FinishedRun(out, STAGE).summary
        rows = shards.unpack(run.path / f".rows-{processes.rank}.tmp", dropped, processes.part(len(shards)))
        counts = torch.zeros(processes.world, dtype=torch.int64)
        counts[processes.rank] = len(rows)
        processes.sum_(counts)
        job = _Job(run, rows, int(counts[: processes.rank].sum()), int(counts.sum()), processes, device)
        if not 1 <= clusters <= job.total:
            raise ValueError(f"{clusters} clusters asked for, but there are {job.total} items")
        if cells:
            centers, history = _two_levels(job, clusters, cells, iterations, seed)
        else:
            first = CenterFile(start).read() if start is not None else job.random_start(clusters, seed)
            if first.shape != (clusters, shards.dim):
                raise ValueError(
                    f"{start} holds centers of shape {tuple(first.shape)}, not {(clusters, shards.dim)}"
                )
            state = job.lloyd("state", first, iterations)
            centers, history = state.centers, {"objective": state.objective, "reseeded": state.reseeded}
        rows.remove()

        def save_all() -> None:
            run.write(OBJECTIVE, canonical_json(history))
            run.write(CENTERS, save({"centers": centers.contiguous()}))
            objective = history["objective"][-1]
            summary = {"clusters": clusters, "dim": shards.dim, "items": job.total, "objective": objective}
            run.finish(summary, working=STATES)

        processes.finish(save_all)
        return FinishedRun(out, STAGE).summary


class _Job:
    """This process's rows, and k-means over all processes that saves its state after every iteration."""

    def __init__(
        self, run: RunFolder, rows: RowFile, first: int, total: int, processes: Processes, device: str
    ):
        self.run, self.rows, self.first, self.total = run, rows, first, total
        self.processes, self.device = processes, device

    def random_start(self, clusters: int, seed: int) -> torch.Tensor:
        return random_start(self.rows, clusters, seed, self.processes, self.first, self.total)

    def lloyd(self, name: str, centers: torch.Tensor, iterations: int) -> State:
        path = self.run.path / f"{name}.safetensors"
        self.processes.barrier()
        state = _load_state(path) if path.exists() else State(normalize(centers.float(), dim=1))
        left = (iterations - state.iteration) * self.total
        with progress(f"k-means ({len(centers)} clusters)", left, not self.processes.main) as step:

            def after(state: State) -> None:
                step(self.total)
                if self.processes.main:
                    self.run.write(path.name, _save_state(state))

            return lloyd(
                self.rows, state, iterations, processes=self.processes, device=self.device, after=after
            )


def _two_levels(
    job: _Job, clusters: int, cells: int, iterations: int, seed: int
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Cells first, then each cell's part of the clusters, one cell after another."""
    coarse = job.lloyd("state", job.random_start(cells, seed), iterations)
    cell_of = [nearest(normalize(block, dim=1), coarse.centers)[1] for _, block in blocks(job.rows)]
    group_of = torch.cat(cell_of)[:, None] if cell_of else torch.zeros(0, 1, dtype=torch.int64)
    grouped, begins, _ = group_rows(job.rows, group_of, cells, job.run.path / ".cells.tmp", job.processes)
    sizes = begins.diff()
    given = share_out(sizes, clusters)
    filled = [i for i in range(cells) if sizes[i]]
    names = [f"cell-{i:05d}.safetensors" for i in filled]
    missing = job.run.missing(names)
    mine = job.processes.own(missing)
    alone = Processes()
    with progress(
        "k-means (cells)", int(sum(sizes[filled[i]] for i in mine)), not job.processes.main
    ) as step:
        for index in mine:
            cell = filled[index]
            part = grouped.part(int(begins[cell]), int(begins[cell + 1]))
            first = random_start(part, int(given[cell]), seed + 1 + cell, alone)
            state = lloyd(part, State(first), iterations, processes=alone, device=job.device)
            job.run.write(names[index], _save_state(state))
            step(len(part))
    job.processes.barrier()
    states = [_load_state(job.run.path / name) for name in names]
    weights = sizes[filled].double() / sizes.sum()
    history = {
        "objective": [
            sum(float(w) * s.objective[i] for w, s in zip(weights, states, strict=True))
            for i in range(iterations)
        ],
        "reseeded": [sum(s.reseeded[i] for s in states) for i in range(iterations)],
        "coarse_objective": coarse.objective,
        "cell_items": sizes.tolist(),
        "cell_clusters": given.tolist(),
    }
    return torch.cat([state.centers for state in states]), history


def _save_state(state: State) -> bytes:
    return seal(
        {
            "centers": state.centers.cpu().numpy(),
            "objective": np.array(state.objective, np.float64),
            "reseeded": np.array(state.reseeded, np.int64),
        }
    )


def _load_state(path: Path) -> State:
    tensors = unseal(path)
    objective = tensors["objective"].tolist()
    return State(
        torch.from_numpy(tensors["centers"]), len(objective), objective, tensors["reseeded"].tolist()
    )
