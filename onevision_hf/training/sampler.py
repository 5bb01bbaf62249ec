"""Which row comes when: keyed permutations, so that the whole state of the data is the number of the step.

Position q of a stream lies in epoch q // n at index q % n; the row is that index under a permutation keyed by
(seed, epoch). Nothing is stored and any position is found at once, on any process.
"""

import numpy as np

from ..objectives.cluster_sampling import derive_key

# What a key is for; with the ones of the cluster objective they are all different.
HELD_OUT, EPOCH, ITEM, REPLACEMENT, MODEL, DROPOUT, STREAM = 11, 12, 13, 14, 15, 16, 17
_ROUNDS = 6


class Permutation:
    """A keyed bijection of 0..size-1: a Feistel network on the bits, walked until it lands inside."""

    def __init__(self, size: int, *key: int):
        if size < 1:
            raise ValueError(f"a permutation of {size} rows")
        self.size = size
        self._half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(derive_key(*key, number)) for number in range(_ROUNDS)]

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """Rows (int64) of the indices 0..size-1."""
        rows = self._mix(np.asarray(index, np.uint64))
        # The network permutes a power of four that is less than four times the size.
        while (outside := rows >= self.size).any():
            rows[outside] = self._mix(rows[outside])
        return rows.astype(np.int64)

    def _mix(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_scramble(right ^ key) & self._mask)
        return (left << self._half) | right


def _scramble(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser; uint64 arithmetic wraps."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def split_held_out(rows: int, share: float, seed: int) -> tuple[np.ndarray, int]:
    """(held-out rows, number of training rows); training row i is `Permutation(rows, seed, HELD_OUT)(i)`."""
    held = round(rows * share)
    order = Permutation(rows, HELD_OUT, seed)
    return order(np.arange(rows - held, rows)), rows - held


class Order:
    """Positions of a stream -> rows of its source, epoch after epoch, without the held-out ones."""

    def __init__(self, rows: int, seed: int, stream: int, held_out: float = 0.0):
        self.held_out, self.rows = split_held_out(rows, held_out, seed)
        if self.rows < 1:
            raise ValueError(f"no rows left to train on: {rows} rows, {held_out:.0%} held out")
        self._train = Permutation(rows, HELD_OUT, seed)
        self.stream = stream
        self._key = (seed, stream)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        epochs, index = np.divmod(np.asarray(positions, np.int64), self.rows)
        rows = np.empty_like(index)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._train(Permutation(self.rows, EPOCH, *self._key, int(epoch))(index[chosen]))
        return rows

    def replacement(self, position: int, attempt: int) -> int:
        """The row that stands in for a broken one."""
        return int(
            self._train(np.array([derive_key(REPLACEMENT, *self._key, position, attempt) % self.rows]))[0]
        )


def own_share(total: int, rank: int, size: int) -> range:
    """The part of 0..total-1 that a process takes; the parts are consecutive and differ by one at most."""
    return range(total * rank // size, total * (rank + 1) // size)
