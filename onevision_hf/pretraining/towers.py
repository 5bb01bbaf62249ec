"""The heads: a ViT that rebuilds latents from tokens, a text encoder, a decoder that writes captions.

Shapes: B images, N tokens of an image (a grid of h x w), L tokens of a text, D width of the encoder, E
features, C channels and p patch side of the latents, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..modeling.modeling_openvision3 import (
    OpenVision3Encoder,
    OpenVision3MLP,
    OpenVision3PreTrainedModel,
    sincos_position_table,
)
from ..objectives.captioning import prefix_lm_mask
from .configuration_unified import TowerConfig


class TowerPreTrainedModel(OpenVision3PreTrainedModel):
    """Initialised as the encoder is: the heads are near-symmetrical to it (section 3.2)."""

    config: TowerConfig  # type: ignore[assignment]
    config_class = TowerConfig
    base_model_prefix = ""
    _no_split_modules = ["SiglipEncoderLayer", "TextLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TextEmbeddings):
            init.normal_(module.positions, std=0.01)


class LatentDecoder(TowerPreTrainedModel):
    """The ViT decoder: tokens -> latents. Patch size 1 x 1 on the tokens' grid, the encoder's blocks and
    positional table, no class token; then each token becomes p x p latents.
    """

    def __init__(self, config: TowerConfig, token_size: int, latent_channels: int, patch_size: int):
        super().__init__(config)
        self.patch_size, self.channels = patch_size, latent_channels
        self.input_projection = nn.Linear(token_size, config.hidden_size)
        self.encoder = OpenVision3Encoder(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.output_projection = nn.Linear(config.hidden_size, latent_channels * patch_size**2)
        self.post_init()

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) on a grid of N = h * w -> latents (B, C, h * p, w * p)."""
        height, width = grid
        hidden = self.input_projection(tokens)
        table = sincos_position_table(height, width, self.config.hidden_size, device=hidden.device)
        hidden = self.encoder(hidden + table.to(hidden.dtype)).last_hidden_state
        patches = self.output_projection(self.layer_norm(hidden))  # (B, N, C*p*p)
        return unpatchify(patches, grid, self.channels, self.patch_size)


def unpatchify(patches: Tensor, grid: tuple[int, int], channels: int, patch: int) -> Tensor:
    """Patches put back in their places.

    Args:
        patches: (B, h * w, C * p * p), each flattened as (C, p, p).
        grid: h, w.
        channels: C.
        patch: p.

    Returns:
        (B, C, h * p, w * p).
    """
    height, width = grid
    tiles = patches.view(-1, height, width, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(-1, channels, height * patch, width * patch)


class TextEmbeddings(nn.Module):
    """Tokens and learned positions."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(config.max_positions, config.hidden_size))

    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        last = first + ids.shape[1]
        if last > len(self.positions):
            raise ValueError(
                f"a text of {last} tokens, its marks included; this head takes {len(self.positions)} "
                "(max_positions): cut it, as CaptionTokenizer does"
            )
        return self.tokens(ids) + self.positions[first:last]


class TextAttention(nn.Module):
    def __init__(self, config: TowerConfig, layer: int):
        super().__init__()
        self.heads, self.layer, self.dropout = config.num_attention_heads, layer, config.attention_dropout
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Self-attention over tokens.

        Args:
            hidden: (B, L, D).
            mask: (.., L, past + L) bool, True where a token may look.
            cache: of the past tokens' keys and values.
        """
        qkv = self.qkv_proj(hidden).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class TextLayer(GradientCheckpointingLayer):
    """Pre-norm block with a mask and a cache; the MLP is the encoder's."""

    def __init__(self, config: TowerConfig, layer: int):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = TextAttention(config, layer)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = OpenVision3MLP(config)

    def forward(self, hidden: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Attention and MLP, each after its norm and added to what came in.

        Args:
            hidden: (B, L, D).
            mask: (.., L, past + L) bool, True where a token may look.
            cache: of the past tokens' keys and values.
        """
        hidden = hidden + self.self_attn(self.layer_norm1(hidden), mask, cache)
        return hidden + self.mlp(self.layer_norm2(hidden))


class TextEncoder(TowerPreTrainedModel):
    """Both ways; the feature is the state of the mark of the end, which stands last."""

    def __init__(self, config: TowerConfig, projection_dim: int):
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config, i) for i in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, projection_dim, bias=False)
        self.post_init()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, L), mask (B, L) 1 where they are real, padding on the right -> features (B, E)."""
        real = mask.bool()
        hidden = self.embeddings(ids)
        for layer in self.layers:
            hidden = layer(hidden, real[:, None, None])
        last = real.sum(1).clamp(min=1) - 1
        ends = hidden[torch.arange(len(ids), device=ids.device), last]
        return self.projection(self.layer_norm(ends))


class CaptionDecoder(TowerPreTrainedModel, GenerationMixin):
    """A prefix language model: the image's tokens see one another, each token of the caption sees the image
    and what stands before it. transformers' `generate` writes captions with it.
    """

    main_input_name = "input_ids"
    _is_stateful = False

    def __init__(self, config: TowerConfig, token_size: int):
        super().__init__(config)
        self.prefix_projection = nn.Linear(token_size, config.hidden_size)
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config, i) for i in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.vocabulary = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, prefix: Tensor, cache: Any = None, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """Logits of the next tokens of captions.

        Args:
            input_ids: (B, L) tokens; with a cache that holds the image already, those that it does not hold
                yet.
            prefix: (B, N, D), the image's tokens, before the caption's.
            cache: of what came before.
            **kwargs: taken since `generate` hands them over; not used.

        Returns:
            `logits` (B, L, V).
        """
        past = cache.get_seq_length() if cache is not None else 0
        image = prefix.shape[1]
        hidden = self.embeddings(input_ids, max(0, past - image))
        if not past:
            hidden = torch.cat([self.prefix_projection(prefix), hidden], dim=1)
        mask = prefix_lm_mask(image, hidden.shape[1], past, device=hidden.device)
        for layer in self.layers:
            hidden = layer(hidden, mask, cache)
        text = hidden[:, -input_ids.shape[1] :]
        return CausalLMOutputWithPast(logits=self.vocabulary(self.layer_norm(text)))

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, prefix: Tensor, past_key_values: Any = None, cache: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        # Until 5.2x generate calls the cache past_key_values, later cache.
        """What `generate` calls `forward` with.

        Args:
            input_ids: (B, L) tokens so far.
            prefix: (B, N, D), the image's tokens.
            past_key_values: the cache, in releases of transformers that call it so.
            cache: the cache, in later ones.
            **kwargs: not used.
        """
        cache = past_key_values if cache is None else cache
        held = cache is not None and cache.get_seq_length() > 0
        return {"input_ids": input_ids[:, -1:] if held else input_ids, "prefix": prefix, "cache": cache}
