"""Validation while training: the nearest neighbours of samples that are never trained on."""

from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch

from ..data.labelled import open_examples
from ..data.media import BROKEN
from ..jobs.processes import Processes
from .config import TrainConfig
from .loader import collate
from .mixture import Sample
from .neighbours import neighbour_accuracy
from .report import RunReport
from .sampler import HELD_OUT, Permutation
from .schema import ConfigError
from .tasks.task import Task

_BLOCK = 16  # samples encoded at once, whatever the number of processes: the same products, the same bits


class Validator(Protocol):
    """What the loop wants of a validation."""

    def due(self, step: int, total: int) -> bool:
        """Whether one follows step `step` (0: before the first) of `total`."""

    def report(self, report: RunReport, step: int) -> None:
        """Run it, and write and show what came of it; every process calls this."""


class Validation:
    """Encodes held-out examples, each process a slice of blocks, and asks whether their neighbours have their
    label.

    An example's label is the first of its labels (the nearest center, or the class of its folder).

    Args:
        config: of the run.
        task: built, on `device`.
        device: of this process.
    """

    def __init__(self, config: TrainConfig, task: Task, device: torch.device):
        self.config, self.task, self.device = config, task, device
        self.processes = Processes.current()
        settings = config.validation
        if not settings.every:
            return
        component = next((c for c in task.mixture if settings.head in ("", c.name)), None)
        if component is None:
            raise ConfigError(f"validation.head is {settings.head!r}, no component of this task's mixture")
        self.transform = component.transform
        if settings.source:
            self.dataset: Any = open_examples(settings.source)
            numbers = Permutation(len(self.dataset), HELD_OUT, config.seed)(np.arange(len(self.dataset)))
        elif component.sampler is not None and len(component.sampler.held_out) > 1:
            self.dataset, numbers = component.dataset, component.sampler.held_out
        else:
            raise ConfigError(
                "validation.every is set, but there is nothing to validate on: give validation.source, or a "
                "share validation.held_out of at least two examples"
            )
        self.numbers = np.sort(numbers[: settings.items])

    def due(self, step: int, total: int) -> bool:
        every = self.config.validation.every
        return bool(every) and (step % every == 0 or step == total)

    def report(self, report: RunReport, step: int) -> None:
        report.validated(step, self.run())

    @torch.no_grad()
    def run(self) -> float:
        """The accuracy, the same on every process."""
        parts: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        model = self.task.model.eval()
        blocks = -(-len(self.numbers) // _BLOCK)
        rank, size = self.processes.rank, self.processes.world
        for turn in range(-(-blocks // size)):
            # Under FSDP all take part in every forward pass: those left over do the last block again.
            block = turn * size + rank
            last = block >= blocks
            samples = self._samples(min(block, blocks - 1))
            if not samples:
                raise ValueError(f"validation: none of {_BLOCK} samples could be read")
            inputs = collate(samples)
            found = inputs.pop("labels")[:, 0]
            moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            encoded = self.task.encode(moved).float().cpu()
            keep = (found >= 0) & (not last)
            parts.append((block, encoded[keep], found[keep]))
        model.train()
        everyone = self.processes.gather(parts)
        ordered = sorted((part for own in everyone for part in own), key=lambda part: part[0])
        labels = torch.cat([part[2] for part in ordered])
        return neighbour_accuracy(
            torch.cat([part[1] for part in ordered]), labels, self.config.validation.neighbours
        )

    def _samples(self, block: int) -> list[Sample]:
        """Those of a block that can be read."""
        samples = []
        for number in self.numbers[block * _BLOCK : (block + 1) * _BLOCK]:
            with suppress(*BROKEN):
                samples.append(self.transform(self.dataset[int(number)], None, 0))
        return samples
