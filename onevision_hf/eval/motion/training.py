"""Trains a classifier on one input: Muon for its matrices, AdamW for the rest, symmetries of the square.

The loss is the mean cross-entropy over all labels of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...objectives.muon import MuonAdamW
from . import symmetry
from .settings import TrainSettings

MIDDLE = 128
PADDED = -1  # the t of a patch that fills up a clip which has fewer than others


@dataclass
class InputData:
    """One input of all clips of a split.

    patches (n, K, C * tube * p * p) uint8, a tensor or what cuts them (`Tubes`), or None where all are blank;
    positions (n, K, 3) int16 on a grid of `side` x `side`, t = `PADDED` where there is no patch; labels (n,
    F), -1 for none. `is_tokens`: an encoder's tokens (n, K, D) stand in place of the patches, and know no
    symmetry. `symmetric`: what is turned or mirrored has the turned or mirrored label.
    """

    patches: Any
    positions: Tensor
    labels: Tensor
    side: int
    patch_size: int
    tube: int = 1

    is_tokens: bool = False
    symmetric: bool = True

    def to(self, device: torch.device) -> "InputData":
        """The same on a device; what cuts its patches goes on doing so where it is."""
        patches = self.patches.to(device) if isinstance(self.patches, Tensor) else self.patches
        return replace(self, patches=patches, positions=self.positions.to(device))

    def raw(self, numbers: Tensor) -> Tensor:
        """(clips, K, values), as they are stored; of middle brightness where patches are blank."""
        if self.patches is None:
            shape = len(numbers), self.positions.shape[1], 3 * self.patch_size**2
            return torch.full(shape, MIDDLE, dtype=torch.uint8, device=self.positions.device)
        if isinstance(self.patches, Tensor):
            return self.patches[numbers.to(self.patches.device)]
        return self.patches[numbers].to(self.positions.device)

    def batch(self, numbers: Tensor, turn: int = 0) -> tuple[Tensor, Tensor]:
        """Values (clips, K, ...) float32 and positions (clips, K, 3), seen under a symmetry of the square."""
        values, positions = self.raw(numbers), self.positions[numbers.to(self.positions.device)]
        if self.is_tokens:
            return values.float(), positions
        values, positions = symmetry.apply(turn, values, positions, self.side, self.patch_size)
        return values.float().sub_(MIDDLE).div_(64), positions


class Step:
    """One update of a classifier from a batch, the optimizer's step included.

    On a GPU it is recorded once and played back: such a small classifier waits longer for its kernels to be
    started than for them to run. The first three run as they are, since libraries set themselves up then.
    """

    UNRECORDED = 3

    def __init__(self, classifier: nn.Module, settings: TrainSettings):
        matrices = [p for n, p in classifier.named_parameters() if p.ndim == 2 and is_inner(n)]
        chosen = {id(p) for p in matrices}
        self.classifier, self.settings = classifier, settings
        self.others = [p for p in classifier.parameters() if id(p) not in chosen]
        device = self.others[0].device
        self.on_gpu = device.type == "cuda"
        # Tensors, so that a recorded update reads the rates of the step in which it is played back.
        self.adam_rate, self.muon_rate = torch.zeros((), device=device), torch.zeros((), device=device)
        muon = {"params": matrices, "muon": True, "lr": self.muon_rate, "weight_decay": settings.weight_decay}
        self.optimizer = MuonAdamW(
            [{"params": self.others}, muon],
            lr=self.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True, capturable=self.on_gpu,
        )  # fmt: skip
        self.count = 0
        self.record: tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor] | None = None

    def __call__(self, factor: float, *batch: Tensor) -> Tensor:
        """The loss of (patches, positions, target), before the update; `factor` is that of both rates."""
        self.adam_rate.fill_(self.settings.adam_rate * factor)
        self.muon_rate.fill_(self.settings.muon_rate * factor)
        self.count += 1
        if not self.on_gpu:
            return self.update(*batch)
        if self.count <= self.UNRECORDED:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                loss = self.update(*batch)
            torch.cuda.current_stream().wait_stream(stream)
            return loss
        if self.record is None:
            graph, inputs = torch.cuda.CUDAGraph(), tuple(part.clone() for part in batch)
            with torch.cuda.graph(graph):
                loss = self.update(*inputs)
            self.record = graph, inputs, loss
        graph, inputs, loss = self.record
        for place, part in zip(inputs, batch, strict=True):
            place.copy_(part)
        graph.replay()
        return loss

    def update(self, patches: Tensor, positions: Tensor, target: Tensor) -> Tensor:
        """Learn from a batch; the loss before.

        Args:
            patches: (B, K, ...).
            positions: (B, K, 3).
            target: (B, F), -1 for none.
        """
        self.classifier.zero_grad(set_to_none=True)
        loss = family_loss(self.classifier(patches, positions), target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.others, 1.0)
        self.optimizer.step()
        return loss.detach()


def train(
    classifier: nn.Module,
    inputs: Sequence[InputData],
    families: dict[str, tuple[str, ...]],
    settings: TrainSettings,
    seed: int,
    report: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> None:
    """Train `classifier`, which takes (patches, positions), in place, where it and `inputs` are.

    Args:
        classifier: takes (patches, positions) and gives logits (B, F, L).
        inputs: of the same clips; with several, which have as many patches, they take turns.
        families: name -> its answers.
        settings: steps, batch and rates.
        seed: of what is drawn by chance.
        report: called after each step with its number and its loss, a tensor on that device.
    """
    known, device = inputs[0].labels, inputs[0].positions.device
    update = Step(classifier, settings)
    labels = most_labels(families)
    tables = symmetry.label_tables(families, labels)
    chance = torch.Generator().manual_seed(seed)
    order = _clips(len(known), chance)
    for step in range(settings.steps):
        data = inputs[step % len(inputs)]
        done = step / settings.steps
        numbers = torch.tensor([next(order) for _ in range(settings.batch)])
        turn = (
            0
            if data.is_tokens or not data.symmetric
            else int(torch.randint(symmetry.COUNT, (), generator=chance))
        )
        patches, positions = data.batch(numbers, turn)
        target = tables[turn].gather(1, known[numbers].long().T % (labels + 1)).T
        factor = min(1.0, (step + 1) / 20, 2 * (1 - done) * 0.9 + 0.1)
        report(step, update(factor, patches, positions, target.to(device)))


def most_labels(families: dict[str, tuple[str, ...]]) -> int:
    """Of the families: how many answers the one with most has."""
    return max(len(answers) for answers in families.values())


def is_inner(name: str) -> bool:
    return not name.startswith(("embed", "probes.probe", "probes.bias"))


def family_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over all labels of a batch: logits (B, F, L), target (B, F), -1 for none."""
    return cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)


def _clips(count: int, chance: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=chance).tolist()


@torch.no_grad()
def predict(classifier: nn.Module, data: InputData, size: int = 64) -> Tensor:
    """(n, F, L) logits, on the CPU.

    Args:
        classifier: takes (patches, positions).
        data: n clips.
        size: clips at once.
    """
    numbers = torch.arange(len(data.labels))
    return torch.cat([classifier(*data.batch(some)).cpu() for some in numbers.split(size)])
