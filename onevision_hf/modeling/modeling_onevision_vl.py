"""The multimodal model: a vision tower, a connector, and any causal language model of transformers.

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    model.generate(**inputs, max_new_tokens=64)

The wiring is that of the published LLaVA-NeXT model (`llava_next` of EvolvingLMMs-Lab/OneVision-Encoder):
features of the last but one layer, a small MLP, and each media token of the prompt replaced by one of them.
The language model sees plain positions, so it is a stock one, head included.

Features can be computed once and used for many questions:

    features = model.encode_media(**inputs)             # {"image": ..., "video": ...}
    model.generate(input_ids=..., attention_mask=..., mm_encoder_outputs=features)

Shapes: sum N patches of all images (or videos), C channels, p patch side, B prompts, L tokens, D width of the
language model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_onevision_vl import OneVisionVLConfig
from .vision_towers import encode_patches, make_tower

IMAGE_INPUTS = ("pixel_values", "image_patch_positions", "image_cu_seqlens")
VIDEO_INPUTS = ("pixel_values_videos", "video_patch_positions", "video_cu_seqlens")
MEDIA_INPUTS = (*IMAGE_INPUTS, *VIDEO_INPUTS, "mm_encoder_outputs")

# A checkpoint of the published LLaVA-NeXT classes -> our names; for `from_pretrained(key_mapping=...)`.
LLAVA_NEXT_KEY_MAPPING = {
    r"^model\.vision_tower\.vision_tower\.": "vision_tower.",
    r"^model\.mm_projector\.0\.": "connector.linear_1.",
    r"^model\.mm_projector\.2\.": "connector.linear_2.",
    r"^model\.mm_projector\.ln_q\.": "connector.norm.",
    r"^model\.mm_projector\.mlp\.0\.": "connector.linear_1.",
    r"^model\.mm_projector\.mlp\.2\.": "connector.linear_2.",
    r"^model\.(embed_tokens|layers|norm)\.": r"language_model.model.\1.",
    r"^lm_head\.": "language_model.lm_head.",
}


class OneVisionVLConnector(nn.Module):
    """Features of the tower -> embeddings of the language model.

    `mlp2x_gelu` is LLaVA-1.5's projector, a token for each patch. `patch_merger` (`PatchMerger` of the
    published builder, Qwen2-VL's) normalises, lays the 2 x 2 patches of a block side by side and maps them to
    one token.
    """

    def __init__(self, config: OneVisionVLConfig):
        super().__init__()
        wide, out = config.vision_config.hidden_size, config.text_config.hidden_size
        self.block = config.merge_size**2
        merges = self.block > 1
        self.norm = nn.LayerNorm(wide, eps=1e-6) if merges else nn.Identity()
        wide *= self.block
        self.linear_1 = nn.Linear(wide, wide if merges else out)
        self.activation_fn = nn.GELU()
        self.linear_2 = nn.Linear(self.linear_1.out_features, out)

    def forward(self, features: Tensor) -> Tensor:
        """(sum N, tower's width), rows of a block adjacent -> (sum N / block, D)."""
        merged = self.norm(features).reshape(-1, self.linear_1.in_features)
        return self.linear_2(self.activation_fn(self.linear_1(merged)))


class OneVisionVLPreTrainedModel(PreTrainedModel):
    config: OneVisionVLConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ["image", "video", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class OneVisionVLForConditionalGeneration(OneVisionVLPreTrainedModel, GenerationMixin):
    """A vision tower, a connector and a whole causal language model: `vision_tower`, `connector`,
    `language_model`.

    Args:
        config: of the three, and the tokens that stand for media.
    """

    def __init__(self, config: OneVisionVLConfig):
        super().__init__(config)
        self.vision_tower = make_tower(config.vision_config)
        self.connector = OneVisionVLConnector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        # An answer never holds the tokens that stand for features.
        self.generation_config.suppress_tokens = [config.image_token_id, config.video_token_id]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, with our names whatever a `key_mapping` read: the folder loads without one."""
        super().save_pretrained(*args, **{"save_original_format": False, **kwargs})

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.language_model.get_decoder()

    def get_image_features(
        self, pixel_values: Tensor, image_patch_positions: Tensor, image_cu_seqlens: Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode packed images.

        Args:
            pixel_values: (sum N, C*p*p) patches, those of a merge block adjacent.
            image_patch_positions: (sum N, 3) [t, h, w].
            image_cu_seqlens: (images+1,) bounds of the images.
            **kwargs: taken since transformers hands them over; not used.

        Returns:
            `last_hidden_state` (sum N, tower's width) and `pooler_output`, a tuple with the embeddings
            (tokens, D) of each image.

        Raises:
            ValueError: patches do not come in merge blocks; and what the tower raises.
        """
        return self._encode(pixel_values, image_patch_positions, image_cu_seqlens)

    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        video_patch_positions: Tensor,
        video_cu_seqlens: Tensor,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode packed videos, as `get_image_features`.

        Args:
            pixel_values_videos: (sum N, C*p*p) patches, those of a merge block adjacent.
            video_patch_positions: (sum N, 3) [t, h, w].
            video_cu_seqlens: (videos+1,) bounds of the videos.
            **kwargs: taken since transformers hands them over; not used.
        """
        return self._encode(pixel_values_videos, video_patch_positions, video_cu_seqlens)

    def encode_media(self, **inputs: Any) -> dict[str, BaseModelOutputWithPooling]:
        """What a processor's output holds of media, encoded: "image" and "video", as far as there are some.

        Goes to `forward` and `generate` as `mm_encoder_outputs`, in place of the pixels. Instead of either
        entry a list with the embeddings (tokens, D) of each item does as well, so that those of a clip can be
        kept and used in any other prompt. Inputs that are no media are passed over.
        """
        found: dict[str, BaseModelOutputWithPooling] = {}
        for kind, names in (("image", IMAGE_INPUTS), ("video", VIDEO_INPUTS)):
            given = {name: inputs.get(name) for name in names}
            if given[names[0]] is None:
                continue
            absent = [name for name, value in given.items() if value is None]
            if absent:
                raise ValueError(f"{names[0]} came without {', '.join(absent)}")
            found[kind] = self._encode(*given.values())  # type: ignore[arg-type]
        return found

    def _encode(self, patches: Tensor, positions: Tensor, cu_seqlens: Tensor) -> BaseModelOutputWithPooling:
        self._check_blocks(positions)
        weight = next(self.vision_tower.parameters())
        features = encode_patches(
            self.vision_tower,
            patches.to(weight.device, weight.dtype),
            positions.to(weight.device),
            cu_seqlens.to(weight.device),
            self.config.vision_feature_layer,
        )
        embeddings = self.connector(features.to(self.connector.linear_1.weight.dtype))
        counts = (cu_seqlens.diff() // self.connector.block).tolist()
        return BaseModelOutputWithPooling(
            last_hidden_state=features,
            pooler_output=embeddings.split(counts),  # type: ignore[arg-type]
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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_patch_positions: Tensor | None = None,
        image_cu_seqlens: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_patch_positions: Tensor | None = None,
        video_cu_seqlens: Tensor | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next tokens of prompts with images and videos.

        Args:
            input_ids (`torch.LongTensor` of shape (B, L)): with `image_token_id` and `video_token_id` where
                features go, in the order of the media.
            attention_mask (`torch.Tensor` of shape (B, L), *optional*): 0 for padding, on either side.
            position_ids (`torch.LongTensor` of shape (B, L), *optional*): of the language model; counted
                from the mask by default, so that padding shifts nothing.
            inputs_embeds (`torch.FloatTensor` of shape (B, L, D), *optional*): instead of `input_ids`; goes
                with no media.
            pixel_values (`torch.FloatTensor` of shape (sum N, C*p*p)): images, packed.
            image_patch_positions (`torch.LongTensor` of shape (sum N, 3)): [t, h, w] of the images'
                patches.
            image_cu_seqlens (`torch.IntTensor` of shape (images+1,)): bounds of the images.
            pixel_values_videos (`torch.FloatTensor` of shape (sum N, C*p*p)): videos, packed.
            video_patch_positions (`torch.LongTensor` of shape (sum N, 3)): [t, h, w] of the videos'
                patches.
            video_cu_seqlens (`torch.IntTensor` of shape (videos+1,)): bounds of the videos.
            mm_encoder_outputs (`dict`, *optional*): instead of pixels, see `encode_media`.
            labels (`torch.LongTensor` of shape (B, L), *optional*): -100 where nothing is learned.
            use_cache (`bool`, *optional*): of the language model.
            past_key_values (`Cache`, *optional*): of the language model; where it holds tokens, media are
                in it already.
            cache (`Cache`, *optional*): the same, under the name that some language models have for it.
            logits_to_keep (`int` or `torch.Tensor`): only the last so many positions, or these; 0: all.
            **kwargs: of the language model.

        Returns:
            What the language model returns.

        Raises:
            ValueError: the prompt's media tokens are not as many as the features (both counts are named),
                or more tokens than the language model's context.
        """
        media = {
            "pixel_values": pixel_values,
            "image_patch_positions": image_patch_positions,
            "image_cu_seqlens": image_cu_seqlens,
            "pixel_values_videos": pixel_values_videos,
            "video_patch_positions": video_patch_positions,
            "video_cu_seqlens": video_cu_seqlens,
        }
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds, found neither")
            held = cache if cache is not None else past_key_values
            decoding = held is not None and held.get_seq_length() > 0
            inputs_embeds = self._embed(input_ids, media, mm_encoder_outputs, decoding, position_ids)
        elif mm_encoder_outputs is not None or any(value is not None for value in media.values()):
            raise ValueError("media need input_ids, whose tokens say where features go; got inputs_embeds")
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Left padding then shifts nothing, whatever kind of positions the language model has.
            positions = attention_mask.long().cumsum(-1) - 1
            position_ids = positions.clamp(min=0)[:, -inputs_embeds.shape[1] :]
        given = {"past_key_values": past_key_values, "cache": cache, "labels": labels}
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{name: value for name, value in given.items() if value is not None},
            **kwargs,
        )

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
            features = torch.cat(list(_items(encoded[kind]))) if kind in encoded else embeddings[:0, 0]
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
            f"than the language model's context of {limit}: lower num_frames, num_patches or keep_ratio, "
            "max_pixels or size, or use the connector patch_merger, which makes a quarter of the tokens"
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """transformers' own; without media as soon as the cache holds their features.

        Args:
            input_ids: (B, L).
            is_first_iteration: whether a prompt is read. An assistant's first step says False too.
            **kwargs: of `forward`.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        held = kwargs.get("cache") if kwargs.get("cache") is not None else kwargs.get("past_key_values")
        filled = held is not None and int(held.get_seq_length()) > 0
        for name in MEDIA_INPUTS:
            if filled and not is_first_iteration and kwargs.get("use_cache", True):
                inputs.pop(name, None)
            elif kwargs.get(name) is not None:
                inputs[name] = kwargs[name]
        if not is_first_iteration and not self._fit(inputs.get("mm_encoder_outputs")):
            # An assistant is given the features of the model that it drafts for: of another width they say
            # nothing to it, and it drafts from the words.
            inputs["inputs_embeds"] = self.get_input_embeddings()(inputs.pop("input_ids"))
            inputs = {name: value for name, value in inputs.items() if name not in MEDIA_INPUTS}
        return inputs

    def _fit(self, encoded: Mapping[str, Any] | None) -> bool:
        """Whether features have the width of the language model's embeddings."""
        width = self.config.text_config.hidden_size
        items = [item for features in (encoded or {}).values() for item in _items(features)]
        return all(item.shape[-1] == width for item in items)

    def _expand_inputs_for_generation(  # type: ignore[override]
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Several answers to a prompt: its media are encoded once, and the features repeated."""
        if expand_size > 1 and input_ids is not None:
            media = {name: model_kwargs.pop(name, None) for name in MEDIA_INPUTS}
            encoded = media.pop("mm_encoder_outputs") or self.encode_media(**media)
            repeated = {}
            for kind, token in (("image", self.config.image_token_id), ("video", self.config.video_token_id)):
                if kind in encoded:
                    counts = (input_ids == token).sum(1).tolist()
                    prompts = torch.cat(list(_items(encoded[kind]))).split(counts)
                    repeated[kind] = [own for own in prompts for _ in range(expand_size)]
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size,
            is_encoder_decoder=is_encoder_decoder,
            input_ids=input_ids,  # type: ignore[arg-type]
            **model_kwargs,
        )
        if expand_size > 1 and input_ids is not None and repeated:
            model_kwargs["mm_encoder_outputs"] = repeated
        return input_ids, model_kwargs


def _items(features: Any) -> Sequence[Tensor]:
    """The embeddings of each item, from the output of `get_..._features` or a list of them."""
    return getattr(features, "pooler_output", features)


__all__ = [
    "LLAVA_NEXT_KEY_MAPPING",
    "OneVisionVLForConditionalGeneration",
    "OneVisionVLPreTrainedModel",
]
