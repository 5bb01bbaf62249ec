"""Which classes and which labels take part in a step of the cluster objective.

Every choice is a keyed hash of what is chosen, never a draw from a generator: class c is a negative of a step
when hash(seed, step, c) is below the rate, so the choice is the same whichever process owns c. Sizes that the
host must know are collected on the device first, by `collect_labels`, for as many losses as a step has; one
copy brings them over, and `finalise` turns them into index tensors.

Shapes: b rows of this process's batch, W processes, N = W * max(b) rows with padding, M labels a sample, C
classes, c classes of this process, G selections (1 when the label columns share a draw, else M).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .collectives import MAX, Group, all_gather, all_reduce_, compact, owned_rows, rank_in, size_of

NO_LABEL = -100

# What a hash is for; part of its key, so that draws for different purposes are independent.
NEGATIVES, LABELS, CENTERS = 1, 2, 3

_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def derive_key(*parts: int) -> int:
    """A 64-bit key from integers (the splitmix64 finaliser, Steele et al. 2014, chained over the parts)."""
    key = 0
    for part in parts:
        key = ((key ^ (part & _MASK)) + _GOLDEN) & _MASK
        key = ((key ^ (key >> 30)) * _FIRST) & _MASK
        key = ((key ^ (key >> 27)) * _SECOND) & _MASK
        key ^= key >> 31
    return key


def keyed_hash(items: Tensor, key: int) -> Tensor:
    """A uniform integer in [0, 2**63) for each of the int64 `items`: splitmix64 from a start of `key`."""
    x = items * _signed(_GOLDEN)
    x += _signed(key)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        x ^= _shift_right(x, shift)
        x *= _signed(factor)
    x ^= _shift_right(x, 31)
    return x.bitwise_and_(2**63 - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # int64's >> copies the sign; the mask makes it the unsigned shift that the hash needs.
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def draw_labels(labels: Tensor, wanted: int, first_sample: Tensor | int, key: int) -> Tensor:
    """(b, columns) -> (b, wanted): repeats and absent labels become -100; of more labels, `wanted` are drawn.

    Row i is sample `first_sample + i` of the global batch; what is drawn for it depends on that number and
    the key alone. Chosen labels keep the order of their columns.

    Args:
        labels: (b, columns) int64, -100 for none.
        wanted: labels kept of a sample.
        first_sample: number of row 0 in the global batch.
        key: of the draw, see `derive_key`.
    """
    rows, columns = labels.shape
    repeated = (labels[:, :, None] == labels[:, None, :]).tril(-1).any(2)
    labels = labels.masked_fill(repeated, NO_LABEL)
    if columns <= wanted:
        return torch.nn.functional.pad(labels, (0, wanted - columns), value=NO_LABEL)
    samples = torch.arange(rows, device=labels.device) + first_sample
    priority = keyed_hash(samples[:, None] * columns + torch.arange(columns, device=labels.device), key)
    priority = priority.masked_fill(labels == NO_LABEL, 2**63 - 1)
    chosen = priority.topk(wanted, dim=1, largest=False).indices.sort(dim=1).values
    return labels.gather(1, chosen)


class Selection(NamedTuple):
    """Sampled centers and the labels that are scored against them.

    Args:
        rows: (S,) indices of the sampled centers in the local shard; None: the whole shard.
        place: (c,) where a center of the shard stands among the S, if it is there.
        labels: (N, L).
        first_class: the class of the shard's first center.
    """

    rows: Tensor | None  # (S,) rows of the local shard; None: the whole shard
    place: Tensor  # (c,) where a local row stands among the S, if it is there
    labels: Tensor  # (N, L)
    first_class: int  # the class of local row 0


@dataclass(frozen=True)
class Draw:
    """The labels and the sampled classes of one step of one loss; from `ClusterDiscriminationLoss.draw`."""

    labels: Tensor  # (N, K) over all processes, -100 where there is none
    selections: tuple[Selection, ...]
    union: tuple[Tensor, Tensor] | None  # rows sampled by any selection and `place`; None: one selection only
    local_rows: int
    rows_per_process: int
    counts: Tensor  # (2,) distinct positives and sampled centers of this shard, summed over selections

    @property
    def gradient_rows(self) -> int:
        """Distinct rows of the shard that get a gradient."""
        if self.union is not None:
            return self.union[0].shape[0]
        (selection,) = self.selections
        return (selection.place if selection.rows is None else selection.rows).shape[0]


@dataclass(frozen=True)
class CollectedLabels:
    """What the device knows before the host does; `facts` is what the host has to learn."""

    labels: Tensor  # (b, M)
    selected: Tensor  # (G, c)
    positives: Tensor  # ()
    facts: Tensor  # (4 W + G + 1,) int64


def collect_labels(
    labels: Tensor,
    *,
    num_classes: int,
    labels_per_sample: int,
    shared: bool,
    sample_rate: float,
    seed: int,
    step: int,
    group: Group,
) -> CollectedLabels:
    """Draw labels and mark the sampled classes of the shard, without any wait for the device.

    Args:
        labels: (b, M) int64, -100 for none.
        num_classes: C.
        labels_per_sample: labels that are used of a sample.
        shared: whether the label columns share their sampled classes.
        sample_rate: fraction of the classes that are negatives.
        seed: of all draws.
        step: key of the draws.
        group: the processes that share the centers.
    """
    device = labels.device
    size = labels.new_full((1,), labels.shape[0])
    columns = labels.new_full((1,), labels.shape[1])
    if labels.numel():
        present = labels.masked_fill(labels == NO_LABEL, 0)
        extremes = torch.stack([present.amin(), present.amax()])
    else:
        extremes = labels.new_zeros(2)
    header = all_gather(torch.cat([size, columns, extremes])[None], 1, group)  # (W, 4)

    first_sample = header[: rank_in(group), 0].sum()
    drawn = draw_labels(labels, labels_per_sample, first_sample, derive_key(LABELS, seed, step))

    # One byte a class says which are positives of the global batch: its size does not depend on the batch, so
    # it can be reduced before the host knows how many rows the other processes have.
    groups = 1 if shared else labels_per_sample
    by_group = drawn.reshape(1, -1) if shared else drawn.T
    inside = (by_group >= 0) & (by_group < num_classes)
    positive = torch.zeros(groups, num_classes + 1, dtype=torch.uint8, device=device)
    positive.scatter_(1, torch.where(inside, by_group, num_classes), 1)
    all_reduce_(positive, group, MAX)

    own = owned_rows(num_classes, group)
    local_positive = positive[:, own.start : own.stop].bool()
    classes = torch.arange(own.start, own.stop, device=device)
    # 32 of the bits, so that a rate of 1 has a threshold above all of them.
    threshold = round(sample_rate * 2**32)
    selected = local_positive.clone()
    for draw in range(groups):
        bits = keyed_hash(classes, derive_key(NEGATIVES, seed, step, draw))
        selected[draw] |= (bits >> 31) < threshold
    if not shared:  # columns that no process has draw nothing
        selected &= (torch.arange(groups, device=device) < header[:, 1].amax())[:, None]
    facts = torch.cat([header.flatten(), selected.sum(1), selected.any(0).sum()[None]])
    return CollectedLabels(drawn, selected, local_positive.sum(), facts)


def finalise(found: CollectedLabels, facts: list[int], *, num_classes: int, group: Group) -> Draw:
    """Index tensors and gathered labels of a step.

    Raises ValueError on every process alike when a label anywhere is out of range.

    Args:
        found: from `collect_labels`.
        facts: its `facts` on the host.
        num_classes: C.
        group: the processes that share the centers.
    """
    size = size_of(group)
    header, counts = facts[: 4 * size], facts[4 * size :]
    lowest, highest = min(header[2::4]), max(header[3::4])
    if lowest < 0 or highest >= num_classes:
        value = lowest if lowest < 0 else highest
        raise ValueError(
            f"label {value} is out of range: a label is a class from 0 to {num_classes - 1}, "
            f"or {NO_LABEL} for none; check that the shards were labelled with these centers"
        )
    rows_per_process = max(header[0::4])
    columns = max(1, min(max(header[1::4]), found.labels.shape[1]))
    labels = all_gather(found.labels[:, :columns], rows_per_process, group, fill=NO_LABEL)

    shared = found.selected.shape[0] == 1
    own = owned_rows(num_classes, group)
    selections = []
    for draw, mask in enumerate(found.selected if shared else found.selected[:columns]):
        rows, place = compact(mask, counts[draw])
        whole = counts[draw] == len(own)
        scored = labels if shared else labels[:, draw : draw + 1]
        selections.append(Selection(None if whole else rows, place, scored, own.start))
    sampled = found.selected[: len(selections)].sum()
    return Draw(
        labels=labels,
        selections=tuple(selections),
        union=None if len(selections) == 1 else compact(found.selected.any(0), counts[-1]),
        local_rows=found.labels.shape[0],
        rows_per_process=rows_per_process,
        counts=torch.stack([found.positives, sampled]),
    )
