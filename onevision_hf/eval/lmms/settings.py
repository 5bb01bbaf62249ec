"""The arguments of the model `onevision` in lmms-eval: which model, what it sees of a video, how it is run.

    settings = Settings.parse({"pretrained": "DIR", "sampling": "codec", "num_patches": 2048})
    model, processor = settings.load(local_folder("DIR"), torch.device("cpu"))

What is seen is what the model's own processor says; any of its settings is an argument too, and then laid on
top.
"""

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...jobs.run_folder import digest_of
from ...modeling.frame_geometry import check_positive
from ...modeling.patchify_config import SETTINGS, PatchifyConfig
from ...modeling.video_processing_llava_onevision2 import LlavaOnevision2VideoProcessorKwargs
from ..video_input import takes_canvases, video_input

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

SAMPLINGS = ("codec", "frames", "dense")
ON_ERROR = ("wrong", "skip", "stop")
# The published budgets of whole frames: 8, or all 64 that are looked at for a selection.
WHOLE_FRAMES = {"frames": 8, "dense": 64}
# What lmms-eval passes to every model besides model_args.
IGNORED = ("max_batch_size",)
# Settings of a published LLaVA-OneVision-2's processor that ours do not have.
PUBLISHED = tuple(
    name
    for name in LlavaOnevision2VideoProcessorKwargs.__annotations__
    if name not in (*SETTINGS, "default_to_square", "return_metadata")
)
# Settings of the processor that choose patches by the codec.
_OF_CODEC = (
    *("num_patches", "keep_ratio", "keep_energy", "preset", "signals", "weights", "normalize", "camera"),
    *("anchors", "canvas_settings", "target_canvas", "max_canvases", "canvas_cache"),
)


@dataclass(frozen=True)
class Settings:
    """What `--model_args` takes.

    Attributes:
        pretrained: a folder or a Hub name of a multimodal model.
        sampling: "codec", patches that the codec says matter; "frames", whole frames; "dense", every patch
            of 64 frames.
        processor: settings of the model's own processor to change, by name: num_frames, num_patches,
            max_pixels, camera, ... Each may be given as an argument of its own instead.
        device: "cuda" or "cpu"; the GPU of this process where there is one.
        dtype: of the weights; "auto" takes the checkpoint's.
        attn_implementation: as in transformers.
        quantization: of the language model's weights: "int8" (torchao) or "nf4" (bitsandbytes).
        batch_size: at most so many prompts at once, or "auto": as many as the token budget allows.
        token_budget: tokens of a batch, padding included; a longer prompt goes alone.
        max_new_tokens: a limit below the task's own, for quick looks.
        on_error: what becomes of a question whose media are broken: "wrong", "skip" or "stop".
        journal: the folder of answers; "none" keeps none. By default one below HF_HOME.
        feature_cache_mb: of the device's memory, for features of clips that more questions are about.
        workers: threads that read and select.
    """

    pretrained: str
    sampling: str = "codec"
    processor: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    quantization: str | None = None
    batch_size: int | None = None
    token_budget: int = 16384
    max_new_tokens: int | None = None
    on_error: str = "wrong"
    journal: str | None = None
    feature_cache_mb: int = 1024
    workers: int = 2

    def __post_init__(self) -> None:
        for name, allowed in (("sampling", SAMPLINGS), ("on_error", ON_ERROR)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, found {getattr(self, name)!r}")
        for name in ("batch_size", "token_budget", "max_new_tokens", "workers"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if not isinstance(self.feature_cache_mb, int) or self.feature_cache_mb < 0:
            raise ValueError(f"feature_cache_mb is a whole number from 0 on, found {self.feature_cache_mb!r}")
        given = [name for name in _OF_CODEC if self.processor.get(name) is not None]
        if self.sampling != "codec" and given:
            raise ValueError(
                f"{given[0]} is a setting of sampling=codec; sampling={self.sampling} keeps whole "
                "frames: give num_frames"
            )
        own = {name: value for name, value in self.processor.items() if name not in PUBLISHED}
        if own.get("preset") == "ov2":  # which ours do not know
            del own["preset"]
        try:
            PatchifyConfig.from_dict({}, **own)
        except TypeError as error:
            raise ValueError(f"processor: {error}") from error

    @classmethod
    def parse(cls, arguments: Mapping[str, Any]) -> "Settings":
        """From what lmms-eval read of the command line.

        Raises:
            ValueError: an argument that does not exist (the nearest one is named), a value out of range, or
                no `pretrained`.
        """
        own = [entry.name for entry in dataclasses.fields(cls)]
        known = list(dict.fromkeys([*own, *SETTINGS, *PUBLISHED]))
        given = {name: value for name, value in arguments.items() if name not in IGNORED}
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(
                    f"the model onevision takes no argument {name!r}{hint} It takes {', '.join(own)}, and "
                    f"the settings of its processor: {', '.join(SETTINGS)}; of "
                    f"LLaVA-OneVision-2's: {', '.join(PUBLISHED)}"
                )
        if not given.get("pretrained"):
            raise ValueError(
                "give pretrained=DIR: the folder of a multimodal model (`onevision assemble` makes one)"
            )
        given["pretrained"] = os.fspath(given["pretrained"])
        size = given.get("batch_size")
        if size is not None:
            if not str(size).isdigit() and size != "auto":
                raise ValueError(f'batch_size is a whole number or "auto", found {size!r}')
            given["batch_size"] = None if size == "auto" else int(size)
        changes = given.pop("processor", None) or {}
        changes = json.loads(changes) if isinstance(changes, str) else dict(changes)
        for name in [name for name in given if name not in own]:
            if name in changes:
                raise ValueError(f"{name} and processor[{name!r}] are both given: give one of them")
            changes[name] = given.pop(name)
        return cls(**given, processor={name: value for name, value in changes.items() if value is not None})

    def processor_kwargs(self, processor: Any) -> dict[str, Any]:
        """Arguments of the model's processor: what is seen of images and videos."""
        shown = video_input(processor, self.sampling)
        if self.sampling == "codec" or takes_canvases(processor):
            return {**shown, **self.processor}
        sampled = {"fps", "timestamps", "do_sample_frames"} & self.processor.keys()
        frames = {} if sampled else {"num_frames": WHOLE_FRAMES[self.sampling]}
        return {**shown, **frames, **self.processor}

    def answer_settings(self, processor: Any) -> dict[str, Any]:
        """What may change an answer besides the model's files: part of the journal's key."""
        own = {"dtype": self.dtype, "attn_implementation": self.attn_implementation}
        own |= {"quantization": self.quantization} if self.quantization else {}
        return {**self.processor_kwargs(processor), **own}

    def journal_folder(self, fingerprint: str, processor: Any) -> Path | None:
        """Where answers go; the default is a folder for each model and each way of seeing media."""
        if self.journal == "none":
            return None
        if self.journal is not None:
            return Path(self.journal)
        home = os.environ.get("HF_HOME", os.path.join(os.path.expanduser("~"), ".cache", "huggingface"))
        return (
            Path(home) / "onevision-answers" / digest_of([fingerprint, self.answer_settings(processor)])[:16]
        )

    def load(self, folder: Path, device: "torch.device") -> tuple[Any, Any]:
        """(model, processor) of a folder, on the device.

        Raises:
            ValueError: another kind of model, or settings that its processor does not take.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from ...modeling.quantization import quantized

        reduced = quantized(self.quantization, str(device))
        extra = {"attn_implementation": self.attn_implementation} if self.attn_implementation else {}
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=self.dtype, **extra, **reduced)
        if not hasattr(model, "encode_media"):
            raise ValueError(
                f"{folder} holds a {type(model).__name__}; the plugin runs "
                "OneVisionVLForConditionalGeneration (`onevision assemble` makes one of an encoder and a "
                "language model)"
            )
        processor = AutoProcessor.from_pretrained(folder)
        if self.sampling == "codec" and not model.config.takes_codec_input:
            raise ValueError(
                f"the tower of {folder} sees whole pictures, not a choice of patches: give sampling=frames"
            )
        videos = processor.video_processor
        check = videos.check_settings if takes_canvases(processor) else videos.patchify_config
        check(**self.processor_kwargs(processor))
        return (model if reduced else model.to(device)).eval(), processor


def join_processes() -> "Accelerator":
    """accelerate's view of the processes that were started together.

    On processors lmms-eval's own command has called it before, without `cpu=True`, and each process then
    takes itself for the only one.

    Raises:
        ValueError: they do not find one another.
    """
    import accelerate
    import torch
    from accelerate.state import AcceleratorState

    started = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = accelerate.Accelerator()
    if accelerator.num_processes != started and not torch.accelerator.is_available():
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(cpu=True)
    if accelerator.num_processes != started:
        raise ValueError(
            f"{started} processes were started and {accelerator.num_processes} found one another; start them "
            "by python -m torch.distributed.run --nproc_per_node N -m lmms_eval ..."
        )
    return accelerator


def local_folder(pretrained: str) -> Path:
    """The folder of a model: itself, or what the Hub's cache has of that name after a download.

    Raises:
        ValueError: neither a folder nor a name that can be fetched.
    """
    if Path(pretrained).is_dir():
        return Path(pretrained)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(pretrained))
    except Exception as error:
        raise ValueError(
            f"pretrained={pretrained} is no folder, and as a name on the Hub it cannot be fetched: {error}"
        ) from error
