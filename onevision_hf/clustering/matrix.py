"""Rows of float16 on disk, read in blocks: what k-means, dedup and assignment walk over with flat memory."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..jobs.processes import Processes

BLOCK_ROWS = 4096


class RowFile:
    """`rows` rows of `dim` float16 values in one plain file (C order, no header), from `first` on.

    Blocks are read with ordinary reads, not mapped, so the memory of a pass is that of one block.

    Args:
        path: of the file.
        rows: how many.
        dim: values of a row.
        first: number of the first row in the file.
    """

    def __init__(self, path: str | Path, rows: int, dim: int, first: int = 0):
        self.path, self.rows, self.dim, self.first = Path(path), rows, dim, first

    def __len__(self) -> int:
        return self.rows

    def read(self, start: int, stop: int) -> torch.Tensor:
        """(stop - start, dim) float32 rows."""
        count = (stop - start) * self.dim
        values = np.fromfile(self.path, np.float16, count, offset=(self.first + start) * self.dim * 2)
        if values.size != count:
            raise OSError(
                f"{self.path} ends early: {values.size} of {count} values at row {self.first + start}"
            )
        return torch.from_numpy(values.reshape(-1, self.dim)).float()

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """(len(indices), dim) float32 rows, each with a read of its own."""
        taken = np.empty((len(indices), self.dim), np.float16)
        with open(self.path, "rb", buffering=0) as file:
            for row, index in zip(taken, indices.tolist(), strict=True):
                file.seek((self.first + index) * self.dim * 2)
                if file.readinto(row.data) != self.dim * 2:
                    raise OSError(f"{self.path} ends before row {self.first + index}")
        return torch.from_numpy(taken).float()

    def part(self, start: int, stop: int) -> "RowFile":
        """The rows start..stop-1 as a file of their own."""
        return RowFile(self.path, stop - start, self.dim, self.first + start)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


Rows = torch.Tensor | RowFile


def width_of(rows: Rows) -> int:
    return rows.dim if isinstance(rows, RowFile) else rows.shape[1]


def blocks(rows: Rows, size: int = BLOCK_ROWS) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, (<= size, dim) float32 block) in order."""
    for start in range(0, len(rows), size):
        yield start, span(rows, start, start + size)


def span(rows: Rows, start: int, stop: int) -> torch.Tensor:
    """Rows start..min(stop, len)-1, float32.

    Args:
        rows: (M, dim).
        start: the first row.
        stop: the row after the last; the end where there are fewer.
    """
    stop = min(stop, len(rows))
    return rows.read(start, stop) if isinstance(rows, RowFile) else rows[start:stop].float()


def take(rows: Rows, indices: torch.Tensor) -> torch.Tensor:
    return rows.take(indices) if isinstance(rows, RowFile) else rows[indices].float()


def group_rows(
    rows: Rows, group_of: torch.Tensor, groups: int, path: Path, processes: Processes | None = None
) -> tuple[RowFile, torch.Tensor, torch.Tensor]:
    """Write the rows again, sorted by group, so that each group is one contiguous part of a file.

    Args:
        rows: this process's M rows.
        group_of: (M, G) int64, the G groups of each; a row is written into each.
        groups: how many there are.
        path: of the one file that all processes write into.
        processes: that write the file together; those of `torchrun` if left out.

    Returns:
        The file of all processes' rows; (groups + 1,) int64 where each group begins; (M, G) int64, the place
        in the file of each row. Within a group rows keep their order, those of earlier processes first.
    """
    processes = processes or Processes.current()
    width = width_of(rows)
    counts = torch.zeros(processes.world, groups, dtype=torch.int64)
    counts[processes.rank] = torch.bincount(group_of.flatten(), minlength=groups)
    processes.sum_(counts)
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), counts.sum(0).cumsum(0)])
    # Where this process's rows of each group begin in the file, and in its own sorted order.
    own_begins = begins[:-1] + counts[: processes.rank].sum(0)
    sorted_begins = counts[processes.rank].cumsum(0) - counts[processes.rank]
    flat = group_of.flatten()
    order = flat.argsort(stable=True)
    place_of = torch.empty_like(flat)
    place_of[order] = torch.arange(len(flat)) + (own_begins - sorted_begins)[flat[order]]
    place_of = place_of.view_as(group_of)
    total = int(begins[-1])
    if processes.main:
        with open(path, "wb") as file:
            file.truncate(total * width * 2)
    processes.barrier()
    with open(path, "r+b", buffering=0) as file:
        for start, block in blocks(rows):
            half = block.half()
            for places in place_of[start : start + len(block)].T:
                order = places.argsort()
                ordered, content = places[order], half[order].numpy()
                # What goes to one group from one block lies together.
                cuts = (torch.nonzero(ordered.diff() != 1).flatten() + 1).tolist()
                for a, b in itertools.pairwise([0, *cuts, len(ordered)]):
                    file.seek(int(ordered[a]) * width * 2)
                    file.write(content[a:b].tobytes())
    processes.barrier()
    return RowFile(path, total, width), begins, place_of
