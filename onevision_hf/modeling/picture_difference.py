"""The difference between two pictures, in blocks: what moved, where a codec says nothing."""

import numpy as np

BLOCK = 4  # pixels: the grid of differences and of motion vectors
# A difference of this many grey levels or less is coding noise.
DEAD_ZONE = 2


def difference(luma: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """The picture less an earlier one, for codecs that give nothing else and for frames decoded elsewhere.

    (H, W) uint8 each -> (ceil(H / 4), ceil(W / 4)) float32, mean grey levels over the dead zone of each 4 x 4
    block; zero without an earlier picture of the same size.
    """
    if previous is None or previous.shape != luma.shape:
        return np.zeros((-(-luma.shape[0] // BLOCK), -(-luma.shape[1] // BLOCK)), np.float32)
    change = absolute_difference(luma, previous)
    dead = np.full(luma.shape[1], DEAD_ZONE, np.uint8)
    return block_mean(np.maximum(change, dead) - dead)


def absolute_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """|first - second| of uint8 arrays. `second` may be a row: numpy is ten times quicker with a row than
    with a number."""
    return np.maximum(first, second) - np.minimum(first, second)


def block_mean(values: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """Mean over square blocks of a uint8 plane: (ceil(H / block), ceil(W / block)) float32; blocks over
    the lower and right edge average what there is of them. `block` is 4, 8 or 16."""
    height, width = values.shape
    if height % block or width % block or not values.flags.c_contiguous:
        padded = np.zeros((-(-height // block) * block, -(-width // block) * block), np.uint8)
        padded[:height, :width] = values
    else:
        padded = values
    # Four bytes at a time: pairs are added inside 32-bit words, which is several times faster than a
    # reduction.
    words = padded.view(np.uint32)
    pairs = (words & 0x00FF00FF) + (words >> 8 & 0x00FF00FF)
    quads = (pairs & 0xFFFF) + (pairs >> 16)
    rows = np.add.reduce([quads[line::block] for line in range(block)])
    sums = np.add.reduce([rows[:, column :: block // 4] for column in range(block // 4)])
    return (sums / block_sizes(height, width, block)).astype(np.float32)


def block_sizes(height: int, width: int, block: int) -> np.ndarray:
    """(ceil(H / block), ceil(W / block)) int64: the pixels of each square block, fewer at the lower and right
    edge."""
    rows = np.minimum(block, height - np.arange(0, height, block))
    columns = np.minimum(block, width - np.arange(0, width, block))
    return rows[:, None] * columns
