"""The configurations of the published LLaVA-OneVision-2 and Mage-VL, in terms of our own multimodal model.

    AutoConfig.from_pretrained(folder)          # model_type llava_onevision2, llava_onevision2_moe, mage_vl
    our_config(published), published_config(ours, "llava_onevision2")

They are read and written with the published names; the fields of [`OneVisionVLConfig`] follow from them:
a `patch_merger` of `spatial_merge_size` on the tower's last layer, its norm with the tower's epsilon, windows
of `frame_windows_size` frames, no bound on t.

Sources: `configuration_llava_onevision2.py` and `..._moe.py` of EvolvingLMMs-Lab/LLaVA-OneVision-2 (commit
2c3c25e); Mage-VL's is the same under other names.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from .configuration_onevision import OneVisionConfig
from .configuration_onevision_vl import OneVisionVLConfig

# Fields of ours that follow from the published ones, and are not written.
OURS = ("connector", "vision_feature_layer", "spatial_merge_size", "connector_norm_eps", "frame_windows_size")
# Of a tower's configuration, without effect on it or looked at elsewhere; others are of another network.
INERT = {
    *("text_hidden_size", "max_position_embeddings", "use_patch_position_encoding", "attn_implementation"),
    *("auto_map", "name_or_path", "torch_dtype", "trust_remote_code", "code_revision", "num_labels"),
}
# What is only said at the top of a published configuration, and kept in ours to be said again.
KEPT = ("vision_start_token_id", "vision_end_token_id")


@strict
class LlavaOnevision2VisionConfig(OneVisionConfig):
    r"""
    The tower of LLaVA-OneVision-2: the OneVision encoder without head and without a bound on t.

    Args:
        out_hidden_size (`int`, defaults to 1024): width of the language model.
        spatial_merge_size (`int`, defaults to 3): patches along a side of the block that becomes a token; the
            released models have 2.
        tokens_per_second (`int`, defaults to 1): not read.
        temporal_patch_size (`int`, defaults to 1): frames of a patch; only 1 is known.
        frame_windows_size (`int`, *optional*, defaults to 4): frames that attend to one another.

    The others are those of [`OneVisionConfig`]. Raises its errors, and for what the released models do not
    have: a head, patches of several frames, an absolute position in the merger.
    """

    base_config_key = "vision_config"
    fused = True  # how its weights lie in a folder: q, k, v in one matrix

    rope_temporal_size: int | None = None
    use_head: bool = False
    out_hidden_size: int = 1024
    spatial_merge_size: int = 3
    tokens_per_second: int | float = 1
    temporal_patch_size: int = 1
    frame_windows_size: int | None = 4

    def __post_init__(self, **kwargs: Any) -> None:
        strange = sorted(kwargs.keys() - PreTrainedConfig().to_dict().keys() - INERT)
        strange = [name for name in strange if not name.startswith("_")]
        if found := {name: kwargs[name] for name in strange if kwargs[name] not in (None, False)}:
            raise ValueError(
                f"vision_config has fields that are not known here, {found}: this folder is of another "
                "network than the released code; take them out of config.json if they change nothing"
            )
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All fields; `rope_temporal_size`, which published configurations lack, where it is set."""
        fields = super().to_dict()
        if self.rope_temporal_size is None:
            del fields["rope_temporal_size"]
        return fields

    def validate_known(self) -> None:
        """Nothing is asked for that the released models do not have."""
        for name, known in (("use_head", False), ("temporal_patch_size", 1)):
            if (found := getattr(self, name)) != known:
                raise ValueError(f"{self.model_type}: towers are known with {name}={known}, found {found}")
        if getattr(self, "use_patch_position_encoding", False):
            raise ValueError("use_patch_position_encoding: absolute positions in the merger are not known")


@strict
class MageVLVisionConfig(LlavaOnevision2VisionConfig):
    """The tower of Mage-VL, which also stands alone as Mage-ViT; the fields are those of
    [`LlavaOnevision2VisionConfig`].
    """

    model_type = "mage_vl_vision"

    patch_size: int = 16
    spatial_merge_size: int = 2


@strict
class LlavaOnevision2Config(OneVisionVLConfig):
    r"""
    Configuration of [`LlavaOnevision2ForConditionalGeneration`], as published.

    Args:
        vision_start_token_id (`int`): before the tokens of an image.
        vision_end_token_id (`int`): after them.
        tie_word_embeddings (`bool`, defaults to `False`): whether the head is the embeddings; also of
            `text_config`.
        bos_token_id (`int`, *optional*): of `text_config`.
        eos_token_id (`int` or `list`, *optional*): of `text_config`.
        pad_token_id (`int`, *optional*): of `text_config`.

    The others are those of [`OneVisionVLConfig`], of which some follow from `vision_config`.
    """

    model_type = "llava_onevision2"
    sub_configs = {"text_config": AutoConfig, "vision_config": LlavaOnevision2VisionConfig}
    text_type = "qwen3"

    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        tower: Any = self.sub_configs["vision_config"]
        fits = self.vision_config is not None
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = tower(**(self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = {"model_type": self.text_type, **(self.text_config or {})}
        self.connector, self.vision_feature_layer = "patch_merger", -1
        self.spatial_merge_size = self.vision_config.spatial_merge_size
        self.connector_norm_eps = self.vision_config.layer_norm_eps
        self.frame_windows_size = self.vision_config.frame_windows_size
        super().__post_init__(**kwargs)
        if not fits:
            self.vision_config.out_hidden_size = self.text_config.hidden_size
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.text_config, name, None))

    @property
    def takes_codec_input(self) -> bool:
        return True

    def to_dict(self) -> dict[str, Any]:
        """The published fields."""
        return {name: value for name, value in super().to_dict().items() if name not in OURS}

    def validate_widths(self) -> None:
        """The merger makes embeddings of the language model's width."""
        made, wanted = self.vision_config.out_hidden_size, self.text_config.hidden_size
        if made != wanted:
            raise ValueError(
                f"vision_config.out_hidden_size is {made}, and the language model's hidden_size {wanted}"
            )


@strict
class LlavaOnevision2MoeConfig(LlavaOnevision2Config):
    """Configuration of [`LlavaOnevision2MoeForConditionalGeneration`]: [`LlavaOnevision2Config`] with a
    language model of experts.
    """

    model_type = "llava_onevision2_moe"
    text_type = "qwen3_moe"


@strict
class MageVLConfig(LlavaOnevision2Config):
    """Configuration of [`MageVLForConditionalGeneration`]: [`LlavaOnevision2Config`] with Mage-ViT."""

    model_type = "mage_vl"
    sub_configs = {"text_config": AutoConfig, "vision_config": MageVLVisionConfig}


PUBLISHED: dict[str, Any] = {
    config.model_type: config for config in (LlavaOnevision2Config, LlavaOnevision2MoeConfig, MageVLConfig)
}


def our_config(published: LlavaOnevision2Config) -> OneVisionVLConfig:
    """The same model as a [`OneVisionVLConfig`]; `published_type` keeps its model type."""
    vision = {"rope_temporal_size": None, **published.vision_config.to_dict()}
    del vision["model_type"]
    kept = {name: getattr(published, name) for name in (*OURS, *KEPT)}
    kept["published_type"] = published.model_type
    return OneVisionVLConfig(
        vision_config=OneVisionConfig(**vision),
        text_config=published.text_config,
        image_token_id=published.image_token_id,
        video_token_id=published.video_token_id,
        dtype=published.dtype,
        **kept,
    )


def published_config(ours: OneVisionVLConfig, model_type: str | None = None) -> LlavaOnevision2Config:
    """The same model in published terms.

    Args:
        ours: of a model that has them.
        model_type: llava_onevision2, llava_onevision2_moe or mage_vl; None: that from which the model came,
            or llava_onevision2, with experts its `_moe`.

    Returns:
        the published configuration.

    Raises:
        ValueError: a model that the published code does not have, and why.
    """
    experts = ours.text_config.model_type == "qwen3_moe"
    model_type = model_type or getattr(ours, "published_type", None)
    kind = PUBLISHED[model_type or ("llava_onevision2_moe" if experts else "llava_onevision2")]
    vision = ours.vision_config
    needed = {
        "vision_config.model_type": (vision.model_type, OneVisionConfig.model_type),
        "text_config.model_type": (ours.text_config.model_type, kind.text_type),
        "connector": (ours.connector, "patch_merger"),
        "the layer that is read": (ours.vision_feature_layer % (ours.vision_layers + 1), ours.vision_layers),
        "connector_norm_eps": (ours.connector_norm_eps, getattr(vision, "layer_norm_eps", None)),
    }
    wrong = [
        f"{name} is {found}, {kind.model_type} has {has}"
        for name, (found, has) in needed.items()
        if found != has
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    own = {
        "rope_temporal_size": None,
        "out_hidden_size": ours.text_config.hidden_size,
        "spatial_merge_size": ours.spatial_merge_size,
        "frame_windows_size": ours.frame_windows_size,
    }
    tower = {name: value for name, value in vision.to_dict().items() if name != "model_type"}
    kept = {name: getattr(ours, name) for name in KEPT if hasattr(ours, name)}
    return kind(
        vision_config={**tower, **own},
        text_config=ours.text_config,
        image_token_id=ours.image_token_id,
        video_token_id=ours.video_token_id,
        tie_word_embeddings=ours.text_config.tie_word_embeddings,
        dtype=ours.dtype,
        **kept,
    )


__all__ = [
    "LlavaOnevision2Config",
    "LlavaOnevision2MoeConfig",
    "LlavaOnevision2VisionConfig",
    "MageVLConfig",
    "MageVLVisionConfig",
    "our_config",
    "published_config",
]
