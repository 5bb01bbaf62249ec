"""What a probe does: one YAML file of `eval/configs`, any field of which `key=value` overrides.

    config = load_probe_config("ssv2", ["model=FOLDER", "data.train=train.csv", "data.test=val.csv"])

The machinery is that of `training.schema`; the comments of the fields are the reference in docs/probes.md.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ...training.config import OptimConfig
from ...training.schema import ConfigError, build, check_scales, read_values, require, was
from .clip_transform import INTERVENTIONS

CONFIGS = files("onevision_hf.eval.probes") / "configs"
# Fields that may change from one call to the next: none of them changes what a seed's head becomes.
_FREE = (
    "out", "seeds", "intervene", "cache", "dataloader_num_workers", "max_broken", "logging_steps",
    "save_steps", "device", "timeout", "data.max_missing",
)  # fmt: skip


@dataclass
class ClipsConfig:
    train: str = ""  # a CSV of `path,label`, or a folder with a sub-folder for each class
    test: str = ""  # likewise; empty: every fourth clip of each class of `train` is kept for it
    root: str = ""  # the folder that the paths of a CSV start from; empty: where the CSV lies
    classes: int = 0  # 0: as many as there are
    names: str = ""  # a text file with the name of a class in each line
    absent: int = 0  # so many classes may lack a training clip
    max_missing: float = 0.01  # fraction of listed clips that are not there, above which nothing starts


@dataclass
class InputConfig:
    """What of a clip is shown: what the encoder's own processor selects, but for what is given here."""

    kind: Literal["codec", "frames", "dense"] = "codec"  # other encoders than OneVision take `frames`
    num_patches: int | None = None  # of a clip; frames: as many whole frames as that makes
    num_frames: int | None = None  # sampled of a clip (codec, dense)
    size: int = 0  # pixels, side of a frame's middle square; 0: what the processor shows
    max_size: int = 0  # the same for encoders of any size (OneVision), of which smaller ones keep their own
    processor: dict[str, Any] = field(default_factory=dict)  # its other settings: {preset: published}
    augment: bool = True  # frames and colours of training clips vary, as published; not with a cache

    def overrides(self) -> dict[str, Any]:
        """Arguments of the processor that were given. Raises ConfigError for one that is given twice."""
        short = {"num_patches": self.num_patches, "num_frames": self.num_frames}
        given = {name: value for name, value in short.items() if value is not None}
        square = {"size": self.size} if self.size else {}
        for name in (given | square).keys() & self.processor.keys():
            raise ConfigError(f"input.{name} and input.processor.{name} are both given: give one of them")
        if self.size and self.max_size:
            raise ConfigError(f"input.size={self.size} and input.max_size={self.max_size}: give one of them")
        return given | self.processor


@dataclass
class ProbeHeadConfig:
    position: list[float] | None = None  # where the probe stands, [t, h, w]; none is the published head
    label_smoothing: float = 0.1


@dataclass
class ProbeConfig:
    dataset: str = ""  # a column of the published tables
    model: str = ""  # a folder, or a repository of the Hub: any vision encoder of transformers
    out: str = ""  # folder of the runs; empty: runs/probe-NAME
    data: ClipsConfig = field(default_factory=ClipsConfig)
    input: InputConfig = field(default_factory=InputConfig)
    head: ProbeHeadConfig = field(default_factory=ProbeHeadConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 10
    batch_size: int = 32  # over all processes
    seeds: list[int] = field(default_factory=lambda: [1])
    mean_average_precision: bool = False  # besides top-1; clips of one path are one clip with all labels
    intervene: list[str] = field(default_factory=list)  # after training: replace, foreign, shuffle
    cache: str = ""  # folder of features, encoded once in float16; empty: encode in every epoch
    dataloader_num_workers: int = was("workers", 2)  # decoding processes of each process
    max_broken: float = 0.01  # fraction of clips that cannot be read, above which the run stops
    logging_steps: int = was("log_every", 10)  # steps between lines of log.jsonl
    save_steps: int = was("save_every", 1000)  # steps between checkpoints; also after every epoch
    device: Literal["auto", "cpu"] = "auto"
    timeout: int = 600  # seconds after which a process that does not answer ends the run

    def plan(self) -> dict[str, Any]:
        """The fields that make a run what it is."""
        values = dataclasses.asdict(self)
        for name in _FREE:
            *path, last = name.split(".")
            inner = values
            for part in path:
                inner = inner[part]
            del inner[last]
        # Cached features know no augmentation, whatever the field says.
        values["input"]["augment"] = self.augments
        return values

    @property
    def augments(self) -> bool:
        return self.input.augment and not self.cache


def load_probe_config(name: str, overrides: Sequence[str] = ()) -> ProbeConfig:
    """Read `configs/NAME.yaml` or the file NAME, apply overrides, check every field.

    Raises ConfigError with the nearest key that exists, or what was expected.
    """
    config = build(ProbeConfig, read_values(name, overrides, CONFIGS))
    config.out = config.out or f"runs/probe-{Path(name).stem}"
    _check(config)
    return config


def _check(config: ProbeConfig) -> None:
    require(bool(config.model), "model", config.model, "a folder or a repository: give --model")
    require(
        bool(config.data.train), "data.train", config.data.train,
        "a CSV of path,label or a folder with a sub-folder for each class (data.train=...)",
    )  # fmt: skip
    for name in ("epochs", "batch_size", "logging_steps", "save_steps", "timeout"):
        require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")
    config.input.overrides()
    for name in ("num_patches", "num_frames"):
        given = getattr(config.input, name)
        require(given is None or given >= 1, f"input.{name}", given, "at least 1")
    for name in ("size", "max_size"):
        require(getattr(config.input, name) >= 0, f"input.{name}", getattr(config.input, name), "at least 0")
    for name, value in (("max_broken", config.max_broken), ("data.max_missing", config.data.max_missing)):
        require(0 <= value <= 1, name, value, "a fraction from 0 to 1")
    require(bool(config.seeds) and len(set(config.seeds)) == len(config.seeds), "seeds", config.seeds,
            "a list of different numbers")  # fmt: skip
    position = config.head.position
    require(position is None or len(position) == 3, "head.position", position, "[t, h, w]")
    smoothing = config.head.label_smoothing
    require(0 <= smoothing < 1, "head.label_smoothing", smoothing, "from 0 to below 1")
    for name in config.intervene:
        require(name in INTERVENTIONS, "intervene", name, f"one of {', '.join(INTERVENTIONS)}")
    codec = config.input.kind == "codec"
    require(codec or not config.intervene, "intervene", config.intervene, "nothing unless input.kind=codec")
    config.optim.check()
    check_scales(dataclasses.asdict(config), config.optim.learning_rate)
    parts = config.optim.gradient_accumulation_steps
    require(parts == 1, "optim.gradient_accumulation_steps", parts, "1 for a probe")
    require(config.optim.ema == 0, "optim.ema", config.optim.ema, "0 for a probe")
