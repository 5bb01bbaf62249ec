"""What a multimodal model takes of memory to answer, told without its weights: `onevision chat --dry-run`.

print(memory_plan(AutoConfig.from_pretrained(folder), tokens=6000, dtype=torch.bfloat16))
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from onevision_hf.modeling.quantization import KEPT, QUANTIZATIONS


def memory_plan(config: Any, tokens: int, dtype: torch.dtype) -> str:
    """Parameters, weights in each number format, and keys and values of a prompt, in words.

    Args:
        config: of a multimodal model.
        tokens: of the prompt and its answer.
        dtype: of weights that are not quantized.
    """
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    parts = {part: _count(getattr(model, part)) for part in ("vision_tower", "connector", "language_model")}
    linear = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not any(kept in name for kept in KEPT)
    )
    text, size = config.text_config, dtype.itemsize
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    total = sum(parts.values())
    rows = {f"weights, {str(dtype).removeprefix('torch.')}": total * size}
    for name, (_, each) in QUANTIZATIONS.items():
        rows[f"weights, --quantization {name}"] = (total - linear) * size + round(linear * each)
    rows[f"keys and values of {tokens} tokens"] = 2 * text.num_hidden_layers * heads * width * tokens * size
    counted = ", ".join(
        f"{count / 1e6:.1f} M in the {part.replace('_', ' ')}" for part, count in parts.items()
    )
    lines = [f"  {name:<32}{count / 2**30:>8.2f} GiB" for name, count in rows.items()]
    return "\n".join([f"parameters: {counted}", "memory, besides what a layer is computed in:", *lines])


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


__all__ = ["memory_plan"]
