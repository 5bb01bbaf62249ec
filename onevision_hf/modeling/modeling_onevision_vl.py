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

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from .configuration_onevision_vl import OneVisionVLConfig
from .multimodal_features import MEDIA_INPUTS, OneVisionVLConnector, OneVisionVLPreTrainedModel, items_of
from .setting_names import HUB_ARGUMENTS
from .vision_towers import make_tower

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


class OneVisionVLModel(OneVisionVLPreTrainedModel):
    """A vision tower, a connector and a language model without its head: `vision_tower`, `connector`,
    `language_model`.

    On disk its weights have the names of [`OneVisionVLForConditionalGeneration`], whose folders it loads.

    Args:
        config: of the three, and the tokens that stand for media.
    """

    _keys_to_ignore_on_load_unexpected = [r"^language_model\.(lm_head|embed_out)\."]

    def __init__(self, config: OneVisionVLConfig):
        super().__init__(config)
        self.vision_tower = make_tower(config.vision_config)
        self.connector = OneVisionVLConnector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, with the names of the whole model.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id.
            *args: transformers' own.
            **kwargs: transformers' own.
        """
        config: Any = kwargs.get("config")
        if not isinstance(config, PreTrainedConfig):
            hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
            kind: Any = cls.config_class
            config = kind.from_pretrained(config or pretrained_model_name_or_path, **hub)
        names = {**(kwargs.pop("key_mapping", None) or {}), **_names_without_head(config)}
        return super().from_pretrained(pretrained_model_name_or_path, *args, key_mapping=names, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, with the names of the whole model."""
        names = _names_without_head(self.config)
        self._weight_conversions = get_model_conversion_mapping(self, names, add_legacy=False)
        super().save_pretrained(*args, **kwargs)

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.language_model

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
        image_grid_thw: Tensor | None = None,
        patch_positions: Tensor | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        mm_token_type_ids: Tensor | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of prompts with images and videos; the inputs are those of
        [`OneVisionVLForConditionalGeneration`].

        Args:
            input_ids (`torch.LongTensor` of shape (B, L)): with the tokens of media.
            attention_mask (`torch.Tensor` of shape (B, L), *optional*): 0 for padding, on either side.
            position_ids (`torch.LongTensor` of shape (B, L), *optional*): of the language model.
            inputs_embeds (`torch.FloatTensor` of shape (B, L, D), *optional*): instead of `input_ids`.
            pixel_values (`torch.FloatTensor` of shape (sum N, C*p*p)): images, packed.
            image_patch_positions (`torch.LongTensor` of shape (sum N, 3)): [t, h, w] of their patches.
            image_cu_seqlens (`torch.IntTensor` of shape (images+1,)): bounds of the images.
            pixel_values_videos (`torch.FloatTensor` of shape (sum N, C*p*p)): videos, packed.
            video_patch_positions (`torch.LongTensor` of shape (sum N, 3)): [t, h, w] of their patches.
            video_cu_seqlens (`torch.IntTensor` of shape (videos+1,)): bounds of the videos.
            image_grid_thw (`torch.LongTensor` of shape (images, 3)): published name, see there.
            patch_positions (`torch.LongTensor` of shape (sum N, 3)): published name, see there.
            mm_encoder_outputs (`dict`, *optional*): instead of pixels, see `encode_media`.
            mm_token_type_ids (`torch.Tensor` of shape (B, L), *optional*): not needed, positions are plain.
            use_cache (`bool`, *optional*): of the language model.
            past_key_values (`Cache`, *optional*): of the language model.
            cache (`Cache`, *optional*): the same, under the name that some language models have for it.
            **kwargs: of the language model.

        Returns:
            What the language model returns: `last_hidden_state` (B, L, D) and so on.
        """
        media = {
            "pixel_values": pixel_values,
            "image_patch_positions": image_patch_positions,
            "image_cu_seqlens": image_cu_seqlens,
            "pixel_values_videos": pixel_values_videos,
            "video_patch_positions": video_patch_positions,
            "video_cu_seqlens": video_cu_seqlens,
            "image_grid_thw": image_grid_thw,
            "patch_positions": patch_positions,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        given = {"past_key_values": past_key_values, "cache": cache}
        held = {name: value for name, value in given.items() if value is not None}
        prompt = self._prompt(
            input_ids, inputs_embeds, position_ids, attention_mask, next(iter(held.values()), None), media
        )
        return self.language_model(**prompt, use_cache=use_cache, **held, **kwargs)


class OneVisionVLForConditionalGeneration(OneVisionVLPreTrainedModel, GenerationMixin):
    """A vision tower, a connector and a whole causal language model: `vision_tower`, `connector`,
    `language_model`.

    Args:
        config: of the three, and the tokens that stand for media.
    """

    saves_original_format = False

    def __init__(self, config: OneVisionVLConfig):
        super().__init__(config)
        self.vision_tower = make_tower(config.vision_config)
        self.connector = OneVisionVLConnector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()
        # An answer never holds the tokens that stand for features.
        self.generation_config.suppress_tokens = [config.image_token_id, config.video_token_id]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, with the names of the class whatever a `key_mapping` read: the folder loads
        without one."""
        super().save_pretrained(*args, **{"save_original_format": self.saves_original_format, **kwargs})

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.language_model.get_decoder()

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
        image_grid_thw: Tensor | None = None,
        patch_positions: Tensor | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        mm_token_type_ids: Tensor | None = None,
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
            image_grid_thw (`torch.LongTensor` of shape (images, 3)): with `patch_positions` the published
                names of what the images' positions and bounds say; [frames, rows, columns] of patches.
            patch_positions (`torch.LongTensor` of shape (sum N, 3)): [t, h, w], goes with `image_grid_thw`.
            mm_encoder_outputs (`dict`, *optional*): instead of pixels, see `encode_media`.
            mm_token_type_ids (`torch.Tensor` of shape (B, L), *optional*): which tokens are of images (1) and
                videos (2); not needed, positions are plain.
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
            "image_grid_thw": image_grid_thw,
            "patch_positions": patch_positions,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        held = cache if cache is not None else past_key_values
        prompt = self._prompt(input_ids, inputs_embeds, position_ids, attention_mask, held, media)
        given = {"past_key_values": past_key_values, "cache": cache, "labels": labels}
        return self.language_model(
            **prompt,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{name: value for name, value in given.items() if value is not None},
            **kwargs,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        is_first_iteration: bool = False,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """transformers' own; without media as soon as the cache holds their features.

        Args:
            input_ids: (B, L).
            is_first_iteration: whether a prompt is read. An assistant's first step says False too.
            inputs_embeds: (B, L, D), instead of the prompt's tokens; transformers looks for this name.
            **kwargs: of `forward`.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, inputs_embeds=inputs_embeds, **kwargs
        )
        held = kwargs.get("cache") if kwargs.get("cache") is not None else kwargs.get("past_key_values")
        filled = held is not None and int(held.get_seq_length()) > 0 and kwargs.get("use_cache", True)
        # A prompt may go on from a cache: its media are in it, unless their tokens are still to be read.
        seen = filled and not (is_first_iteration and self._names_media(inputs.get("input_ids")))
        for name in MEDIA_INPUTS:
            if seen:
                inputs.pop(name, None)
            elif kwargs.get(name) is not None:
                inputs[name] = kwargs[name]
        if not is_first_iteration and not self._fit(inputs.get("mm_encoder_outputs")):
            # An assistant is given the features of the model that it drafts for: of another width they say
            # nothing to it, and it drafts from the words.
            inputs["inputs_embeds"] = self.get_input_embeddings()(inputs.pop("input_ids"))
            inputs = {name: value for name, value in inputs.items() if name not in MEDIA_INPUTS}
        return inputs

    def _names_media(self, input_ids: Tensor | None) -> bool:
        media = (self.config.image_token_id, self.config.video_token_id)
        return input_ids is not None and any(bool((input_ids == token).any()) for token in media)

    def _fit(self, encoded: Mapping[str, Any] | None) -> bool:
        """Whether features have the width of the language model's embeddings."""
        width = self.config.text_config.hidden_size
        items = [item for features in (encoded or {}).values() for item in items_of(features)]
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
                    prompts = torch.cat(list(items_of(encoded[kind]))).split(counts)
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


def _names_without_head(config: OneVisionVLConfig) -> dict[str, str]:
    """Names of the whole language model -> those of its body alone, for transformers' `key_mapping`."""
    language_model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config.text_config)]
    return {rf"^language_model\.{language_model.base_model_prefix}\.": "^language_model."}


__all__ = [
    "LLAVA_NEXT_KEY_MAPPING",
    "OneVisionVLForConditionalGeneration",
    "OneVisionVLModel",
    "OneVisionVLPreTrainedModel",
]
