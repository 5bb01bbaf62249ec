"""What the dry run needs of a task: a plan that is made without building it, and a small run of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from ..config import TrainConfig
from ..tasks.task import Task

# Of the two steps on a processor: samples of a component, encoder layers.
CPU_BATCH, CPU_LAYERS = 1, 2


class LayerGroup(NamedTuple):
    """Equal layers that a component goes through, for the estimate of their memory."""

    component: str
    samples: int  # an optimizer step, over all processes
    tokens: int  # of a sample, at most
    width: int
    layers: int
    chunk: int = 0  # samples of a process that are computed at once; 0: all of a micro-batch


@dataclass
class SmallRun:
    """Two steps of a run, as `Planned.shrink` makes them: one process's slice of the batch, on a processor
    a small one.

    config: a copy of the planned one, to be changed. folder: for what is written. size: processes that take
    the steps. planned: processes that the plan is for. datasets: by component, in place of the config's
    sources. notes: what is small, for one line. lines: printed after it.
    """

    config: Any
    folder: Path
    size: int
    planned: int
    accumulation: int
    datasets: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def on_cpu(self) -> bool:
        return on_cpu(self.config)

    def batch_size(self, planned: int) -> int:
        """Samples a step of a component that was to have `planned`."""
        own = math.ceil(planned / self.accumulation / self.planned)
        return self.size * (min(own, CPU_BATCH) if self.on_cpu else own)


class Planned(Protocol):
    """One object a dry run, made from (config, a temporary folder).

    config: of the run, with what is absent replaced; `lines` say by what.
    task: over the data that was found, or over dummy data; not built.
    lines: on the data of each component.
    units: what samples, and what they are made of, are called.
    """

    config: Any
    task: Task
    lines: list[str]
    units: tuple[str, str] = ("samples", "patches")

    def parameters(self) -> dict[str, int]:
        """How many the model has, by part."""

    def trained(self) -> int:
        """How many of them are trained."""
        return sum(self.parameters().values())

    def layer_groups(self) -> list[LayerGroup]:
        """The layers that every component goes through; of each the first group takes what a step reads."""

    def memory(self, processes: int) -> dict[str, int]:
        """Bytes on one of `processes` processes by part, for what is split."""
        return {}

    def remarks(self) -> list[str]:
        """Printed after the parameters."""
        return []

    def shrink(self, small: SmallRun) -> None:
        """Make it a run of two steps that this machine can take."""


def on_cpu(config: TrainConfig) -> bool:
    return config.device == "cpu" or not torch.accelerator.is_available()


def find(
    name: str, open_source: Callable[[], Any], dummy: Callable[[], Any], instead: str
) -> tuple[Any, str | None]:
    """A dataset, or a dummy one where there is no data.

    Args:
        name: of the component.
        open_source: opens its source, or raises FileNotFoundError.
        dummy: makes the other.
        instead: what that is called.

    Returns:
        The dataset, and where there was none a line that says so.
    """
    try:
        return open_source(), None
    except FileNotFoundError as error:
        return dummy(), f"{name}: no data ({error}); {instead}"
