"""The eight symmetries of the square, applied to patches, positions and labels alike."""

import numpy as np
import torch
from torch import Tensor

from ...synthetic.families import DIRECTIONS, ORIENTATIONS

COUNT = 8


def _image(symmetry: int, x: float, y: float) -> tuple[float, float]:
    """Where a point (x to the right, y down) goes: first mirrored left to right, then turned by transposing
    and mirroring up and down."""
    if symmetry & 1:
        x = -x
    if symmetry & 2:
        y = -y
    if symmetry & 4:
        x, y = y, x
    return x, y


def _nearest(point: tuple[float, float], among: list[tuple[float, float]], sign: bool) -> int:
    """The vector of `among` that points the same way; with `sign` False also the opposite."""
    products = [point[0] * x + point[1] * y for x, y in among]
    return int(np.argmax(products if sign else np.abs(products)))


def label_tables(families: dict[str, tuple[str, ...]], labels: int) -> Tensor:
    """(8, F, L + 1): what each label becomes; the last column is for no label."""
    tables = torch.arange(labels + 1).repeat(COUNT, len(families), 1)
    tables[..., -1] = -1
    half = 0.5**0.5
    ways = [(x / 256, y / 256) for x, y in DIRECTIONS.values()]
    # Waves and lines: the way across them. Rising lines are those along which x + y grows.
    across = dict(
        zip(
            ("upright", "level", "rising", "falling"),
            [(1, 0), (0, 1), (half, half), (half, -half)],
            strict=True,
        )
    )
    for symmetry in range(COUNT):
        for row, answers in enumerate(families.values()):
            if answers == tuple(DIRECTIONS):
                vectors, sign = ways, True
            elif answers == ORIENTATIONS:
                vectors, sign = [across[name] for name in ORIENTATIONS], False
            else:
                continue
            for label, vector in enumerate(vectors):
                tables[symmetry, row, label] = _nearest(_image(symmetry, *vector), vectors, sign)
    return tables


def apply(
    symmetry: int, patches: Tensor, positions: Tensor, side: int, patch_size: int
) -> tuple[Tensor, Tensor]:
    """Patches and positions under a symmetry of the square.

    Args:
        symmetry: its number, 0 to 7.
        patches: (..., C*p*p), or tubes (..., C*n*p*p).
        positions: (..., 3) [t, h, w].
        side: patches along a side of the grid.
        patch_size: p, pixels.
    """
    images = patches.unflatten(-1, (-1, patch_size, patch_size))
    t, h, w = positions.unbind(-1)
    if symmetry & 1:
        images, w = images.flip(-1), side - 1 - w
    if symmetry & 2:
        images, h = images.flip(-2), side - 1 - h
    if symmetry & 4:
        images, h, w = images.transpose(-1, -2), w, h
    return images.flatten(-3), torch.stack([t, h, w], -1)
