"""The end of a run: a folder that `AutoModel.from_pretrained` loads, the centers, and a card that says
how.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from .report import LOG, VALIDATION, Report, read_lines

if TYPE_CHECKING:
    from .loop import Trainer

MODEL = "model"


def export(trainer: "Trainer", report: Report) -> Path:
    """Write `out`/model: weights (averaged, if there is an average), processor, centers-NAME.safetensors,
    README.md.

    Every process calls this. The folder is written aside and renamed.
    """
    target, aside = trainer.out / MODEL, trainer.out / f".{MODEL}.partial"
    live = trainer.average.weights if trainer.average else dict(trainer.task.model.named_parameters())
    state = {name: _whole(tensor.detach()) for name, tensor in live.items()}
    if trainer.rank == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        trainer.task.export(aside, state)
        (aside / "README.md").write_text(card(trainer), encoding="utf-8")
    if trainer.size > 1:
        dist.barrier()
    for name, module in trainer.task.sharded.items():
        module.save_centers(aside / f"centers-{name}.safetensors")
    if trainer.rank == 0:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
    if trainer.size > 1:
        dist.barrier()
    auto_class = getattr(trainer.task, "auto_class", "AutoModel")
    report.say(f"trained: {target} loads with {auto_class}.from_pretrained")
    return target


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def card(trainer: "Trainer") -> str:
    """A model card: what it was trained on, with what recipe, and the figures that the run measured."""
    config = trainer.config
    auto_class = getattr(trainer.task, "auto_class", "AutoModel")
    log, validation = (read_lines(trainer.out / name) for name in (LOG, VALIDATION))
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {'image-feature-extraction' if auto_class == 'AutoModel' else 'image-text-to-text'}",
        "tags: [onevision-hf, vision-encoder]",
        "---",
        "",
        f"# {trainer.out.name}",
        "",
        f"Trained by onevision-hf, task `{config.task}`, {trainer.step} optimizer steps of "
        f"{trainer.samples_per_step} samples, seed {config.seed}, on {trainer.size} process(es).",
        "",
        "```python",
        "import onevision_hf",
        f"from transformers import {auto_class}",
        f'model = {auto_class}.from_pretrained("this folder")',
        "```",
        "",
        "## Data",
        "",
        "| stream | rows | samples a step |",
        "|---|---|---|",
        *(f"| {s.name} | {_rows(s)} | {s.batch_size} |" for s in trainer.task.streams),
        "",
        f"{trainer.samples} samples were read; {trainer.broken} broken ones were replaced.",
        "",
        "## Figures",
        "",
    ]
    if log:
        lines.append(
            f"Loss {log[0]['loss']:.4f} at step {log[0]['step']}, "
            f"{log[-1]['loss']:.4f} at step {log[-1]['step']}."
        )
    if validation:
        first, last = validation[0], validation[-1]
        lines.append(
            "Nearest-neighbour accuracy of held-out samples: "
            f"{first['accuracy']:.4f} at step {first['step']}, "
            f"{last['accuracy']:.4f} at step {last['step']}."
        )
    lines += [
        "",
        "## Recipe",
        "",
        "```json",
        json.dumps(_without_paths(config.to_dict()), indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _rows(stream: Any) -> str:
    return f"{len(stream.rows)} ({stream.order.rows} trained on)" if stream.order else "streamed"


def _without_paths(values: Any) -> Any:
    """A card travels; the folders of the machine that trained do not."""
    if isinstance(values, dict):
        return {k: _without_paths(v) for k, v in values.items() if k != "out"}
    if isinstance(values, str) and os.path.isabs(values):
        return Path(values).name
    return values
