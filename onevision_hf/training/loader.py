"""From streams of rows to the batches of a step: number k gives the micro-batch k, on any process.

    stream = Stream("image", rows, view, batch_size=1024, order=Order(len(rows), seed, stream=0))
    loader = open_loader([stream], Share(seed), start=120, stop=1000, workers=2)

Micro-batch k is part k % A of step k // A; a process takes its share of each stream's samples in it. Decoding
runs in worker processes, which share nothing: a sample is a function of (seed, stream, position).
"""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..data.labelled import Rows, StreamRows
from ..data.media import BROKEN
from ..objectives.cluster_sampling import derive_key
from .sampler import ITEM, STREAM, Order, own_share
from .transforms import Sample

REPLACEMENTS = 16  # broken rows in a row after which the source is broken


class View(Protocol):
    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample: ...


@dataclass
class Batch:
    """One process's part of a micro-batch.

    inputs: stream -> name -> tensor (samples first). keys: stream -> the rows' keys. broken: a record of
    each row that could not be read, with what stood in for it.
    """

    inputs: dict[str, dict[str, Tensor]]
    keys: dict[str, list[str]]
    broken: list[dict[str, Any]] = field(default_factory=list)

    def add(self, stream: str, samples: Iterator[tuple[str, Sample]]) -> None:
        keys, shown = zip(*samples, strict=True)
        self.keys[stream] = list(keys)
        self.inputs[stream] = collate(shown)

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


@dataclass
class Stream:
    """Rows with the order in which they come and the view in which they are shown.

    `rows` is a source with random access and `order` says which row comes when; or `rows` is the name of a
    streamed dataset and `order` is None: rows come as they come.
    """

    name: str
    rows: Rows | str
    view: View
    batch_size: int
    order: Order | None

    def positions(self, k: int, accumulation: int, rank: int, size: int) -> np.ndarray:
        """Which samples of the run this process takes in micro-batch k."""
        step, micro = divmod(k, accumulation)
        count = self.batch_size // accumulation
        own = own_share(count, rank, size)
        return step * self.batch_size + micro * count + np.arange(own.start, own.stop)

    def draw(
        self, seed: int, positions: np.ndarray, broken: list[dict[str, Any]]
    ) -> Iterator[tuple[str, Sample]]:
        """The samples at positions. Instead of a broken row, which is recorded, comes another that the
        position decides."""
        assert self.order is not None and not isinstance(self.rows, str)
        for position, first in zip(positions.tolist(), self.order(positions).tolist(), strict=True):
            row = first
            for attempt in range(REPLACEMENTS):
                key = f"row {row}"
                try:
                    found = self.rows[row]
                    key = found.key
                    yield key, self.view(found, _generator(seed, self.order.stream, position), position)
                    break
                except BROKEN as error:
                    broken.append(_record(self.name, position, key, error))
                    row = self.order.replacement(position, attempt)
            else:
                raise ValueError(self._all_broken(position, broken[-1]))

    def pull(
        self,
        seed: int,
        rows: Iterator[tuple[str, Callable[[], Any]]],
        positions: np.ndarray,
        broken: list[dict[str, Any]],
    ) -> Iterator[tuple[str, Sample]]:
        """The next samples of a streamed dataset; broken rows are left out."""
        for position in positions.tolist():
            for attempt, (key, read) in enumerate(rows, 1):
                try:
                    yield key, self.view(read(), _generator(seed, STREAM, position), position)
                    break
                except BROKEN as error:
                    broken.append(_record(self.name, position, key, error))
                if attempt == REPLACEMENTS:
                    raise ValueError(self._all_broken(position, broken[-1]))

    def _all_broken(self, position: int, last: Mapping[str, Any]) -> str:
        return (
            f"stream {self.name}: {REPLACEMENTS} broken rows in a row at position {position}, the last one "
            f"{last['key']}: {last['reason']}"
        )


def _generator(seed: int, stream: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(derive_key(ITEM, seed, stream, position)))


def _record(stream: str, position: int, key: str, error: Exception) -> dict[str, Any]:
    return {"stream": stream, "position": position, "key": key, "reason": " ".join(str(error).split())}


@dataclass(frozen=True)
class Share:
    """Which part of the run's micro-batches a loader makes: those of one process."""

    seed: int
    accumulation: int = 1
    rank: int = 0
    size: int = 1


class MicroBatches(Dataset):
    """`dataset[k]` is the micro-batch k of this process."""

    def __init__(self, streams: Sequence[Stream], share: Share):
        self.streams, self.share = list(streams), share

    def __getitem__(self, k: int) -> Batch:
        share, batch = self.share, Batch({}, {})
        for stream in self.streams:
            positions = stream.positions(k, share.accumulation, share.rank, share.size)
            batch.add(stream.name, stream.draw(share.seed, positions, batch.broken))
        return batch


class StreamedBatches(IterableDataset):
    """The same from sources without random access: each process and worker reads its own part of them."""

    def __init__(self, streams: Sequence[Stream], share: Share, start: int, stop: int):
        self.streams, self.share, self.start, self.stop = list(streams), share, start, stop

    def __iter__(self) -> Iterator[Batch]:
        share, info = self.share, get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        part, parts = share.rank * workers + worker, share.size * workers
        # Another order after a resume: what was seen before cannot be skipped exactly, so it is not claimed.
        seed = derive_key(STREAM, share.seed, self.start) % 2**32
        opened = {
            s.name: iter(StreamRows(s.rows, seed, part, parts))
            for s in self.streams
            if isinstance(s.rows, str)
        }
        for k in range(self.start + worker, self.stop, workers):
            batch = Batch({}, {})
            for stream in self.streams:
                positions = stream.positions(k, share.accumulation, share.rank, share.size)
                if stream.name in opened:
                    samples = stream.pull(share.seed, opened[stream.name], positions, batch.broken)
                else:
                    samples = stream.draw(share.seed, positions, batch.broken)
                batch.add(stream.name, samples)
            yield batch


def check_batch(name: str, batch_size: int, accumulation: int, processes: int) -> None:
    if batch_size // accumulation < processes:
        raise ValueError(
            f"{name}: {processes} processes cannot share a micro-batch of {batch_size // accumulation} "
            f"samples (batch_size {batch_size} / accumulation {accumulation}); give each at least one"
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
    streams: Sequence[Stream], share: Share, start: int, stop: int, *, workers: int = 0, pin: bool = False
) -> DataLoader:
    """The micro-batches start..stop-1 of a process in order, decoded ahead by `workers` processes.

    Raises ValueError when a stream's batch is too small to give every process a sample.
    """
    for stream in streams:
        check_batch(stream.name, stream.batch_size, share.accumulation, share.size)
    streamed = any(stream.order is None for stream in streams)
    dataset: Dataset = (
        StreamedBatches(streams, share, start, stop) if streamed else MicroBatches(streams, share)
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
