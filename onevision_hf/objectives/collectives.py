"""The collectives that a sharded loss needs, and which rows of a matrix a process owns.

Without a process group there is one process and every collective is the identity, so callers do not
branch.
"""

from dataclasses import dataclass

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
