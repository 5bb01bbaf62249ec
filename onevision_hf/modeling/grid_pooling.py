"""One feature a clip from the patches that an encoder saw: what feature extractors, purity and tables read.

    grid = grid_means(last_hidden_state, patch_positions, mask, time_size=64)    # (B, 16 * D)

The published pooling head has no position, so what depends on where and when (a direction, say) is read off
means of the patches in a coarse grid of time, height and width.

Shapes: B clips, K patches, D values.
"""

import torch
from torch import Tensor

GRID = (4, 2, 2)  # parts of the time, the height and the width
# What becomes one feature: the model's pooler_output, the mean of its tokens, their means in GRID.
POOLINGS = ("pooler", "tokens", "grid")


def grid_means(
    states: Tensor,
    positions: Tensor,
    mask: Tensor | None = None,
    *,
    grid: tuple[int, int, int] = GRID,
    time_size: int | None = 64,
) -> Tensor:
    """The mean of the patches in each cell of a coarse grid, cell after cell (t, h, w).

    Args:
        states: (B, K, D).
        positions: (B, K, 3) integers [t, h, w].
        mask: (B, K), 1 for a real patch; None: all are.
        grid: cells along t, h, w. Height and width are those that the clip's own patches span, which is
            the picture where a frame was kept whole.
        time_size: length of the time grid on which t lies; None takes the clip's own last t.

    Returns:
        (B, cells * D) float32; a cell without patches is zero.
    """
    positions, states = positions.to(states.device), states.float()
    if mask is None:
        real = torch.ones(positions.shape[:2], dtype=torch.bool, device=states.device)
    else:
        real = mask.to(states.device).bool()
    spans = (positions[..., 1:] * real[..., None]).amax(1) + 1  # (B, 2)
    length = (positions[..., 0] * real).amax(1, keepdim=True) + 1 if time_size is None else time_size
    cell = positions[..., 0] * grid[0] // length
    for axis in (1, 2):
        cell = cell * grid[axis] + positions[..., axis] * grid[axis] // spans[:, axis - 1, None]
    cells = grid[0] * grid[1] * grid[2]
    cell = torch.where(real, cell, cells)  # padding goes into a cell of its own
    sums = states.new_zeros(len(states), cells + 1, states.shape[-1])
    sums = sums.scatter_add(1, cell[..., None].expand_as(states), states)
    counts = states.new_zeros(len(states), cells + 1).scatter_add(
        1, cell, torch.ones_like(cell, dtype=sums.dtype)
    )
    return (sums / counts.clamp(min=1)[..., None])[:, :-1].flatten(1)


def token_features(
    states: Tensor, positions: Tensor, mask: Tensor | None = None, *, time_size: int | None = 64
) -> dict[str, Tensor]:
    """The poolings that need nothing but tokens: their mean, and their means over a coarse grid
    (`grid_means`).

    Args:
        states: (B, K, D).
        positions: (B, K, 3) integers [t, h, w].
        mask: (B, K), 1 for a real patch; None: all are.
        time_size: length of the time grid on which t lies; None takes the clip's own last t.

    Returns:
        `tokens` (B, D) and `grid` (B, 16 * D), float32.
    """
    grids = {"tokens": (1, 1, 1), "grid": GRID}
    return {
        name: grid_means(states, positions, mask, grid=grid, time_size=time_size)
        for name, grid in grids.items()
    }
