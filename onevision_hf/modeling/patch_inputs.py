"""From every form in which pixels reach the encoder to one: flattened patches, their positions, a mask.

Shapes: B batch, C channels, T frames, H W pixels, p patch side, K patches of a batch row, gh gw patch grid,
sum K all patches of a packed batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .configuration_onevision import OneVisionConfig
from .tensor_inputs import check_tensors


class PatchInputs(NamedTuple):
    """What the encoder computes on.

    Attributes:
        patches: (B, K, C*p*p) floating point, each patch flattened as (C, p, p); packed (sum K, C*p*p).
        positions: (B, K, 3) integers [t, h, w]; packed (sum K, 3).
        mask: (B, K) bool, True for a real patch; `None` when every patch is real.
        cu_seqlens: (B+1,) int32, where each packed item starts and the last one ends; `None` when not packed.
    """

    patches: Tensor
    positions: Tensor
    mask: Tensor | None
    cu_seqlens: Tensor | None


def prepare_patches(
    config: OneVisionConfig,
    pixel_values: Tensor | None = None,
    visible_indices: Tensor | None = None,
    patch_positions: Tensor | None = None,
    pixel_attention_mask: Tensor | None = None,
    pixel_values_videos: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> PatchInputs:
    """Check the arguments of `OneVisionModel.forward` and bring them to one form.

    Args:
        config: of the model that they are for.
        pixel_values: (B, C, H, W) images, (B, C, T, H, W) videos, or patches as `pixel_values_videos`.
        visible_indices: (B, K), the patches of a dense input that are encoded, as flat indices t*gh*gw +
            h*gw + w.
        patch_positions: (B, K, 3) integers [t, h, w]; packed (sum K, 3).
        pixel_attention_mask: (B, K), 1 for a real patch.
        pixel_values_videos: (B, K, C*p*p) patches; packed (sum K, C*p*p).
        cu_seqlens: (B+1,) bounds of the items of a packed batch.

    Raises:
        ValueError: none or both of the pixel arguments, a shape, type or size that does not fit the model,
            positions off the grid, an item without a real patch, padding without a mask, packing that does
            not cover the patches. The message names what was found and what was expected.
        TypeError: an input that is no tensor.
    """
    check_tensors(
        pixel_values=pixel_values,
        visible_indices=visible_indices,
        patch_positions=patch_positions,
        pixel_attention_mask=pixel_attention_mask,
        pixel_values_videos=pixel_values_videos,
        cu_seqlens=cu_seqlens,
    )
    if (pixel_values is None) == (pixel_values_videos is None):
        found = "both" if pixel_values is not None else "neither"
        raise ValueError(f"give either pixel_values or pixel_values_videos, found {found}")
    name = "pixel_values" if pixel_values is not None else "pixel_values_videos"
    pixels = pixel_values if pixel_values is not None else pixel_values_videos
    assert pixels is not None
    if not pixels.is_floating_point():
        raise ValueError(f"{name} must be floating point (normalised pixels), got {pixels.dtype}")

    grid = None
    if name == "pixel_values" and pixels.ndim in (4, 5):
        if pixels.shape[1] != config.num_channels:
            raise ValueError(
                f"pixel_values has {pixels.shape[1]} channels in dimension 1, the model has "
                f"{config.num_channels}; the layouts are (B, C, H, W) and (B, C, T, H, W), got shape "
                f"{tuple(pixels.shape)}"
            )
        patches, grid = cut_patches(pixels, config.patch_size)
        positions = _dense_positions(patches, grid, visible_indices, patch_positions)
        if visible_indices is not None:
            patches = patches.gather(1, visible_indices[..., None].expand(-1, -1, patches.shape[-1]))
    elif pixels.ndim == (3 if cu_seqlens is None else 2):
        patches, positions = pixels, _given_positions(config, name, pixels, visible_indices, patch_positions)
    else:
        dense = "(B, C, H, W), (B, C, T, H, W) or " if name == "pixel_values" else ""
        raise ValueError(
            f"{name} must be {dense}(B, K, C*p*p), or (sum K, C*p*p) with cu_seqlens; got shape "
            f"{tuple(pixels.shape)} {'without' if cu_seqlens is None else 'with'} cu_seqlens"
        )

    mask = None
    if cu_seqlens is not None:
        _check_packing(cu_seqlens, patches, grid, pixel_attention_mask)
        cu_seqlens = cu_seqlens.to(patches.device, torch.int32)
    elif pixel_attention_mask is not None:
        mask = _checked_mask(pixel_attention_mask, patches)
        # Padding may hold anything, NaN included, and NaN would survive a weight of zero.
        patches = patches.masked_fill(~mask[..., None], 0)
        positions = positions.masked_fill(~mask[..., None], 0)
    _check_on_grid(config, positions, grid)
    if grid is None and mask is None and cu_seqlens is None:
        _refuse_padding(positions)
    return PatchInputs(patches, positions, mask, cu_seqlens)


def cut_patches(pixel_values: Tensor, patch_size: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Cut (B, C, H, W) or (B, C, T, H, W) into patches (B, T*gh*gw, C*p*p); also gives the grid (T, gh,
    gw)."""
    video_BCTHW = pixel_values if pixel_values.ndim == 5 else pixel_values.unsqueeze(2)
    batch, channels, frames, height, width = video_BCTHW.shape
    p = patch_size
    if height % p or width % p or not height or not width:
        raise ValueError(f"height {height} and width {width} must be multiples of patch_size {p}")
    grid = (frames, height // p, width // p)
    # (B, C, T, gh, p, gw, p) -> (B, T, gh, gw, C, p, p)
    tiles = video_BCTHW.reshape(batch, channels, frames, grid[1], p, grid[2], p).permute(0, 2, 3, 5, 1, 4, 6)
    return tiles.reshape(batch, -1, channels * p * p), grid


def grid_positions(frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """All positions of a grid in raster order, t slowest.

    Args:
        frames: T.
        height: gh, in patches.
        width: gw, in patches.
        device: where they are made.

    Returns:
        (T*gh*gw, 3) int64 [t, h, w].
    """
    axes = [torch.arange(size, device=device) for size in (frames, height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)


def pack_media(kind: str, items: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Media one after another, as the model takes them; nothing for none.

    Args:
        kind: `image` or `video`.
        items: patches (N, C*p*p) and positions (N, 3) of each medium.
    """
    if not items:
        return {}
    patches, positions = zip(*items, strict=True)
    lengths = torch.tensor([0, *map(len, patches)])
    return {
        "pixel_values" if kind == "image" else "pixel_values_videos": torch.cat(patches),
        f"{kind}_patch_positions": torch.cat(positions),
        f"{kind}_cu_seqlens": lengths.cumsum(0).to(torch.int32),
    }


def _dense_positions(
    patches: Tensor,
    grid: tuple[int, int, int],
    visible_indices: Tensor | None,
    patch_positions: Tensor | None,
) -> Tensor:
    """Positions of the patches that stay of a dense input: given, or those of the grid."""
    batch, total, _ = patches.shape
    rows = total
    if visible_indices is not None:
        _check_integers("visible_indices", visible_indices)
        if visible_indices.ndim != 2 or visible_indices.shape[0] != batch:
            raise ValueError(
                f"visible_indices must be (B={batch}, K), got shape {tuple(visible_indices.shape)}"
            )
        if (bounds := _bounds(visible_indices)) and not 0 <= bounds[0] <= bounds[1] < total:
            raise ValueError(
                f"visible_indices lie in {bounds[0]}..{bounds[1]}, the grid (T, gh, gw) = {grid} has indices "
                f"0..{total - 1}"
            )
        rows = visible_indices.shape[1]
    if patch_positions is not None:
        _check_integers("patch_positions", patch_positions)
        if patch_positions.shape != (batch, rows, 3):
            raise ValueError(
                f"patch_positions must be (B, K, 3) = {(batch, rows, 3)} for these pixels, got "
                f"{tuple(patch_positions.shape)}"
            )
        return patch_positions
    positions = grid_positions(*grid, device=patches.device)
    return positions.expand(batch, -1, -1) if visible_indices is None else positions[visible_indices]


def _given_positions(
    config: OneVisionConfig,
    name: str,
    patches: Tensor,
    visible_indices: Tensor | None,
    patch_positions: Tensor | None,
) -> Tensor:
    """The positions that must come with patches that were cut outside the model."""
    expected = config.num_channels * config.patch_size**2
    if patches.shape[-1] != expected:
        raise ValueError(
            f"{name} holds patches of {patches.shape[-1]} values, the model takes {config.num_channels} "
            f"channels x patch_size {config.patch_size} x {config.patch_size} = {expected}"
        )
    if visible_indices is not None:
        raise ValueError(f"visible_indices index a dense video; {name} already holds selected patches")
    if patch_positions is None:
        raise ValueError(
            f"{name} holds selected patches, so patch_positions must say where each lies, found None"
        )
    _check_integers("patch_positions", patch_positions)
    if patch_positions.shape != (*patches.shape[:-1], 3):
        raise ValueError(
            f"patch_positions must be {(*patches.shape[:-1], 3)}, one [t, h, w] for each patch, got "
            f"{tuple(patch_positions.shape)}"
        )
    return patch_positions


def _checked_mask(pixel_attention_mask: Tensor, patches: Tensor) -> Tensor:
    if pixel_attention_mask.is_floating_point():
        raise ValueError(f"pixel_attention_mask must be bool or integer, got {pixel_attention_mask.dtype}")
    if pixel_attention_mask.shape != patches.shape[:-1]:
        raise ValueError(
            f"pixel_attention_mask must be (B, K) = {tuple(patches.shape[:-1])}, got "
            f"{tuple(pixel_attention_mask.shape)}"
        )
    mask = pixel_attention_mask.bool().to(patches.device)
    if _values_can_be_read(mask) and not bool((real := mask.any(dim=-1)).all()):
        raise ValueError(f"row {int(real.long().argmin())} of pixel_attention_mask has no real patch")
    return mask


def _check_packing(
    cu_seqlens: Tensor,
    patches: Tensor,
    grid: tuple[int, int, int] | None,
    pixel_attention_mask: Tensor | None,
) -> None:
    _check_integers("cu_seqlens", cu_seqlens)
    if grid is not None or pixel_attention_mask is not None:
        found = "pixel_attention_mask" if grid is None else "dense pixels"
        raise ValueError(f"cu_seqlens packs patches without padding, (sum K, C*p*p); it came with {found}")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2:
        raise ValueError(f"cu_seqlens must be (B+1,), got shape {tuple(cu_seqlens.shape)}")
    if _values_can_be_read(cu_seqlens):
        bounds = cu_seqlens.tolist()
        if bounds[0] != 0 or bounds[-1] != len(patches) or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(
                f"cu_seqlens must rise from 0 to {len(patches)}, the patches given, without repeats; "
                f"got {bounds}"
            )


def _check_integers(name: str, values: Tensor) -> None:
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name} must be integer (int64), got {values.dtype}")


def _check_on_grid(config: OneVisionConfig, positions: Tensor, grid: tuple[int, int, int] | None) -> None:
    """Positions are not negative, t fits the model's time grid, and h and w the grid of dense pixels."""
    if not _values_can_be_read(positions):
        return
    lows, highs = torch.stack(torch.aminmax(positions.flatten(0, -2).T.contiguous(), dim=1)).tolist()
    limits = (config.rope_temporal_size, *(grid[1:] if grid is not None else (None, None)))
    for axis, low, high, limit in zip("thw", lows, highs, limits, strict=True):
        if low < 0 or (limit is not None and high >= limit):
            allowed = f"0..{limit - 1}" if limit is not None else "0 or more"
            source = " (rope_temporal_size)" if axis == "t" and limit is not None else ""
            raise ValueError(
                f"patch_positions: {axis} lies in {low}..{high}, the grid allows {allowed}{source}"
            )


def _refuse_padding(positions: Tensor) -> None:
    """Patches have places of their own; padding repeats [0, 0, 0] at the end of a row, and would be seen."""
    if not _values_can_be_read(positions):
        return
    at_origin = (positions == 0).all(dim=-1)
    count = at_origin.sum(dim=-1)
    padded = at_origin[:, -1] & (count > 1)
    if bool(padded.any()):
        row = int(padded.long().argmax())
        raise ValueError(
            f"row {row} of patch_positions ends like padding, it has [0, 0, 0] {int(count[row])} times, and "
            "there is no pixel_attention_mask: pass the processor's too, model(**inputs)"
        )


def _bounds(values: Tensor) -> tuple[int, int] | None:
    if not _values_can_be_read(values):
        return None
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusted_values() -> Iterator[None]:
    """Within, shapes are checked and values are not: reading them makes the host wait for the device in every
    call, which a training loop pays for, whose inputs were made by a processor."""
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def _values_can_be_read(values: Tensor) -> bool:
    """Whether checks of values are possible: not on meta tensors, and a compiled graph must not break on
    them."""
    if torch.compiler.is_compiling() or values.is_meta or values.numel() == 0:
        return False
    return not _trusted.get()
