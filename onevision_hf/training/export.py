"""The end of a run: a folder that `from_pretrained` loads, the centers, and a card that says how."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..jobs.processes import Processes
from .config import TrainConfig
from .mixture import MixtureComponent
from .report import LOG, VALIDATION, read_lines
from .tasks.task import Task

MODEL = "model"
CARD = Path(__file__).parent / "cards" / "run.md"


@dataclass(frozen=True)
class Counts:
    """What a run has done: optimizer steps, samples that were read, broken ones that were replaced, and
    settings that were changed on the way."""

    step: int
    samples: int
    broken: int
    changes: tuple[str, ...] = ()


def export(
    config: TrainConfig, task: Task, weights: Mapping[str, Tensor], counts: Counts, name: str = MODEL
) -> Path:
    """Write `out`/`name`: weights, processor, centers-NAME.safetensors, README.md.

    Every process calls this. The folder is written under another name and renamed.

    Args:
        config: of the run.
        task: built and trained.
        weights: of `task.model`, or their average.
        counts: for the card.
        name: of the folder.

    Returns:
        The folder.
    """
    processes, out = Processes.current(), Path(config.out)
    target, partial = out / name, out / f".{name}.partial"
    state = {name: _whole(tensor.detach()) for name, tensor in weights.items()}
    if processes.main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        task.export(partial, state)
        (partial / "README.md").write_text(card(config, task, counts, processes.world), encoding="utf-8")
    processes.barrier()
    for name, module in task.sharded.items():
        module.save_centers(partial / f"centers-{name}.safetensors")
    if processes.main:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    processes.barrier()
    return target


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def card(config: TrainConfig, task: Task, counts: Counts, processes: int) -> str:
    """A model card: what it was trained on, with what recipe, and the figures that the run measured.

    Args:
        config: of the run.
        task: trained.
        counts: of the run.
        processes: that trained it.
    """
    out = Path(config.out)
    records = (read_lines(out / name) for name in (LOG, VALIDATION))
    log, validation = ([line for line in lines if line["step"] <= counts.step] for lines in records)
    figures = []
    if log:
        first, last = log[0], log[-1]
        figures.append(
            f"Loss {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}."
        )
    if validation:
        first, last = validation[0], validation[-1]
        figures.append(
            "Nearest-neighbour accuracy of held-out samples: "
            f"{first['accuracy']:.4f} at step {first['step']}, "
            f"{last['accuracy']:.4f} at step {last['step']}."
        )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=["onevision-hf", "vision-encoder"],
    )
    found = ModelCard.from_template(
        data,
        template_path=str(CARD),
        title=out.name,
        task=config.task,
        seed=config.seed,
        auto_class=task.auto_class,
        counts=counts,
        processes=processes,
        batch_size=sum(component.batch_size for component in task.mixture),
        mixture=[(c.name, _examples(c), c.batch_size) for c in task.mixture],
        figures=figures,
        recipe=json.dumps(_without_paths(config.to_dict()), indent=1),
    )
    return str(found)


def _examples(component: MixtureComponent) -> str:
    if component.sampler is None:
        return "streamed"
    return f"{len(component.dataset)} ({len(component.sampler)} trained on)"


def _without_paths(values: Any) -> Any:
    """A card travels; the folders of the machine that trained do not."""
    if isinstance(values, dict):
        return {k: _without_paths(v) for k, v in values.items() if k != "out"}
    if isinstance(values, str) and os.path.isabs(values):
        return Path(values).name
    return values
