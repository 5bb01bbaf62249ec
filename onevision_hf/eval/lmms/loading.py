"""Before the first question: the processes find one another, the model and its processor are loaded."""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from .settings import Settings


def join_processes() -> Accelerator:
    """accelerate's view of the processes that were started together.

    On processors lmms-eval's own command has asked it before, without saying that they are meant, and each
    process then takes itself for the only one.

    Raises:
        ValueError: they do not find one another.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator()
    if accelerator.num_processes != started and not torch.accelerator.is_available():
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True)
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


def load(folder: Path, settings: Settings, device: torch.device) -> tuple[Any, Any]:
    """(model, processor) of a folder, on the device."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    extra = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=settings.dtype, **extra)
    if not hasattr(model, "encode_media"):
        raise ValueError(
            f"{folder} holds a {type(model).__name__}; the plugin runs OneVisionVLForConditionalGeneration "
            "(`onevision assemble` makes one of an encoder and a language model)"
        )
    processor = AutoProcessor.from_pretrained(folder)
    if settings.sampling == "codec" and not processor.video_processor.takes_codec_input:
        raise ValueError(
            f"the tower of {folder} sees whole pictures, not a choice of patches: give sampling=frames"
        )
    return model.to(device).eval(), processor
