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

from ...data.captions import open_pairs
from ...data.labelled import Rows, open_rows
from ...modeling.vae_openvision3 import MissingVAEError, load_vae
from ...pretraining import MissingLPIPSError, load_lpips
from ...pretraining.tokenizer import load_tokenizer
from ..config import HeadConfig, TrainConfig, total_steps
from ..tasks.cluster import encoder_config, own_patchify
from ..tasks.unified import model_config
from ..tasks.unified_config import PAIRS
from .dummy_data import RandomPairs, RandomRows

CPU_BATCH, CPU_CLASSES, CPU_LAYERS, UNKNOWN_CLASSES = 1, 4096, 2, 1000
_BYTES = {"float32": 4, "bfloat16": 2}


def find_rows(config: TrainConfig) -> tuple[dict[str, Rows], list[str], list[str]]:
    """The rows of each stream, random where there is no data; a line on each; and the names of the random
    ones.
    """
    rows: dict[str, Any] = {}
    lines, random = [], []
    for name, head in config.cluster.heads.items():
        try:
            if head.source.startswith("stream:"):
                raise FileNotFoundError("a stream is not opened in a dry run")
            rows[name] = open_rows(head.source)
            shards = getattr(rows[name], "shard_rows", None)
            found = f"{len(shards)} shards, {len(rows[name])} rows" if shards else f"{len(rows[name])} rows"
            lines.append(f"{name}: {found} at {head.source}")
        except FileNotFoundError as error:
            rows[name] = _random_rows(config, head, head.classes or UNKNOWN_CLASSES)
            random.append(name)
            assumed = "" if head.classes else f", {UNKNOWN_CLASSES} centers assumed"
            lines.append(f"{name}: no data ({error}); random tensors instead{assumed}")
    pairs = config.unified.pairs
    if config.task != "cluster":
        try:
            rows[PAIRS] = open_pairs(pairs.source, pairs.image_column, pairs.caption_columns)
            lines.append(f"{PAIRS}: {len(rows[PAIRS])} images with captions at {pairs.source}")
        except FileNotFoundError as error:
            rows[PAIRS] = RandomPairs(pairs.size)
            random.append(PAIRS)
            lines.append(f"{PAIRS}: no data ({error}); random images instead")
    return rows, lines, random


def _random_rows(config: TrainConfig, head: HeadConfig, classes: int) -> RandomRows:
    if config.task == "cluster":
        own = own_patchify(config)
        return RandomRows(head, classes, own.layout.patch_size, own=own)
    return RandomRows(
        head, classes, model_config(config, load_tokenizer(config.unified.tokenizer)).encoder_stride
    )


def memory(config: TrainConfig, task: Any, parameters: int, processes: int) -> dict[str, int]:
    """Bytes on one process by part. Activations are an estimate, the rest is exact; what is frozen beside the
    model (a VAE, LPIPS) and its activations are not in it.

    Activations: 34 values of two bytes for each token, layer and channel without checkpointing (Korthikanti
    et al., arXiv 2205.05198, section 4, without the attention matrix, which is never kept), one per token
    and layer with it, plus one layer in full. Of a batch in chunks, one chunk's.
    """
    optim = config.optim
    parts = processes if optim.parallel == "fsdp" else 1
    trained = task.trained() if hasattr(task, "trained") else parameters
    found = {
        "weights": 4 * parameters // parts,
        "gradients": 4 * trained // parts,
        "moments": 8 * trained // parts,
    }
    if optim.ema:
        found["average"] = 4 * parameters // parts
    value = _BYTES[optim.precision]
    kept = 0
    for stack in task.stacks():
        samples = math.ceil(stack.samples / optim.accumulation / processes)
        if stack.stream == PAIRS and config.unified.contrastive_chunk:
            samples = min(samples, config.unified.contrastive_chunk)
        row = samples * stack.tokens * stack.width * value
        layer = 17 * row
        kept += row * stack.layers + layer if optim.gradient_checkpointing else layer * stack.layers
    return found | {"activations (estimate)": kept} | task.memory(processes)


def describe(config: TrainConfig, task: Any, lines: list[str], processes: int) -> str:
    counted = task.parameters()
    parameters = sum(counted.values())
    samples = sum(stream.batch_size for stream in task.streams)
    first = {stack.stream: stack for stack in reversed(task.stacks())}
    per_step = sum(stack.samples * stack.tokens for stack in first.values())
    steps = total_steps(config, samples)
    parts = memory(config, task, parameters, processes)
    centers = {name: task.classes(name) for name in config.cluster.heads}
    table = [f"  {part:<28}{size / 2**30:>10.3f} GiB" for part, size in parts.items()]
    said = ", ".join(
        f"{count / 1e6:.1f} M in the {part.replace('_', ' ')}" for part, count in counted.items()
    )
    if centers:
        said += "; centers " + ", ".join(f"{name} {count}" for name, count in centers.items())
    if hasattr(task, "trained"):
        said += f"; {task.trained() / 1e6:.1f} M of them are trained"
    many, small = getattr(task, "units", ("samples", "patches"))
    return "\n".join(
        [
            f"plan of {config.out} on {processes} process(es)",
            f"parameters: {said}",
            *lines,
            f"an optimizer step: {samples} {many}, {per_step} {small} in "
            f"{config.optim.accumulation} micro-batch(es)",
            f"steps: {steps}, {steps * samples} {many}",
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
    on_cpu = on_processor(small)
    if on_cpu and small.optim.precision != "float32":
        small.optim.precision = "float32"  # processors emulate bfloat16, many times slower
        notes.append("float32")
    shallow = on_cpu and config.task == "cluster" and config.model.init_from is None
    layers = encoder_config(config).num_hidden_layers if shallow else 0
    if layers > CPU_LAYERS:
        small.model.overrides["num_hidden_layers"] = CPU_LAYERS
        notes.append(f"{CPU_LAYERS} of {layers} layers")
    streams: list[tuple[str, Any]] = list(small.cluster.heads.items())
    if small.task != "cluster":
        streams.append((PAIRS, small.unified.pairs))
    for name, stream in streams:
        share = math.ceil(stream.batch_size / config.optim.accumulation / processes)
        stream.batch_size = ways * (min(share, CPU_BATCH) if on_cpu else share)
        if name != PAIRS:
            stream.centers = None
        if name != PAIRS and on_cpu and stream.classes > CPU_CLASSES:
            stream.classes = CPU_CLASSES
            notes.append(f"{name}: {CPU_CLASSES} centers")
        notes.append(f"{name}: {stream.batch_size} samples")
    return small, notes


def _with_frozen(config: TrainConfig, folder: Path) -> list[str]:
    """Change `config` where the VAE or LPIPS of a dry run is not there; lines that say so."""
    unified, notes = config.unified, []
    if unified.lpips_weight:
        try:
            load_lpips(unified.lpips_weights)
        except MissingLPIPSError as error:
            notes.append(f"LPIPS: left out ({str(error).partition(':')[0]})")
            unified.lpips_weight = 0.0
    found: Any = model_config(config, load_tokenizer(unified.tokenizer))
    try:
        load_vae(found)
    except MissingVAEError as error:
        notes.append(stand_in_vae(found, folder, on_processor(config), error))
        unified.vae = str(folder)
    return notes


def stand_in_vae(config: Any, folder: Path, small: bool, error: MissingVAEError) -> str:
    """Write a VAE of random weights for a model of this config; a line that says so."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32] * 4 if small else [128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=config.latent_channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.save_pretrained(folder)
    size = "a small one" if small else "one of the published size"
    return f"VAE: {str(error).partition(':')[0]}; {size}, with random weights, instead"


def dry_run(config: TrainConfig, processes: int | None = None) -> int:
    """Print the plan and take two steps; nothing is written outside a temporary folder."""
    from accelerate import PartialState

    from ..loop import Trainer
    from ..tasks.task import make_task

    logging.set_verbosity_error()
    if config.task == "vl":
        from .vl import dry_run_vl

        return dry_run_vl(config, processes)
    state = PartialState(cpu=config.device == "cpu")
    ways = state.num_processes
    config, first = _without_absent_start(config)
    rows, lines, random = find_rows(config)
    lines = first + lines
    latents = config.unified.pairs.latents
    if latents is not None and (PAIRS in random or not Path(latents).exists()):
        config = copy.deepcopy(config)
        config.unified.pairs.latents = None
        lines.append(f"latents: none of these images at {latents}; pixels are encoded instead")
    task = make_task(config, rows)
    text = describe(config, task, lines, processes or ways)
    planned = total_steps(config, sum(stream.batch_size for stream in task.streams))
    small, notes = shrunk(config, ways, processes or ways)
    used: dict[str, Rows] = {name: rows[name] for name in rows if name == PAIRS}
    for name, head in small.cluster.heads.items():
        known = getattr(rows[name], "classes", None)
        if name in random:
            head.classes = (
                min(head.classes or UNKNOWN_CLASSES, CPU_CLASSES) if on_processor(small) else head.classes
            )
            used[name] = _random_rows(config, head, head.classes or UNKNOWN_CLASSES)
        else:
            head.classes = max(head.classes, known or 0)
            used[name] = rows[name]
    if state.is_main_process:
        print(text)
        print("two steps with " + ", ".join(notes))
        sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        if config.task != "cluster":
            said = _with_frozen(small, Path(folder) / "vae")
            if state.is_main_process and said:
                print("\n".join(said), flush=True)
        small.out, small.steps, small.samples = str(Path(folder) / "dry-run"), max(2, planned), 0
        trainer = Trainer(small, used, max_steps=2)
        trainer.save = lambda: Path()  # type: ignore[method-assign]
        status = trainer.fit()
    if state.is_main_process and status == 0:
        print(f"two steps done; {peak(trainer.device)}")
    return status


def _without_absent_start(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Random weights of `model.size` where `model.init_from` names a folder that is not there."""
    start = config.model.init_from
    if start is None or Path(start).exists() or start.count("/") == 1:
        return config, []
    found = copy.deepcopy(config)
    found.model.init_from = None
    return found, [f"weights: {start} does not exist; random ones of size {config.model.size} instead"]


def on_processor(config: TrainConfig) -> bool:
    return config.device == "cpu" or not torch.cuda.is_available()


def peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak memory of the device {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
