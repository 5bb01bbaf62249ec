"""The config of a run: one YAML file, any field of which `key=value` overrides.

    config = load_config("cluster_smoke", ["max_steps=100", "cluster.heads.image.source=shards/image"])

The file is a name in `configs/` or a path. Here are the fields that every task has; the `task` of the file
names the class that adds its sections (`tasks/registry.py`). A key that does not exist, that has another name
now, and a value of another type are errors that name what was meant; every field is checked before anything
is built. The comments of the fields are the reference that docs/training.md prints.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from .schema import FIXED, ConfigError, build, check_scales, fixed, read_values, require, was
from .tasks.registry import DEFAULT, part_of

CONFIGS = files("onevision_hf.training") / "configs"


@dataclass
class ModelConfig:
    size: Literal["tiny", "base", "large", "huge"] = "base"  # the encoder, when it starts from random weights
    init_from: str | None = None  # a folder or Hub repository to start from instead; read in float32
    overrides: dict[str, Any] = field(default_factory=dict)  # fields of the encoder's config


@dataclass
class OptimConfig:
    learning_rate: float = was("lr", 1e-3)  # of the backbone at its highest
    # of the layers' matrices at its highest, by Muon; 0: they take AdamW and learning_rate as all else
    muon_lr: float = 0.0
    lr_scheduler_type: Literal["linear", "cosine", "poly"] = was("schedule", "linear")
    power: float = 2.0  # of `poly`
    warmup_steps: int = was("warmup", 0)  # optimizer steps
    final_lr_scale: float = was("final_lr", 0.0)  # of the last step, as a multiple of `learning_rate`
    weight_decay: float = 0.05  # not on norms, biases, probes and positions
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    centers_lr_scale: float = was("centers_lr", 1.0)  # as a multiple of `learning_rate`
    centers_weight_decay: float = 0.05
    max_grad_norm: float = was("clip", 5.0)  # global norm of all gradients, centers included; 0: no clipping
    # micro-batches an optimizer step; must divide every batch size
    gradient_accumulation_steps: int = was("accumulation", 1, fixed=True)
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation; weights stay float32
    ema: float = 0.0  # decay of an average of the backbone's weights; 0: none
    gradient_checkpointing: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"

    def check(self) -> None:
        """Raise ConfigError for what no run can have."""
        for name in ("learning_rate", "eps"):
            require(getattr(self, name) > 0, f"optim.{name}", getattr(self, name), "above 0")
        for name in ("muon_lr", "warmup_steps", "weight_decay", "centers_lr_scale", "centers_weight_decay",
                     "max_grad_norm", "power"):  # fmt: skip
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "0 or more")
        whole = not (self.muon_lr and self.parallel == "fsdp")
        require(whole, "optim.muon_lr", self.muon_lr, "0 with optim.parallel fsdp, which cuts the matrices")
        last = self.final_lr_scale
        require(0 <= last <= 1, "optim.final_lr_scale", last, "a multiple of learning_rate from 0 to 1")
        require(0 <= self.ema < 1, "optim.ema", self.ema, "from 0 (none) to below 1")
        betas_hold = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        require(betas_hold, "optim.betas", self.betas, "two numbers in [0, 1)")
        parts = self.gradient_accumulation_steps
        require(parts >= 1, "optim.gradient_accumulation_steps", parts, "at least 1")

    def check_batch_size(self, name: str, batch_size: int) -> None:
        """Raise ConfigError for a batch that micro-batches do not divide.

        Args:
            name: the whole key.
            batch_size: samples an optimizer step.
        """
        parts = self.gradient_accumulation_steps
        whole = batch_size % parts == 0
        require(whole, name, batch_size, f"a multiple of optim.gradient_accumulation_steps, {parts}")


@dataclass
class ValidationConfig:
    every: int = 0  # optimizer steps; 0: never. Also before the first and after the last step
    head: str = ""  # whose examples and transform; empty: the first head
    source: str = ""  # another source for it; empty: `held_out` of the head's own
    held_out: float = 0.0  # share of the head's examples that is never trained on
    items: int = 1024  # at most so many examples
    neighbours: int = 10


@dataclass
class TrainConfig:
    task: str = fixed(DEFAULT)
    out: str = ""  # folder of the run; empty: runs/NAME
    seed: int = fixed(0)
    max_steps: int = was("steps", 0)  # optimizer steps; or give `samples`
    samples: int = 0  # over all heads; rounded up to whole steps
    model: ModelConfig = field(default_factory=ModelConfig, metadata=FIXED)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    dataloader_num_workers: int = was("workers", 2)  # decoding processes of each training process
    max_broken: float = 0.01  # share of broken samples that stops the run (from the 100th sample on)
    logging_steps: int = was("log_every", 10)  # steps between lines of log.jsonl
    save_steps: int = was("save_every", 1000)  # steps between checkpoints; also at the end and at a signal
    save_total_limit: int = was("keep", 3)  # checkpoints
    # trackers of accelerate; [] for none
    report_to: list[str] = field(default_factory=lambda: ["trackio"], metadata={"was": "trackers"})
    device: Literal["auto", "cpu"] = "auto"
    timeout: int = 600  # seconds after which a process that does not answer ends the run

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def check(self) -> None:
        """Raise ConfigError for what no run can have. A task's own class adds its sections."""
        steps = self.max_steps
        require((steps > 0) != (self.samples > 0), "max_steps", steps, "above 0, or `samples` instead")
        for name in ("logging_steps", "save_steps", "save_total_limit", "timeout"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("dataloader_num_workers", "samples", "max_steps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 <= self.max_broken <= 1, "max_broken", self.max_broken, "a share from 0 to 1")
        self.optim.check()
        check_scales(self.to_dict(), self.optim.learning_rate)
        held_out, neighbours = self.validation.held_out, self.validation.neighbours
        require(0 <= held_out < 1, "validation.held_out", held_out, "a share below 1")
        require(neighbours >= 1, "validation.neighbours", neighbours, "at least 1")

    def total_steps(self, samples_per_step: int) -> int:
        return self.max_steps or -(-self.samples // samples_per_step)


def load_config(name: str, overrides: Sequence[str] = ()) -> Any:
    """The config of a run: `TrainConfig` with the sections of its task.

    Args:
        name: a file in `configs/` without its .yaml, or a path.
        overrides: `key=value` each.

    Raises:
        ConfigError: with the nearest key that exists, or what was expected. OSError: a missing file.
    """
    config = from_dict(read_values(name, overrides, CONFIGS))
    config.out = config.out or f"runs/{Path(name).stem}"
    return config


def from_dict(values: Mapping[str, Any]) -> Any:
    """A checked config from nested dictionaries."""
    task = values.get("task", DEFAULT)
    config = build(part_of(task, "config"), values)
    config.check()
    return config


__all__ = [
    "CONFIGS", "ConfigError", "ModelConfig", "OptimConfig", "TrainConfig", "ValidationConfig", "from_dict",
    "load_config",
]  # fmt: skip
