"""An estimate of the bits that an encoder spent on each block, from the exact residual.

The residual of a standalone decode is what the encoder's quantiser left over, so in the right transform it is
a handful of whole multiples of the quantiser's step. Counting them says what the block cost: about 4.5 bits
for a level that is not zero and 2 log2 of its size. The transform's size is not known; the true one gives the
fewest levels, so the cheapest is taken. Motion vectors cost by what they differ from their prediction, and
what equals its prediction and has no residual was skipped and cost nothing (ITU-T H.264, sections 8.4.1 and
9.3). Against the bits that a decoder really read, `make bench-codec-agreement` prints the recall.
"""

from functools import cache

import numpy as np

from .standalone_decoder import StandalonePicture

MACROBLOCK = 16
PER_SIDE = MACROBLOCK // 4  # of the motion field in a macroblock
LEVEL_BITS = 4.5
PART_BITS = 2.0  # of the type and reference of each vector that is not predicted
CODED_BITS = 8.0  # of the split and prediction modes of a coded block, where these are not known
# The step of HEVC's quantiser is not known: the one of these under which the clip's total fits best is taken.
STEPS = (6.0, 9.0, 13.0, 19.0, 28.0, 40.0)


def quantiser_step(qp: np.ndarray) -> np.ndarray:
    """H.264's quantiser step: doubles every six QP, 0.625 at 0."""
    return 0.625 * 2.0 ** (qp / 6.0)


def macroblocks(plane: np.ndarray) -> np.ndarray:
    """(H, W) -> (ceil(H / 16), ceil(W / 16), 16, 16), the border repeated."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % MACROBLOCK), (0, -width % MACROBLOCK)), mode="edge")
    rows, columns = padded.shape[0] // MACROBLOCK, padded.shape[1] // MACROBLOCK
    return padded.reshape(rows, MACROBLOCK, columns, MACROBLOCK).transpose(0, 2, 1, 3)


def picture_bits(
    picture: StandalonePicture, past: np.ndarray | None, future: np.ndarray | None, step: np.ndarray
) -> np.ndarray:
    """Bits of each macroblock of a picture, not yet scaled to its packet.

    Args:
        picture: what a standalone decode of the packet gives, luma (H, W) uint8.
        past: its motion field towards the past on 4 x 4 blocks, (ceil(H / 4), ceil(W / 4), 2) float32
            pixels, sub-pixel; None where the codec gives none (HEVC): then every block counts as predicted
            from other pictures, and only its residual counts.
        future: likewise, towards the future.
        step: the quantiser's step of each macroblock, (ceil(H / 16), ceil(W / 16)), or (1, 1), one of all.

    Returns:
        (ceil(H / 16), ceil(W / 16)) float32.
    """
    blocks = macroblocks(picture.luma)
    shape = blocks.shape[:2]
    steps = np.broadcast_to(step, shape)
    coded = (blocks != picture.zero_level).any((2, 3))
    if picture.picture_type == "I":
        intra, predicted, overhead = np.ones(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.float32)
    elif past is None or future is None:
        intra, predicted, overhead = np.zeros(shape, bool), np.ones(shape, bool), np.zeros(shape, np.float32)
    else:
        intra, predicted, overhead = _motion(picture, past, future)
    estimate = np.zeros(shape, np.float32)
    here = coded & ~intra
    difference = blocks[here].astype(np.float32) - picture.zero_level
    if picture.picture_type == "I":
        pass  # every block is intra coded
    elif past is None:
        estimate[here] = residual_bits(difference, steps[here], (4, 8, 16))
        estimate = np.minimum(estimate, _large_transform_bits(blocks, picture.zero_level, steps))
        estimate += np.float32(CODED_BITS) * coded
    else:
        estimate[here] = residual_bits(difference, steps[here], (4, 8))
    here = coded & intra
    estimate[here] = intra_bits(picture.luma, np.argwhere(here), steps[here])
    # What is neither coded nor moved otherwise than predicted was skipped.
    return np.where(coded | ~(predicted | intra), estimate + overhead, 0).astype(np.float32)


def _motion(
    picture: StandalonePicture, past: np.ndarray, future: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(intra, predicted, bits) of each macroblock: coded without vectors; moved as predicted; the vectors'
    bits."""
    both = [_field_blocks(field) for field in (past, future)]
    missing = [np.isnan(blocks).any((2, 3)) for blocks in both]
    intra = missing[0] & missing[1]
    predicted = ~intra
    overhead = np.ones(intra.shape, np.float32)
    parts = np.zeros(intra.shape, np.float32)
    for field, blocks, absent in zip((past, future), both, missing, strict=True):
        corner = blocks[:, :, 0]
        whole = np.isnan(blocks).all((2, 3)) | (blocks == corner[:, :, None]).all((2, 3))
        guess = predicted_vectors(field)
        if picture.picture_type == "P":
            skipped = skip_vectors(field)
        else:
            # Where direct blocks follow the co-located picture, that one is grey and stands still.
            skipped = guess if picture.spatial_direct else np.zeros_like(guess)
        predicted &= whole & (absent | (corner == skipped).all(-1))
        overhead += np.where(absent, 0, np.log2(1 + 4 * np.nan_to_num(np.abs(corner - guess)).sum(-1)))
        parts += np.where(absent, 0, np.where(whole, 1, 2))
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
    return np.minimum.reduce([_transform_bits(blocks, step, size).sum((1, 2)) for size in sizes])


def intra_bits(luma: np.ndarray, here: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Bits of intra blocks, predicted from the pixels above and to the left (rows, columns or their mean).

    Args:
        luma: (H, W) picture of the standalone decode, in grey levels.
        here: (M, 2) rows and columns of the macroblocks.
        step: (M,) the quantiser's step of each.

    Returns:
        (M,) float32: the cheapest of 4 x 4, 8 x 8 and 16 x 16 prediction, 8 or 4 mode bits for each small
        block.
    """
    height, width = luma.shape
    padded = np.pad(
        luma.astype(np.float32), ((0, -height % MACROBLOCK), (0, -width % MACROBLOCK)), mode="edge"
    )
    padded = np.pad(padded, ((1, 0), (1, 0)), constant_values=128)
    offsets = np.arange(MACROBLOCK + 1)
    window = padded[
        (here[:, 0, None] * MACROBLOCK + offsets)[:, :, None],
        (here[:, 1, None] * MACROBLOCK + offsets)[:, None],
    ]
    blocks = window[:, 1:, 1:]
    costs = []
    for size, mode_bits in ((4, 2.0), (8, 1.0), (16, 0.0)):
        count = MACROBLOCK // size
        above = window[:, 0:-1:size, 1:].reshape(-1, count, count, size).repeat(size, 1)
        above = above.reshape(-1, MACROBLOCK, MACROBLOCK)
        left = window[:, 1:, 0:-1:size].repeat(size, 2)
        transform = min(size, 8)
        per_block = []
        for prediction in (above, left, _block_means((above + left) / 2, size)):
            bits = _transform_bits(blocks - prediction, step, transform)
            parts = size // transform
            per_block.append(bits.reshape(-1, count, parts, count, parts).sum((2, 4)))
        costs.append(np.minimum.reduce(per_block).sum((1, 2)) + mode_bits * count * count)
    return np.minimum.reduce(costs)


def predicted_vectors(field: np.ndarray) -> np.ndarray:
    """The median of the vectors left, above and above right of each macroblock (section 8.4.1.3), all taken
    to refer
    to one picture: (rows, columns, 2) -> (ceil(rows / 4), ceil(columns / 4), 2)."""
    left, above, corner = _neighbours(field)
    known = np.stack([~np.isnan(vector[..., 0]) for vector in (left, above, corner)])
    vectors = np.nan_to_num(np.stack([left, above, corner]))
    only = vectors.sum(0)  # where a single one is known the others are zero
    predicted = np.where((known.sum(0) == 1)[..., None], only, np.median(vectors, axis=0))
    predicted[0] = vectors[0, 0]
    return predicted


def skip_vectors(field: np.ndarray) -> np.ndarray:
    """The vector of a skipped block of a P picture (section 8.4.1.1): zero at the border or beside one that
    stands still, else the predicted one."""
    left, above, _ = _neighbours(field)
    still = (left == 0).all(-1) | (above == 0).all(-1)
    still[0], still[:, 0] = True, True
    return np.where(still[..., None], 0, predicted_vectors(field))


def _neighbours(field: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = _field_blocks(field)
    rows, columns = blocks.shape[:2]
    padded = np.full((rows * PER_SIDE + 1, columns * PER_SIDE + PER_SIDE + 1, 2), np.nan, np.float32)
    grid = blocks.reshape(rows, columns, PER_SIDE, PER_SIDE, 2).transpose(0, 2, 1, 3, 4)
    padded[1:, 1 : columns * PER_SIDE + 1] = grid.reshape(rows * PER_SIDE, columns * PER_SIDE, 2)
    y, x = np.arange(rows) * PER_SIDE, np.arange(columns) * PER_SIDE
    left, above = padded[y + 1][:, x], padded[y][:, x + 1]
    right, diagonal = padded[y][:, x + 1 + PER_SIDE], padded[y][:, x]
    return left, above, np.where(np.isnan(right), diagonal, right)


def _field_blocks(field: np.ndarray) -> np.ndarray:
    """(rows, columns, 2) -> (macroblock rows, macroblock columns, 16, 2); what is missing at the border is
    NaN."""
    padded = np.pad(
        field,
        ((0, -field.shape[0] % PER_SIDE), (0, -field.shape[1] % PER_SIDE), (0, 0)),
        mode="edge",
    )
    rows, columns = padded.shape[0] // PER_SIDE, padded.shape[1] // PER_SIDE
    blocks = padded.reshape(rows, PER_SIDE, columns, PER_SIDE, 2).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(rows, columns, PER_SIDE * PER_SIDE, 2)


def _transform_bits(blocks: np.ndarray, step: np.ndarray, size: int) -> np.ndarray:
    """(N, 16, 16) -> (N, 16 / size, 16 / size): bits of each transform block."""
    count = MACROBLOCK // size
    split = blocks.astype(np.float32).reshape(-1, count, size, count, size).transpose(0, 1, 3, 2, 4)
    basis = _cosines(size)
    levels = np.rint(np.abs(basis @ split @ basis.T) / step[:, None, None, None, None].astype(np.float32))
    return (LEVEL_BITS * (levels > 0) + 2 * np.log2(np.maximum(levels, 1))).sum((3, 4))


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


def _block_means(values: np.ndarray, size: int) -> np.ndarray:
    count = MACROBLOCK // size
    means = values.reshape(-1, count, size, count, size).mean((2, 4))
    return means.repeat(size, 1).repeat(size, 2)


@cache
def _cosines(size: int) -> np.ndarray:
    """The orthonormal cosine transform; H.264's and HEVC's integer transforms are close to it."""
    place = np.arange(size)
    basis = np.cos(np.pi * (2 * place + 1) * place[:, None] / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
