"""What a run is asked to do: one YAML file, any field of which `key=value` overrides.

    config = load_config("cluster_smoke", ["steps=100", "cluster.heads.image.source=shards/image"])

The file is a name in `configs/` or a path. A key that does not exist and a value of another type are errors
that name what was meant; every field is checked before anything is built. The comments of the fields are the
reference that docs/training.md prints.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from .tasks.unified_config import PAIRS, UnifiedConfig, check_unified
from .tasks.vl_config import VLConfig, check_vl

T = TypeVar("T")

CONFIGS = files("onevision_hf.training") / "configs"


class ConfigError(ValueError):
    """A field that does not exist, has another type, or is out of range."""


@dataclass
class ModelConfig:
    size: Literal["tiny", "base", "large", "huge"] = "base"  # the encoder, when it starts from random weights
    init_from: str | None = None  # a folder or Hub repository to start from instead; read in float32
    overrides: dict[str, Any] = field(default_factory=dict)  # fields of the encoder's config


@dataclass
class HeadConfig:
    source: str = ""  # a folder of `cluster pack`, a folder with a subfolder a class, hf:..., stream:...
    clips_of: str = ""  # another head, whose samples this one labels too, by key; encoded once for both
    readout: Literal["pooler", "grid"] = "pooler"  # what meets the centers: pooler_output, or the means of
    # the patches in a coarse grid of time and space, joined (4 x 2 x 2 of them, of a video)
    kind: Literal["image", "video"] = "image"
    batch_size: int = 0  # samples an optimizer step, over all processes and micro-batches
    classes: int = 0  # centers; 0 takes the number that the source names
    centers: str | None = None  # a centers.safetensors to start from; random otherwise
    weight: float = 1.0  # of this head's loss in the sum
    max_labels: int = 10  # label columns that are kept of a row, nearest first
    labels_per_sample: int = 8  # of those, drawn anew in each step
    # What is shown of a sample, by names of the encoder's own processor, and laid over its settings (a fresh
    # model's: the defaults of OneVisionVideoProcessor). Of a picture `size` alone, 224 if left out.
    processor: dict[str, Any] = field(default_factory=dict)
    min_zoom: float = 1.0  # a picture's crop has at least this share of its shorter side; 1: position only
    mirror: bool = False  # turn half of the pictures left to right
    visible: float = 1.0  # share of a video's kept patches that a step sees, drawn anew; validation sees all
    cache: str = ""  # a folder for the patches kept in mode codec (K*C*p*p bytes a clip); empty: none
    codec: float = 0.5  # shares of the video modes; they add up to 1
    uniform: float = 0.375
    collage: float = 0.125

    moved = dict.fromkeys(("size", "num_frames", "num_patches", "camera"), "processor")

    @property
    def image_size(self) -> int:
        """Side in pixels of a picture, a multiple of the patch."""
        size = self.processor.get("size", 224)
        return size.get("shortest_edge", 0) if isinstance(size, dict) else size


@dataclass
class ClusterConfig:
    heads: dict[str, HeadConfig] = field(default_factory=dict)
    scale: float = 64.0  # the objective's own: see ClusterDiscriminationLoss
    margin: float = 0.3
    filter_threshold: float = 0.75
    sample_rate: float = 0.1
    sampling: Literal["shared", "per_label"] = "shared"
    form: Literal["softmax", "sigmoid"] = "softmax"
    sparse_grad: bool = False  # centers: gradients and AdamW of the sampled rows only


@dataclass
class OptimConfig:
    lr: float = 1e-3  # of the backbone at its highest
    muon_lr: float = (
        0.0  # of the layers' matrices at its highest, by Muon; 0: they take AdamW and lr as all else
    )
    schedule: Literal["linear", "cosine", "poly"] = "linear"
    power: float = 2.0  # of `poly`
    warmup: int = 0  # optimizer steps
    final_lr: float = 0.0  # share of `lr` at the last step
    weight_decay: float = 0.05  # not on norms, biases, probes and positions
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    centers_lr: float = 1.0  # as a multiple of `lr`
    centers_weight_decay: float = 0.05
    clip: float = 5.0  # global norm of all gradients, centers included; 0: no clipping
    accumulation: int = 1  # micro-batches an optimizer step; must divide every batch size
    precision: Literal["float32", "bfloat16"] = "float32"  # of the computation; weights stay float32
    ema: float = 0.0  # decay of an average of the backbone's weights; 0: none
    gradient_checkpointing: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"


@dataclass
class ValidationConfig:
    every: int = 0  # optimizer steps; 0: never. Also before the first and after the last step
    head: str = ""  # whose rows and views; empty: the first head
    source: str = ""  # another source for it; empty: `held_out` of the head's own
    held_out: float = 0.0  # share of the head's rows that is never trained on
    items: int = 1024  # at most so many rows
    neighbours: int = 10


@dataclass
class TrainConfig:
    task: str = "cluster"
    out: str = ""  # folder of the run; empty: runs/NAME
    seed: int = 0
    steps: int = 0  # optimizer steps; or give `samples`
    samples: int = 0  # over all heads; rounded up to whole steps
    model: ModelConfig = field(default_factory=ModelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    vl: VLConfig = field(default_factory=VLConfig)
    unified: UnifiedConfig = field(default_factory=UnifiedConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    workers: int = 2  # decoding processes beside each training process
    max_broken: float = 0.01  # share of broken samples that stops the run (from the 100th sample on)
    log_every: int = 10  # steps between lines of log.jsonl
    save_every: int = 1000  # steps between checkpoints; also at the end and at a signal
    keep: int = 3  # checkpoints
    trackers: list[str] = field(default_factory=lambda: ["trackio"])  # of accelerate; [] for none
    device: Literal["auto", "cpu"] = "auto"
    timeout: int = 600  # seconds after which a process that does not answer ends the run

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def load_config(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read `configs/NAME.yaml` or the file NAME, apply `key=value` overrides, and check every field.

    Raises ConfigError with the nearest key that exists, or what was expected; OSError for a missing file.
    """
    config = from_dict(read_values(name, overrides, CONFIGS))
    config.out = config.out or f"runs/{Path(name).stem}"
    return config


def read_values(name: str, overrides: Sequence[str], folder: Traversable) -> dict[str, Any]:
    """The nested values of `folder`/NAME.yaml or of the file NAME with overrides applied; nothing checked."""
    known = sorted(path.name[:-5] for path in folder.iterdir() if path.name.endswith(".yaml"))
    if name in known:
        text, where = (folder / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml"
    elif Path(name).is_file():
        text, where = Path(name).read_text(encoding="utf-8"), name
    else:
        raise ConfigError(
            f"no config {name!r}: give a file, or one of {', '.join(known)}{nearest(name, known)}"
        )
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error
    for override in overrides:
        _apply(values, override)
    return values


def from_dict(values: Mapping[str, Any]) -> TrainConfig:
    """A checked config from nested dictionaries."""
    config = build(TrainConfig, values)
    _check(config)
    return config


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass `cls`, and those inside it, from nested dictionaries: every key exists, every value has
    its field's type."""
    return _build(cls, values, "", cls)


def total_steps(config: TrainConfig, samples_per_step: int) -> int:
    return config.steps or -(-config.samples // samples_per_step)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no override: write key=value, for instance optim.lr=5e-5")
    *path, last = key.strip().split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {part} is {inner!r}, it has no fields")
        values = inner
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r} is not a YAML value: {error}") from error


def _build(cls: type, values: Any, at: str, root: type) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or 'the config'} is {values!r}, expected fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    moved = getattr(cls, "moved", {})
    for key in values:
        if key in moved:
            raise ConfigError(f"{_join(at, key)} is {_join(at, moved[key])}.{key} now")
        if key not in hints:
            raise ConfigError(
                f"unknown key {_join(at, key)}{nearest(_join(at, key), every_key(root))}; "
                f"{at or 'the config'} has {', '.join(hints)}"
            )
    return cls(**{key: _convert(hints[key], value, _join(at, key), root) for key, value in values.items()})


def _convert(kind: Any, value: Any, at: str, root: type) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, at, root)
    if origin is Literal:
        if value not in arguments:
            near = nearest(str(value), [str(a) for a in arguments])
            raise ConfigError(f"{at} is {value!r}, expected one of {', '.join(map(str, arguments))}{near}")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(arguments[0], value, at, root)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{at} is {value!r}, expected a list such as [..., ...]")
        return [_convert(arguments[0], v, f"{at}[{i}]", root) for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{at} is {value!r}, expected names with values")
        return {str(k): _convert(arguments[1], v, f"{at}.{k}", root) for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 5e-5, without a point, as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float | str):  # 13e9 is a number of samples
        try:
            if float(value).is_integer():
                return int(float(value))
        except (ValueError, OverflowError):
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{at} is {value!r} ({type(value).__name__}), expected {kind.__name__}")
    return value


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else str(key)


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)`: the known key whose last part is most alike, of the same section if there are
    several; also `lr` for `learning_rate`, and keys that stand in another section."""
    section, _, last = name.rpartition(".")
    initials = "".join(word[:1] for word in last.split("_"))

    def likeness(key: str) -> float:
        other_section, _, other = key.rpartition(".")
        alike = difflib.SequenceMatcher(None, last, other).ratio()
        alike = max(alike, 0.9 if len(initials) > 1 and initials == other else 0.0)
        return alike + 0.1 * (section == other_section)

    best = max(known, key=likeness, default=None)
    return f" (did you mean {best}?)" if best is not None and likeness(best) > 0.6 else ""


def every_key(cls: type = TrainConfig, at: str = "") -> list[str]:
    keys = []
    for name, kind in typing.get_type_hints(cls).items():
        keys.append(_join(at, name))
        inner = typing.get_args(kind)[-1] if typing.get_origin(kind) is dict else kind
        if dataclasses.is_dataclass(inner):
            inside = _join(at, name) + (".NAME" if inner is not kind else "")
            keys += every_key(typing.cast(type, inner), inside)
    return keys


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")


def _check(config: TrainConfig) -> None:
    optim, validation = config.optim, config.validation
    _require(
        (config.steps > 0) != (config.samples > 0), "steps", config.steps, "above 0, or `samples` instead"
    )
    for name in ("log_every", "save_every", "keep", "timeout"):
        _require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")
    for name in ("workers", "samples", "steps"):
        _require(getattr(config, name) >= 0, name, getattr(config, name), "0 or more")
    _require(0 <= config.max_broken <= 1, "max_broken", config.max_broken, "a share from 0 to 1")
    for name in ("lr", "eps"):
        _require(getattr(optim, name) > 0, f"optim.{name}", getattr(optim, name), "above 0")
    for name in ("muon_lr", "warmup", "weight_decay", "centers_lr", "centers_weight_decay", "clip", "power"):
        _require(getattr(optim, name) >= 0, f"optim.{name}", getattr(optim, name), "0 or more")
    whole = not (optim.muon_lr and optim.parallel == "fsdp")
    _require(whole, "optim.muon_lr", optim.muon_lr, "0 with optim.parallel fsdp, which cuts the matrices")
    _require(0 <= optim.final_lr <= 1, "optim.final_lr", optim.final_lr, "a share from 0 to 1")
    _require(0 <= optim.ema < 1, "optim.ema", optim.ema, "from 0 (none) to below 1")
    betas_hold = len(optim.betas) == 2 and all(0 <= b < 1 for b in optim.betas)
    _require(betas_hold, "optim.betas", optim.betas, "two numbers in [0, 1)")
    _require(optim.accumulation >= 1, "optim.accumulation", optim.accumulation, "at least 1")
    _require(0 <= validation.held_out < 1, "validation.held_out", validation.held_out, "a share below 1")
    _require(validation.neighbours >= 1, "validation.neighbours", validation.neighbours, "at least 1")
    for name, head in config.cluster.heads.items():
        at = f"cluster.heads.{name}"
        if head.clips_of:
            leads = [other for other, h in config.cluster.heads.items() if not h.clips_of]
            _require(head.clips_of in leads, f"{at}.clips_of", head.clips_of, f"one of {', '.join(leads)}")
            lead = config.cluster.heads[head.clips_of]
            same = head.batch_size in (0, lead.batch_size)
            _require(same, f"{at}.batch_size", head.batch_size, f"that of {head.clips_of}, or none")
            head.batch_size, head.kind = lead.batch_size, lead.kind
        video = head.kind == "video" or head.readout == "pooler"
        _require(video, f"{at}.readout", head.readout, "pooler for images: a picture has no time")
        _require(head.batch_size >= 1, f"{at}.batch_size", head.batch_size, "at least 1")
        _require(
            head.batch_size % optim.accumulation == 0, f"{at}.batch_size", head.batch_size,
            f"a multiple of optim.accumulation, {optim.accumulation}",
        )  # fmt: skip
        shares = (head.codec, head.uniform, head.collage)
        adds_up = all(s >= 0 for s in shares) and abs(sum(shares) - 1) < 1e-6
        _require(adds_up, f"{at}.codec, uniform, collage", shares, "shares that add up to 1")
        for key in ("min_zoom", "visible"):
            value = getattr(head, key)
            _require(0 < value <= 1, f"{at}.{key}", value, "above 0 and at most 1")
        for key in ("max_labels", "labels_per_sample"):
            _require(getattr(head, key) >= 1, f"{at}.{key}", getattr(head, key), "at least 1")
        if head.kind == "image":
            only = head.processor.keys() <= {"size"} and isinstance(head.image_size, int)
            _require(only and head.image_size >= 1, f"{at}.processor", head.processor, "a `size` alone")
    if config.task == "vl":
        check_vl(config.vl, optim.accumulation, _require)
    check_unified(config.unified, optim.accumulation, _require)
    if validation.every and validation.head:
        heads = [*config.cluster.heads, *([PAIRS] if config.unified.pairs.batch_size else [])]
        _require(validation.head in heads, "validation.head", validation.head, f"one of {', '.join(heads)}")
