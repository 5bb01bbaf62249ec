"""Configuration of the OpenVision 3 encoder: a ViT over the latents of a frozen VAE (arXiv 2601.15369).

from onevision_hf.modeling.configuration_openvision3 import OpenVision3Config
OpenVision3Config.base()
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class OpenVision3Config(PreTrainedConfig):
    """Configuration of [`OpenVision3Model`]; the defaults are those of the published base encoder.

    Args:
        hidden_size (`int`, defaults to 768): width D of the encoder; a multiple of 4, since the sin-cos
            table has four parts, and of the number of heads.
        intermediate_size (`int`, defaults to 3072): width inside the MLPs.
        num_hidden_layers (`int`, defaults to 12): transformer layers.
        num_attention_heads (`int`, defaults to 12): attention heads.
        projection_dim (`int`, defaults to 768): width E of `pooler_output`.
        image_size (`int`, defaults to 256): side in pixels that the weights were last trained at. It limits
            nothing: the positional table is a formula.
        patch_size (`int`, defaults to 2): side of a patch on the latent grid.
        latent_channels (`int`, defaults to 16): channels of the VAE's latents.
        hidden_act (`str`, defaults to `"gelu"`): activation inside the MLPs.
        layer_norm_eps (`float`, defaults to 1e-6): epsilon of the normalisation layers.
        attention_dropout (`float`, defaults to 0.0): dropout on attention weights while training.
        initializer_range (`float`, defaults to 0.02): standard deviation of new weights.
        vae_name_or_path (`str`, *optional*, defaults to `"Letian2003/black-forest-labs_FLUX.1-dev_vae"`):
            folder or Hub id of the diffusers `AutoencoderKL`, read at the first `pixel_values`, never by
            `from_pretrained`. The default is what the published test script reads. `None`: only `set_vae`
            gives one.
        latent_scaling (`float`, defaults to 0.3611): latents = latent_scaling * (posterior mean -
            latent_shift).
        latent_shift (`float`, defaults to 0.0): the published encoder subtracts no shift, unlike diffusers'
            FLUX pipelines (0.1159).
    """

    model_type = "openvision3"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    projection_dim: int = 768
    image_size: int = 256
    patch_size: int = 2
    latent_channels: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    vae_name_or_path: str | None = "Letian2003/black-forest-labs_FLUX.1-dev_vae"
    latent_scaling: float | int = 0.3611
    latent_shift: float | int = 0.0

    def validate_architecture(self) -> None:
        """Refuse sizes that no encoder can be built with, naming the numbers."""
        if self.hidden_size % 4 or self.hidden_size < 8:
            raise ValueError(
                "hidden_size must be a multiple of 4 and at least 8 (sin and cos of x and of y), found "
                f"{self.hidden_size}"
            )
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be split over {self.num_attention_heads} attention "
                "heads"
            )
        if self.latent_scaling == 0:
            raise ValueError("latent_scaling must not be 0: every image would have the same latents")

    @classmethod
    def base(cls, **overrides: Any) -> "OpenVision3Config":
        """VAE+B/2, 85,695,744 parameters: the published openvision3-vit-base-patch2-32."""
        return cls(**overrides)

    @classmethod
    def large(cls, **overrides: Any) -> "OpenVision3Config":
        """VAE+L/2, 303,426,560 parameters: the published openvision3-vit-large-patch2-32."""
        sizes = {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "projection_dim": 1024,
        }
        return cls(**(sizes | overrides))

    @classmethod
    def tiny(cls, **overrides: Any) -> "OpenVision3Config":
        """The flavour of the tests, with the sizes of the recorded reference tower."""
        sizes = {
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "projection_dim": 48,
            "image_size": 64,
        }
        return cls(**(sizes | overrides))


__all__ = ["OpenVision3Config"]
