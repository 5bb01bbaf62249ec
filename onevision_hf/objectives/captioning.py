"""Predicting a caption one token after the other, from what stands before it.

Shapes: B captions, L tokens, V vocabulary, P tokens of the prefix (the image).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


def caption_targets(ids: Tensor, mask: Tensor) -> Tensor:
    """(B, L) tokens and where they are real -> (B, L - 1): at each place the next token, -100 after the end.

    `ids` begin with the mark of the beginning and end, before the padding, with that of the end.
    """
    return ids[:, 1:].masked_fill(~mask[:, 1:].bool(), IGNORED)


def caption_terms(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum () of the cross-entropies in float32 and the number () of tokens that have one.

    Apart, because the mean is over the tokens of all chunks and processes. logits (B, L, V), targets (B, L)
    with -100 where there is nothing to predict; no label smoothing, as published.
    """
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
    return total, (targets != IGNORED).sum().to(total.dtype)


def prefix_lm_mask(
    prefix: int, length: int, past: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """(length, past + length) bool, True where a place may look: the first `prefix` places see one another
    both ways, every later one sees all before it and itself. `past` places were computed before.

    Args:
        prefix: places that see one another both ways.
        length: places that are computed now.
        past: places that were computed before.
        device: of the mask.
    """
    query = torch.arange(past, past + length, device=device)[:, None]
    key = torch.arange(past + length, device=device)
    return (key < prefix) | (key <= query)
