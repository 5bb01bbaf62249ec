"""Attention written out: what transformers calls where no kernel is asked for, or weights are."""

from typing import Any

import torch
from torch import Tensor, nn


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, which also gives the weights.

    Args:
        module: whose `training` says whether dropout is on.
        query: (B, N, L, d).
        key: (B, N, L, d).
        value: (B, N, L, d).
        attention_mask: added to the scores (B, N, L, L); broadcast.
        scaling: of the scores.
        dropout: probability, while training.
        **kwargs: of other implementations.

    Returns:
        (B, L, N, d) and the weights (B, N, L, L).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights
