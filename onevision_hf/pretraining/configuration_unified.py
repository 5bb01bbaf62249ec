"""Configuration of unified pre-training: one encoder, and the heads that learn to rebuild, to name and to
describe (arXiv 2601.15369).

    from onevision_hf import OpenVision3Config, UnifiedPreTrainingConfig
    UnifiedPreTrainingConfig(OpenVision3Config.base(), lpips_weight=0.5)
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..modeling.configuration_onevision import OneVisionConfig, tower_sizes
from ..modeling.configuration_openvision3 import OpenVision3Config

ENCODERS: dict[str, type] = {
    OpenVision3Config.model_type: OpenVision3Config,
    OneVisionConfig.model_type: OneVisionConfig,
}
# What a pixel of the latents' VAE stands for, whichever encoder: four levels, 8 pixels a side.
VAE_STRIDE = 8
_OF_THE_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
_OF_THE_ENCODER = (
    *("vae_name_or_path", "latent_channels", "latent_scaling", "latent_shift", "patch_size"),
    "projection_dim",
)


@strict
class TowerConfig(PreTrainedConfig):
    r"""
    Sizes of one head: the ViT decoder, the text encoder, or the caption decoder.

    hidden_size (`int`, *optional*, defaults to 768):
        Width; a multiple of 4 and of the number of heads.
    max_positions (`int`, *optional*, defaults to 0):
        Tokens of a text, its marks of beginning and end included; 0 for the ViT decoder.
    """

    model_type = "unified_tower"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    max_positions: int = 0
    vocab_size: int = 438
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = 0

    def validate_architecture(self) -> None:
        """Refuse sizes that no head can be built with, naming the numbers."""
        if self.hidden_size % 4 or self.hidden_size < 8:
            raise ValueError(f"hidden_size must be a multiple of 4 and at least 8, found {self.hidden_size}")
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be split over {self.num_attention_heads} heads"
            )


class UnifiedPreTrainingConfig(PreTrainedConfig):
    """Configuration of [`UnifiedForPreTraining`].

    loss = reconstruction_weight * (pixel_weight * L1(pixels) + latent_weight * L1(latents) + lpips_weight *
    LPIPS) + understanding_weight * (caption_weight * caption + contrastive_weight * contrastive), by
    default 0.5 * (1 * + 0.4 * + 0 *) + 1 * (1 * + 1 *): equations 4 to 6, stage 1. Stage 2 has lpips_weight
    0.5. What has weight 0 is not computed.

    Args:
        encoder_config (`OpenVision3Config`, `OneVisionConfig` or `dict`, *optional*): the encoder; the base
            OpenVision 3 encoder if left out.
        decoder_config (`TowerConfig` or `dict`, *optional*): the ViT decoder; B/1, the paper's, by default.
            A dict changes single sizes; 12 layers of width 768: see docs/openvision3.md.
        text_config (`TowerConfig` or `dict`, *optional*): the text encoder, 80 tokens.
        caption_config (`TowerConfig` or `dict`, *optional*): the caption decoder, 128 tokens.
        vocab_size (`int`, *optional*): of the tokenizer of both text heads; the one in the package by
            default.
        bos_token_id (`int`, *optional*): its mark of the beginning.
        eos_token_id (`int`, *optional*): its mark of the end.
        pad_token_id (`int`, *optional*): its padding.
        projection_dim (`int`, *optional*): width E of the image's and the text's features; of an OpenVision
            3 encoder it is the encoder's own.
        reconstruction_weight (`float`, *optional*): of the branch that gives the image back.
        pixel_weight (`float`, *optional*): of its pixels.
        latent_weight (`float`, *optional*): beta, of its latents.
        lpips_weight (`float`, *optional*): lambda, of its perceptual distance.
        understanding_weight (`float`, *optional*): of the branch of texts.
        caption_weight (`float`, *optional*): of its captions.
        contrastive_weight (`float`, *optional*): alpha, of its contrastive loss.
        noise_tau (`float`, *optional*, defaults to 0.8): tokens on their way to the decoder get noise of a
            deviation from U[0, tau] in training. The paper gives no number; 0.8 is that of the
            representation autoencoders it takes the noise from.
        contrastive_form (`str`, *optional*, defaults to `"softmax"`): `"softmax"` (CLIP) or `"sigmoid"`
            (SigLIP).
        contrastive_chunk (`int`, *optional*, defaults to 0): images that are computed at once; 0 is all.
            The gradients are those of the whole batch.
        detach_reconstruction (`bool`, *optional*): train the heads of that branch as probes, on tokens that
            lead no gradient back (section 5.1).
        detach_understanding (`bool`, *optional*): likewise.
        vae_name_or_path (`str`, *optional*): this and the next four as in `OpenVision3Config`, whose values
            hold where the encoder is an OpenVision 3 encoder.
        latent_channels (`int`, *optional*): of the VAE.
        latent_scaling (`float`, *optional*): of the latents.
        latent_shift (`float`, *optional*): of the latents.
        patch_size (`int`, *optional*): on the latent grid.
        image_mean (`list[float]`, *optional*): of the pixels that a OneVision encoder reads; those that
            this model takes are in [-1, 1]. CLIP's.
        image_std (`list[float]`, *optional*): their deviation. CLIP's.
        initializer_range (`float`, defaults to 0.02): standard deviation of new weights.
        **values: these by name, and transformers' own.
    """

    model_type = "unified_pretraining"
    sub_configs = {
        "decoder_config": TowerConfig,
        "text_config": TowerConfig,
        "caption_config": TowerConfig,
        "encoder_config": PreTrainedConfig,
    }

    decoder_config: Any = None
    text_config: Any = None
    caption_config: Any = None
    vocab_size: int = 438
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0
    projection_dim: int = 768
    reconstruction_weight: float = 0.5
    pixel_weight: float = 1.0
    latent_weight: float = 0.4
    lpips_weight: float = 0.0
    understanding_weight: float = 1.0
    caption_weight: float = 1.0
    contrastive_weight: float = 1.0
    noise_tau: float = 0.8
    contrastive_form: Literal["softmax", "sigmoid"] = "softmax"
    contrastive_chunk: int = 0
    detach_reconstruction: bool = False
    detach_understanding: bool = False
    vae_name_or_path: str | None = OpenVision3Config.vae_name_or_path
    latent_channels: int = 16
    latent_scaling: float = 0.3611
    latent_shift: float = 0.0
    patch_size: int = 2
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    initializer_range: float = 0.02

    def __init__(self, encoder_config: PreTrainedConfig | dict[str, Any] | None = None, **values: Any):
        self.encoder_config: Any = _encoder_config(encoder_config)
        for name in _FIELDS:
            setattr(self, name, values.pop(name, getattr(type(self), name)))
        tokens = {name: getattr(self, name) for name in _OF_THE_TOKENIZER}
        text = tokens | {"hidden_act": "gelu_pytorch_tanh"}
        self.decoder_config = _tower(self.decoder_config, {})
        self.text_config = _tower(self.text_config, text | {"max_positions": 80}, tokens)
        self.caption_config = _tower(self.caption_config, text | {"max_positions": 128}, tokens)
        self.projection_dim = self.projection_dim or 768
        self.image_mean = self.image_mean or [0.48145466, 0.4578275, 0.40821073]
        self.image_std = self.image_std or [0.26862954, 0.26130258, 0.27577711]
        if isinstance(self.encoder_config, OpenVision3Config):
            # One VAE, so that encoding and decoding always agree.
            for name in _OF_THE_ENCODER:
                setattr(self, name, getattr(self.encoder_config, name))
        super().__init__(**values)
        self._check()

    def _check(self) -> None:
        for name in (*self.weight_names, "noise_tau", "contrastive_chunk"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 (off) or more")
        if self.contrastive_form not in ("softmax", "sigmoid"):
            raise ValueError(
                f"contrastive_form is {self.contrastive_form!r}, expected 'softmax' or 'sigmoid'"
            )
        encoder = self.encoder_config
        if isinstance(encoder, OneVisionConfig) and not encoder.use_head:
            raise ValueError(
                "the OneVision encoder has no pooling head (use_head is False), which gives image features"
            )

    @property
    def weight_names(self) -> tuple[str, ...]:
        return tuple(name for name in _FIELDS if name.endswith("_weight"))

    @property
    def loss_weights(self) -> dict[str, float]:
        """Of each loss in the sum, those that are not 0: the factors of equations 4 to 6 multiplied out."""
        rebuild, understand = self.reconstruction_weight, self.understanding_weight
        weights = {
            "pixel": rebuild * self.pixel_weight,
            "latent": rebuild * self.latent_weight,
            "lpips": rebuild * self.lpips_weight,
            "caption": understand * self.caption_weight,
            "contrastive": understand * self.contrastive_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def encoder_stride(self) -> int:
        """Pixels to a side of one of the encoder's tokens."""
        encoder = self.encoder_config
        return encoder.patch_size * (VAE_STRIDE if isinstance(encoder, OpenVision3Config) else 1)

    @property
    def decoder_stride(self) -> int:
        """Pixels to a side of one of the decoder's tokens: 16."""
        return VAE_STRIDE * self.patch_size

    @classmethod
    def tiny(
        cls, encoder_config: PreTrainedConfig | dict[str, Any] | None = None, **overrides: Any
    ) -> "UnifiedPreTrainingConfig":
        """Two narrow layers everywhere, for tests and small runs."""
        sizes = tower_sizes(64, 256, 2, 2)
        towers: dict[str, Any] = {
            "decoder_config": sizes,
            "text_config": sizes | {"max_positions": 64},
            "caption_config": sizes | {"max_positions": 64},
            "projection_dim": 48,
        }
        return cls(encoder_config or OpenVision3Config.tiny(), **(towers | overrides))


_FIELDS = tuple(UnifiedPreTrainingConfig.__annotations__)


def _encoder_config(found: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    if found is None:
        return OpenVision3Config()
    kind = found.get("model_type") if isinstance(found, dict) else found.model_type
    if kind not in ENCODERS:
        raise ValueError(f"encoder_config is of the type {kind!r}, expected one of {', '.join(ENCODERS)}")
    return ENCODERS[kind](**found) if isinstance(found, dict) else found


def _tower(
    found: TowerConfig | dict[str, Any] | None, default: dict[str, Any], fixed: dict[str, Any] | None = None
) -> TowerConfig:
    if isinstance(found, TowerConfig):
        found = found.to_dict()
    return TowerConfig(**(default | (found or {}) | (fixed or {})))


__all__ = ["TowerConfig", "UnifiedPreTrainingConfig"]
