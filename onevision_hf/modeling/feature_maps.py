"""Features of patches gathered by frame, or laid back onto their grid.

Shapes: K patches of one item, T frames, gh gw grid, D channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

KINDS = ("pooled", "frames", "dense")


def check_kind(kind: str, pools: bool) -> None:
    """Raise ValueError for another kind, and for pooled features of a model that does not pool."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "pooled" and not pools:
        raise ValueError('this model has no pooling head: its features are kind="frames" or kind="dense"')


def gather(
    kind: str, states: Tensor, positions: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None
) -> Tensor:
    """The patches of a batch as "frames" (B, T, D) or "dense" (B, T, gh, gw, D), NaN where there is nothing.

    Args:
        kind: which.
        states: (B, K, D), packed (sum K, D).
        positions: (B, K, 3), packed (sum K, 3), [t, h, w].
        mask: (B, K), True for a real patch.
        cu_seqlens: (B+1,) bounds of a packed batch.
    """
    positions = positions.to(states.device)
    if cu_seqlens is not None:
        counts = cu_seqlens.diff().tolist()
        rows, places = states.split(counts), positions.split(counts)
    else:
        kept = [slice(None)] * len(states) if mask is None else list(mask.to(states.device))
        rows = [own[real] for own, real in zip(states, kept, strict=True)]
        places = [own[real] for own, real in zip(positions, kept, strict=True)]
    form = by_frame if kind == "frames" else on_grid
    return padded([form(*item) for item in zip(rows, places, strict=True)])


def by_frame(states: Tensor, positions: Tensor) -> Tensor:
    """(K, D), (K, 3) [t, h, w] -> (T, D): the mean of the patches of each frame that has some, in order."""
    _, rows = positions[:, 0].unique(return_inverse=True)
    counts = torch.bincount(rows).to(states.dtype)
    sums = states.new_zeros(len(counts), states.shape[1]).index_add(0, rows, states)
    return sums / counts[:, None]


def on_grid(states: Tensor, positions: Tensor) -> Tensor:
    """(K, D), (K, 3) [t, h, w] -> (T, gh, gw, D): each patch in its place, NaN where there is none."""
    _, rows = positions[:, 0].unique(return_inverse=True)
    height, width = (positions[:, 1:].amax(0) + 1).tolist()
    grid = states.new_full((int(rows.max()) + 1, height, width, states.shape[1]), torch.nan)
    return grid.index_put((rows, positions[:, 1], positions[:, 2]), states)


def padded(items: Sequence[Tensor]) -> Tensor:
    """Items of unequal sizes as one tensor, the rest NaN."""
    shape = [max(sizes) for sizes in zip(*(item.shape for item in items), strict=True)]
    found = items[0].new_full((len(items), *shape), torch.nan)
    for row, item in enumerate(items):
        found[row][tuple(slice(side) for side in item.shape)] = item
    return found
