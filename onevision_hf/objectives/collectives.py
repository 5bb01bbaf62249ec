"""The collectives that a sharded loss needs, and which rows of a matrix a process owns.

Without a process group there is one process and every collective is the identity, so callers do not
branch.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Processes:
    """This process's `rank` among the `size` processes of `group` (None: alone)."""

    group: dist.ProcessGroup | None
    rank: int
    size: int

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> "Processes":
        """`group`, or the default group where one is initialised, or this process alone."""
        if group is None:
            if not dist.is_initialized():
                return cls(None, 0, 1)
            group = dist.group.WORLD
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def owned_rows(self, total: int, rank: int | None = None) -> range:
        """The rows of a (total, ...) matrix that `rank` (default: this process) owns.

        Blocks of ceil(total / size) rows as `torch.chunk` cuts them, so that DTensor's Shard(0) describes the
        local tensors as they are; the last processes may own fewer rows, or none.
        """
        rank = self.rank if rank is None else rank
        block = -(-total // self.size)
        return range(min(block * rank, total), min(block * (rank + 1), total))

    def all_reduce_(self, tensor: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """Reduce `tensor` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, op, group=self.group)
        return tensor

    def all_gather(self, tensor: Tensor, rows: int, fill: float = 0) -> Tensor:
        """(b, ...), b <= rows on every process -> (size * rows, ...), each block filled up with `fill`."""
        if missing := rows - tensor.shape[0]:
            tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing), value=fill)
        if self.size == 1:
            return tensor
        out = tensor.new_empty(self.size * rows, *tensor.shape[1:])
        dist.all_gather_into_tensor(out, tensor.contiguous(), group=self.group)
        return out

    def global_rank(self, rank: int) -> int:
        """What `dist.send` and `dist.recv` call the process that has `rank` in this group."""
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


MAX = dist.ReduceOp.MAX


def compact(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The positions of the `count` true entries of a (n,) mask, and (n,): where each stands in that list.

    `torch.nonzero` would wait for the device to learn the size of its result; here the caller knows it.
    """
    place = mask.cumsum(0) - 1
    everything = torch.arange(mask.shape[0], device=mask.device)
    # Entries that are not wanted all write to one spare slot at the end.
    positions = everything.new_empty(count + 1).scatter_(0, torch.where(mask, place, count), everything)
    return positions[:count], place


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes, counts: list[int]) -> Tensor:
        ctx.processes, ctx.counts = processes, counts
        padded = processes.all_gather(tensor, max(counts)).split(max(counts))
        return torch.cat([block[:count] for block, count in zip(padded, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        processes, counts = ctx.processes, ctx.counts
        total = processes.all_reduce_(gradients[0].contiguous().clone())
        first = sum(counts[: processes.rank])
        return total[first : first + counts[processes.rank]], None, None


def gather_rows(tensor: Tensor, processes: Processes) -> tuple[Tensor, int]:
    """(b, ...), b different on each process -> (B, ...) of all, and where this process's rows begin.

    The backward pass sums what every process has computed with a row, and gives it to the row's process.
    """
    if processes.size == 1:
        return tensor, 0
    found = torch.tensor([len(tensor)], device=tensor.device)
    counts = processes.all_gather(found, 1).tolist()
    return _GatherRows.apply(tensor, processes, counts), sum(counts[: processes.rank])


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.all_reduce_(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.processes.size, None


def mean_over_processes(sums: Tensor, counts: Tensor, processes: Processes) -> Tensor:
    """Sums (k,) of this process's items and their numbers (k,) -> the means over all items, on every process.

    Their gradient on `sums` is multiplied by the number of processes, because DDP and FSDP divide by it. A
    mean over no items is 0.
    """
    if processes.size > 1:
        # What leads nowhere, and what does, in one exchange; counts have no gradient.
        both = _Total.apply(torch.cat([sums, counts.to(sums.dtype)]), processes)
        sums, counts = both[: len(sums)], both[len(sums) :].detach()
    return sums / counts.clamp(min=1)
