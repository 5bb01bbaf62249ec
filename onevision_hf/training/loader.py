"""From a mixture to the batches of a step: number k gives the micro-batch k, on any process.

    loader = open_loader([component], RankSlice(seed), start=120, stop=1000, workers=2)

Micro-batch k is part k % A of step k // A; a process takes its slice of each component's samples in it.
Decoding runs in worker processes, which share nothing: a sample is a function of (seed, component, position).
"""

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..data.labelled import StreamRows
from ..objectives.cluster_sampling import derive_key
from .mixture import MixtureComponent, RankSlice, Sample
from .sampler import STREAMED


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


class MicroBatches(Dataset):
    """`dataset[k]` is the micro-batch k of this process."""

    def __init__(self, mixture: Sequence[MixtureComponent], part: RankSlice):
        self.mixture, self.part = list(mixture), part

    def __getitem__(self, k: int) -> Batch:
        part, batch = self.part, Batch({}, {})
        for component in self.mixture:
            positions = component.positions(k, part)
            batch.add(component.name, component.draw(part.seed, positions, batch.broken))
        return batch


class StreamedBatches(IterableDataset):
    """The same from sources without random access: each process and worker reads its own part of them."""

    def __init__(self, mixture: Sequence[MixtureComponent], part: RankSlice, start: int, stop: int):
        self.mixture, self.part, self.start, self.stop = list(mixture), part, start, stop

    def __iter__(self) -> Iterator[Batch]:
        part, info = self.part, get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        reader, readers = part.rank * workers + worker, part.size * workers
        # Another order after a resume: what was seen before cannot be skipped exactly, so it is not claimed.
        seed = derive_key(STREAMED, part.seed, self.start) % 2**32
        opened = {
            c.name: iter(StreamRows(c.dataset, seed, reader, readers))
            for c in self.mixture
            if isinstance(c.dataset, str)
        }
        for k in range(self.start + worker, self.stop, workers):
            batch = Batch({}, {})
            for component in self.mixture:
                positions = component.positions(k, part)
                if component.name in opened:
                    samples = component.pull(part.seed, opened[component.name], positions, batch.broken)
                else:
                    samples = component.draw(part.seed, positions, batch.broken)
                batch.add(component.name, samples)
            yield batch


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
    part: RankSlice,
    start: int,
    stop: int,
    *,
    workers: int = 0,
    pin: bool = False,
) -> DataLoader:
    """The micro-batches start..stop-1 of a process in order, decoded ahead by `workers` processes.

    Args:
        mixture: what is read.
        part: of which process.
        start: first micro-batch.
        stop: after the last one.
        workers: decoding processes; 0: this one.
        pin: in page-locked memory.

    Raises:
        ValueError: a component's batch is too small to give every process a sample.
    """
    for component in mixture:
        check_batch(component.name, component.batch_size, part.accumulation, part.size)
    streamed = any(component.sampler is None for component in mixture)
    dataset: Dataset = (
        StreamedBatches(mixture, part, start, stop) if streamed else MicroBatches(mixture, part)
    )
    return DataLoader(
        dataset, batch_size=None, sampler=None if streamed else range(start, stop), pin_memory=pin,
        **worker_settings(workers),
    )  # fmt: skip


def worker_settings(workers: int) -> dict[str, Any]:
    """The arguments of a DataLoader that decodes in `workers` processes."""
    if not workers:
        return {"num_workers": 0}
    # Fork copies the locks of a process that already runs threads; starting afresh is what is safe.
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["onevision_hf.training.loader"])
    settings: dict[str, Any] = {"multiprocessing_context": context, "prefetch_factor": 2}
    return settings | {"num_workers": workers, "worker_init_fn": _begin_worker}


def _begin_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and schedulers signal the whole group: the training process decides when its workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
