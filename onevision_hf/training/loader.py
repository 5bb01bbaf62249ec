"""From a mixture to the batches of a step: number k gives the micro-batch k, on any process.

    loader = open_loader([component], RankSlice(seed), start=120, stop=1000, workers=2)

Micro-batch k is part k % A of step k // A; a process takes its slice of each component's samples in it.
Decoding runs in worker processes (workers.py) that share nothing: a sample is a function of (seed, component,
position).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.labelled import StreamedExamples
from ..objectives.cluster_sampling import derive_key
from .mixture import MixtureComponent, RankSlice, Sample
from .sampler import STREAMED
from .workers import Ahead, Notes


@dataclass
class Batch:
    """One process's part of a micro-batch.

    inputs: component -> name -> tensor (samples first). keys: component -> the examples' keys. broken: a
    record of each example that could not be read.
    """

    inputs: dict[str, dict[str, Tensor]]
    keys: dict[str, list[str]]
    broken: list[dict[str, Any]] = field(default_factory=list)

    def add(self, component: str, samples: Iterator[tuple[str, Sample]]) -> None:
        keys, shown = zip(*samples, strict=True)
        self.keys[component] = list(keys)
        self.inputs[component] = collate(shown)

    @property
    def samples(self) -> int:
        return sum(map(len, self.keys.values()))

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Any) -> "Batch":
        moved = {s: {n: change(t) for n, t in tensors.items()} for s, tensors in self.inputs.items()}
        return Batch(moved, self.keys, self.broken)


class MicroBatches:
    """`batches[k]` is the micro-batch k of this process.

    Sources without random access are read in order, by `part`: each process and worker has its own part of
    them.
    """

    def __init__(self, mixture: Sequence[MixtureComponent], own: RankSlice):
        self.mixture, self.own = list(mixture), own

    def __getitem__(self, k: int) -> Batch:
        return self._make(k, Notes(), {})

    def part(self, start: int, stop: int, worker: int, workers: int, notes: Notes) -> Iterator[Batch]:
        """Those of a worker among the micro-batches.

        Args:
            start: first micro-batch.
            stop: after the last one.
            worker: number of the worker.
            workers: that share them.
            notes: of the samples that are begun.
        """
        reader, readers = self.own.rank * workers + worker, self.own.size * workers
        # Another order after a resume: what was seen before cannot be skipped exactly, so it is not claimed.
        shuffle = derive_key(STREAMED, self.own.seed, start) % 2**32
        streams = {
            c.name: iter(StreamedExamples(c.dataset, shuffle, reader, readers))
            for c in self.mixture
            if isinstance(c.dataset, str)
        }
        for k in range(start + worker, stop, workers):
            yield self._make(k, notes, streams)

    def _make(self, k: int, notes: Notes, streams: Mapping[str, Iterator[Any]]) -> Batch:
        batch, seed = Batch({}, {}), self.own.seed
        for component in self.mixture:
            positions = component.positions(k, self.own)
            if component.name in streams:
                samples = component.pull(seed, streams[component.name], positions, batch.broken, notes)
            else:
                samples = component.draw(seed, positions, batch.broken, notes)
            batch.add(component.name, samples)
        return batch


def check_batch(name: str, batch_size: int, accumulation: int, processes: int) -> None:
    """Raise ValueError where a process would have no sample of a micro-batch.

    Args:
        name: of the component.
        batch_size: samples an optimizer step.
        accumulation: micro-batches an optimizer step.
        processes: that share it.
    """
    if batch_size // accumulation < processes:
        raise ValueError(
            f"{name}: {processes} processes cannot share a micro-batch of {batch_size // accumulation} "
            f"samples (batch_size {batch_size} / gradient_accumulation_steps {accumulation}); give each at "
            "least one"
        )


def collate(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Samples in one tensor a name; of unequal lengths they are padded with zeros and get a mask (B, K)."""
    out = {name: [torch.from_numpy(np.ascontiguousarray(s[name])) for s in samples] for name in samples[0]}
    batch = {}
    for name, tensors in out.items():
        lengths = {len(t) for t in tensors}
        if len(lengths) == 1:
            batch[name] = torch.stack(tensors)
            continue
        batch[name] = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
        if name == "patch_positions":
            counts = torch.tensor([len(t) for t in tensors])
            batch["pixel_attention_mask"] = torch.arange(max(lengths)) < counts[:, None]
    return batch


def open_loader(
    mixture: Sequence[MixtureComponent],
    own: RankSlice,
    start: int,
    stop: int,
    *,
    workers: int = 0,
    pin: bool = False,
) -> Ahead:
    """The micro-batches start..stop-1 of a process in order, decoded ahead by `workers` processes.

    Args:
        mixture: what is read.
        own: of which process.
        start: first micro-batch.
        stop: after the last one.
        workers: decoding processes; 0: this one.
        pin: in page-locked memory.

    Raises:
        ValueError: a component's batch is too small to give every process a sample. DataError, when iterated:
            samples that cannot be made, and a worker that ends.
    """
    for component in mixture:
        check_batch(component.name, component.batch_size, own.accumulation, own.size)
    return Ahead(partial(MicroBatches(mixture, own).part, start, stop), stop - start, workers, pin)
