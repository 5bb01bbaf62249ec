"""Which example comes when: keyed permutations, so that the data's whole state is the number of the step.

Position q of a mixture component lies in epoch q // n at index q % n; the example is that index under a
permutation keyed by (seed, epoch). Nothing is stored and any position is found at once, on any process.
"""

import numpy as np

from ..objectives.cluster_sampling import derive_key

# What a key is for; with the ones of the cluster objective they are all different.
HELD_OUT, EPOCH, ITEM, REPLACEMENT, MODEL, DROPOUT, STREAMED = 11, 12, 13, 14, 15, 16, 17
_ROUNDS = 6


class Permutation:
    """A keyed bijection of 0..size-1: a Feistel network on the bits, walked until it lands inside."""

    def __init__(self, size: int, *key: int):
        if size < 1:
            raise ValueError(f"a permutation of {size} indices")
        self.size = size
        self._half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(derive_key(*key, number)) for number in range(_ROUNDS)]

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """(n,) indices of 0..size-1 -> where each comes, (n,) int64."""
        found = self._mix(np.asarray(index, np.uint64))
        # The network permutes a power of four that is less than four times the size.
        while (outside := found >= self.size).any():
            found[outside] = self._mix(found[outside])
        return found.astype(np.int64)

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


class Sampler:
    """Positions of a mixture component -> examples of its dataset, epoch after epoch.

    `len(sampler)` examples are trained on; `held_out` (n,) int64 are never.

    Args:
        examples: in the dataset.
        seed: of the run.
        component: number of the component in the mixture.
        held_out: share of the examples that is never trained on.
    """

    def __init__(self, examples: int, seed: int, component: int, held_out: float = 0.0):
        self._length = examples - round(examples * held_out)
        if self._length < 1:
            raise ValueError(f"nothing left to train on: {examples} examples, {held_out:.0%} held out")
        self._train = Permutation(examples, HELD_OUT, seed)
        self.held_out = self._train(np.arange(self._length, examples))
        self.component = component
        self._key = (seed, component)

    def __len__(self) -> int:
        return self._length

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """(n,) positions -> (n,) int64 indices into the dataset."""
        epochs, index = np.divmod(np.asarray(positions, np.int64), self._length)
        found = np.empty_like(index)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            shuffled = Permutation(self._length, EPOCH, *self._key, int(epoch))(index[chosen])
            found[chosen] = self._train(shuffled)
        return found

    def replacement(self, position: int, attempt: int) -> int:
        """The example that replaces a broken one."""
        drawn = derive_key(REPLACEMENT, *self._key, position, attempt) % self._length
        return int(self._train(np.array([drawn]))[0])
