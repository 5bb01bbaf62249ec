"""The published LLaVA-OneVision-2 and Mage-VL: our multimodal model under their names.

    model = AutoModelForImageTextToText.from_pretrained(folder)       # its config.json says llava_onevision2
    model.save_pretrained(out)                                        # with the published names
    model.save_pretrained(out, save_original_format=False)            # with ours; either loads

transformers renames the weights while it loads and back while it saves, and splits the fused projections of
the tower; nothing is copied on disk. The conversions belong to these classes and model types alone, so that
[`OneVisionModel`] and [`OneVisionVLForConditionalGeneration`] keep their own names.
"""

from typing import Any, Self

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from .configuration_llava_onevision2 import (
    LlavaOnevision2Config,
    LlavaOnevision2MoeConfig,
    MageVLConfig,
    MageVLVisionConfig,
)
from .modeling_onevision import OneVisionFusedModel
from .modeling_onevision_vl import OneVisionVLForConditionalGeneration, OneVisionVLModel

_TOWER = {
    r"^model\.visual\.merger\.ln_q\.": r"^connector\.norm\.",
    r"^model\.visual\.merger\.mlp\.0\.": r"^connector\.linear_1\.",
    r"^model\.visual\.merger\.mlp\.2\.": r"^connector\.linear_2\.",
    r"^model\.visual\.": r"^vision_tower\.",
}
WHOLE = {
    **_TOWER,
    r"^model\.language_model\.": r"^language_model\.model\.",
    r"^lm_head\.": r"^language_model\.lm_head\.",
}
_BODY = {**_TOWER, r"^model\.language_model\.": r"^language_model\."}


class PublishedNames:
    """A model whose weights have the published names on disk. transformers is told so by the first model,
    made or unpickled; see [`OneVisionFusedModel`] for why not before.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        for config in (LlavaOnevision2Config, LlavaOnevision2MoeConfig, MageVLConfig):
            _register(config.model_type, WHOLE)
        for model in (LlavaOnevision2Model, LlavaOnevision2MoeModel, MageVLModel):
            _register(model.__name__, _BODY)
        return super().__new__(cls)


def _register(identifier: str, names: dict[str, str]) -> None:
    renamings: Any = [WeightRenaming(published, ours) for published, ours in names.items()]
    register_checkpoint_conversion_mapping(identifier, renamings, overwrite=True)


class LlavaOnevision2Model(PublishedNames, OneVisionVLModel):
    """[`OneVisionVLModel`] with the published names.

    Args:
        config: as published.
    """

    config: LlavaOnevision2Config
    may_hold_others = False
    _keys_to_ignore_on_load_unexpected = [
        *(OneVisionVLModel._keys_to_ignore_on_load_unexpected or ()),
        r"^lm_head\.",
    ]


class LlavaOnevision2ForConditionalGeneration(PublishedNames, OneVisionVLForConditionalGeneration):
    """[`OneVisionVLForConditionalGeneration`] with the published names.

    Args:
        config: as published.
    """

    config: LlavaOnevision2Config
    may_hold_others = False
    saves_original_format = True


class LlavaOnevision2MoeModel(LlavaOnevision2Model):
    """[`LlavaOnevision2Model`] with experts.

    Args:
        config: as published.
    """

    config: LlavaOnevision2MoeConfig


class LlavaOnevision2MoeForConditionalGeneration(LlavaOnevision2ForConditionalGeneration):
    """[`LlavaOnevision2ForConditionalGeneration`] with experts.

    Args:
        config: as published.
    """

    config: LlavaOnevision2MoeConfig


class MageVLModel(LlavaOnevision2Model):
    """[`OneVisionVLModel`] with the names of Mage-VL.

    Args:
        config: as published.
    """

    config: MageVLConfig


class MageVLForConditionalGeneration(LlavaOnevision2ForConditionalGeneration):
    """[`OneVisionVLForConditionalGeneration`] with the names of Mage-VL.

    Args:
        config: as published.
    """

    config: MageVLConfig


class MageVLVisionModel(OneVisionFusedModel):
    """Mage-ViT by itself: the OneVision encoder with its projections fused.

    Args:
        config: as published.
        add_pooling_layer: see [`OneVisionModel`].
    """

    config: MageVLVisionConfig
    _keys_to_ignore_on_load_unexpected = [r"^merger\."]


__all__ = [
    "LlavaOnevision2ForConditionalGeneration",
    "LlavaOnevision2Model",
    "LlavaOnevision2MoeForConditionalGeneration",
    "LlavaOnevision2MoeModel",
    "MageVLForConditionalGeneration",
    "MageVLModel",
    "MageVLVisionModel",
]
