"""LLaVA-OneVision-2 and Mage-VL between their published names and ours; the weights are the same either way.

    onevision convert llava_onevision2 FOLDER_OR_HUB_ID OUT                     # becomes onevision_vl
    onevision convert llava_onevision2 OUT AGAIN --to published                 # and back, bit for bit

Nothing has to be converted to be used: `AutoModelForImageTextToText` loads a published folder as it is.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from onevision_hf.conversion.checkpoint import CheckpointError, new_folder
from onevision_hf.modeling.configuration_llava_onevision2 import (
    LlavaOnevision2Config,
    our_config,
    published_config,
)
from onevision_hf.modeling.configuration_onevision_vl import OneVisionVLConfig


def convert_llava_onevision2(
    source: str, destination: str, to: Literal["ours", "published"] = "ours", revision: str | None = None
) -> dict[str, Any]:
    """Write a multimodal model under the other names, which appears whole or not at all.

    Args:
        source: folder or Hub id.
        destination: folder to make; absent or empty.
        to: "ours", the model type `onevision_vl`, or "published".
        revision: of the Hub repository.

    Returns:
        what was written: model types, tensors, parameters and files.

    Raises:
        CheckpointError: (a ValueError) the source is no such model.
        ValueError: weights are missing, or the model has no published form.
        FileExistsError: the destination is not empty.
    """
    found = AutoConfig.from_pretrained(source, revision=revision)
    if not isinstance(found, OneVisionVLConfig):
        raise CheckpointError(f"{source} is a {found.model_type}, not a multimodal model of this kind")
    published = isinstance(found, LlavaOnevision2Config)
    if published == (to == "published"):
        raise CheckpointError(f"{source} is a {found.model_type} and has these names already")
    config: Any = our_config(found) if isinstance(found, LlavaOnevision2Config) else published_config(found)
    with new_folder(destination) as folder:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(source, dtype="auto", revision=revision)
        with torch.device("meta"):
            made: Any = AutoModelForImageTextToText.from_config(config)
        made.load_state_dict(loaded.state_dict(), strict=True, assign=True)
        made.tie_weights()
        made.generation_config = loaded.generation_config
        made.save_pretrained(folder)
        if _has_processor(source, revision):
            AutoProcessor.from_pretrained(source, revision=revision).save_pretrained(folder)
        written = sorted(path.name for path in Path(folder).iterdir())
    return {
        "source": source,
        "destination": destination,
        "from": found.model_type,
        "to": config.model_type,
        "tensors": len(loaded.state_dict()),
        "parameters": sum(parameter.numel() for parameter in made.parameters()),
        "files": written,
    }


def _has_processor(source: str, revision: str | None) -> bool:
    """Whether a tokenizer lies beside the weights; without one there is nothing to write."""
    if Path(source).is_dir():
        return (Path(source) / "tokenizer_config.json").is_file()
    return True


__all__ = ["convert_llava_onevision2"]
