"""Spherical k-means in torch: rows and centers of length one, similarity = cosine.

One pass over the rows an iteration: blocks of rows times blocks of centers, each row goes to its nearest
center, sums and counts are added over processes, each center moves to its normalised sum. A cluster that lost
all its rows takes half of the largest one. The same start and the same rows give the same centers, wherever
the run was stopped.

Follows the published clustering (20 iterations of Lloyd's algorithm, no subsampling; tools/kmeans of the
OneVision encoder's repository, where faiss does it), on the sphere as its features are.
"""

import dataclasses
import heapq
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import normalize

from ..jobs.processes import Processes
from .matrix import Rows, blocks, take, width_of

CENTER_BLOCK = 4096
# How far the two halves of a split cluster stand apart, relative: as in faiss (EPS of its Clustering.cpp).
SPLIT = 1 / 1024


@dataclasses.dataclass
class State:
    """Where a run stands: everything that the next iteration needs.

    centers (K, D) float32, unit rows; iteration: how many are done; objective: mean cosine of the rows to the
    centers they were assigned to, one an iteration (so of the centers before it); reseeded: clusters found
    empty.
    """

    centers: torch.Tensor
    iteration: int = 0
    objective: list[float] = dataclasses.field(default_factory=list)
    reseeded: list[int] = dataclasses.field(default_factory=list)


def nearest(rows: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most similar center of each row.

    Args:
        rows: (n, D) float32.
        centers: (K, D) float32.

    Returns:
        (n,) similarity and (n,) int64 index; the lower index where two are equal.
    """
    best = torch.full((len(rows),), -torch.inf, device=rows.device)
    index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for start in range(0, len(centers), CENTER_BLOCK):
        similarity, found = (rows @ centers[start : start + CENTER_BLOCK].T).max(1)
        better = similarity > best
        best = torch.where(better, similarity, best)
        index = torch.where(better, found + start, index)
    return best, index


def random_start(
    rows: Rows,
    clusters: int,
    seed: int = 0,
    processes: Processes | None = None,
    first: int = 0,
    total: int = -1,
) -> torch.Tensor:
    """(clusters, D) unit rows drawn without replacement; the same for any number of processes.

    Args:
        rows: this process's rows, (n, D).
        clusters: how many rows to draw.
        seed: of what is drawn by chance.
        processes: that hold the rows together; those of `torchrun` if left out.
        first: number of this process's first row over all processes.
        total: rows of all processes; below zero: there is this one alone.

    Raises:
        ValueError: fewer rows than clusters.
    """
    processes = processes or Processes.current()
    total = len(rows) if total < 0 else total
    if not 1 <= clusters <= total:
        raise ValueError(f"{clusters} clusters asked for, but there are {total} rows")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(total, generator=generator)[:clusters]
    own = (drawn >= first) & (drawn < first + len(rows))
    centers = torch.zeros(clusters, width_of(rows))
    if own.any():
        centers[own] = take(rows, drawn[own] - first)
    processes.sum_(centers)
    return normalize(centers, dim=1)


def lloyd(
    rows: Rows,
    state: State,
    iterations: int,
    *,
    processes: Processes | None = None,
    device: str | torch.device = "cpu",
    after: Callable[[State], None] | None = None,
) -> State:
    """Run spherical k-means from `state` until `iterations` are done.

    Args:
        rows: this process's rows (n, D), of any length but zero; they are normalised block by block.
        state: where to begin.
        iterations: how many in all, those of `state` included.
        processes: that hold the rows together; those of `torchrun` if left out.
        device: where it is computed, `cpu`, `cuda`, ...
        after: called with the state after each iteration (to report it, or to save it).

    Returns:
        The last state, its centers on the CPU. With several processes it is the same in each.
    """
    processes = processes or Processes.current()
    centers = state.centers.to(device)
    while state.iteration < iterations:
        sums = torch.zeros_like(centers)
        counts = torch.zeros(len(centers), dtype=torch.int64, device=device)
        similarity = torch.zeros(1, dtype=torch.float64, device=device)
        for _, block in blocks(rows):
            block = normalize(block.to(device), dim=1)
            best, index = nearest(block, centers)
            _add_rows(sums, index, block)
            counts += torch.bincount(index, minlength=len(centers))
            similarity += best.sum(dtype=torch.float64)
        processes.sum_(sums, counts, similarity)
        filled = counts > 0
        centers = torch.where(filled[:, None], normalize(sums, dim=1), centers)
        reseeded = _split_largest(centers, counts)
        state = State(
            centers.cpu(),
            state.iteration + 1,
            [*state.objective, float(similarity / counts.sum())],
            [*state.reseeded, reseeded],
        )
        if after is not None:
            after(state)
    return state


def _add_rows(sums: torch.Tensor, index: torch.Tensor, block: torch.Tensor) -> None:
    """`sums.index_add_(0, index, block)`, which on a CPU costs more than the whole search for the nearest
    center."""
    if sums.is_cuda:
        sums.index_add_(0, index, block)
        return
    order = index.argsort(stable=True)
    found, counts = index[order].unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).numpy()
    sums[found] += torch.from_numpy(np.add.reduceat(block[order].numpy(), starts, axis=0))


def _split_largest(centers: torch.Tensor, counts: torch.Tensor) -> int:
    """Give each empty cluster half of the cluster that is the largest at that moment, in place."""
    empty = torch.nonzero(counts == 0).flatten().tolist()
    if not empty:
        return 0
    sizes = counts.tolist()
    heap = [(-size, index) for index, size in enumerate(sizes) if size > 1]
    heapq.heapify(heap)
    signs = 1 - 2 * (torch.arange(centers.shape[1], device=centers.device) % 2)
    done = 0
    for index in empty:
        if not heap:
            break  # fewer rows than clusters: every row already has a center of its own
        size, largest = heap[0]
        apart = centers[largest] * (SPLIT * signs)
        centers[index] = normalize(centers[largest] + apart, dim=0)
        centers[largest] = normalize(centers[largest] - apart, dim=0)
        half = -size // 2
        heapq.heapreplace(heap, (-(-size - half), largest))
        if half > 1:
            heapq.heappush(heap, (-half, index))
        done += 1
    return done


def share_out(sizes: torch.Tensor, clusters: int) -> torch.Tensor:
    """How many of `clusters` each cell gets: in proportion to its rows, at least one, at most its rows.

    Args:
        sizes: (C,) int64, rows a cell; empty cells get none.
        clusters: how many there are in all.

    Raises:
        ValueError: fewer clusters than filled cells, or than rows.
    """
    filled = int((sizes > 0).sum())
    total = int(sizes.sum())
    if not filled <= clusters <= total:
        raise ValueError(f"{clusters} clusters cannot be shared among {filled} filled cells of {total} rows")
    exact = sizes.double() * clusters / total
    given = torch.where(sizes > 0, exact.floor().long().clamp(min=1), 0).minimum(sizes)
    # Largest remainder first, one at a time around the cells, until the sum fits.
    while (left := clusters - int(given.sum())) != 0:
        if left > 0:
            room = (given < sizes).double() * (exact - given + 1e6)
            chosen = room.argsort(descending=True, stable=True)[: min(left, int((given < sizes).sum()))]
            given[chosen] += 1
        else:
            room = (given > 1).double() * (given - exact + 1e6)
            chosen = room.argsort(descending=True, stable=True)[: min(-left, int((given > 1).sum()))]
            given[chosen] -= 1
    return given
