"""One process or several: rank, barriers and sums, over torch.distributed when it runs.

torchrun --nproc_per_node 4 -m onevision_hf.cli cluster kmeans ...
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from .devices import pick_device
from .run_folder import RunFolder

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Processes":
        """From torch.distributed if a process group exists, else one process."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def sum_(self, *tensors: torch.Tensor) -> None:
        """Sum each tensor over the processes, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def gather(self, value: ValueT) -> list[ValueT]:
        """What each process gives, on every process, in the order of their ranks."""
        everyone = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(everyone, value)
        return everyone

    def part(self, count: int) -> range:
        """This process's contiguous rank slice of `count` things: earlier ranks hold earlier things."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def finish(self, do: Callable[[], object]) -> None:
        """When all processes are here, the main one does the rest; all go on when it is done."""
        self.barrier()
        with self.main_first():
            if self.main:
                do()

    def own(self, shards: Iterable[int]) -> list[int]:
        """Those of some shards that this process is to do: by their number, since another process may have
        finished some of its own by the time that this one looks at what is missing."""
        return [shard for shard in shards if shard % self.world == self.rank]

    def open_run(self, path: str | Path, **plan: Any) -> RunFolder:
        """A folder that all of them fill, opened by the main one first; `plan` is that of `RunFolder`."""
        with self.main_first():
            return RunFolder(path, rank=self.rank, **plan)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The body runs in rank 0 first, then in the others."""
        if not self.main:
            self.barrier()
        try:
            yield
        finally:
            if self.main:
                self.barrier()


@contextlib.contextmanager
def launched() -> Iterator[Processes]:
    """Join the process group that `torchrun` announced in the environment, if none is joined yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Processes.current()
        return
    on_gpu = pick_device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield Processes.current()
        dist.barrier()  # gloo aborts when one process takes the group down while another still talks
    finally:
        dist.destroy_process_group()
