"""The plan of the task `vl`: some of its conversations measured, and two steps of a small dummy model."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText

from ...data.conversations import Conversations, open_conversations
from ...modeling.vae_openvision3 import MissingVAEError, load_vae
from ..dry_run.planned import CPU_LAYERS, LayerGroup, Planned, SmallRun, find
from .unified_plan import dummy_vae
from .vl import NAME, PARTS, VLTask, with_adapter
from .vl_config import VLTrainConfig

CPU_WIDTH = 512  # channels of the language model, on a processor
MEASURED = 256  # conversations, taken evenly from the source
# Of dummy conversations: pictures, their sides, and the answer to each.
DRAWN, SIDE, ANSWER = 64, 112, "word " * 10


class VLPlan(Planned):
    """See `Planned`. Raises what `VLTask` raises: without `vl.model` there is nothing to plan."""

    units = ("packs", "tokens")

    def __init__(self, config: VLTrainConfig, folder: Path):
        self.config, self.folder, self.lines = copy.deepcopy(config), folder, []
        self.config.out = str(folder / "run")  # where lengths are kept
        vl = config.vl
        found, absent = find(
            NAME,
            lambda: open_conversations(vl.source, vl.media_root),
            lambda: dummy_conversations(folder),
            "random pictures instead",
        )
        self.task = VLTask(self.config, {NAME: found if absent else some(found, MEASURED)})
        if absent:
            self.lines.append(absent)
        elif not self.task.lengths.any():
            self.lines.append(
                f"{NAME}: {len(found)} conversations at {vl.source}, and none of {len(self.task.lengths)} "
                "can be read (is vl.media_root right?); random pictures instead"
            )
            self.task = VLTask(self.config, {NAME: dummy_conversations(folder)})
        else:
            self.lines += self._measured(len(found))

    def _measured(self, total: int) -> list[str]:
        """Of a source of `total` conversations."""
        vl, lengths, packs = self.config.vl, self.task.lengths, len(self.task.packed)
        known = lengths[lengths > 0]
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
            lines.append(
                f"{long} of {len(lengths)} are longer than vl.token_budget and will not be trained on"
            )
        return lines

    def parameters(self) -> dict[str, int]:
        return self._count(trained=False)

    def trained(self) -> int:
        """How many have a gradient, the layers of the tower that no feature depends on among them."""
        return sum(self._count(trained=True).values())

    def remarks(self) -> list[str]:
        return [f"{self.trained() / 1e6:.1f} M of them are trained"]

    def _count(self, trained: bool) -> dict[str, int]:
        """Of each part, and of the adapter with its copy of the connector."""
        vl = self.config.vl
        with torch.device("meta"):
            outline: nn.Module = AutoModelForImageTextToText.from_config(self.task.model_config)
            self.task.freeze(outline)
            if vl.lora_rank:
                outline = with_adapter(outline, vl)
        found = dict.fromkeys([*PARTS, *(["adapter"] if vl.lora_rank else [])], 0)
        for name, parameter in outline.named_parameters():
            added = ".lora_" in name or ".modules_to_save." in name
            part = "adapter" if added else name.removeprefix("base_model.model.").partition(".")[0]
            found[part] += parameter.numel() if parameter.requires_grad or not trained else 0
        return found

    def layer_groups(self) -> list[LayerGroup]:
        """The language model's layers, and the tower's where they keep anything for a backward pass."""
        vl, whole = self.config.vl, self.task.model_config
        text, tower, tokens = whole.text_config, whole.vision_config, vl.token_budget
        found = [LayerGroup(NAME, vl.batch_size, tokens, text.hidden_size, layers_of(text))]
        if vl.tower_lr_scale:
            patches = tokens * whole.merge_size**2
            found.append(LayerGroup(NAME, vl.batch_size, patches, tower.hidden_size, layers_of(tower)))
        return found

    def shrink(self, small: SmallRun) -> None:
        vl = small.config.vl
        vl.batch_size = small.batch_size(vl.batch_size)
        if small.on_cpu:
            vl.token_budget = min(vl.token_budget, int(self.task.lengths.max()))
            self._replace_model(small)
        small.datasets[NAME] = self.task.packed.conversations
        small.notes.append(f"{vl.batch_size} packs of at most {vl.token_budget} tokens")

    def _replace_model(self, small: SmallRun) -> None:
        """Where it is deep, or its VAE is not there: by one of few layers and random weights."""
        model, notes = copy.deepcopy(self.task.model_config), []
        for field, part in (("vision_config", "tower"), ("text_config", "language model")):
            own = getattr(model, field)
            if layers_of(own) > CPU_LAYERS:
                notes.append(f"{CPU_LAYERS} of {layers_of(own)} layers of the {part}")
                setattr(model, field, shallow(own))
        if model.text_config.hidden_size > CPU_WIDTH:
            notes.append(f"{CPU_WIDTH} of {model.text_config.hidden_size} channels of the language model")
            narrow(model.text_config)
            if hasattr(model.vision_config, "out_hidden_size"):
                model.vision_config.out_hidden_size = CPU_WIDTH
        if model.vision_config.model_type == "openvision3":
            try:
                load_vae(model.vision_config)
            except MissingVAEError as error:
                notes.append(dummy_vae(model.vision_config, self.folder / "vae", True, error))
                model.vision_config.vae_name_or_path = str(self.folder / "vae")
        if notes:
            torch.manual_seed(0)
            AutoModelForImageTextToText.from_config(model).save_pretrained(self.folder / "model")
            self.task.processor.save_pretrained(self.folder / "model")
            small.config.vl.model = str(self.folder / "model")
        small.notes += notes


def some(conversations: Conversations, count: int) -> Conversations:
    """At most `count` of them, taken evenly."""
    if len(conversations) <= count:
        return conversations
    chosen = np.linspace(0, len(conversations) - 1, count).astype(int)
    return conversations.part(chosen.tolist())


def dummy_conversations(folder: Path) -> Conversations:
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


def layers_of(config: Any) -> int:
    return getattr(config, "num_hidden_layers", None) or config.depth  # Qwen's tower has another name for it


def narrow(text: Any) -> None:
    """Make a language model's layers narrow; a billion weights of embeddings would fill a laptop."""
    heads = max(1, text.num_attention_heads * CPU_WIDTH // text.hidden_size)
    groups = text.num_attention_heads // getattr(text, "num_key_value_heads", text.num_attention_heads)
    text.num_attention_heads, text.num_key_value_heads = heads, max(1, heads // groups)
    text.intermediate_size = text.intermediate_size * CPU_WIDTH // text.hidden_size
    text.hidden_size = CPU_WIDTH


def shallow(config: Any) -> Any:
    """The config with its first layers only."""
    name = "depth" if not getattr(config, "num_hidden_layers", None) else "num_hidden_layers"
    values = {key: value for key, value in config.to_dict().items() if key != "layer_types"}
    values[name] = CPU_LAYERS
    if "deepstack_visual_indexes" in values:
        values["deepstack_visual_indexes"] = [n for n in values["deepstack_visual_indexes"] if n < CPU_LAYERS]
    return type(config)(**values)
