"""The OpenVision 3 encoder: a ViT that reads the latents of a frozen VAE (arXiv 2601.15369, section 3).

    model = OpenVision3Model.from_pretrained(folder)
    tokens = model(pixel_values=pixels).last_hidden_state    # the VAE is loaded here, at the first pixels
    tokens = model(latents=cached).last_hidden_state         # no VAE at all: `onevision latents` caches them

Shapes: B images, H x W pixels, C latent channels, h x w latent grid, N tokens = (h / patch) * (w / patch),
D width, E projection.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.siglip.modeling_siglip import (
    SiglipAttention,
    SiglipEncoder,
    SiglipEncoderLayer,
    SiglipMLP,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .complete_weights import CompleteWeights
from .configuration_openvision3 import OpenVision3Config
from .tensor_inputs import check_tensors
from .vae_openvision3 import HoldsVAE, MissingVAEError, check_latents


def sincos_position_table(
    height: int, width: int, dim: int, device: torch.device | str | None = None
) -> torch.Tensor:
    """The fixed positional table (height * width, dim), float32, rows in raster order.

    A row is [sin x, cos x, sin y, cos y], each with dim / 4 frequencies 10000^(-k / (dim / 4 - 1)): MoCo
    v3's form, as `posemb_sincos_2d` of the published vit.py has it. MAE's divides by dim / 4 and puts y
    first. Coordinates are raw integers, so another grid evaluates other rows of one function, and nothing
    is interpolated.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        dim: D, a multiple of 4.
        device: where the table is made.
    """
    omega = 10000.0 ** (-torch.arange(dim // 4, device=device, dtype=torch.float32) / (dim // 4 - 1))
    y = torch.arange(height, device=device, dtype=torch.float32).repeat_interleave(width)[:, None] * omega
    x = torch.arange(width, device=device, dtype=torch.float32).repeat(height)[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


class OpenVision3Embeddings(nn.Module):
    """Latents -> a class token, whose position is a row of zeros, and patch tokens with the fixed table."""

    def __init__(self, config: OpenVision3Config):
        super().__init__()
        self.config = config
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.latent_channels,
            config.hidden_size,
            config.patch_size,
            stride=config.patch_size,
            bias=False,
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype))  # (B, D, h/p, w/p)
        height, width = patches.shape[-2:]
        positions = sincos_position_table(height, width, self.config.hidden_size, device=patches.device)
        tokens = patches.flatten(2).transpose(1, 2) + positions.to(patches.dtype)  # (B, N, D)
        class_token = self.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        return torch.cat([class_token, tokens], dim=1)  # (B, 1 + N, D)


class OpenVision3MLPOutput(nn.Linear):
    """A linear layer that is told apart when weights are drawn.

    It has to be this module: transformers passes over modules without parameters of their own, as the MLP is.
    """


class OpenVision3MLP(SiglipMLP):
    """SigLIP's, with an output whose weights are drawn differently."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.fc2 = OpenVision3MLPOutput(config.intermediate_size, config.hidden_size)


class OpenVision3Encoder(SiglipEncoder):
    """SigLIP's pre-norm blocks: attention, then the MLP, each added to what it read."""

    def __init__(self, config: Any):
        super().__init__(config)
        for layer in self.layers:
            layer.mlp = OpenVision3MLP(config)


class OpenVision3PreTrainedModel(CompleteWeights, PreTrainedModel):
    config: OpenVision3Config
    base_model_prefix = "openvision3"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SiglipEncoderLayer, "attentions": SiglipAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The published initialisation (src/models/vit.py): `initializer_range`, with three exceptions."""
        super()._init_weights(module)
        if isinstance(module, OpenVision3Embeddings):
            init.normal_(module.class_embedding, std=1e-6)
            init.kaiming_uniform_(module.patch_embedding.weight, a=5**0.5)
        elif isinstance(module, OpenVision3MLPOutput):
            # Variance scaling over the outputs, 0.3072 / D = 0.02^2 at the base width. flax widens the
            # normal so that what is left after the cut at two deviations has that variance.
            std = (0.3072 / module.out_features) ** 0.5 / 0.87962566
            init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)


class OpenVision3Model(HoldsVAE, OpenVision3PreTrainedModel):
    """The encoder. The VAE is held beside it: not in the state dict, not trained, moved with `.to()`.

    Args:
        config: sizes, and where the VAE is.
    """

    def __init__(self, config: OpenVision3Config):
        super().__init__(config)
        self.embeddings = OpenVision3Embeddings(config)
        self.encoder = OpenVision3Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode images or latents.

        Args:
            pixel_values (`torch.Tensor` of shape (B, 3, H, W), *optional*): images in [-1, 1], H and W
                multiples of 16. Encoded by the VAE, without gradient.
            latents (`torch.Tensor` of shape (B, C, h, w), *optional*): latent_scaling * (posterior mean -
                latent_shift), as `encode_pixels` returns; h and w multiples of the patch. Give these or
                `pixel_values`, not both.
            **kwargs: of the attention implementation, and `output_hidden_states`, `output_attentions`.

        Returns:
            `last_hidden_state` (B, N, D), the last block's patch tokens without norm and without the class
            token, and `pooler_output` (B, E), the norm of their mean, projected. Recorded `hidden_states`
            keep the class token in front.

        Raises:
            ValueError: wrong shapes.
            TypeError: an input that is no tensor.
            MissingVAEError: pixels without a VAE.
        """
        check_tensors(pixel_values=pixel_values, latents=latents)
        if pixel_values is not None and latents is not None:
            raise ValueError("give pixel_values or latents, exactly one of them; found both")
        if pixel_values is not None:
            latents = self.encode_pixels(pixel_values)
        if latents is None:
            raise ValueError("give pixel_values or latents, exactly one of them; found neither")
        check_latents(latents, self.config)
        hidden_states = self.encoder(self.embeddings(latents), **kwargs).last_hidden_state  # (B, 1 + N, D)
        tokens = hidden_states[:, 1:]
        pooled = self.visual_projection(self.post_layernorm(tokens.mean(dim=1)))  # (B, E)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """The images' features, which are `pooler_output`, not normalised.

        Args:
            pixel_values: (B, 3, H, W) images in [-1, 1].
            latents: (B, C, h, w), instead of pixels.
            **kwargs: of `forward`.

        Returns:
            (B, E).
        """
        return self(
            pixel_values=pixel_values, latents=latents, **kwargs | {"return_dict": True}
        ).pooler_output

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding


__all__ = ["MissingVAEError", "OpenVision3Model", "OpenVision3PreTrainedModel", "sincos_position_table"]
