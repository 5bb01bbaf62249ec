"""The collectives that a sharded loss needs, and which rows of a matrix a process owns.

A `group` of None is the default group; where none is initialised there is one process and every collective is
the identity, so callers do not branch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

Group = dist.ProcessGroup | None
MAX = dist.ReduceOp.MAX


def rank_in(group: Group) -> int:
    return dist.get_rank(group) if dist.is_initialized() else 0


def size_of(group: Group) -> int:
    return dist.get_world_size(group) if dist.is_initialized() else 1


def owned_rows(total: int, group: Group, rank: int | None = None) -> range:
    """The rows of a (total, ...) matrix that a process owns.

    Blocks of ceil(total / size) rows as `torch.chunk` cuts them, so that DTensor's Shard(0) describes the
    local tensors as they are; the last processes may own fewer rows, or none.

    Args:
        total: rows of the whole matrix.
        group: the processes that share it.
        rank: the owner's rank in the group; None is this process.
    """
    rank = rank_in(group) if rank is None else rank
    block = -(-total // size_of(group))
    return range(min(block * rank, total), min(block * (rank + 1), total))


def all_reduce_(tensor: Tensor, group: Group, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
    """Reduce over the processes, in place.

    Args:
        tensor: of one shape on every process.
        group: the processes.
        op: the reduction.

    Returns:
        `tensor`.
    """
    if size_of(group) > 1:
        dist.all_reduce(tensor, op, group=group)
    return tensor


def all_gather(tensor: Tensor, rows: int, group: Group, fill: float = 0) -> Tensor:
    """The blocks of all processes, one below the other.

    Args:
        tensor: (b, ...), b <= rows on every process.
        rows: of each block in the result.
        group: the processes.
        fill: what blocks of fewer rows are filled up with.

    Returns:
        (size * rows, ...).
    """
    if missing := rows - tensor.shape[0]:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing), value=fill)
    if size_of(group) == 1:
        return tensor
    out = tensor.new_empty(size_of(group) * rows, *tensor.shape[1:])
    dist.all_gather_into_tensor(out, tensor.contiguous(), group=group)
    return out


def global_rank(rank: int, group: Group) -> int:
    """What `dist.send` and `dist.recv` call the process that has `rank` in the group."""
    return rank if group is None else dist.get_global_rank(group, rank)


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
    def forward(ctx: Any, tensor: Tensor, group: Group, counts: list[int]) -> Tensor:
        ctx.group, ctx.counts = group, counts
        padded = all_gather(tensor, max(counts), group).split(max(counts))
        return torch.cat([block[:count] for block, count in zip(padded, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        counts, rank = ctx.counts, rank_in(ctx.group)
        total = all_reduce_(gradients[0].contiguous().clone(), ctx.group)
        first = sum(counts[:rank])
        return total[first : first + counts[rank]], None, None


def gather_rows(tensor: Tensor, group: Group) -> tuple[Tensor, int]:
    """(b, ...), b different on each process -> (B, ...) of all, and where this process's rows begin.

    The backward pass sums what every process has computed with a row, and gives it to the row's process.
    """
    if size_of(group) == 1:
        return tensor, 0
    counts = all_gather(torch.tensor([len(tensor)], device=tensor.device), 1, group).tolist()
    return _GatherRows.apply(tensor, group, counts), sum(counts[: rank_in(group)])


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.size = size_of(group)
        return all_reduce_(tensor.clone(), group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.size, None


def mean_over_processes(sums: Tensor, counts: Tensor, group: Group = None) -> Tensor:
    """Means over the items of all processes, on every process.

    Their gradient on `sums` is multiplied by the number of processes, because DDP and FSDP divide by it. A
    mean over no items is 0.

    Args:
        sums: (k,) of this process's items.
        counts: (k,) how many these are; has no gradient.
        group: the processes.

    Returns:
        (k,).
    """
    if size_of(group) > 1:
        # What leads nowhere, and what does, in one exchange; counts have no gradient.
        both = _Total.apply(torch.cat([sums, counts.to(sums.dtype)]), group)
        sums, counts = both[: len(sums)], both[len(sums) :].detach()
    return sums / counts.clamp(min=1)
