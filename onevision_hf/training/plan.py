"""`--dry-run`: what a run would need, and two of its steps."""

import copy
import math
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..modeling.modeling_onevision import OneVisionModel
from .cluster_task import encoder_config
from .config import ConfigError, HeadConfig, TrainConfig, total_steps
from .sources import Rows, open_rows
from .stand_in import RandomRows

CPU_BATCH, CPU_CLASSES, UNKNOWN_CLASSES = 1, 4096, 1000
_BYTES = {"float32": 4, "bfloat16": 2}


def tokens(head: HeadConfig, patch_size: int) -> int:
    """Patches of one sample of a head, at most."""
    frame = (head.size // patch_size) ** 2
    return frame if head.kind == "image" else min(head.num_patches, head.num_frames * frame)


def find_rows(config: TrainConfig) -> tuple[dict[str, Rows], list[str], list[str]]:
    """The rows of each head, random where there is no data; a line on each; and the names of the random
    ones.
    """
    rows: dict[str, Rows] = {}
    lines, random = [], []
    patch_size = encoder_config(config).patch_size
    for name, head in config.cluster.heads.items():
        try:
            if head.source.startswith("stream:"):
                raise FileNotFoundError("a stream is not opened in a dry run")
            rows[name] = open_rows(head.source)
            shards = getattr(rows[name], "shard_rows", None)
            found = f"{len(shards)} shards, {len(rows[name])} rows" if shards else f"{len(rows[name])} rows"
            lines.append(f"{name}: {found} at {head.source}")
        except FileNotFoundError as error:
            rows[name] = RandomRows(head, head.classes or UNKNOWN_CLASSES, patch_size)
            random.append(name)
            assumed = "" if head.classes else f", {UNKNOWN_CLASSES} centers assumed"
            lines.append(f"{name}: no data ({error}); random tensors instead{assumed}")
    return rows, lines, random


def memory(config: TrainConfig, task: Any, parameters: int, processes: int) -> dict[str, int]:
    """Bytes on one process by part. Activations are an estimate, the rest is exact.

    Activations: 34 values of two bytes for each token, layer and channel without checkpointing (Korthikanti
    et al., arXiv 2205.05198, section 4, without the attention matrix, which is never kept), one per token
    and layer with it, plus one layer in full.
    """
    optim, model = config.optim, task.encoder_config
    parts = processes if optim.parallel == "fsdp" else 1
    found = {
        "weights": 4 * parameters // parts,
        "gradients": 4 * parameters // parts,
        "moments": 8 * parameters // parts,
    }
    if optim.ema:
        found["average"] = 4 * parameters // parts
    value = _BYTES[optim.precision]
    local = sum(
        math.ceil(head.batch_size / optim.accumulation / processes) * tokens(head, model.patch_size)
        for head in config.cluster.heads.values()
    )
    layer = local * model.hidden_size * 17 * value
    layers = model.num_hidden_layers
    kept = (
        local * model.hidden_size * value * layers + layer if optim.gradient_checkpointing else layer * layers
    )
    return found | {"activations (estimate)": kept} | task.memory(processes)


def describe(config: TrainConfig, task: Any, lines: list[str], processes: int) -> str:
    with torch.device("meta"):
        model = OneVisionModel(task.encoder_config)
    parameters = sum(p.numel() for p in model.parameters())
    patch_size = task.encoder_config.patch_size
    samples = sum(stream.batch_size for stream in task.streams)
    per_step = sum(s.batch_size * tokens(config.cluster.heads[s.name], patch_size) for s in task.streams)
    steps = total_steps(config, samples)
    parts = memory(config, task, parameters, processes)
    centers = {name: task.classes(name) for name in config.cluster.heads}
    table = [f"  {part:<28}{size / 2**30:>10.3f} GiB" for part, size in parts.items()]
    return "\n".join(
        [
            f"plan of {config.out} on {processes} process(es)",
            f"parameters: {parameters / 1e6:.1f} M in the encoder; centers "
            + ", ".join(f"{name} {count}" for name, count in centers.items()),
            *lines,
            f"an optimizer step: {samples} samples, {per_step} patches in "
            f"{config.optim.accumulation} micro-batch(es)",
            f"steps: {steps}, {steps * samples} samples",
            "memory of a process:",
            *table,
            f"  {'sum':<28}{sum(parts.values()) / 2**30:>10.3f} GiB",
        ]
    )


def shrunk(config: TrainConfig, ways: int, processes: int) -> tuple[TrainConfig, list[str]]:
    """The config of the two steps: one process's share of the batch, on a CPU a small one, nothing kept."""
    small, notes = copy.deepcopy(config), []
    small.validation.every, small.trackers, small.log_every = 0, [], 1
    small.keep, small.save_every, small.optim.accumulation = 1, 10**9, 1
    small.workers = min(small.workers, 2)
    on_cpu = _small(small)
    if on_cpu and small.optim.precision != "float32":
        small.optim.precision = "float32"  # processors emulate bfloat16, many times slower
        notes.append("float32")
    for name, head in small.cluster.heads.items():
        share = math.ceil(head.batch_size / config.optim.accumulation / processes)
        head.batch_size = ways * (min(share, CPU_BATCH) if on_cpu else share)
        head.centers = None
        if on_cpu and head.classes > CPU_CLASSES:
            head.classes = CPU_CLASSES
            notes.append(f"{name}: {CPU_CLASSES} centers")
        notes.append(f"{name}: {head.batch_size} samples")
    return small, notes


def dry_run(config: TrainConfig, processes: int | None = None) -> int:
    """Print the plan and take two steps; nothing is written outside a temporary folder."""
    from accelerate import PartialState

    from .loop import Trainer
    from .tasks import make_task

    if config.task != "cluster":
        raise ConfigError(f"a dry run plans the task cluster, and this is {config.task}: use --max-steps 2")
    logging.set_verbosity_error()
    state = PartialState(cpu=config.device == "cpu")
    ways = state.num_processes
    config, first = _without_absent_start(config)
    rows, lines, random = find_rows(config)
    lines = first + lines
    task = make_task(config, rows)
    text = describe(config, task, lines, processes or ways)
    planned = total_steps(config, sum(stream.batch_size for stream in task.streams))
    small, notes = shrunk(config, ways, processes or ways)
    patch_size = encoder_config(config).patch_size
    used: dict[str, Rows] = {}
    for name, head in small.cluster.heads.items():
        known = getattr(rows[name], "classes", None)
        if name in random:
            head.classes = (
                min(head.classes or UNKNOWN_CLASSES, CPU_CLASSES) if _small(small) else head.classes
            )
            used[name] = RandomRows(head, head.classes or UNKNOWN_CLASSES, patch_size)
        else:
            head.classes = max(head.classes, known or 0)
            used[name] = rows[name]
    if state.is_main_process:
        print(text)
        print("two steps with " + ", ".join(notes))
        sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        small.out, small.steps, small.samples = str(Path(folder) / "dry-run"), max(2, planned), 0
        trainer = Trainer(small, used, max_steps=2)
        trainer.save = lambda: Path()  # type: ignore[method-assign]
        status = trainer.fit()
    if state.is_main_process and status == 0:
        print(f"two steps done; {_peak(trainer.device)}")
    return status


def _without_absent_start(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Random weights of `model.size` where `model.init_from` names a folder that is not there."""
    start = config.model.init_from
    if start is None or Path(start).exists() or start.count("/") == 1:
        return config, []
    found = copy.deepcopy(config)
    found.model.init_from = None
    return found, [f"weights: {start} does not exist; random ones of size {config.model.size} instead"]


def _small(config: TrainConfig) -> bool:
    return config.device == "cpu" or not torch.cuda.is_available()


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak memory of the device {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
