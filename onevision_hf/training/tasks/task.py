"""What a training learns. A task builds its modules from the config, turns a batch into named losses, and
says which modules are split over processes; the loop knows nothing else of it.

    class MyTask(Task): ...            # inherits what is the same for most tasks

`tasks/registry.py` names a task; docs/training.md has one in full.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..mixture import MixtureComponent
from ..schema import ConfigError
from .registry import part_of

Inputs = Mapping[str, Mapping[str, Tensor]]  # component -> name -> tensor


class ShardedCenters(Protocol):
    """A module with one parameter, `centers` (c, D), this process's rows of a matrix of `num_classes`.

    Rows are split as `torch.chunk` splits them; the module stays out of DDP and FSDP, so its gradients are
    complete as they are. With `sparse_grad` they are sparse over the rows.
    """

    centers: nn.Parameter
    num_classes: int
    sparse_grad: bool

    def grad_norm(self) -> Tensor:
        """Of the gradient of all rows on all processes, ()."""

    def save_centers(self, path: Path) -> None:
        """Write the whole matrix; every process calls this."""

    def to(self, device: Any) -> Any: ...


class Task(Protocol):
    """One object a run, made from (config, datasets by component) before any module is built.

    mixture: what is read.
    model: replicated over the processes (DDP) or cut by FSDP2; `model(inputs)` gives the outputs.
    weights: of the losses in the sum.
    sharded: split over the processes, by name.
    lr_scales: a module's name -> a multiple of `optim.learning_rate` for the parameters under it.
    auto_class, pipeline_tag: of transformers, for what `export` writes.
    """

    mixture: list[MixtureComponent]
    model: nn.Module
    weights: dict[str, float]
    sharded: Mapping[str, ShardedCenters] = {}
    lr_scales: Mapping[str, float] = {}
    auto_class: str = "AutoModel"
    pipeline_tag: str = "image-feature-extraction"

    def build(self) -> None:
        """Make the modules; the same weights on any number of processes."""

    def prepare(self, inputs: Inputs, key: int) -> Any:
        """All of a micro-batch that does not need the outputs. `key` numbers micro-batches over the run."""

    def losses(self, outputs: Any, prepared: Any) -> dict[str, Tensor]:
        """Named losses (), each the mean over the samples of all processes and the same on every process.

        Their gradient on the outputs is the gradient of that mean times the number of processes, because DDP
        and FSDP divide by it.
        """

    def metrics(self) -> dict[str, Tensor]:
        """Detached scalars of the last micro-batch, over all processes; every process calls this."""
        return {}

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One component's inputs -> features (B, D) for validation; the loop calls it without gradients."""
        raise ConfigError(
            "this task has no features whose neighbours could be compared: give validation.every=0"
        )

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write what `from_pretrained` loads, from the model's whole state; the first process calls this."""


def make_task(config: Any, datasets: Mapping[str, Any] | None = None) -> Any:
    """The task that the config names.

    Args:
        config: of the run.
        datasets: by component, in place of its source: a dataset, or a `Transformed` one.

    Raises:
        ConfigError: a task that does not exist. FileNotFoundError: a source that is not there.
    """
    return part_of(config.task, "task")(config, datasets or {})
