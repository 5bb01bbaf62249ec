"""What a training of the multimodal model is asked to do: the section `vl` of a config."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class VLConfig:
    model: str = ""  # the multimodal folder to start from: `onevision assemble` makes one; read in float32
    source: str = ""  # conversations: a .json or .jsonl in LLaVA's layout, a folder that `onevision synth
    # questions` drew, hf:FOLDER (save_to_disk), hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT
    media_root: str = ""  # the folder that paths in the source start from; empty: the source's own
    prompt: Literal["chat", "plain"] = "chat"  # plain: the medium and its caption, no turns (LLaVA's stage 1)
    token_budget: int = 8192  # tokens, words and visual ones, of a pack of conversations
    batch_size: int = 0  # packs an optimizer step, over all processes and micro-batches
    tower_lr: float = 1.0  # multiples of optim.lr; 0: not trained
    connector_lr: float = 1.0
    llm_lr: float = 1.0
    lora_rank: int = 0  # of the language model's matrices; 0: none, they are trained themselves
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_target: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"  # which modules, as peft reads it
    settings: dict[str, Any] = field(default_factory=dict)  # of the processor: num_frames, max_pixels, ...


def check_vl(vl: VLConfig, accumulation: int, require: Callable[[bool, str, Any, str], None]) -> None:
    """Raise ConfigError, through `require(holds, name, value, expected)`, for what no run can have."""
    for name in ("model", "source"):
        require(bool(getattr(vl, name)), f"vl.{name}", getattr(vl, name), "a folder, a file or a Hub id")
    for name in ("token_budget", "batch_size"):
        require(getattr(vl, name) >= 1, f"vl.{name}", getattr(vl, name), "at least 1")
    whole = vl.batch_size % accumulation == 0
    require(whole, "vl.batch_size", vl.batch_size, f"a multiple of optim.accumulation, {accumulation}")
    for name in ("tower_lr", "connector_lr", "llm_lr", "lora_rank"):
        require(getattr(vl, name) >= 0, f"vl.{name}", getattr(vl, name), "0 or more")
    require(0 <= vl.lora_dropout < 1, "vl.lora_dropout", vl.lora_dropout, "from 0 to below 1")
    require(vl.lora_alpha > 0, "vl.lora_alpha", vl.lora_alpha, "above 0")
    rates = (vl.tower_lr, vl.connector_lr, vl.llm_lr)
    require(any(rates), "vl.tower_lr, connector_lr, llm_lr", rates, "one above 0, or nothing is trained")
    if vl.lora_rank:
        require(vl.tower_lr == 0, "vl.tower_lr", vl.tower_lr, "0 with lora_rank: an adapter has no tower")
        require(vl.llm_lr > 0, "vl.llm_lr", vl.llm_lr, "above 0 with lora_rank: it is the adapter's")
