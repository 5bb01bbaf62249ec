"""What a training learns. A task builds its modules from the config, turns a batch into named losses, and
says which modules are split over processes; the loop knows nothing else of it.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from ...data.labelled import Rows
from ..config import ConfigError, TrainConfig, nearest
from ..loader import Stream

# Name in the config -> where the class is; a module is imported when its task is asked for.
TASKS = {
    "cluster": "onevision_hf.training.tasks.cluster:ClusterTask",
    "vl": "onevision_hf.training.tasks.vl:VLTask",
    "openvision3": "onevision_hf.training.tasks.unified:OpenVision3Task",
    "unified": "onevision_hf.training.tasks.unified:UnifiedTask",
}

Inputs = Mapping[str, Mapping[str, Tensor]]  # stream -> name -> tensor


class Stack(NamedTuple):
    """Equal layers that a stream goes through, for the estimate of their memory."""

    stream: str
    samples: int  # an optimizer step, over all processes
    tokens: int  # of a sample, at most
    width: int
    layers: int


class Task(Protocol):
    """One object a run.

    streams: what is read.
    model: replicated over the processes (DDP) or cut by FSDP2; `model(inputs)` gives the outputs.
    sharded: name -> module with one parameter `centers`, rows `class_range` of `num_classes`, cut over the
        processes as `torch.chunk` cuts; it stays out of DDP and FSDP and has `grad_norm()` over all rows.
    weights: of the losses in the sum.
    learning_rates: optional; a module's name -> a multiple of `lr` for the parameters under it.
    units: optional; what a stream's samples and what they are made of are called, in the plan.
    """

    streams: list[Stream]
    model: nn.Module
    sharded: dict[str, Any]
    weights: dict[str, float]

    def prepare(self, inputs: Inputs, key: int) -> Any:
        """All of a micro-batch that does not need the outputs. `key` numbers micro-batches over the run."""

    def losses(self, outputs: Any, prepared: Any) -> dict[str, Tensor]:
        """Named losses (), each the mean over the samples of all processes and the same on every process.

        Their gradient on the outputs is the gradient of that mean times the number of processes, because DDP
        and FSDP divide by it.
        """

    def metrics(self) -> dict[str, Tensor]:
        """Detached scalars of the last micro-batch, over all processes; every process calls this."""

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One stream's inputs -> features (B, D) for validation; the loop calls it without gradients."""

    def memory(self, processes: int) -> dict[str, int]:
        """Bytes on one of `processes` processes by part, for what is split, before it is built."""

    def parameters(self) -> dict[str, int]:
        """How many the model has, by part, before it is built. A task that does not train them all has
        `trained()` too, how many it does."""

    def stacks(self) -> list[Stack]:
        """The layers that every stream goes through; of each stream the first take what a step reads."""

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write what `from_pretrained` loads, from the model's whole state; the first process calls this."""


def make_task(config: TrainConfig, rows: Mapping[str, Rows] | None = None) -> Any:
    """The task that the config names; `rows` stand in for the sources of its streams.

    Raises ConfigError for a task that does not exist, FileNotFoundError for a source that is not there.
    """
    if config.task not in TASKS:
        near = nearest(config.task, list(TASKS))
        raise ConfigError(f"task is {config.task!r}, expected one of {', '.join(TASKS)}{near}")
    module, _, name = TASKS[config.task].partition(":")
    return getattr(importlib.import_module(module), name)(config, rows or {})
