"""What the multimodal models share: media become embeddings of the language model, in the places of their
tokens.

    features = model.encode_media(**inputs)             # {"image": ..., "video": ...}
    model.get_image_features(pixel_values, image_patch_positions, image_cu_seqlens).pooler_output

Images may also come under the names of the published LLaVA-OneVision-2: `pixel_values`, `image_grid_thw` and
`patch_positions`; attention windows are then cut by `config.frame_windows_size`.

Shapes: sum N patches of all images (or videos), C channels, p patch side, B prompts, L tokens, D width of the
language model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .complete_weights import CompleteWeights
from .configuration_onevision_vl import OneVisionVLConfig
from .tensor_inputs import check_tensors
from .vision_towers import encode_patches

IMAGE_INPUTS = (
    "pixel_values",
    "image_patch_positions",
    "image_cu_seqlens",
    "image_grid_thw",
    "patch_positions",
)
VIDEO_INPUTS = ("pixel_values_videos", "video_patch_positions", "video_cu_seqlens")
MEDIA_INPUTS = (*IMAGE_INPUTS, *VIDEO_INPUTS, "mm_encoder_outputs")
STATES = ("output_hidden_states", "output_attentions")


class OneVisionVLConnector(nn.Module):
    """Features of the tower -> embeddings of the language model.

    `mlp2x_gelu` is LLaVA-1.5's projector, a token for each patch. `patch_merger` (`PatchMerger` of the
    published builder, Qwen2-VL's) normalises, lays the patches of a block side by side and maps them to one
    token.
    """

    def __init__(self, config: OneVisionVLConfig):
        super().__init__()
        wide, out = config.vision_config.hidden_size, config.text_config.hidden_size
        self.block = config.merge_size**2
        merges = config.connector == "patch_merger"
        self.norm = nn.LayerNorm(wide, eps=config.connector_norm_eps) if merges else nn.Identity()
        wide *= self.block
        self.linear_1 = nn.Linear(wide, wide if merges else out)
        self.activation_fn = nn.GELU()
        self.linear_2 = nn.Linear(self.linear_1.out_features, out)

    def forward(self, features: Tensor) -> Tensor:
        """(sum N, tower's width), rows of a block adjacent -> (sum N / block, D)."""
        merged = self.norm(features).reshape(-1, self.linear_1.in_features)
        return self.linear_2(self.activation_fn(self.linear_1(merged)))


class OneVisionVLPreTrainedModel(CompleteWeights, PreTrainedModel):
    config: OneVisionVLConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "video", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    vision_tower: nn.Module
    connector: OneVisionVLConnector
    language_model: Any

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        image_patch_positions: Tensor | None = None,
        image_cu_seqlens: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        patch_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode packed images.

        Args:
            pixel_values: (sum N, C*p*p) patches, those of a merge block adjacent.
            image_patch_positions: (sum N, 3) [t, h, w].
            image_cu_seqlens: (images+1,) bounds of the images.
            image_grid_thw: (images, 3) [frames, rows, columns] of patches, instead of the bounds.
            patch_positions: (sum N, 3) or (1, sum N, 3), goes with `image_grid_thw`.
            **kwargs: `output_hidden_states`, `output_attentions` of the tower, `return_dict`; others, which
                transformers hands over, are not used.

        Returns:
            `last_hidden_state` (sum N, tower's width) and `pooler_output`, a tuple with the embeddings
            (tokens, D) of each image.

        Raises:
            ValueError: patches do not come in merge blocks, an input is missing; and what the tower raises.
        """
        states = {name: kwargs[name] for name in STATES if kwargs.get(name) is not None}
        if image_grid_thw is None:
            return self._encode(
                "pixel_values", pixel_values, "image", image_patch_positions, image_cu_seqlens, **states
            )
        if patch_positions is None:
            raise ValueError("pixel_values came with image_grid_thw and without patch_positions")
        bounds = window_bounds(image_grid_thw, self.config.frame_windows_size)
        if int(bounds[-1]) != len(pixel_values):
            raise ValueError(
                f"image_grid_thw {image_grid_thw.tolist()} is of {int(bounds[-1])} patches, "
                f"pixel_values holds {len(pixel_values)}"
            )
        items = image_grid_thw.prod(-1)
        return self._encode(
            "pixel_values", pixel_values, "image", patch_positions.flatten(0, -2), bounds, items, **states
        )

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        video_patch_positions: Tensor | None = None,
        video_cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode packed videos, as `get_image_features`.

        Args:
            pixel_values_videos: (sum N, C*p*p) patches, those of a merge block adjacent.
            video_patch_positions: (sum N, 3) [t, h, w].
            video_cu_seqlens: (videos+1,) bounds of the videos.
            **kwargs: as there.
        """
        states = {name: kwargs[name] for name in STATES if kwargs.get(name) is not None}
        return self._encode(
            "pixel_values_videos",
            pixel_values_videos,
            "video",
            video_patch_positions,
            video_cu_seqlens,
            **states,
        )

    def encode_media(self, **inputs: Any) -> dict[str, BaseModelOutputWithPooling]:
        """What a processor's output holds of media, encoded: "image" and "video", as far as there are some.

        Goes to `forward` and `generate` as `mm_encoder_outputs`, in place of the pixels. Instead of either
        entry a list with the embeddings (tokens, D) of each item does as well, so that those of a clip can be
        kept and used in any other prompt. Inputs that are no media are passed over.
        """
        found: dict[str, BaseModelOutputWithPooling] = {}
        for kind, names, encode in (
            ("image", IMAGE_INPUTS, self.get_image_features),
            ("video", VIDEO_INPUTS, self.get_video_features),
        ):
            given = {name: inputs.get(name) for name in names}
            if given[names[0]] is not None:
                found[kind] = encode(**given, return_dict=True)
        return found

    def _encode(
        self,
        name: str,
        patches: Tensor,
        kind: str,
        positions: Tensor | None,
        cu_seqlens: Tensor | None,
        items: Tensor | None = None,
        **states: Any,
    ) -> BaseModelOutputWithPooling:
        """Features of patches that attend within bounds, and the embeddings of items of so many patches."""
        given = {f"{kind}_patch_positions": positions, f"{kind}_cu_seqlens": cu_seqlens}
        if positions is None or cu_seqlens is None:
            absent = [name for name, value in given.items() if value is None]
            raise ValueError(f"{name} came without {', '.join(absent)}")
        self._check_blocks(positions)
        weight = next(self.vision_tower.parameters())
        # Weights on disk are nowhere yet: what brings them in moves the inputs too.
        device = patches.device if weight.is_meta else weight.device
        output = encode_patches(
            self.vision_tower,
            patches.to(device, weight.dtype),
            positions.to(device),
            cu_seqlens.to(device),
            self.config.vision_feature_layer,
            **states,
        )
        features: Any = output.last_hidden_state
        embeddings = self.connector(features.to(self.connector.linear_1.weight.dtype))
        counts = ((cu_seqlens.diff() if items is None else items) // self.connector.block).tolist()
        return BaseModelOutputWithPooling(
            last_hidden_state=features,
            pooler_output=embeddings.split(counts),  # type: ignore[arg-type]
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _check_blocks(self, positions: Tensor) -> None:
        """The m*m rows of a block are adjacent, raster inside."""
        side = self.config.merge_size
        if side == 1:
            return
        fits = len(positions) % side**2 == 0
        if fits:
            blocks = positions.view(-1, side**2, 3)
            corner = blocks[:, :1]
            inside = torch.tensor([(0, y, x) for y in range(side) for x in range(side)])
            fits = bool((blocks == corner + inside.to(positions.device)).all())
            fits = fits and bool((corner[..., 1:] % side == 0).all())
        if not fits:
            raise ValueError(
                f"the connector patch_merger makes a token of {side} x {side} neighbours, and the patch "
                f"positions do not come in such blocks: set merge_size={side} in the processors"
            )

    def _prompt(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        held: Any,
        media: dict[str, Any],
    ) -> dict[str, Any]:
        """What the language model takes of a prompt: `inputs_embeds`, `attention_mask`, `position_ids`.

        Args:
            input_ids: (B, L), with the tokens of media.
            inputs_embeds: (B, L, D), instead; then without media.
            position_ids: (B, L), of the language model.
            attention_mask: (B, L), 0 for padding.
            held: the cache, if there is one.
            media: by the names of `MEDIA_INPUTS`.
        """
        encoded = media.pop("mm_encoder_outputs")
        check_tensors(input_ids=input_ids, inputs_embeds=inputs_embeds, position_ids=position_ids, **media)
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds, found neither")
            decoding = held is not None and held.get_seq_length() > 0
            inputs_embeds = self._embed(input_ids, media, encoded, decoding, position_ids)
        elif encoded or any(value is not None for value in media.values()):
            raise ValueError("media need input_ids, whose tokens say where features go; got inputs_embeds")
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Left padding then shifts nothing, whatever kind of positions the language model has.
            positions = attention_mask.long().cumsum(-1) - 1
            position_ids = positions.clamp(min=0)[:, -inputs_embeds.shape[1] :]
        return {
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
        }

    def _embed(
        self,
        input_ids: Tensor,
        media: dict[str, Tensor | None],
        encoded: Mapping[str, Any] | None,
        decoding: bool,
        position_ids: Tensor | None,
    ) -> Tensor:
        """Embeddings (B, L, D) with the features in their places."""
        embeddings = self.get_input_embeddings()(input_ids)
        pixels = [name for name in ("pixel_values", "pixel_values_videos") if media[name] is not None]
        if encoded is not None and pixels:
            raise ValueError(f"give mm_encoder_outputs or pixels, not both; found {', '.join(pixels)}")
        if decoding and not (pixels or encoded):
            return embeddings
        if pixels or encoded:
            self._check_context(input_ids, position_ids)
        encoded = self.encode_media(**media) if encoded is None else encoded
        for kind, token in (("image", self.config.image_token_id), ("video", self.config.video_token_id)):
            places = input_ids == token
            features = torch.cat(list(items_of(encoded[kind]))) if kind in encoded else embeddings[:0, 0]
            if features.shape[-1] != embeddings.shape[-1]:
                raise ValueError(
                    f"the connector gives embeddings of {features.shape[-1]} numbers, the language model's "
                    f"have {embeddings.shape[-1]}: they were not made for one another"
                )
            if int(places.sum()) != len(features):
                raise ValueError(
                    f"the prompt has {int(places.sum())} {kind} tokens and the {kind}s give {len(features)} "
                    "features: use the processor's output as it is, and do not truncate it"
                )
            if len(features):
                features = features.to(embeddings.device, embeddings.dtype)
                embeddings = embeddings.masked_scatter(places[..., None], features)
        return embeddings

    def _check_context(self, input_ids: Tensor, position_ids: Tensor | None) -> None:
        # Packed prompts lie in one row; what counts is how far the positions of one go.
        length = input_ids.shape[1] if position_ids is None else int(position_ids.max()) + 1
        limit = getattr(self.config.text_config, "max_position_embeddings", None)
        if limit is None or length <= limit:
            return
        media = (input_ids == self.config.image_token_id) | (input_ids == self.config.video_token_id)
        raise ValueError(
            f"a prompt of {length} tokens, {int(media.sum(1).max())} of them visual, is longer "
            f"than the language model's context of {limit}: lower num_frames, num_patches, keep_ratio, "
            "max_canvases, max_pixels or size, or use the connector patch_merger, which makes a quarter of "
            "the tokens"
        )


def window_bounds(grid_thw: Tensor, frames: int | None) -> Tensor:
    """Bounds of attention windows, as the published model cuts them: so many frames of a row, then the rest.

    Args:
        grid_thw: (rows, 3) [frames, rows, columns] of patches.
        frames: of a window; None or less than 1: a row is one window.

    Returns:
        (windows+1,) int32, from 0.
    """
    bounds = [0]
    for count, height, width in grid_thw.tolist():
        step = frames if frames is not None and frames > 0 else max(count, 1)
        for start in range(0, count, step):
            bounds.append(bounds[-1] + min(step, count - start) * height * width)
    return torch.tensor(bounds, dtype=torch.int32)


def items_of(features: Any) -> Sequence[Tensor]:
    """The embeddings of each item, from the output of `get_..._features` or a list of them."""
    return getattr(features, "pooler_output", features)


__all__ = ["MEDIA_INPUTS", "OneVisionVLConnector", "OneVisionVLPreTrainedModel", "items_of", "window_bounds"]
