"""Validation while training: the nearest neighbours of samples that are never trained on."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..data.labelled import open_rows
from ..data.media import BROKEN
from .config import ConfigError, TrainConfig
from .loader import collate
from .neighbours import neighbour_accuracy
from .sampler import HELD_OUT, Permutation

_BLOCK = 16  # samples encoded at once, whatever the number of processes: the same products, the same bits


class Validation:
    """Encodes held-out rows, each process a share of blocks, and asks whether their neighbours have their
    label.

    A row's label is the first of its labels (the nearest center, or the class of its folder).
    """

    def __init__(self, config: TrainConfig, task: Any, rank: int, size: int, device: torch.device):
        self.config, self.task, self.rank, self.size, self.device = config, task, rank, size, device
        settings = config.validation
        if not settings.every:
            return
        stream = next((s for s in task.streams if settings.head in ("", s.name)), None)
        if stream is None:
            raise ConfigError(f"validation.head is {settings.head!r}, no stream of this task")
        self.view = stream.view
        if settings.source:
            self.rows: Any = open_rows(settings.source)
            self.numbers = Permutation(len(self.rows), HELD_OUT, config.seed)(np.arange(len(self.rows)))
        elif stream.order is not None and len(stream.order.held_out) > 1:
            self.rows, self.numbers = stream.rows, stream.order.held_out
        else:
            raise ConfigError(
                "validation.every is set, but there is nothing to validate on: give validation.source, or a "
                "share validation.held_out of at least two rows"
            )
        self.numbers = np.sort(self.numbers[: settings.items])

    def due(self, step: int, total: int) -> bool:
        every = self.config.validation.every
        return bool(every) and (step % every == 0 or step == total)

    def report(self, report: Any, step: int) -> None:
        """Run, and say and write what came of it."""
        report.validated(step, self.run())

    @torch.no_grad()
    def run(self) -> float:
        """The accuracy, the same on every process."""
        parts: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        model = self.task.model.eval()
        blocks = -(-len(self.numbers) // _BLOCK)
        rounds = -(-blocks // self.size)
        for turn in range(rounds):
            # Under FSDP all take part in every forward pass: those left over do the last block again.
            block = turn * self.size + self.rank
            last = block >= blocks
            samples = self._samples(min(block, blocks - 1))
            if not samples:
                raise ValueError(f"validation: none of {_BLOCK} samples could be read")
            inputs = collate(samples)
            found = inputs.pop("labels")[:, 0]
            encoded = (
                self.task.encode({name: tensor.to(self.device) for name, tensor in inputs.items()})
                .float()
                .cpu()
            )
            keep = (found >= 0) & (not last)
            parts.append((block, encoded[keep], found[keep]))
        model.train()
        everyone: list[Any] = [parts]
        if self.size > 1:
            everyone = [None] * self.size
            dist.all_gather_object(everyone, parts)
        ordered = sorted((part for own in everyone for part in own), key=lambda part: part[0])
        labels = torch.cat([part[2] for part in ordered])
        return neighbour_accuracy(
            torch.cat([part[1] for part in ordered]), labels, self.config.validation.neighbours
        )

    def _samples(self, block: int) -> list[dict[str, np.ndarray]]:
        """Those of a block that can be read."""
        samples = []
        for number in self.numbers[block * _BLOCK : (block + 1) * _BLOCK]:
            with suppress(*BROKEN):
                samples.append(self.view(self.rows[int(number)], None, 0))
        return samples
