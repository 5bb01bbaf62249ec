"""Rows of float16 on disk, read in blocks: what k-means, dedup and assignment walk over with flat memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

BLOCK_ROWS = 8192


class RowFile:
    """`rows` rows of `dim` float16 values in one plain file (C order, no header), from `first` on.

    Blocks are read with ordinary reads, not mapped, so the memory of a pass is that of one block.
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
            raise OSError(f"{self.path} ends early: {values.size} of {count} values at row {self.first + start}")
        return torch.from_numpy(values.reshape(-1, self.dim)).float()

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """(len(indices), dim) float32 rows."""
        mapped = np.memmap(self.path, np.float16, "r", self.first * self.dim * 2, (self.rows, self.dim))
        return torch.from_numpy(np.asarray(mapped[indices.numpy()], np.float32))

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
        stop = min(start + size, len(rows))
        yield start, rows.read(start, stop) if isinstance(rows, RowFile) else rows[start:stop].float()


def take(rows: Rows, indices: torch.Tensor) -> torch.Tensor:
    return rows.take(indices) if isinstance(rows, RowFile) else rows[indices].float()


def scatter_into_groups(rows: Rows, group_of: torch.Tensor, groups: int, path: Path) -> tuple[RowFile, torch.Tensor]:
    """Write the rows again, sorted by group (stably), so that each group is one contiguous part.

    Args:
        group_of: (M, G) int64, the G groups of each row; a row is written once into each.

    Returns:
        The new file of M * G rows, and (groups + 1,) int64 where each group begins. The row that place `p` came
        from is `torch.argsort(group_of.flatten(), stable=True)[p] // G`.
    """
    width = width_of(rows)
    counts = torch.bincount(group_of.flatten(), minlength=groups)
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    place_of = torch.empty(group_of.numel(), dtype=torch.int64)
    place_of[group_of.flatten().argsort(stable=True)] = torch.arange(group_of.numel())
    place_of = place_of.view_as(group_of)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.ftruncate(descriptor, group_of.numel() * width * 2)
    finally:
        os.close(descriptor)
    if group_of.numel():
        mapped = np.memmap(path, np.float16, "r+", 0, (group_of.numel(), width))
        for start, block in blocks(rows):
            half = block.half().numpy()
            for column in range(group_of.shape[1]):
                mapped[place_of[start : start + len(block), column].numpy()] = half
        mapped.flush()
    return RowFile(path, group_of.numel(), width), begins
