"""The config of the multimodal model's training: the section `vl`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import TrainConfig
from ..schema import FIXED, ConfigError, fixed, require, was


@dataclass
class VLConfig:
    # the multimodal folder to start from: `onevision assemble` makes one; read in float32
    model: str = fixed("")
    # conversations: a .json or .jsonl in LLaVA's layout, a folder that `onevision synth questions` drew,
    # hf:FOLDER (save_to_disk), hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT
    source: str = fixed("")
    media_root: str = ""  # the folder that paths in the source start from; empty: the source's own
    # plain: the medium and its caption, no turns (LLaVA's stage 1)
    prompt: Literal["chat", "plain"] = fixed("chat")
    token_budget: int = fixed(8192)  # tokens, words and visual ones, of a pack of conversations
    batch_size: int = fixed(0)  # packs an optimizer step, over all processes and micro-batches
    tower_lr_scale: float = was("tower_lr", 1.0)  # multiples of optim.learning_rate; 0: not trained
    connector_lr_scale: float = was("connector_lr", 1.0)
    llm_lr_scale: float = was("llm_lr", 1.0)
    lora_rank: int = fixed(0)  # of the language model's matrices; 0: none, they are trained themselves
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    # which modules, as peft reads it
    lora_target: str = fixed(r".*language_model.*\.(q|k|v|o|gate|up|down)_proj")
    # of the processor: num_frames, max_pixels, ...
    settings: dict[str, Any] = field(default_factory=dict, metadata=FIXED)
    # instead, where the folder is a published LLaVA-OneVision-2 or Mage-VL: preset, max_canvases, ...
    published_settings: dict[str, Any] = field(default_factory=dict, metadata=FIXED)


@dataclass
class VLTrainConfig(TrainConfig):
    """A run of the multimodal model."""

    vl: VLConfig = field(default_factory=VLConfig)

    def check(self) -> None:
        """Raise ConfigError for what no run can have."""
        super().check()
        if self.validation.every:
            raise ConfigError("validation.every is for encoders: a multimodal model has `onevision eval`")
        vl = self.vl
        for name in ("model", "source"):
            require(bool(getattr(vl, name)), f"vl.{name}", getattr(vl, name), "a folder, a file or a Hub id")
        for name in ("token_budget", "batch_size"):
            require(getattr(vl, name) >= 1, f"vl.{name}", getattr(vl, name), "at least 1")
        self.optim.check_batch_size("vl.batch_size", vl.batch_size)
        scales = ("tower_lr_scale", "connector_lr_scale", "llm_lr_scale")
        for name in (*scales, "lora_rank"):
            require(getattr(vl, name) >= 0, f"vl.{name}", getattr(vl, name), "0 or more")
        require(0 <= vl.lora_dropout < 1, "vl.lora_dropout", vl.lora_dropout, "from 0 to below 1")
        require(vl.lora_alpha > 0, "vl.lora_alpha", vl.lora_alpha, "above 0")
        values = tuple(getattr(vl, name) for name in scales)
        require(any(values), f"vl.{', '.join(scales)}", values, "one above 0, or nothing is trained")
        if vl.lora_rank:
            tower, llm = vl.tower_lr_scale, vl.llm_lr_scale
            require(tower == 0, "vl.tower_lr_scale", tower, "0 with lora_rank: an adapter has no tower")
            require(llm > 0, "vl.llm_lr_scale", llm, "above 0 with lora_rank: it is the adapter's")
