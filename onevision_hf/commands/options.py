"""Options and arguments that several commands have: one word, one meaning, one help text.

Annotated types for one option, dataclasses for those that go together. Choices are spelled out here, since
the modules that act on them are not imported for `--help`; a test holds that they are the same.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument as Arg
from typer import BadParameter
from typer import Option as Opt

# Of options that may be given several times: typer takes no list of a Literal.
Signal = StrEnum(
    "Signal",
    "vectors residual compensated difference bits painted_vectors painted_residual",
)
Intervention = StrEnum("Intervention", "replace foreign shuffle")

Json = Annotated[bool, Opt("--json", help="print one JSON document instead of text")]
JsonOrFile = Annotated[
    Path | None,
    Opt("--json", metavar="[F]", help="print one JSON document instead of text; with F write it there"),
]
Overrides = Annotated[
    list[str] | None,
    Arg(metavar="key=value", help="fields of the config, for instance optim.learning_rate=5e-5"),
]
ClipErrors = Annotated[Literal["raise", "partial"], Opt(help="partial: use truncated clips too")]
BatchErrors = Annotated[Literal["skip", "partial"], Opt(help="partial: use truncated videos too")]
Redo = Annotated[
    bool, Opt("--redo", help="empty a folder that was made otherwise; make again what is damaged")
]
Device = Annotated[str | None, Opt(metavar="NAME", help="cpu, cuda, ... (default: cuda if there is one)")]
Workers = Annotated[int, Opt(metavar="N", help="threads that decode")]
BatchSize = Annotated[int, Opt(metavar="N", help="computed at once")]
Seed = Annotated[int, Opt(metavar="N", help="of what is random")]

# Clips and what is kept of them.
Clip = Annotated[str, Arg(metavar="CLIP", help="a video file; `bundled` is the package's clip")]
NumFrames = Annotated[int | None, Opt(metavar="N", help="frames sampled of a clip (default: 64)")]
NumPatches = Annotated[
    int | None, Opt(metavar="N", help="patches kept of a clip (default: as the processor)")
]
KeepRatio = Annotated[float | None, Opt(metavar="R", help="share of the patches of a clip kept instead")]
KeepEnergy = Annotated[
    float | None,
    Opt(
        metavar="E",
        help="stop at this share of the clip's energy, as 0.9; the budget is then the most (default: 0.25 of "
        "the patches)",
    ),
]
MaxPixels = Annotated[
    int | None, Opt(metavar="N", min=1, help="larger images and frames of clips are made smaller")
]
MaxCanvases = Annotated[
    int | None,
    Opt(metavar="N", min=4, help="codec input of LLaVA-OneVision-2: never more canvases of a video"),
]
Quantization = Annotated[
    Literal["int8", "nf4"] | None,
    Opt(help="of the language model's weights, by torchao (int8) or bitsandbytes (nf4)"),
]
Preset = Literal["auto", "published", "bits"]
Sampling = Literal["uniform", "packet_size"]
Camera = Literal["none", "median", "similarity", "affine"]
ClipInput = Annotated[
    Literal["codec", "frames", "dense"] | None, Opt("--input", help="what of a clip is shown")
]

# Where media come from, and where shards go.
Source = Annotated[
    str,
    Arg(metavar="SRC", help="a folder, parquet, webdataset tars, or hf:NAME:SPLIT; also folder:PATH, ..."),
]
ShardsOut = Annotated[Path, Arg(metavar="DST", help="folder of the result; goes on where it stopped")]
MediaColumn = Annotated[
    str | None, Opt(metavar="NAME", help="the column of parquet or of a dataset that holds the media")
]
ShardItems = Annotated[int, Opt(metavar="N", help="items of a shard")]
RayAddress = Annotated[
    str | None, Opt(metavar="HOST:PORT", help="of a Ray cluster; without it one is started here")
]
FloatType = Literal["float32", "bfloat16", "float16"]
StoredType = Annotated[FloatType, Opt(help="of what is stored")]
Vae = Annotated[
    str | None, Opt(metavar="ID", help="a diffusers AutoencoderKL (folder or Hub id) instead of the config's")
]
NewFolder = Annotated[str, Arg(metavar="OUT", help="folder to write; must not exist or be empty")]


@dataclass(kw_only=True)
class UnifiedModel:
    """A model of unified pre-training."""

    model: Annotated[str, Opt(metavar="ID", help="a model of unified pre-training, folder or Hub id")]
    vae: Vae = None
    size: Annotated[int | None, Opt(metavar="N", help="side in pixels (default: the saved processor's)")] = (
        None
    )
    device: Device = None

    def open(self) -> Any:
        from onevision_hf.eval.unified.models import open_model

        return open_model(self.model, device=self.device, vae=self.vae, size=self.size)


@dataclass(kw_only=True)
class PictureRun:
    """How pictures are gone through, and where the figures go."""

    limit: Annotated[int | None, Opt(metavar="N", help="take so many pictures at most")] = None
    workers: Workers = 4
    out: Annotated[Path | None, Opt(metavar="DIR", help="write figures.json and what else there is here")] = (
        None
    )
    as_json: Json = False


Metrics = Annotated[str, Opt(metavar="A,B", help="of these, those to compute")]
Inception = Annotated[
    str | None,
    Opt(metavar="FILE", help="torch-fidelity's weights (default: looked for in torch.hub's folder)"),
]
Tasks = Annotated[str, Opt(metavar="all16|video|image|openvision3|NAME,...", help="suites and task names")]


@dataclass(kw_only=True)
class Questions:
    """Which questions of the benchmarks are evaluated."""

    limit: Annotated[int | None, Opt(metavar="N", min=1, help="the first N questions of each task only")] = (
        None
    )
    root: Annotated[
        Path | None, Opt(metavar="DIR", help="where the data lie (onevision eval prepare); default: HF_HOME")
    ] = None


@dataclass(kw_only=True)
class EvaluatedModel:
    """The multimodal model that answers questions, and how; the names are those of `model_args`."""

    model: Annotated[str, Opt(metavar="DIR", help="a multimodal model (onevision assemble)")]
    device: Device = None
    dtype: Annotated[str, Opt(metavar="NAME", help="of the weights; auto: the checkpoint's")] = "auto"
    quantization: Quantization = None
    attn_implementation: Annotated[str | None, Opt(metavar="NAME", help="as in transformers")] = None
    batch_size: Annotated[str, Opt(metavar="N|auto", help="most prompts at once")] = "auto"
    token_budget: Annotated[int, Opt(metavar="N", min=1, help="tokens of a batch")] = 16384
    max_new_tokens: Annotated[int | None, Opt(metavar="N", min=1, help="a limit below the tasks' own")] = None
    feature_cache_mb: Annotated[int, Opt(metavar="N", help="MB for features of clips")] = 1024
    workers: Annotated[int, Opt(metavar="N", min=1, help="threads that read media")] = 2
    on_error: Annotated[
        Literal["wrong", "skip", "stop"], Opt(help="what a question with broken media counts as")
    ] = "wrong"

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Those that were set, as `model_args`."""
        values = {**vars(self), **more}
        return {"pretrained": values.pop("model"), **given(**values)}


def given(**values: Any) -> dict[str, Any]:
    """Those that were set."""
    return {name: value for name, value in values.items() if value is not None}


def at_least_one(**values: int | None) -> None:
    """Raises ValueError for a number below 1."""
    for name, value in given(**values).items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {value}")


def words(text: str) -> tuple[str, ...]:
    """`a, b` -> ("a", "b")."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def pairs(text: str) -> dict[str, Any]:
    """`a=1,b=0.5,c=word` -> a dict."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise BadParameter(f"{part!r} is not name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def fractions(text: str) -> tuple[float, ...]:
    """`0.5,0.25` -> (0.5, 0.25)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadParameter(f"{text!r} is not a list of fractions as 0.5,0.25") from error


def numbers(text: str) -> list[int]:
    """`3,17` -> [3, 17]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadParameter(f"{text!r} is not a list of numbers as 3,17") from error
