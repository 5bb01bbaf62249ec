"""What is measured on each cell of 8 x 8 luma pixels of a picture that was predicted from paint.

Arithmetic on chroma is done in int16 such that one turn of 16 bits is the paint's period: differences then
wrap by themselves. Four by four samples of a cell are looked at, whatever the subsampling.
"""

from functools import cache
from typing import Any

import numpy as np

from .picture_difference import block_sizes
from .reference_paint import PERIOD

CELL = 8  # luma pixels
SAMPLES = 4  # of chroma that are looked at across and down a cell
APART = CELL / SAMPLES  # luma pixels
CACHED_CELLS = 8192  # are worked on together
NEAR = 4.0  # levels: samples further from the others lie where the paint wraps


def _padded(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = height - plane.shape[0], width - plane.shape[1]
    return np.pad(plane, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else plane


def chroma_cells(
    planes: list[np.ndarray], rows: int, columns: int, bits: int, subsampling: tuple[int, int]
) -> np.ndarray:
    """(4, 4, 2, rows, columns) int16: of each cell 4 x 4 samples (down, across) of U and V, 65536 being the
    paint's period.

    Args:
        planes: U and V, uint8 or uint16.
        rows: of cells.
        columns: of cells.
        bits: of a sample.
        subsampling: 1 or 2 across and down.
    """
    width, height = (CELL // sub for sub in subsampling)
    cells = np.empty((SAMPLES, SAMPLES, 2, rows, columns), np.uint16)
    for channel, plane in enumerate(planes):
        plane = _padded(plane, rows * height, columns * width)[:: height // SAMPLES, :: width // SAMPLES]
        if plane.strides[1] != plane.itemsize or plane.strides[0] % (SAMPLES * plane.itemsize):
            plane = np.ascontiguousarray(plane)
        # Four samples across a cell are one word: shifting it is several times faster than picking samples.
        whole: Any = np.uint32 if plane.itemsize == 1 else np.uint64
        words = plane.view(whole).reshape(rows, SAMPLES, columns).transpose(1, 0, 2)
        together = 2 // plane.itemsize  # samples in 16 bits
        for j in range(0, SAMPLES, together):
            samples = (words >> (8 * plane.itemsize * j)).astype(np.uint16)
            np.left_shift(samples, 16 - bits, out=cells[:, j, channel])
            if together == 2:
                np.bitwise_and(samples, 0xFF00, out=cells[:, j + 1, channel])
    return cells.view(np.int16)


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
    cells: np.ndarray, slopes: np.ndarray, chosen: np.ndarray, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The chroma at each cell's first sample, by all its samples less the slope, and how far they are off.

    Args:
        cells: (4, 4, 2, rows, columns) int16.
        slopes: (N, 4) float32, of U across and down, of V across and down, levels a luma pixel of the first
            picture.
        chosen: (rows, columns) the row of `slopes` of each cell.
        scale: as in `DecodedPlanes`.

    Returns:
        (2, rows, columns) float32 each, in levels of 8 bits.
    """
    unit = 65536 / PERIOD
    across, down = (
        np.rint(slopes[:, axis::2].T * np.float32(unit * APART * scale[axis])).astype(np.int16)
        for axis in (0, 1)
    )
    value, spread = (np.empty((2, *chosen.shape), np.float32) for _ in range(2))
    for band in _bands(*chosen.shape):
        value[:, band], spread[:, band] = _band_values(
            cells[:, :, :, band], across.take(chosen[band], 1), down.take(chosen[band], 1)
        )
    return value, spread


def _band_values(cells: np.ndarray, across: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fine = 65536 / PERIOD / 16
    # Few calls on much, in place: a call costs as much as some thousands of samples.
    pivot = cells[SAMPLES // 2, SAMPLES // 2] - (across + down) * np.int16(SAMPLES // 2)
    places = np.arange(SAMPLES, dtype=np.int16)[:, None, None, None]
    line = pivot + places * down
    expected = line[:, None] + places * across
    rest = np.subtract(cells, expected, out=expected).reshape(SAMPLES**2, *pivot.shape)
    rest >>= 4  # sixteen of them still fit into 16 bits
    total, most, least = rest.sum(0, dtype=np.int16), rest.max(0), rest.min(0)
    middle = (total - most) - least
    middle //= np.int16(SAMPLES**2 - 2)
    # The mean of what is near the middle: samples on both sides of a wrap are not.
    mean = total / np.float32(SAMPLES**2)
    furthest = np.maximum(most - middle, middle - least)
    wrapped = np.flatnonzero(furthest > np.int16(NEAR * fine))
    if len(wrapped):
        centre = middle.ravel()[wrapped]
        off = rest.reshape(SAMPLES**2, -1).take(wrapped, 1) - centre
        near = (np.abs(off) <= np.int16(NEAR * fine)).view(np.int8)
        off *= near
        count = np.maximum(near.sum(0, dtype=np.int8), 1)
        mean.ravel()[wrapped] = centre + off.sum(0, dtype=np.int16) / count.astype(np.float32)
    rest -= middle
    away = np.abs(rest, out=rest)
    away >>= 4  # whole levels
    spread = away.sum(0, dtype=np.int16) - (furthest >> 4)
    value = pivot.view(np.uint16) / np.float32(16 * fine) + mean / np.float32(fine)
    return value, spread / np.float32(SAMPLES**2)


def _bands(rows: int, columns: int) -> list[slice]:
    """Rows of cells that fit into a processor's cache together."""
    step = max(1, CACHED_CELLS // columns)
    return [slice(row, row + step) for row in range(0, rows, step)]


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
    """(rows, columns) float32: mean absolute difference of each cell's luma to its level.

    Args:
        luma: (H, W) uint8 or uint16.
        level: (rows, columns), in levels of 8 bits.
        bits: of a sample.
    """
    rows, columns = level.shape
    height, width = luma.shape
    whole = np.rint(level * np.float32(2 ** (bits - 8))).clip(0, (1 << bits) - 1).astype(luma.dtype)
    sums = np.empty(level.shape, np.uint32)
    for band in _bands(rows, columns):
        wide = whole[band].repeat(CELL, 1)[:, None]
        part = _padded(luma[CELL * band.start : CELL * band.stop], CELL * len(wide), CELL * columns)
        part = part.reshape(len(wide), CELL, CELL * columns)
        off = np.maximum(part, wide)
        off -= np.minimum(part, wide)
        off = off.reshape(-1, CELL * columns)
        off[height - CELL * band.start :] = 0
        off[:, width:] = 0
        sums[band] = _block_sums(off)
    return sums / (block_sizes(height, width, CELL) * np.float32(2 ** (bits - 8))).astype(np.float32)


def _block_sums(values: np.ndarray) -> np.ndarray:
    """Sums over cells of a plane of uint8 or of uint16 of at most 12 bits, which is used up."""
    rows, columns = (side // CELL for side in values.shape)
    words = values.view(np.uint64)  # samples that lie beside each other are added at once
    if values.itemsize == 1:
        words = _add_halves(words, 8, 0x00FF00FF00FF00FF)
    else:
        words = words[:, 0::2] + words[:, 1::2]
    lines = _add_halves(words.reshape(rows, CELL, columns).sum(1), 16, 0x0000FFFF0000FFFF)
    return (lines + (lines >> 32)).astype(np.uint32)


def _add_halves(words: np.ndarray, size: int, low: int) -> np.ndarray:
    """In place: of each two numbers of so many bits their sum."""
    high = words >> size
    high &= low
    words &= low
    words += high
    return words


def mean_of_twice(twice: np.ndarray, bits: int) -> np.ndarray:
    """The same of the residual itself, times two: (H, W) int32."""
    rows, columns = (-(-side // CELL) for side in twice.shape)
    off = np.abs(_padded(twice, rows * CELL, columns * CELL)).reshape(rows, CELL, columns, CELL)
    return off.sum((1, 3)) * np.float32(1 / (2 * CELL**2 * 2 ** (bits - 8)))
