"""`--dry-run` of the multimodal model: some of its conversations measured, and two steps of a stand-in."""

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...data.conversations import Conversations, open_conversations
from ...modeling.configuration_onevision_vl import OneVisionVLConfig
from ...modeling.modeling_onevision_vl import OneVisionVLForConditionalGeneration
from ...modeling.vae_openvision3 import MissingVAEError, load_vae
from ..config import TrainConfig
from ..tasks.vl import NAME, VLTask, layers_of
from .plan import CPU_LAYERS, describe, on_processor, peak, stand_in_vae

MEASURED = 256  # conversations, taken evenly from the source
# Of the stand-ins: pictures, their sides, and what is said of each.
DRAWN, SIDE, ANSWER = 64, 112, "word " * 10


def dry_run_vl(config: TrainConfig, processes: int | None = None) -> int:
    """Print the plan and take two steps; nothing is written outside a temporary folder.

    Raises what `VLTask` raises: without `vl.model` there is nothing to plan.
    """
    from accelerate import PartialState

    from ..loop import Trainer

    state = PartialState(cpu=config.device == "cpu")
    ways = state.num_processes
    with tempfile.TemporaryDirectory() as name:
        folder, small = Path(name), copy.deepcopy(config)
        small.out = str(folder / "run")
        task, lines = plan(small, folder)
        text = describe(config, task, lines, processes or ways)
        notes = shrink(small, task, ways, processes or ways, folder)
        if state.is_main_process:
            print(text)
            print("two steps with " + ", ".join(notes), flush=True)
        trainer = Trainer(small, {NAME: task.packed.rows}, max_steps=2)
        trainer.save = lambda: Path()  # type: ignore[method-assign]
        status = trainer.fit()
        if state.is_main_process and status == 0:
            print(f"two steps done; {peak(trainer.device)}", flush=True)
    return status


def plan(config: TrainConfig, folder: Path) -> tuple[VLTask, list[str]]:
    """The task over some of the conversations, or over drawn ones where there are none, and lines on them."""
    vl = config.vl
    try:
        rows = open_conversations(vl.source, vl.media_root)
    except FileNotFoundError as error:
        task = VLTask(config, {NAME: drawn_conversations(folder)})
        return task, [f"{NAME}: no data ({error}); random pictures instead"]
    task = VLTask(config, {NAME: some(rows, MEASURED)})
    lengths, total = task.lengths, len(rows)
    known = lengths[lengths > 0]
    if not len(known):
        lines = [
            f"{NAME}: {total} conversations at {vl.source}, and none of {len(lengths)} can be read (is "
            f"vl.media_root right?); random pictures instead"
        ]
        return VLTask(config, {NAME: drawn_conversations(folder)}), lines
    packs = len(task.packed.packs)
    lines = [
        f"{NAME}: {total} conversations at {vl.source}; of {len(lengths)}: {known.mean():.0f} tokens on "
        f"average, {known.max()} at most",
        f"packs: about {math.ceil(packs * total / len(lengths))} of {vl.token_budget} tokens, "
        f"{known.sum() / (packs * vl.token_budget):.0%} full",
    ]
    if len(known) < len(lengths):
        lines.append(f"{len(lengths) - len(known)} of {len(lengths)} conversations cannot be read")
    long = int((known > vl.token_budget).sum())
    if long:
        lines.append(f"{long} of {len(lengths)} are longer than vl.token_budget and will not be trained on")
    return task, lines


def some(rows: Conversations, count: int) -> Conversations:
    """At most `count` of the rows, taken evenly."""
    if len(rows) <= count:
        return rows
    chosen = np.linspace(0, len(rows) - 1, count).astype(int)
    return rows.part(chosen.tolist())


def drawn_conversations(folder: Path) -> Conversations:
    """Random pictures, each with an answer of some words."""
    records = []
    for number in range(DRAWN):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": ANSWER},
        ]
        records.append({"image": f"{number}.png", "conversations": turns})
    return Conversations(records, folder, "random")


def shrink(config: TrainConfig, task: VLTask, ways: int, processes: int, folder: Path) -> list[str]:
    """Make `config` that of the two steps: one process's share of the batch, on a CPU a small one; notes."""
    notes: list[str] = []
    config.trackers, config.log_every, config.keep, config.save_every = [], 1, 1, 10**9
    config.steps, config.samples, config.workers = max(2, config.steps), 0, min(config.workers, 2)
    share = math.ceil(config.vl.batch_size / config.optim.accumulation / processes)
    config.optim.accumulation = 1
    if on_processor(config):
        share = 1
        if config.optim.precision != "float32":
            config.optim.precision = "float32"
            notes.append("float32")
        longest = int(task.lengths.max())
        config.vl.token_budget = min(config.vl.token_budget, longest)
        notes += stand_in(config, task.model_config, task.processor, folder)
    config.vl.batch_size = ways * share
    return [*notes, f"{config.vl.batch_size} packs of at most {config.vl.token_budget} tokens"]


def stand_in(config: TrainConfig, whole: OneVisionVLConfig, processor: Any, folder: Path) -> list[str]:
    """Where the model is deep, or its VAE is not there: one of few layers and random weights; notes."""
    small, notes = copy.deepcopy(whole), []
    for field, part in (("vision_config", "tower"), ("text_config", "language model")):
        own = getattr(small, field)
        if layers_of(own) > CPU_LAYERS:
            notes.append(f"{CPU_LAYERS} of {layers_of(own)} layers of the {part}")
            setattr(small, field, shallow(own))
    if small.vision_config.model_type == "openvision3":
        try:
            load_vae(small.vision_config)
        except MissingVAEError as error:
            notes.append(stand_in_vae(small.vision_config, folder / "vae", True, error))
            small.vision_config.vae_name_or_path = str(folder / "vae")
    if notes:
        torch.manual_seed(0)
        OneVisionVLForConditionalGeneration(small).save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        config.vl.model = str(folder / "model")
    return notes


def shallow(config: Any) -> Any:
    """The config with its first layers only."""
    name = "depth" if not getattr(config, "num_hidden_layers", None) else "num_hidden_layers"
    values = {key: value for key, value in config.to_dict().items() if key != "layer_types"}
    values[name] = CPU_LAYERS
    if "deepstack_visual_indexes" in values:
        values["deepstack_visual_indexes"] = [n for n in values["deepstack_visual_indexes"] if n < CPU_LAYERS]
    return type(config)(**values)


__all__ = ["dry_run_vl"]
