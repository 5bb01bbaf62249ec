"""The tasks by name, each with its three parts: the class of its config, the task, its plan for a dry run.

    register("mine", config="my_task:MyConfig", task="my_task:MyTask", plan="my_task:MyPlan")

A part is "module:Name" and is imported when it is asked for. Nothing else of the package names a task.
"""

import importlib
from typing import Any, Literal, NamedTuple

from ..schema import ConfigError, nearest

Part = Literal["config", "task", "plan"]
DEFAULT = "cluster"


class Parts(NamedTuple):
    config: str  # a dataclass over `TrainConfig`
    task: str  # a `Task`, made from (config, datasets)
    plan: str  # a `Planned`, made from (config, folder)


TASKS: dict[str, Parts] = {}


def register(name: str, *, config: str, task: str, plan: str) -> None:
    """Add a task.

    Args:
        name: what `task` of a config is set to.
        config: "module:Name" of a dataclass that inherits `TrainConfig` and adds the task's sections.
        task: "module:Name" of what implements `tasks.task.Task`, called with that config and datasets by
            component.
        plan: "module:Name" of what implements `dry_run.planned.Planned`, called with that config and a folder
            for what it writes.
    """
    TASKS[name] = Parts(config, task, plan)


def part_of(name: Any, part: Part) -> Any:
    """A part of a task.

    Args:
        name: of the task.
        part: which of the three.

    Raises:
        ConfigError: there is no such task.
    """
    if not isinstance(name, str) or name not in TASKS:
        known = list(TASKS)
        raise ConfigError(f"task is {name!r}, expected one of {', '.join(known)}{nearest(str(name), known)}")
    module, _, found = getattr(TASKS[name], part).partition(":")
    return getattr(importlib.import_module(module), found)


def _add(name: str, file: str, prefix: str, task: str | None = None) -> None:
    here = __name__.rpartition(".")[0]
    register(
        name,
        config=f"{here}.{file}_config:{prefix}TrainConfig",
        task=f"{here}.{file}:{task or prefix}Task",
        plan=f"{here}.{file}_plan:{prefix}Plan",
    )


_add("cluster", "cluster", "Cluster")
_add("vl", "vl", "VL")
_add("openvision3", "unified", "Unified", task="OpenVision3")
_add("unified", "unified", "Unified")
