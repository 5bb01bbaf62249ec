"""An estimate of the bits that an encoder spent on each block, from the exact residual.

The residual of a standalone decode is what the encoder's quantiser left over, so in the right transform it is
a handful of whole multiples of the quantiser's step. Counting them says what the block cost: about 4.5 bits
for a level that is not zero and 2 log2 of its size. The transform's size is not known; the true one gives the
fewest levels, so the cheapest is taken. Motion vectors cost by what they differ from their prediction, and
what equals its prediction and has no residual was skipped and cost nothing (ITU-T H.264, sections 8.4.1 and
9.3). Against the bits that a decoder really read, `make bench-codec-agreement` prints the recall.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from .standalone_decoder import StandalonePicture

MACROBLOCK = 16
FIELD_BLOCK = 8  # pixels of a block of the motion field: FFmpeg tells of no smaller ones
PER_SIDE = MACROBLOCK // FIELD_BLOCK
LEVEL_BITS = 4.5
PART_BITS = 2.0  # of the type and reference of each vector that is not predicted
CODED_BITS = 8.0  # of the split and prediction modes of a coded block, where these are not known
PRODUCT = 64**3  # multiplications of a matrix product that OpenBLAS does in one thread
# The step of HEVC's quantiser is not known: the one of these under which the clip's total fits best is taken.
STEPS = (6.0, 9.0, 13.0, 19.0, 28.0, 40.0)


def quantiser_step(qp: np.ndarray) -> np.ndarray:
    """H.264's quantiser step: doubles every six QP, 0.625 at 0."""
    return 0.625 * 2.0 ** (qp / 6.0)


def macroblocks(planes: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., ceil(H / 16), ceil(W / 16), 16, 16), the border repeated."""
    *batch, rows, columns = (planes := _filled(planes)).shape
    shape = (*batch, rows // MACROBLOCK, MACROBLOCK, columns // MACROBLOCK, MACROBLOCK)
    return planes.reshape(shape).swapaxes(-3, -2)


def _filled(planes: np.ndarray) -> np.ndarray:
    """(..., H, W) with the border repeated up to whole macroblocks."""
    *batch, height, width = planes.shape
    below, beside = -height % MACROBLOCK, -width % MACROBLOCK
    if not (below or beside):
        return planes
    return np.pad(planes, (*[(0, 0)] * len(batch), (0, below), (0, beside)), mode="edge")


def bits_of_pictures(
    pictures: Sequence[StandalonePicture], fields: np.ndarray | None, steps: Sequence[np.ndarray]
) -> np.ndarray:
    """Bits of each macroblock of F pictures of one size, not yet scaled to their packets.

    Args:
        pictures: what standalone decodes of the packets give, luma (H, W) uint8.
        fields: (F, 1 or 2, ceil(H / 8), ceil(W / 8), 2) float32, their motion fields towards the past and, if
            one of them has any, the future on 8 x 8 blocks, in pixels, sub-pixel; None where the codec gives
            none (HEVC): then every block counts as predicted from other pictures, and only its residual
            counts.
        steps: the quantiser's step of each macroblock, (ceil(H / 16), ceil(W / 16)), or (1, 1), one of all.

    Returns:
        (F, ceil(H / 16), ceil(W / 16)) float32.
    """
    luma = np.stack([picture.luma for picture in pictures])
    zero = np.array([picture.zero_level for picture in pictures], np.uint8)
    filled = _filled(luma)
    blocks = macroblocks(filled)
    shape = blocks.shape[:3]
    step = np.stack([np.broadcast_to(own, shape[1:]) for own in steps]).astype(np.float32)
    coded = _any_in_macroblocks(filled != zero[:, None, None])
    still = np.array([picture.picture_type == "I" for picture in pictures])[:, None, None]
    if fields is None:
        intra, predicted = np.broadcast_to(still, shape), np.broadcast_to(~still, shape)
        overhead = np.where(still, 0, np.float32(CODED_BITS) * coded)
    else:
        intra, predicted, overhead = _motion(pictures, fields)
        intra, predicted, overhead = intra | still, predicted & ~still, np.where(still, 0, overhead)
    estimate = np.zeros(shape, np.float32)
    here = coded & ~intra
    difference = np.subtract(blocks[here], zero[np.nonzero(here)[0], None, None], dtype=np.float32)
    estimate[here] = residual_bits(difference, step[here], (4, 8) if fields is not None else (4, 8, 16))
    if fields is None:
        for place in np.flatnonzero(~still):
            large = _large_transform_bits(blocks[place], int(zero[place]), step[place])
            estimate[place] = np.minimum(estimate[place], large)
    here = coded & intra
    estimate[here] = intra_bits(filled, np.argwhere(here), step[here])
    # What is neither coded nor moved otherwise than predicted was skipped.
    return np.where(coded | ~(predicted | intra), estimate + overhead, 0).astype(np.float32)


def _any_in_macroblocks(pixels: np.ndarray) -> np.ndarray:
    """(F, H, W) bool of whole macroblocks -> (F, H / 16, W / 16): whether any pixel is set."""
    count, height, width = pixels.shape
    # Eight pixels at a time, as one number.
    words = pixels.view(np.uint64).reshape(count, height // MACROBLOCK, MACROBLOCK, width // MACROBLOCK, 2)
    return np.bitwise_or.reduce(np.bitwise_or.reduce(words, 2), -1) != 0


def _motion(
    pictures: Sequence[StandalonePicture], fields: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intra, predicted, bits) of each macroblock: coded without vectors; moved as predicted; the vectors'
    bits."""
    blocks = _field_blocks(fields)  # (F, 1 or 2, rows, columns, 4, 2)
    unknown = np.isnan(blocks[..., 0])
    absent, corner = unknown.any(-1), blocks[..., 0, :]
    intra = absent.all(1)
    same = (blocks[..., 1:, :] == corner[..., None, :]).all((-1, -2))
    whole = same | unknown.all(-1)
    left, above, beyond = _neighbours(blocks)
    guess = _median(left, above, beyond)
    # A block of a P picture that was skipped stands still at the border or beside one that does (8.4.1.1).
    stands = (left == 0).all(-1) | (above == 0).all(-1)
    stands[..., 0, :], stands[..., 0] = True, True
    by_picture = (len(pictures), 1, 1, 1)
    follows = np.array([picture.picture_type == "P" for picture in pictures]).reshape(by_picture)
    # Where direct blocks follow the co-located picture, that one is grey and stands still.
    direct = np.array([picture.spatial_direct for picture in pictures], bool).reshape(by_picture)
    skipped = np.where(np.where(follows, stands, ~direct)[..., None], 0, guess)
    predicted = ~intra & (whole & (absent | (corner == skipped).all(-1))).all(1)
    apart = np.nan_to_num(np.abs(corner - guess)).sum(-1)
    overhead = 1 + np.where(absent, 0, np.log2(1 + 4 * apart)).sum(1)
    parts = np.where(absent, 0, np.where(whole, 1, 2)).sum(1)
    return intra, predicted, np.where(intra, 4, overhead + PART_BITS * parts).astype(np.float32)


def residual_bits(blocks: np.ndarray, step: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Bits of the coefficients of residuals under the cheapest of the transform sizes.

    Args:
        blocks: (N, 16, 16) residuals, in grey levels.
        step: (N,) the quantiser's step of each block.
        sizes: sides of the square transforms that may be chosen, in pixels.

    Returns:
        (N,) float32.
    """
    costs = []
    for size in sizes:
        levels = _transformed(blocks, size).reshape(len(blocks), MACROBLOCK**2)
        costs.append(_level_bits(levels, step.astype(np.float32)))
    return np.minimum.reduce(costs)


def intra_bits(luma: np.ndarray, here: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Bits of intra blocks, predicted from the pixels above and to the left (rows, columns or their mean).

    Args:
        luma: (F, H, W) pictures of standalone decodes, in grey levels.
        here: (M, 3) picture, row and column of the macroblocks.
        step: (M,) the quantiser's step of each.

    Returns:
        (M,) float32: the cheapest of 4 x 4, 8 x 8 and 16 x 16 prediction, 8 or 4 mode bits for each small
        block.
    """
    padded = np.pad(_filled(luma), ((0, 0), (1, 0), (1, 0)), constant_values=128)
    reach = (MACROBLOCK + 1, MACROBLOCK + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))[:, ::MACROBLOCK, ::MACROBLOCK]
    window = windows[tuple(here.T)].astype(np.float32)
    by_side = {side: _CostsOfParts(_transformed(window[:, 1:, 1:], side), step) for side in (4, 8)}
    costs = [
        _intra_costs(window, by_side[min(size, 8)], size) + mode_bits * (MACROBLOCK // size) ** 2
        for size, mode_bits in ((4, 2.0), (8, 1.0), (16, 0.0))
    ]
    return np.minimum.reduce(costs)


class _CostsOfParts:
    """What the coefficients of transform blocks cost, in parts: those that a prediction says nothing of, the
    others of the first row and those of the first column.

    Args:
        blocks: (N, t, t) coefficients, N = M * n * n and n * t = 16; the first row and column are made zero.
        step: (M,) the quantiser's step of each macroblock.
    """

    def __init__(self, blocks: np.ndarray, step: np.ndarray):
        side = self.side = blocks.shape[-1]
        self.steps = step.astype(np.float32).repeat((MACROBLOCK // side) ** 2)
        self.row, self.column, self.corner = (
            blocks[:, 0].copy(),
            blocks[:, :, 0].copy(),
            blocks[:, 0, 0].copy(),
        )
        blocks[:, 0], blocks[:, :, 0] = 0, 0
        self.inner = _level_bits(blocks.reshape(len(blocks), side * side), self.steps)
        edges = np.concatenate([self.row, self.column], 0)
        edges[:, 0] = 0
        self.rows, self.columns = np.split(_level_bits(edges, np.tile(self.steps, 2)), 2)


def _intra_costs(window: np.ndarray, parts: _CostsOfParts, size: int) -> np.ndarray:
    """Bits of blocks under the best of three predictions for each block of one size.

    The rows above say something of the first row of coefficients only, those to the left of the first column,
    their mean of the first one: what the others cost is the same for all three.

    Args:
        window: (M, 17, 17) the macroblocks with a row above and a column to the left.
        parts: of their transform blocks, of side t.
        size: side of the predicted blocks, t or twice that.

    Returns:
        (M,) float32.
    """
    side = parts.side
    count, across = MACROBLOCK // side, size // side
    grid = (len(window), count, count)
    above = window[:, 0:-1:size, 1:].repeat(across, 1).reshape(*grid, side)
    left = window[:, 1:, 0:-1:size].reshape(len(window), count, side, MACROBLOCK // size)
    left = left.repeat(across, 3).swapaxes(2, 3)
    mean = (above.mean(-1) + left.mean(-1)) / 2
    mean = mean.reshape(len(window), count // across, across, count // across, across).mean((2, 4))
    mean = mean.repeat(across, 1).repeat(across, 2)
    # The transform of what is the same in all rows lies in the first row, scaled.
    basis, scale = _cosines(side).T, np.float32(side**0.5)
    from_above = parts.row - scale * _product(above.reshape(-1, side), basis)
    from_left = parts.column - scale * _product(left.reshape(-1, side), basis)
    from_mean = (parts.corner - scale * scale * mean.reshape(-1))[:, None]
    edges = np.concatenate([from_above, from_left], 0)
    above_bits, left_bits = np.split(_level_bits(edges, np.tile(parts.steps, 2)), 2)
    costs = (
        above_bits + parts.columns,
        left_bits + parts.rows,
        parts.rows + parts.columns + _level_bits(from_mean, parts.steps),
    )
    per_block = [
        (cost + parts.inner)
        .reshape(len(window), count // across, across, count // across, across)
        .sum((2, 4))
        for cost in costs
    ]
    return np.minimum.reduce(per_block).sum((1, 2)).astype(np.float32)


def _median(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The predicted vectors (..., rows, columns, 2), the median of the three neighbours' (section 8.4.1.3),
    all taken to refer to one picture."""
    vectors = [np.nan_to_num(vector) for vector in (left, above, corner)]
    known = sum((~np.isnan(vector[..., 0])).astype(np.int8) for vector in (left, above, corner))
    low, high = np.minimum(vectors[0], vectors[1]), np.maximum(vectors[0], vectors[1])
    median = np.maximum(low, np.minimum(high, vectors[2]))
    # Where a single one is known the others are zero.
    predicted = np.where((known == 1)[..., None], vectors[0] + vectors[1] + vectors[2], median)
    predicted[..., 0, :, :] = vectors[0][..., 0, :, :]
    return predicted


def _neighbours(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vectors left of, above, and above right (or left) of each macroblock: (..., rows, columns, 2);
    NaN beyond the border."""
    left, above, right, diagonal = (np.full_like(blocks[..., 0, :], np.nan) for _ in range(4))
    top_right, low_left, low_right = PER_SIDE - 1, PER_SIDE * (PER_SIDE - 1), PER_SIDE**2 - 1
    left[..., :, 1:, :] = blocks[..., :, :-1, top_right, :]
    above[..., 1:, :, :] = blocks[..., :-1, :, low_left, :]
    right[..., 1:, :-1, :] = blocks[..., :-1, 1:, low_left, :]
    diagonal[..., 1:, 1:, :] = blocks[..., :-1, :-1, low_right, :]
    return left, above, np.where(np.isnan(right), diagonal, right)


def _field_blocks(fields: np.ndarray) -> np.ndarray:
    """(..., rows, columns, 2) -> (..., macroblock rows, macroblock columns, 4, 2); at the border the last
    are repeated."""
    *batch, height, width, _ = fields.shape
    below, beside = -height % PER_SIDE, -width % PER_SIDE
    if below or beside:
        fields = np.pad(fields, (*[(0, 0)] * len(batch), (0, below), (0, beside), (0, 0)), mode="edge")
    rows, columns = (height + below) // PER_SIDE, (width + beside) // PER_SIDE
    split = fields.reshape(*batch, rows, PER_SIDE, columns, PER_SIDE, 2).swapaxes(-4, -3)
    return split.reshape(*batch, rows, columns, PER_SIDE**2, 2)


def _transformed(blocks: np.ndarray, size: int) -> np.ndarray:
    """(N, 16, 16) -> (N * (16 / size)^2, size, size) float32: coefficients of the transform blocks."""
    count = MACROBLOCK // size
    split = blocks.reshape(-1, count, size, count, size).transpose(0, 1, 3, 2, 4).astype(np.float32, "C")
    # Both directions in one product, which is many times faster than small ones.
    return _product(split.reshape(-1, size * size), _both_ways(size)).reshape(-1, size, size)


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, K) by (K, K), in pieces that BLAS leaves to the thread that asks: those of the pool have the cores
    already, and would wait for BLAS's."""
    length = len(matrix)
    piece = PRODUCT // length**2
    whole = len(rows) // piece * piece
    found = np.empty_like(rows)
    np.matmul(rows[:whole].reshape(-1, piece, length), matrix, out=found[:whole].reshape(-1, piece, length))
    np.matmul(rows[whole:], matrix, out=found[whole:])
    return found


def _level_bits(coefficients: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(N, K) coefficients and (N,) steps -> (N,) bits of the levels; most are zero, and cost nothing. The
    coefficients are overwritten: new memory costs as much as what is done with it."""
    sizes = np.abs(coefficients, out=coefficients)
    places = np.flatnonzero(sizes > step[:, None] * np.float32(0.5))
    rows = places // coefficients.shape[1]
    levels = np.maximum(np.rint(sizes.reshape(-1)[places] / step[rows]), 1)
    costs = LEVEL_BITS + 2 * np.log2(levels)
    return np.bincount(rows, costs, len(coefficients)).astype(np.float32)


def _large_transform_bits(blocks: np.ndarray, zero_level: int, step: np.ndarray) -> np.ndarray:
    """Bits under HEVC's 32 x 32 transform, a quarter of its bits for each of its four blocks."""
    rows, columns = blocks.shape[:2]
    padded = np.pad(blocks, ((0, rows % 2), (0, columns % 2), (0, 0), (0, 0)), constant_values=zero_level)
    plane = (
        padded.astype(np.float32).transpose(0, 2, 1, 3).reshape(padded.shape[0] // 2, 32, -1, 32) - zero_level
    )
    basis = _cosines(32)
    levels = np.rint(np.abs(basis @ plane.transpose(0, 2, 1, 3) @ basis.T) / np.float32(step.flat[0]))
    cost = (LEVEL_BITS * (levels > 0) + 2 * np.log2(np.maximum(levels, 1))).sum((2, 3), np.float32) / 4
    return cost.repeat(2, 0).repeat(2, 1)[:rows, :columns]


@cache
def _both_ways(size: int) -> np.ndarray:
    """(size^2, size^2): the transform of a flattened block in both directions."""
    return np.ascontiguousarray(np.kron(_cosines(size), _cosines(size)).T)


@cache
def _cosines(size: int) -> np.ndarray:
    """The orthonormal cosine transform; H.264's and HEVC's integer transforms are close to it."""
    place = np.arange(size)
    basis = np.cos(np.pi * (2 * place + 1) * place[:, None] / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
