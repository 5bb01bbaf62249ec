"""Our OpenVision 3 encoder in the published layout: the inverse of what the converter does, for its tests."""

from typing import Any

import torch

from onevision_hf import OpenVision3Config
from onevision_hf.conversion.openvision3 import IN_BLOCK, OUTSIDE, PIXELS_PER_LATENT
from onevision_hf.modeling.modeling_openvision3 import sincos_position_table

State = dict[str, torch.Tensor]


def to_published(state: State, config: OpenVision3Config, prefix: str = "visual.") -> State:
    """OpenVision3Model's state dict -> the published layout, the table regenerated for
    `config.image_size`.
    """
    grid = config.image_size // (config.patch_size * PIXELS_PER_LATENT)
    table = sincos_position_table(grid, grid, config.hidden_size)
    tower = {published: state[name] for published, name in OUTSIDE.items()}
    tower["proj"] = state["visual_projection.weight"].T.contiguous()
    tower["positional_embedding"] = torch.cat([torch.zeros(1, config.hidden_size), table])
    for layer in range(config.num_hidden_layers):
        theirs, here = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            tower |= {
                f"{theirs}{key}.{kind}": state[f"{here}{name}.{kind}"] for key, name in IN_BLOCK.items()
            }
            tower[f"{theirs}attn.in_proj_{kind}"] = torch.cat(
                [state[f"{here}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            )
    return {prefix + key: tensor for key, tensor in tower.items()}


def published_settings(config: OpenVision3Config) -> dict[str, Any]:
    """The content of open_clip_config.json for a tower of `config`."""
    vision = {
        "image_size": config.image_size // PIXELS_PER_LATENT,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "head_width": config.hidden_size // config.num_attention_heads,
        "patch_size": config.patch_size,
        "in_channels": config.latent_channels,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "no_ln_pre": True,
        "pool_type": "avg",
        "final_ln_after_pool": True,
        "norm_kwargs": {"eps": config.layer_norm_eps},
        "output_tokens": True,
    }
    return {"model_cfg": {"embed_dim": config.projection_dim, "vision_cfg": vision}, "preprocess_cfg": {}}
