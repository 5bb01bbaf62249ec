"""Vision towers out of folders, and back into folders of their own.

tower = load_tower("google/siglip2-base-patch16-naflex")     # the vision part of what is there
extract_encoder("out/vl", "out/encoder")                     # `onevision extract-encoder`
"""

import os
from typing import Any

import torch
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
)
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from onevision_hf.conversion.checkpoint import CheckpointError, new_folder
from onevision_hf.modeling.configuration_onevision import OneVisionConfig
from onevision_hf.modeling.configuration_onevision_vl import OneVisionVLConfig
from onevision_hf.modeling.configuration_openvision3 import OpenVision3Config
from onevision_hf.modeling.image_processing_onevision import OneVisionImageProcessor
from onevision_hf.modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from onevision_hf.modeling.modeling_onevision import OneVisionFusedModel, OneVisionModel
from onevision_hf.modeling.video_processing_onevision import OneVisionVideoProcessor

# Settings of the encoder itself, in the configuration of a published multimodal model's.
_ENCODER = OneVisionConfig.__annotations__.keys() - {"rope_temporal_size"}
# Where Qwen3-VL keeps its tower in a checkpoint of the whole.
QWEN_VISION = {r"^(model\.)?visual\.": ""}


def load_tower(source: str | os.PathLike[str]) -> Any:
    """The vision tower in a folder or Hub repository: the model itself, or the vision part of one.

    Raises:
        OSError: nothing is there. CheckpointError (a ValueError): no vision part, or weights are missing.
    """
    config = AutoConfig.from_pretrained(source)
    if isinstance(config, OneVisionVLConfig):
        return plain_tower(AutoModelForImageTextToText.from_pretrained(source, dtype="auto").vision_tower)
    part = getattr(config, "vision_config", None)
    options: dict[str, Any] = {"dtype": "auto", "output_loading_info": True}
    if isinstance(part, Qwen3VLVisionConfig) or isinstance(config, Qwen3VLVisionConfig):
        options["key_mapping"] = QWEN_VISION
        loader: Any = Qwen3VLVisionModel
        tower, found = loader.from_pretrained(source, config=part or config, **options)
    elif isinstance(part, PreTrainedConfig):
        if type(part) not in MODEL_MAPPING:
            raise CheckpointError(
                f"{source} is a {config.model_type}, whose vision part {part.model_type} transformers has no "
                "model for: give the folder of a vision tower"
            )
        loader = MODEL_MAPPING[type(part)]
        tower, found = loader.from_pretrained(source, config=part, **options)
    else:
        tower, found = AutoModel.from_pretrained(source, **options)
    if not hasattr(tower.config, "patch_size"):
        raise CheckpointError(f"{source} is a {tower.config.model_type}, which is no vision transformer")
    if found["missing_keys"]:
        raise CheckpointError(
            f"{source} lacks {len(found['missing_keys'])} weights of its vision tower, such as "
            f"{sorted(found['missing_keys'])[0]}"
        )
    return tower


def extract_encoder(
    source: str | os.PathLike[str], destination: str | os.PathLike[str]
) -> tuple[PreTrainedConfig, int]:
    """Write the tower of a multimodal folder as an encoder's folder, with processors for ours.

    Gives its configuration and number of parameters. The paper's caption-supervised ("Lang") encoder is
    such a tower. Raises ValueError for a folder that is no multimodal model, FileExistsError for a
    destination that is not empty.
    """
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, OneVisionVLConfig):
        raise CheckpointError(
            f"{source} is a {config.model_type}, an encoder is taken out of {OneVisionVLConfig.model_type}"
        )
    tower: Any = load_tower(source)
    with new_folder(destination) as folder:
        tower.save_pretrained(folder)
        for processor in _processors(source, tower.config):
            processor.save_pretrained(folder)
    return tower.config, sum(parameter.numel() for parameter in tower.parameters())


def plain_tower(tower: Any) -> Any:
    """The OneVision encoder under its own names, if it was published within a multimodal model."""
    if not isinstance(tower, OneVisionFusedModel):
        return tower
    settings = {name: value for name, value in tower.config.to_dict().items() if name in _ENCODER}
    with torch.device("meta"):
        made = OneVisionModel(OneVisionConfig(**settings, rope_temporal_size=None))
    made.load_state_dict(tower.state_dict(), strict=True, assign=True)
    return made.eval()


def _processors(source: str | os.PathLike[str], config: Any) -> list[Any]:
    if isinstance(config, OpenVision3Config):
        return [OpenVision3ImageProcessor()]
    if not isinstance(config, OneVisionConfig):
        return []
    whole: Any = AutoProcessor.from_pretrained(source)
    images, videos = whole.image_processor, whole.video_processor
    common: dict[str, Any] = {
        "patch_size": config.patch_size,
        "image_mean": images.image_mean,
        "image_std": images.image_std,
    }
    video = OneVisionVideoProcessor(
        rope_temporal_size=config.rope_temporal_size,
        **common,
        # Frames of the published models have no size of their own.
        **({"size": dict(videos.size)} if videos.size else {}),
    )
    return [OneVisionImageProcessor(**common), video]


__all__ = ["extract_encoder", "load_tower"]
