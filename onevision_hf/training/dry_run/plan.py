"""`--dry-run`: what a run would need, and two of its steps."""

import copy
import math
import resource
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from ..config import TrainConfig
from ..tasks.registry import part_of
from .planned import Planned, SmallRun

_BYTES = {"float32": 4, "bfloat16": 2}


def make_plan(config: TrainConfig, folder: Path) -> Planned:
    """The plan of the task that the config names; `folder` is for what it writes."""
    return part_of(config.task, "plan")(config, folder)


def memory_by_part(plan: Planned, processes: int) -> dict[str, int]:
    """Bytes on one of `processes` processes by part. Activations are an estimate, the rest is exact; what is
    frozen next to the model (a VAE, LPIPS) and its activations are not in it.

    Activations: 34 values of two bytes for each token, layer and channel without checkpointing (Korthikanti
    et al., arXiv 2205.05198, section 4, without the attention matrix, which is never kept), one per token
    and layer with it, plus one layer in full. Of a batch in chunks, one chunk's.
    """
    optim, parameters, trained = plan.config.optim, sum(plan.parameters().values()), plan.trained()
    parts = processes if optim.parallel == "fsdp" else 1
    found = {
        "weights": 4 * parameters // parts,
        "gradients": 4 * trained // parts,
        "moments": 8 * trained // parts,
    }
    if optim.ema:
        found["average"] = 4 * parameters // parts
    kept = 0
    for group in plan.layer_groups():
        samples = math.ceil(group.samples / optim.gradient_accumulation_steps / processes)
        values = min(samples, group.chunk or samples) * group.tokens * group.width * _BYTES[optim.precision]
        layer = 17 * values
        kept += values * group.layers + layer if optim.gradient_checkpointing else layer * group.layers
    return found | {"activations (estimate)": kept} | plan.memory(processes)


def describe(plan: Planned, out: str, processes: int) -> str:
    """The plan in words.

    Args:
        plan: of the run.
        out: its folder.
        processes: that it is for.
    """
    mixture = plan.task.mixture
    samples = sum(component.batch_size for component in mixture)
    first = {group.component: group for group in reversed(plan.layer_groups())}
    per_step = sum(group.samples * group.tokens for group in first.values())
    steps = plan.config.total_steps(samples)
    counted = ", ".join(
        f"{count / 1e6:.1f} M in the {part.replace('_', ' ')}" for part, count in plan.parameters().items()
    )
    parts = memory_by_part(plan, processes)
    many, small = plan.units
    return "\n".join(
        [
            f"plan of {out} on {processes} process(es)",
            f"parameters: {'; '.join([counted, *plan.remarks()])}",
            *plan.lines,
            f"an optimizer step: {samples} {many}, {per_step} {small} in "
            f"{plan.config.optim.gradient_accumulation_steps} micro-batch(es)",
            f"steps: {steps}, {steps * samples} {many}",
            "memory of a process:",
            *(f"  {part:<28}{size / 2**30:>10.3f} GiB" for part, size in parts.items()),
            f"  {'sum':<28}{sum(parts.values()) / 2**30:>10.3f} GiB",
        ]
    )


def small_run(plan: Planned, folder: Path, size: int, processes: int) -> SmallRun:
    """Two steps of the plan, of which nothing is kept.

    Args:
        plan: of the whole run.
        folder: for what is written.
        size: processes that take the steps.
        processes: that the plan is for.
    """
    config = copy.deepcopy(plan.config)
    small = SmallRun(config, folder, size, processes, config.optim.gradient_accumulation_steps)
    total = config.total_steps(sum(component.batch_size for component in plan.task.mixture))
    config.out, config.max_steps, config.samples = str(folder / "run"), max(2, total), 0
    config.validation.every, config.report_to, config.logging_steps = 0, [], 1
    config.optim.gradient_accumulation_steps = 1
    config.dataloader_num_workers = min(config.dataloader_num_workers, 2)
    if small.on_cpu and config.optim.precision != "float32":
        config.optim.precision = "float32"  # processors emulate bfloat16, many times slower
        small.notes.append("float32")
    plan.shrink(small)
    return small


def dry_run(config: TrainConfig, processes: int | None = None) -> int:
    """Print the plan and take two steps; nothing is written outside a temporary folder.

    Args:
        config: of the run.
        processes: to plan for; default: those that run now.

    Returns:
        The status for the shell.
    """
    from accelerate import PartialState

    from ..loop import Trainer

    logging.set_verbosity_error()
    state = PartialState(cpu=config.device == "cpu")
    size = state.num_processes
    with tempfile.TemporaryDirectory() as name:
        plan = make_plan(config, Path(name))
        text = describe(plan, config.out, processes or size)
        small = small_run(plan, Path(name), size, processes or size)
        if state.is_main_process:
            print("\n".join([text, f"two steps with {', '.join(small.notes)}", *small.lines]), flush=True)
        trainer = Trainer(small.config, small.datasets, max_steps=2, checkpoints=False)
        status = trainer.fit()
    if state.is_main_process and status == 0:
        print(f"two steps done; {_peak(trainer.device)}", flush=True)
    return status


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak memory of the device {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
