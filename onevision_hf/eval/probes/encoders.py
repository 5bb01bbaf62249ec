"""Frozen encoders of any kind behind one door: patches in, tokens with positions out.

    encoder = load_encoder("facebook/dinov3-vitl16-pretrain-lvd1689m")
    tokens = encoder(patches, positions, mask)         # states (B, L, D), positions (B, L, 3), mask (B, L)

OneVision takes the patches as they are. Image encoders (SigLIP 2, CLIP, DINOv3, ...) see each frame by
itself, V-JEPA 2 pairs of frames; to their tokens a fixed sine and cosine of the frame's number is added, as
published (eval_encoder/attentive_probe.py of EvolvingLMMs-Lab/OneVision-Encoder); class and register tokens
are kept.

Shapes: B clips, K patches of a clip, L tokens, D channels, T frames, N tokens of a frame, p patch side.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor
from transformers.utils import cached_file

from ...assets import model_folder
from ...clustering.extractors import identity_of
from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from ...training.config import ConfigError

_PUBLISHED_SIZE = 224  # of the probes over OneVision, whose encoder takes more
_TIME_GRID = 64  # of encoders that have none, for a probe with a position


class Tokens(NamedTuple):
    """states (B, L, D), positions (B, L, 3) int64 [t, h, w], mask (B, L) bool or None."""

    states: Tensor
    positions: Tensor
    mask: Tensor | None


class FrozenEncoder(nn.Module):
    """A model that is not trained.

    Attributes: `identity` (what tells one set of weights from another), `kinds` (inputs it takes),
    `hidden_size` D, and what a clip is cut by: `patch_size`, `size` (pixels), `temporal_size`, `image_mean`,
    `image_std`.
    """

    kinds: tuple[str, ...] = ("frames",)
    temporal_size: int | None = _TIME_GRID
    rope_theta = 10000.0  # for a probe with a position

    def __init__(self, name: str, model: Any, patch_size: int, size: int, hidden_size: int, processor: Any):
        super().__init__()
        self.name, self.identity = name, identity_of(name, model)
        self.model = model.eval().requires_grad_(False)
        self.patch_size, self.size, self.hidden_size = patch_size, size, hidden_size
        self.image_mean, self.image_std = tuple(processor.image_mean), tuple(processor.image_std)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay as it is."""
        return self

    def forward(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tokens:
        """(B, K, 3*p*p), (B, K, 3), (B, K) or None -> tokens, without gradients."""
        raise NotImplementedError

    def feature(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """(B, D') one feature a clip: the encoder's own pooled output where it has one, else the mean of the
        tokens."""
        tokens = self(patches, positions, mask)
        if tokens.mask is None:
            return tokens.states.mean(1)
        weights = tokens.mask[..., None].to(tokens.states.dtype)
        return (tokens.states * weights).sum(1) / weights.sum(1)


class OneVisionTokens(FrozenEncoder):
    """The OneVision encoder itself; `use_head` is not asked for, the tokens are its `last_hidden_state`."""

    kinds = ("codec", "frames", "dense")

    def __init__(self, name: str, model: OneVisionModel, processor: OneVisionVideoProcessor):
        config, sides = model.config, [side for side in dict(processor.size).values() if side]
        size = min(_PUBLISHED_SIZE, *sides)
        super().__init__(name, model, config.patch_size, size, config.hidden_size, processor)
        self.temporal_size, self.rope_theta = config.rope_temporal_size, config.rope_theta

    @torch.no_grad()
    def forward(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tokens:
        outputs = self.model(
            pixel_values_videos=patches, patch_positions=positions, pixel_attention_mask=mask
        )
        return Tokens(outputs.last_hidden_state, positions, mask)

    @torch.no_grad()
    def feature(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        if self.model.head is None:
            return super().feature(patches, positions, mask)
        return self.model(
            pixel_values_videos=patches, patch_positions=positions, pixel_attention_mask=mask
        ).pooler_output


class FrameTokens(FrozenEncoder):
    """An encoder of whole frames, `frames_at_once` of them together (1 for images).

    Frames of one clip lie one after the other in `patches`, each in raster order.
    """

    def __init__(
        self, name: str, model: Any, patch_size: int, size: int, hidden_size: int, processor: Any,
        frames_at_once: int = 1,
    ):  # fmt: skip
        super().__init__(name, model, patch_size, size, hidden_size, processor)
        self.frames_at_once = frames_at_once

    @torch.no_grad()
    def forward(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tokens:
        frames, real, rows, per_frame = self._frames(patches, positions, mask)
        times = positions[:, ::per_frame, 0]
        if self.frames_at_once == 1:
            encoded = self.model(pixel_values=frames[real]).last_hidden_state  # (frames that are real, N, D)
        else:
            frames, real, times = _in_groups(frames, real, times, self.frames_at_once)
            encoded = self._encode_clips(frames, real, per_frame)
        states = encoded.new_zeros(*real.shape, *encoded.shape[1:])
        states[real] = encoded
        states = states + sines(real.shape[1], states.shape[-1], states.device)[None, :, None]
        return Tokens(
            states.flatten(1, 2),
            _token_positions(times, states.shape[2], rows, per_frame),
            None if mask is None else real.repeat_interleave(states.shape[2], dim=1),
        )

    @torch.no_grad()
    def feature(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        if self.frames_at_once > 1:
            return super().feature(patches, positions, mask)
        frames, real, _, _ = self._frames(patches, positions, mask)
        outputs = self.model(pixel_values=frames[real])
        pooled = getattr(outputs, "pooler_output", None)
        pooled = outputs.last_hidden_state.mean(1) if pooled is None else pooled
        features = pooled.new_zeros(*real.shape, pooled.shape[-1])
        features[real] = nn.functional.normalize(pooled, dim=-1)
        return features.sum(1) / real.sum(1, keepdim=True)

    def _frames(
        self, patches: Tensor, positions: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, int, int]:
        """Frames (B, T, 3, H, W), which of them are no padding (B, T), rows and patches of a frame."""
        rows = int(positions[..., 1].max()) + 1
        per_frame = rows * (int(positions[..., 2].max()) + 1)
        frames = _as_frames(patches, rows, per_frame, self.patch_size)
        if mask is None:
            return (
                frames,
                torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device),
                rows,
                per_frame,
            )
        return frames, mask[:, ::per_frame], rows, per_frame  # a clip is padded with whole frames

    def _encode_clips(self, frames: Tensor, real: Tensor, per_frame: int) -> Tensor:
        """One clip after the other: they differ in length, and every group attends to its whole clip."""
        lengths = real.sum(1).tolist()
        parts = []
        for clip, groups in zip(frames, lengths, strict=True):
            pixels = clip[:groups].flatten(0, 1)[None]
            states = self.model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
            parts.append(states.view(groups, per_frame, -1))
        return torch.cat(parts)


def load_encoder(name: str, device: str | torch.device = "cpu") -> FrozenEncoder:
    """Any vision encoder of transformers, in float32: a folder, a repository of the Hub, or `tiny`.

    Raises:
        ConfigError: the model gives no frame tokens. OSError: there is no such model.
    """
    name = model_folder(name)
    config = AutoConfig.from_pretrained(name)
    model = AutoModel.from_pretrained(name, dtype=torch.float32)
    if isinstance(config, OneVisionConfig):
        processor = OneVisionVideoProcessor.from_pretrained(name)
        return OneVisionTokens(name, model, processor).to(device)
    vision = getattr(config, "vision_config", config)
    tower = getattr(model, "vision_model", model)
    size = getattr(vision, "image_size", None) or getattr(vision, "crop_size", None)
    patch_size = getattr(vision, "patch_size", None)
    if not (isinstance(size, int) and isinstance(patch_size, int)):
        raise ConfigError(
            f"{name} is a {config.model_type}, whose configuration names no image_size and patch_size: "
            "not an encoder of square frames in patches"
        )
    frames_at_once = getattr(vision, "tubelet_size", 1)
    processor = _processor(name, video=frames_at_once > 1)
    return FrameTokens(name, tower, patch_size, size, vision.hidden_size, processor, frames_at_once).to(
        device
    )


def sines(count: int, size: int, device: torch.device) -> Tensor:
    """(count, size): the published embedding of a frame's number, sines and cosines in turn, base 10000."""
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10000.0) / size))
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


def _processor(name: str, video: bool) -> Any:
    """What knows the colours that the encoder was trained with."""
    if video and cached_file(
        name, "video_preprocessor_config.json", _raise_exceptions_for_missing_entries=False
    ):
        return AutoVideoProcessor.from_pretrained(name)
    return AutoImageProcessor.from_pretrained(name)


def _as_frames(patches: Tensor, rows: int, per_frame: int, p: int) -> Tensor:
    """(B, T*gh*gw, 3*p*p) -> (B, T, 3, H, W)."""
    batch, columns = len(patches), per_frame // rows
    tiles = patches.view(batch, -1, rows, columns, 3, p, p).permute(0, 1, 4, 2, 5, 3, 6)
    return tiles.reshape(batch, tiles.shape[1], 3, rows * p, columns * p)


def _in_groups(frames: Tensor, real: Tensor, times: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T, ...) -> (B, groups, size, ...), whether a group is real, its first time. A last group that lacks
    frames repeats the clip's last one."""
    batch, count = real.shape
    groups = -(-count // size)
    index = torch.arange(groups * size, device=frames.device).expand(batch, -1)
    index = torch.minimum(index, (real.sum(1, keepdim=True) - 1))
    clips = torch.arange(batch, device=frames.device)[:, None]
    gathered = frames[clips, index].unflatten(1, (groups, size))
    held = torch.arange(groups, device=frames.device) * size < real.sum(1, keepdim=True)
    return gathered, held, times[clips, index][:, ::size]


def _token_positions(times: Tensor, tokens: int, rows: int, per_frame: int) -> Tensor:
    """(B, T*N, 3): class and register tokens, which come first, stand at the corner of their frame."""
    columns = per_frame // rows
    place = (torch.arange(tokens, device=times.device) - (tokens - per_frame)).clamp(min=0)
    at = torch.stack([place // columns, place % columns], dim=-1)
    positions = torch.cat(
        [times[..., None, None].expand(*times.shape, tokens, 1), at.expand(*times.shape, tokens, 2)], dim=-1
    )
    return positions.flatten(1, 2)
