"""The configuration of the multimodal model: a vision tower, a connector, a causal language model.

    from onevision_hf import OneVisionVLConfig
    OneVisionVLConfig(vision_config={"model_type": "onevision_encoder"}, text_config={"model_type": "qwen2"})

The parts are configurations of their own; the defaults are the published ones: the large OneVision encoder,
`mlp2x_gelu` on the last but one layer, Qwen3.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from .configuration_onevision import NamesItsOwnCode, OneVisionConfig
from .configuration_openvision3 import OpenVision3Config

CONNECTORS = ("mlp2x_gelu", "patch_merger")
# Ours by name, not through the Auto classes, which know them only where this package is installed.
OWN_TOWERS = {config.model_type: config for config in (OneVisionConfig, OpenVision3Config)}
# Pixels of one patch of OpenVision 3 on a latent of 1: its VAE halves a picture three times.
VAE_FACTOR = 8


@strict
class OneVisionVLConfig(NamesItsOwnCode):
    r"""
    Configuration of [`OneVisionVLForConditionalGeneration`].

    Args:
        text_config (`dict` or `PreTrainedConfig`, *optional*): any causal LM of transformers, by its
            `model_type`; `Qwen3Config()` by default.
        vision_config (`dict` or `PreTrainedConfig`, *optional*): `onevision_encoder` (the default),
            `openvision3`, or any vision transformer of transformers.
        connector (`str`, defaults to `"mlp2x_gelu"`): from the tower's features to the LM's embeddings.
            `"mlp2x_gelu"`, the published one, gives a token for each patch, `"patch_merger"` one for each
            block of patches.
        spatial_merge_size (`int`, defaults to 2): patches along a side of the block of `"patch_merger"`.
        connector_norm_eps (`float`, defaults to 1e-6): epsilon of the norm in `"patch_merger"`.
        frame_windows_size (`int`, *optional*): of inputs that come as `image_grid_thw`, so many frames of a
            row attend to one another; `None`: all of them.
        vision_feature_layer (`int`, defaults to -2): which of the tower's hidden states is read; as an index
            into them, of which the first is the input of the first layer.
        image_token_id (`int`): the token whose places images' features take; by default that of
            `<|image_pad|>` in Qwen's tokenizers.
        video_token_id (`int`): likewise of videos; by default that of `<|video_pad|>`.

    Raises the library's strict dataclass errors for an unknown connector and a layer that the tower lacks.
    """

    model_type = "onevision_vl"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    text_config: Any = None
    vision_config: Any = None
    connector: str = "mlp2x_gelu"
    spatial_merge_size: int = 2
    connector_norm_eps: float = 1e-6
    frame_windows_size: int | None = None
    vision_feature_layer: int = -2
    image_token_id: int = 151655
    video_token_id: int = 151656

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = _as_config(self.text_config, "qwen3")
        self.vision_config = _as_config(self.vision_config, OneVisionConfig.model_type)
        super().__post_init__(**kwargs)

    @property
    def merge_size(self) -> int:
        """Patches along a side of the block that becomes one token."""
        return self.spatial_merge_size if self.connector == "patch_merger" else 1

    @property
    def vision_layers(self) -> int:
        """Transformer layers of the tower."""
        layers = getattr(self.vision_config, "num_hidden_layers", None)
        return self.vision_config.depth if layers is None else layers

    @property
    def vision_patch_size(self) -> int:
        """Side in pixels of what the tower makes one feature of."""
        if self.vision_config.model_type == OpenVision3Config.model_type:
            return self.vision_config.patch_size * VAE_FACTOR
        return int(self.vision_config.patch_size)

    @property
    def takes_codec_input(self) -> bool:
        """Whether the tower takes any set of patches; the others take whole pictures and frames."""
        return self.vision_config.model_type == OneVisionConfig.model_type

    def validate_connector(self) -> None:
        """The connector is one of the two, and the layer it reads exists."""
        if self.connector not in CONNECTORS:
            raise ValueError(f"connector must be {' or '.join(CONNECTORS)}, got {self.connector!r}")
        if self.spatial_merge_size < 1:
            raise ValueError(f"spatial_merge_size must be positive, got {self.spatial_merge_size}")
        states = self.vision_layers + 1
        if not -states <= self.vision_feature_layer < states:
            raise ValueError(
                f"vision_feature_layer is {self.vision_feature_layer}; a tower of {states - 1} layers has "
                f"{states} hidden states, {-states}..{states - 1}"
            )


def _as_config(config: Any, default: str) -> PreTrainedConfig:
    """A configuration from what `config.json` holds of it."""
    if isinstance(config, PreTrainedConfig):
        return config
    values = dict(config or {})
    kind = values.pop("model_type", default)
    if kind in OWN_TOWERS:
        return OWN_TOWERS[kind](**values)
    if kind.startswith("qwen3_vl") and "depth" in values:  # its vision part, which was named as the whole is
        return Qwen3VLVisionConfig(**values)
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type {kind!r} is none that transformers knows")
    return CONFIG_MAPPING[kind](**values)


__all__ = ["OneVisionVLConfig"]
