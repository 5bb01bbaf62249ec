"""Frozen encoders of any kind behind one door: patches in, tokens with positions out.

    encoder = load_frozen("facebook/dinov3-vitl16-pretrain-lvd1689m")
    tokens = encoder(patches, positions, mask)         # states (B, L, D), positions (B, L, 3), mask (B, L)
    encoder.features(patches, positions, mask)         # pooler (B, D), tokens (B, D), grid (B, 16 * D)

OneVision takes the patches as they are. Image encoders (SigLIP 2, CLIP, DINOv3, ...) see each frame by
itself, V-JEPA 2 pairs of frames; to their tokens a fixed sine and cosine of the frame's number is added, as
published (eval_encoder/attentive_probe.py of EvolvingLMMs-Lab/OneVision-Encoder); class and register tokens
are kept. What a clip is cut by is a processor of this package: OneVision's own, as it was saved, or for
another encoder one that shows squares of its size in its colours.

Shapes: B clips, K patches of a clip, L tokens, D channels, T frames, N tokens of a frame, p patch side.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor

from ...assets import model_folder
from ...clustering.extractors import identity_of
from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.grid_pooling import token_features
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.patchify_config import BUDGETS, PatchifyConfig
from ...modeling.pretrained_settings import has_video_processor
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from ...training.schema import ConfigError
from ...training.transforms import with_overrides
from .clip_transform import InputSettings, middle_square

_TIME_GRID = 64  # of encoders that have none, for a probe with a position
_WHOLE_FRAMES = 8  # of a clip, for encoders that have no budget of their own


class Tokens(NamedTuple):
    """states (B, L, D), positions (B, L, 3) int64 [t, h, w], mask (B, L) bool or None."""

    states: Tensor
    positions: Tensor
    mask: Tensor | None


class FrozenEncoder(nn.Module):
    """A model that is not trained.

    Attributes: `identity` (what tells one set of weights from another), `kinds` (inputs it takes),
    `any_size` (whether it takes frames of any size), `hidden_size` D, `patchify` (how clips are cut for it).
    """

    kinds: tuple[str, ...] = ("frames",)
    any_size = False
    rope_theta = 10000.0  # for a probe with a position

    def __init__(self, name: str, model: Any, hidden_size: int, patchify: PatchifyConfig):
        """Freeze a model.

        Args:
            name: as it was given.
            model: of transformers.
            hidden_size: D.
            patchify: how clips are cut for it.
        """
        super().__init__()
        self.name, self.identity = name, identity_of(name, model)
        self.model = model.eval().requires_grad_(False)
        self.hidden_size, self.patchify = hidden_size, patchify

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay as it is."""
        return self

    def forward(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tokens:
        """Tokens, without gradients.

        Args:
            patches: (B, K, 3*p*p).
            positions: (B, K, 3) [t, h, w].
            mask: (B, K), True for a real patch; None where all are.
        """
        raise NotImplementedError

    def square(self, side: int) -> dict[str, Any]:
        """Settings of the processor that show the middle square of a frame as `side` pixels."""
        return middle_square(side)

    def features(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """A feature a clip by each pooling: `pooler` (B, D') where the model has such an output, `tokens`
        (B, D), `grid` (B, 16 * D).

        Args:
            patches: (B, K, 3*p*p).
            positions: (B, K, 3) [t, h, w].
            mask: (B, K), True for a real patch; None where all are.
        """
        raise NotImplementedError


class OneVisionTokens(FrozenEncoder):
    """The OneVision encoder itself; `use_head` is not used, the tokens are its `last_hidden_state`."""

    kinds = ("codec", "frames", "dense")
    any_size = True

    def __init__(self, name: str, model: OneVisionModel, patchify: PatchifyConfig):
        """Freeze a model.

        Args:
            name: as it was given.
            model: the encoder.
            patchify: how clips are cut for it.
        """
        super().__init__(name, model, model.config.hidden_size, patchify)
        self.rope_theta = model.config.rope_theta

    @torch.no_grad()
    def forward(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tokens:
        """See `FrozenEncoder.forward`.

        Args:
            patches: (B, K, 3*p*p).
            positions: (B, K, 3) [t, h, w].
            mask: (B, K), True for a real patch; None where all are.
        """
        return Tokens(self._outputs(patches, positions, mask).last_hidden_state, positions, mask)

    @torch.no_grad()
    def features(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """See `FrozenEncoder.features`.

        Args:
            patches: (B, K, 3*p*p).
            positions: (B, K, 3) [t, h, w].
            mask: (B, K), True for a real patch; None where all are.
        """
        outputs, time_size = self._outputs(patches, positions, mask), self.model.config.rope_temporal_size
        pooled = outputs.pooler_output
        means = token_features(outputs.last_hidden_state, positions, mask, time_size=time_size)
        return means if pooled is None else {"pooler": pooled, **means}

    def _outputs(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Any:
        return self.model(pixel_values_videos=patches, patch_positions=positions, pixel_attention_mask=mask)


class FrameTokens(FrozenEncoder):
    """An encoder of whole frames, `frames_at_once` of them together (1 for images).

    Frames of one clip lie one after the other in `patches`, each in raster order.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        hidden_size: int,
        patchify: PatchifyConfig,
        frames_at_once: int = 1,
    ):
        """Freeze a model.

        Args:
            name: as it was given.
            model: of transformers.
            hidden_size: D.
            patchify: how clips are cut for it.
            frames_at_once: that it sees together.
        """
        super().__init__(name, model, hidden_size, patchify)
        self.frames_at_once = frames_at_once

    def square(self, side: int) -> dict[str, Any]:
        return _few_squares(side, self.patchify.layout.patch_size)

    @torch.no_grad()
    def forward(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> Tokens:
        """See `FrozenEncoder.forward`.

        Args:
            patches: (B, K, 3*p*p).
            positions: (B, K, 3) [t, h, w].
            mask: (B, K), True for a real patch; None where all are.
        """
        frames, real, rows, per_frame = self._frames(patches, positions, mask)
        encoded, _, real, times = self._encode(frames, real, positions[:, ::per_frame, 0], per_frame)
        states = _spread(encoded, real) + sines(real.shape[1], encoded.shape[-1], encoded.device)[:, None]
        return Tokens(
            states.flatten(1, 2),
            _token_positions(times, states.shape[2], rows, per_frame),
            None if mask is None else real.repeat_interleave(states.shape[2], dim=1),
        )

    @torch.no_grad()
    def features(self, patches: Tensor, positions: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """See `FrozenEncoder.features`.

        `pooler` is the mean over frames, each of length one; the others are of patch tokens alone, without
        the frames' numbers.

        Args:
            patches: (B, K, 3*p*p).
            positions: (B, K, 3) [t, h, w].
            mask: (B, K), True for a real patch; None where all are.
        """
        frames, real, rows, per_frame = self._frames(patches, positions, mask)
        encoded, pooled, real, times = self._encode(frames, real, positions[:, ::per_frame, 0], per_frame)
        states = _spread(encoded[:, -per_frame:], real).flatten(1, 2)
        means = token_features(
            states,
            _token_positions(times, per_frame, rows, per_frame),
            real.repeat_interleave(per_frame, dim=1),
            time_size=self.patchify.rope_temporal_size,
        )
        if pooled is None:
            return means
        of_frames = _spread(nn.functional.normalize(pooled, dim=-1), real)
        return {"pooler": of_frames.sum(1) / real.sum(1, keepdim=True), **means}

    def _encode(
        self, frames: Tensor, real: Tensor, times: Tensor, per_frame: int
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Tokens (G, N, D) and pooled outputs (G, D') of the G frames (or groups of frames) that are real, in
        order; which of them are, and their times (B, groups)."""
        if self.frames_at_once == 1:
            outputs = self.model(pixel_values=frames[real])
            return outputs.last_hidden_state, getattr(outputs, "pooler_output", None), real, times
        frames, real, times = _in_groups(frames, real, times, self.frames_at_once)
        return self._encode_clips(frames, real, per_frame), None, real, times

    def _frames(
        self, patches: Tensor, positions: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, int, int]:
        """Frames (B, T, 3, H, W), which of them are no padding (B, T), rows and patches of a frame."""
        rows = int(positions[..., 1].max()) + 1
        per_frame = rows * (int(positions[..., 2].max()) + 1)
        frames = _as_frames(patches, rows, per_frame, self.patchify.layout.patch_size)
        # A clip is padded with whole frames.
        real = frames.new_ones(frames.shape[:2], dtype=torch.bool) if mask is None else mask[:, ::per_frame]
        return frames, real, rows, per_frame

    def _encode_clips(self, frames: Tensor, real: Tensor, per_frame: int) -> Tensor:
        """One clip after the other: they differ in length, and every group attends to its whole clip."""
        lengths = real.sum(1).tolist()
        parts = []
        for clip, groups in zip(frames, lengths, strict=True):
            pixels = clip[:groups].flatten(0, 1)[None]
            states = self.model(pixel_values_videos=pixels, skip_predictor=True).last_hidden_state
            parts.append(states.view(groups, per_frame, -1))
        return torch.cat(parts)


def load_frozen(name: str, device: str | torch.device = "cpu") -> FrozenEncoder:
    """Any vision encoder of transformers, in float32: a folder, a repository of the Hub, or `tiny`.

    Raises:
        ConfigError: the model gives no frame tokens. OSError: there is no such model.
    """
    name = model_folder(name)
    config = AutoConfig.from_pretrained(name)
    model = AutoModel.from_pretrained(name, dtype=torch.float32)
    if isinstance(config, OneVisionConfig):
        patchify = OneVisionVideoProcessor.from_pretrained(name).patchify_config()
        return OneVisionTokens(name, model, patchify).to(device)
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
    colours = _processor(name, video=frames_at_once > 1)
    patchify = PatchifyConfig.from_dict(
        _few_squares(size, patch_size),
        patch_size=patch_size,
        rope_temporal_size=_TIME_GRID,
        image_mean=list(colours.image_mean),
        image_std=list(colours.image_std),
    )
    return FrameTokens(name, tower, vision.hidden_size, patchify, frames_at_once).to(device)


def input_settings(
    encoder: FrozenEncoder,
    kind: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> InputSettings:
    """How clips are shown to an encoder: as its own processor does it, but for what is given.

    Args:
        encoder: that is shown clips.
        kind: `codec`, `frames` or `dense`; default: the first that the encoder takes.
        overrides: arguments of the processor by name.
        size: pixels, side of the middle square of a frame, instead of the processor's own sizes.

    Raises:
        ConfigError: an input that the encoder does not take, overrides that do not fit, or a budget that no
            clip can give.
    """
    kind, overrides = kind or encoder.kinds[0], dict(overrides or {})
    if kind not in encoder.kinds:
        raise ConfigError(
            f"the input is {kind!r}, but {encoder.name} sees whole frames only: ask for frames, of which it "
            "gets as many as the patch budget makes"
        )
    square = encoder.square(size) if size else {}
    if any(overrides.get(name) is not None for name in BUDGETS):
        square.pop("num_patches", None)
    settings = InputSettings(kind, with_overrides(encoder.patchify, square | overrides))
    settings.check()
    return settings


def _few_squares(side: int, patch_size: int) -> dict[str, Any]:
    """Settings of a processor for encoders that have no budget of their own: some whole frames of a clip."""
    return {**middle_square(side), "num_patches": _WHOLE_FRAMES * max(1, side // patch_size) ** 2}


def sines(count: int, size: int, device: torch.device) -> Tensor:
    """(count, size): the published embedding of a frame's number, sines and cosines in turn, base 10000.

    Args:
        count: frames.
        size: channels.
        device: of the result.
    """
    rates = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10000.0) / size))
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


def _processor(name: str, video: bool) -> Any:
    """What knows the colours that the encoder was trained with."""
    if video and has_video_processor(name):
        return AutoVideoProcessor.from_pretrained(name)
    return AutoImageProcessor.from_pretrained(name)


def _spread(values: Tensor, real: Tensor) -> Tensor:
    """(G, ...) of the places that are real -> (B, T, ...), zero elsewhere."""
    spread = values.new_zeros(*real.shape, *values.shape[1:])
    spread[real] = values
    return spread


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
