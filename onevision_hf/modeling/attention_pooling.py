"""Attention pooling: learned probes look at patches, in the pooling head of the encoder and in classifiers.

Shapes: B batch, L patches of a row, Q probes, D hidden size, N heads, d head size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import SiglipMLP

from .configuration_onevision import OneVisionConfig


class OneVisionProbeAttention(nn.MultiheadAttention):
    """torch's attention for the names of its weights; its own forward reads weights of a module it never
    calls, which hooks that bring weights in (offloading, adapters) then miss.
    """

    def forward(  # type: ignore[override]
        self,
        probes: Tensor,
        states: Tensor,
        mask: Tensor | None = None,
        rotate: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Probes attend to patches.

        Args:
            probes: (B, Q, D).
            states: (B, L, D), the patches.
            mask: True where a probe may look; broadcast to (B, N, Q, L).
            rotate: turns keys and values, (B, N, L, d), by where their patches are.

        Returns:
            (B, Q, D).
        """
        size = self.embed_dim
        query = nn.functional.linear(probes, self.in_proj_weight[:size], self.in_proj_bias[:size])
        key_value = nn.functional.linear(states, self.in_proj_weight[size:], self.in_proj_bias[size:])
        query, key, value = (
            state.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for state in (query, *key_value.chunk(2, dim=-1))
        )
        if rotate is not None:
            key, value = rotate(key), rotate(value)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class OneVisionPoolingHead(nn.Module):
    """A learned probe attends to the patches; then x + MLP(RMSNorm(x))."""

    def __init__(self, config: OneVisionConfig):
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.attention = OneVisionProbeAttention(config.hidden_size, config.num_attention_heads)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, D), attending where `mask` (B, L) is True; packed, (L, D) -> (B, D) likewise."""
        if hidden_states.ndim == 3:
            # Not len(): that is a plain number, and an exported graph would keep it.
            probes = self.probe.expand(hidden_states.shape[0], -1, -1)
            mask = None if mask is None else mask[:, None, None]
        else:
            # One row of patches with a probe for each of its items.
            assert mask is not None
            probes = self.probe.expand(1, len(mask), -1)
            hidden_states, mask = hidden_states[None], mask[None, None]
        pooled = self.attention(probes, hidden_states, mask)
        return (pooled + self.mlp(self.norm(pooled))).flatten(0, 1)


__all__ = ["OneVisionPoolingHead", "OneVisionProbeAttention"]
