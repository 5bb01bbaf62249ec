"""Packed patches -> features, whatever the tower: what multimodal models ask of a vision transformer.

    encode_patches(tower, patches, positions, cu_seqlens, layer=-2).last_hidden_state      # (sum N, D)

The OneVision encoder takes any set of patches and lets those of a clip attend to one another. Every other
tower sees whole pictures: each frame of an item is put together from its patches and encoded alone.

Shapes: sum N patches of all items, C channels, p patch side, D width of the tower, F frames, gh gw grid.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from .configuration_onevision import OneVisionConfig
from .configuration_openvision3 import OpenVision3Config
from .modeling_onevision import OneVisionFusedModel, OneVisionModel
from .modeling_openvision3 import OpenVision3Model

OWN_MODELS: dict[str, Any] = {
    OneVisionConfig.model_type: OneVisionModel,
    OpenVision3Config.model_type: OpenVision3Model,
}
# Frames that a picture tower encodes at once: bounds its memory, not its result.
FRAMES_AT_ONCE = 32


def make_tower(config: PreTrainedConfig) -> nn.Module:
    """The tower of a configuration, with random weights."""
    if getattr(config, "fused", False):
        return OneVisionFusedModel._from_config(config)
    if config.model_type in OWN_MODELS:
        return OWN_MODELS[config.model_type]._from_config(config)
    if isinstance(config, Qwen3VLVisionConfig):
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel  # a large file

        return Qwen3VLVisionModel._from_config(config)
    return AutoModel.from_config(config)


def encode_patches(
    tower: nn.Module, patches: Tensor, positions: Tensor, cu_seqlens: Tensor, layer: int, **states: Any
) -> BaseModelOutput:
    """Features of packed patches, row for row.

    Args:
        tower: a OneVision encoder, or a tower of transformers that sees whole pictures.
        patches: (sum N, C*p*p), each flattened as (C, p, p).
        positions: (sum N, 3) [t, h, w].
        cu_seqlens: (items+1,) bounds of the items.
        layer: of the hidden states, whose first is the input of the first layer.
        **states: `output_hidden_states`, `output_attentions`, which the OneVision encoder follows.

    Returns:
        `last_hidden_state` (sum N, D), and the states that were asked for.

    Raises:
        ValueError: a part of a frame (codec input) for a tower that sees whole pictures.
    """
    if isinstance(tower, OneVisionModel):
        count = len(tower.encoder.layers)
        return tower(
            pixel_values_videos=patches,
            patch_positions=positions,
            cu_seqlens=cu_seqlens,
            num_layers=layer % (count + 1),
            **states,
        )
    features: Tensor | None = None
    for grid, rows in _frames_by_grid(tower, positions, cu_seqlens).items():
        for part in rows.split(FRAMES_AT_ONCE):
            frames = patches[part]  # (F, gh*gw, C*p*p), raster order
            found = _encode_frames(tower, frames, grid, layer).flatten(0, 1)
            if features is None:
                features = found.new_empty(len(patches), found.shape[-1])
            # Out of place, so that gradients pass.
            features = features.index_copy(0, part.flatten(), found)
    return BaseModelOutput(last_hidden_state=features)  # type: ignore[arg-type]


def _frames_by_grid(tower: nn.Module, positions: Tensor, cu_seqlens: Tensor) -> dict[tuple[int, int], Tensor]:
    """(gh, gw) -> (F, gh*gw) rows of the frames of that grid, each in raster order."""
    groups: dict[tuple[int, int], list[Tensor]] = {}
    start = 0
    for item, count in enumerate(cu_seqlens.diff().tolist()):
        own = positions[start : start + count]
        times, index = own[:, 0].unique(return_inverse=True)
        height, width = (int(own[:, axis].max()) + 1 for axis in (1, 2))
        places = index * (height * width) + own[:, 1] * width + own[:, 2]
        if count != len(times) * height * width or len(places.unique()) != count:
            raise ValueError(
                f"item {item} holds {count} patches of {len(times)} frames of {height} x {width}, a part of "
                f"them (codec input); {type(tower).__name__} sees whole pictures: use video_mode='frames'"
            )
        rows = start + places.argsort()
        groups.setdefault((height, width), []).append(rows.view(len(times), -1))
        start += count
    return {grid: torch.cat(rows) for grid, rows in groups.items()}


def _encode_frames(tower: Any, frames: Tensor, grid: tuple[int, int], layer: int) -> Tensor:
    """(F, gh*gw, C*p*p) patches in raster order -> (F, gh*gw, D)."""
    takes = inspect.signature(tower.forward).parameters
    if isinstance(tower.config, Qwen3VLVisionConfig):
        return _encode_qwen(tower, frames, grid, layer)
    if "spatial_shapes" in takes:
        states = _encode_naflex(tower, frames, grid)
    else:
        options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        states = tower(pixel_values=_as_pictures(frames, grid), output_hidden_states=True, **options)
    chosen = states.hidden_states[layer]
    # Class and register tokens stand in front.
    return chosen[:, chosen.shape[1] - frames.shape[1] :]


def _as_pictures(frames: Tensor, grid: tuple[int, int], channels: int = 3) -> Tensor:
    """(F, gh*gw, C*p*p) -> (F, C, gh*p, gw*p)."""
    p = round((frames.shape[-1] // channels) ** 0.5)
    tiles = frames.view(len(frames), *grid, channels, p, p)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(frames), channels, grid[0] * p, grid[1] * p)


def _encode_naflex(tower: nn.Module, frames: Tensor, grid: tuple[int, int], channels: int = 3) -> Any:
    """SigLIP 2 with flexible sizes reads patches that are flattened with the channels last."""
    count, length, values = frames.shape
    flat = frames.view(count, length, channels, -1).transpose(2, 3).reshape(count, length, values)
    return tower(
        pixel_values=flat,
        pixel_attention_mask=torch.ones(count, length, dtype=torch.long, device=frames.device),
        spatial_shapes=torch.tensor([grid] * count, device=frames.device),
        output_hidden_states=True,
    )


def _encode_qwen(tower: Any, frames: Tensor, grid: tuple[int, int], layer: int) -> Tensor:
    """Qwen3-VL's own tower: rows in block order, a still picture as `temporal_patch_size` equal frames."""
    count, length, values = frames.shape
    side, depth = tower.config.spatial_merge_size, tower.config.temporal_patch_size
    if grid[0] % side or grid[1] % side:
        raise ValueError(
            f"{type(tower).__name__} merges {side} x {side} patches, and a frame has {grid[0]} x {grid[1]}: "
            f"set the processors' merge_size to {side}"
        )
    raster = torch.arange(length, device=frames.device).view(grid[0] // side, side, grid[1] // side, side)
    order = raster.transpose(1, 2).flatten()
    rows = frames[:, order].view(count, length, 3, 1, -1).expand(-1, -1, -1, depth, -1)
    states = tower(
        rows.reshape(count * length, values * depth),
        grid_thw=torch.tensor([[1, *grid]] * count, device=frames.device),
        output_hidden_states=True,
    )
    return states.hidden_states[layer].view(count, length, -1)[:, order.argsort()]


__all__ = ["encode_patches", "make_tower"]
