"""What is measured on each cell of 8 x 8 luma pixels of a picture that was predicted from paint.

Arithmetic on chroma is done in int16 such that one turn of 16 bits is the paint's period: differences then
wrap by themselves. Four by four samples of a cell are looked at, whatever the subsampling.
"""

from functools import cache

import numpy as np

from .reference_paint import PERIOD

CELL = 8  # luma pixels
SAMPLES = 4  # of chroma that are looked at across and down a cell
APART = CELL / SAMPLES  # luma pixels
NEAR = 4.0  # levels: samples further from the others lie where the paint wraps


def _padded(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = height - plane.shape[0], width - plane.shape[1]
    return np.pad(plane, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else plane


def chroma_cells(
    planes: list[np.ndarray], rows: int, columns: int, bits: int, subsampling: tuple[int, int]
) -> np.ndarray:
    """(4, 4, 2, rows, columns) int16: of each cell 4 x 4 samples (down, across) of U and V, 65536 being the
    paint's period."""
    width, height = (CELL // sub for sub in subsampling)
    down, across = height // SAMPLES, width // SAMPLES
    cells = np.empty((SAMPLES, SAMPLES, 2, rows, columns), np.int16)
    for channel, plane in enumerate(planes):
        plane = _padded(plane, rows * height, columns * width)
        for i in range(SAMPLES):
            for j in range(SAMPLES):
                cells[i, j, channel] = plane[i * down :: height, j * across :: width]
    cells <<= 16 - bits
    return cells


def chroma_slopes(cells: np.ndarray, scale: tuple[float, float], slope: float) -> np.ndarray:
    """(4, rows, columns) float32: slopes of U across and down, of V across and down, in slopes of the paint.

    Far ends are compared, so a wrap between them does no harm; of four the largest and the smallest are left
    out.

    Args:
        cells: (4, 4, 2, rows, columns) int16.
        scale: as in `DecodedPlanes`.
        slope: of the paint, in levels a luma pixel.
    """
    found = np.empty((2, 2, *cells.shape[3:]), np.float32)  # channel, axis
    last = SAMPLES - 1
    for axis, ends in enumerate((cells[:, last] - cells[:, 0], cells[last] - cells[0])):
        ends >>= 2
        total = ends[0] + ends[1] + ends[2] + ends[3]
        most = np.maximum(np.maximum(ends[0], ends[1]), np.maximum(ends[2], ends[3]))
        least = np.minimum(np.minimum(ends[0], ends[1]), np.minimum(ends[2], ends[3]))
        middle = (total - most) - least
        spacing = last * APART * scale[axis]
        np.multiply(middle, np.float32(4 * PERIOD / 65536 / 2 / (spacing * slope)), out=found[:, axis])
    return found.reshape(4, *cells.shape[3:])


def chroma_values(
    cells: np.ndarray, slopes: np.ndarray, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The chroma at each cell's first sample, by all its samples less the slope, and how far they are off.

    Args:
        cells: (4, 4, 2, rows, columns) int16.
        slopes: (rows, columns, 4) float32, levels a luma pixel of the first picture.
        scale: as in `DecodedPlanes`.

    Returns:
        (2, rows, columns) float32 each, in levels of 8 bits.
    """
    unit = 65536 / PERIOD
    across = (
        np.rint(slopes[..., 0::2] * np.float32(unit * APART * scale[0])).astype(np.int16).transpose(2, 0, 1)
    )
    down = (
        np.rint(slopes[..., 1::2] * np.float32(unit * APART * scale[1])).astype(np.int16).transpose(2, 0, 1)
    )
    across, down = np.ascontiguousarray(across), np.ascontiguousarray(down)
    middle = SAMPLES // 2
    pivot = cells[middle, middle] - across * np.int16(middle) - down * np.int16(middle)
    rest = np.empty(cells.shape, np.int16)
    line = pivot
    for i in range(SAMPLES):
        expected = line
        for j in range(SAMPLES):
            np.subtract(cells[i, j], expected, out=rest[i, j])
            expected = expected + across
        line = line + down
    rest >>= 4  # sixteen of them still fit into 16 bits
    rest = rest.reshape(SAMPLES**2, *pivot.shape)
    fine = unit / 16
    most = least = rest[0]
    for sample in rest[1:]:
        most, least = np.maximum(most, sample), np.minimum(least, sample)
    centre = ((rest.sum(0, dtype=np.int16) - most) - least) // np.int16(SAMPLES**2 - 2)
    rest -= centre
    off = np.abs(rest)
    near = off <= np.int16(NEAR * fine)
    rest *= near
    count = np.maximum(near.sum(0, dtype=np.int8), 1)
    correction = rest.sum(0, dtype=np.int16) / count.astype(np.float32)
    spread = off.sum(0, dtype=np.int32) - off.max(0)
    value = pivot.view(np.uint16) / np.float32(unit) + (centre + correction) / np.float32(fine)
    return value, spread / np.float32(fine * SAMPLES**2)


def median_luma(luma: np.ndarray, rows: int, columns: int, bits: int) -> np.ndarray:
    """(rows, columns) uint8: of each cell the median of a quarter of its samples, in levels of 8 bits."""
    luma = _padded(luma, rows * CELL, columns * CELL)
    samples = [luma[i::CELL, j::CELL] for i in range(1, CELL, 2) for j in range(1, CELL, 2)]
    samples = [
        np.ascontiguousarray(sample >> (bits - 8) if bits > 8 else sample, np.uint8) for sample in samples
    ]
    for low, high in _median_network():
        samples[low], samples[high] = (
            np.minimum(samples[low], samples[high]),
            np.maximum(samples[low], samples[high]),
        )
    return samples[8]


@cache
def _median_network() -> tuple[tuple[int, int], ...]:
    """Comparisons that bring the ninth of sixteen values to its place: Batcher's odd-even merge sort without
    those that only sort the others."""
    pairs = []
    size, p = 16, 1
    while p < size:
        k = p
        while k:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    needed, kept = {8}, []
    for pair in reversed(pairs):
        if needed & set(pair):
            needed |= set(pair)
            kept.append(pair)
    return tuple(reversed(kept))


def mean_residual(luma: np.ndarray, level: np.ndarray, bits: int) -> np.ndarray:
    """(rows, columns) float32: mean absolute difference of each cell's luma to its level."""
    rows, columns = level.shape
    luma = np.ascontiguousarray(_padded(luma, rows * CELL, columns * CELL)).reshape(
        rows, CELL, columns * CELL
    )
    # The level, as often as a cell has samples across.
    whole = np.rint(level * np.float32(2 ** (bits - 8))).clip(0, (1 << bits) - 1).astype(luma.dtype)
    wide = whole.repeat(CELL, 1)[:, None]
    off = np.maximum(luma, wide) - np.minimum(luma, wide)
    if bits == 8:
        words = off.view(np.uint32)  # four samples at a time
        pairs = (words & 0x00FF00FF) + (words >> 8 & 0x00FF00FF)
        lines = pairs.sum(1, dtype=np.uint32)
        fours = (lines & 0xFFFF) + (lines >> 16)
        sums = fours[:, 0::2] + fours[:, 1::2]
    else:
        lines = off.sum(1, dtype=np.uint32)
        sums = lines.reshape(rows, columns, CELL).sum(2)
    return sums * np.float32(1 / (CELL**2 * 2 ** (bits - 8)))


def mean_of_twice(twice: np.ndarray, bits: int) -> np.ndarray:
    """The same of the residual itself, times two: (H, W) int32."""
    rows, columns = (-(-side // CELL) for side in twice.shape)
    off = np.abs(_padded(twice, rows * CELL, columns * CELL)).reshape(rows, CELL, columns, CELL)
    return off.sum((1, 3)) * np.float32(1 / (2 * CELL**2 * 2 ** (bits - 8)))
