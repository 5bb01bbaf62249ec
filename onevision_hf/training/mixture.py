"""The components of a training's mixture: a dataset each, with its sampler, transform and batch size.

    component = MixtureComponent("image", dataset, transform, 1024, Sampler(len(dataset), seed, component=0))
    samples = list(component.draw(seed, component.positions(k, RankSlice(seed)), broken := []))

A sample is a function of (seed, component, position); `position` counts the samples that the component gives
over the run.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..data.labelled import Examples
from ..data.media import BROKEN
from ..jobs.processes import Processes
from ..objectives.cluster_sampling import derive_key
from .sampler import ITEM, STREAMED, Sampler
from .workers import DataError, Notes

REPLACEMENTS = 16  # broken examples in a row after which the source is broken

Sample = dict[str, np.ndarray]


class Transform(Protocol):
    """What becomes of an example: the tensors of one sample."""

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int, /) -> Sample:
        """`rng` belongs to (seed, component, position); without one, as in validation, nothing is drawn."""


class Transformed(NamedTuple):
    """A dataset that brings its transform, in place of the one that the task would choose."""

    dataset: Any
    transform: Transform


@dataclass(frozen=True)
class RankSlice:
    """Which part of the run's micro-batches one process makes."""

    seed: int
    accumulation: int = 1
    rank: int = 0
    size: int = 1


@dataclass
class MixtureComponent:
    """Examples with the sampler that orders them and the transform that shows them.

    `dataset` has random access and `sampler` says which example comes when; or `dataset` is the name of a
    streamed dataset and `sampler` is None: examples come as they come. `batch_size` counts the samples of an
    optimizer step over all processes and micro-batches.
    """

    name: str
    dataset: Examples | str
    transform: Transform
    batch_size: int
    sampler: Sampler | None

    def positions(self, k: int, own: RankSlice) -> np.ndarray:
        """Which samples of the run this process takes in micro-batch k."""
        step, micro = divmod(k, own.accumulation)
        count = self.batch_size // own.accumulation
        return step * self.batch_size + micro * count + np.array(Processes(own.rank, own.size).part(count))

    def draw(
        self,
        seed: int,
        positions: np.ndarray,
        broken: list[dict[str, Any]],
        notes: Notes | None = None,
    ) -> Iterator[tuple[str, Sample]]:
        """Keys and samples at positions. Another example, which the position decides, replaces a broken one.

        Args:
            seed: of the run.
            positions: (n,) int64.
            broken: gets a record of each example that could not be read.
            notes: of the samples that are begun.

        Raises:
            DataError: too many examples in a row are broken.
        """
        notes = notes or Notes()
        assert self.sampler is not None and not isinstance(self.dataset, str)
        for position, first in zip(positions.tolist(), self.sampler(positions).tolist(), strict=True):
            index = first
            for attempt in range(REPLACEMENTS):
                key = f"example {index}"
                notes.sample(self.name, key)
                try:
                    example = self.dataset[index]
                    key = example.key
                    notes.sample(self.name, key, found=True)
                    rng = _generator(seed, self.sampler.component, position)
                    yield key, self.transform(example, rng, position)
                    break
                except BROKEN as error:
                    broken.append(self._record(position, key, error))
                    index = self.sampler.replacement(position, attempt)
            else:
                raise DataError(self._all_broken(position, broken[-1]))

    def pull(
        self,
        seed: int,
        examples: Iterator[tuple[str, Callable[[], Any]]],
        positions: np.ndarray,
        broken: list[dict[str, Any]],
        notes: Notes,
    ) -> Iterator[tuple[str, Sample]]:
        """The next samples of a streamed dataset; broken examples are left out.

        Args:
            seed: of the run.
            examples: keys, and what reads the example of each.
            positions: (n,) int64.
            broken: gets a record of each example that could not be read.
            notes: of the samples that are begun.

        Raises:
            DataError: too many examples in a row are broken.
        """
        for position in positions.tolist():
            for attempt, (key, read) in enumerate(examples, 1):
                notes.sample(self.name, key)
                try:
                    yield key, self.transform(read(), _generator(seed, STREAMED, position), position)
                    break
                except BROKEN as error:
                    broken.append(self._record(position, key, error))
                if attempt == REPLACEMENTS:
                    raise DataError(self._all_broken(position, broken[-1]))

    def _record(self, position: int, key: str, error: Exception) -> dict[str, Any]:
        reason = " ".join(str(error).split())
        return {"component": self.name, "position": position, "key": key, "reason": reason}

    def _all_broken(self, position: int, last: Mapping[str, Any]) -> str:
        return (
            f"component {self.name}: {REPLACEMENTS} broken examples in a row at position {position}, "
            f"the last one {last['key']}: {last['reason']}"
        )


def _generator(seed: int, component: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(derive_key(ITEM, seed, component, position)))
