"""The multimodal models in vLLM: our tower and connector, and vLLM's own language model.

The tower is the one that transformers runs. Each worker holds all of it, also where the language model is
split over several (`--tensor-parallel-size`); weights have our names or the published ones.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import vllm
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..modeling.modeling_llava_onevision2 import WHOLE
from ..modeling.multimodal_features import OneVisionVLConnector
from ..modeling.vision_towers import encode_patches, make_tower
from .vllm_plugin import is_supported, refusal
from .vllm_processor import KINDS, DummyInputs, Info, MediaProcessor

if not is_supported(vllm.__version__):
    raise ImportError(refusal(vllm.__version__))

# Published names -> ours, which are this class's own.
OUR_NAMES = WeightsMapper(
    orig_to_new_regex={re.compile(old): new.removeprefix("^").replace("\\", "") for old, new in WHOLE.items()}
)


@MULTIMODAL_REGISTRY.register_processor(MediaProcessor, info=Info, dummy_inputs=DummyInputs)
class OneVisionVLForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP):
    """[`onevision_hf.OneVisionVLForConditionalGeneration`], and the published models, as vLLM runs them.

    Args:
        vllm_config: of vLLM.
        prefix: of the names of its layers.
    """

    vision_tower: nn.Module
    connector: OneVisionVLConnector
    language_model: Any

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """What stands for a medium where the chat template takes strings only.

        Args:
            modality: "image" or "video".
            i: its number.
        """
        return {"image": "<|image_pad|>", "video": "<|video_pad|>"}.get(modality)

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        marks: Any = self  # what vLLM's own base classes have
        with marks._mark_tower_model(vllm_config, set(KINDS)):
            self.vision_tower = make_tower(config.vision_config)
            self.connector = OneVisionVLConnector(config)
        text, media = config.text_config, [config.image_token_id, config.video_token_id]
        with marks._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text.model_type]],
            )
        generation = vllm_config.model_config.try_get_generation_config() or {"suppress_tokens": media}
        self.suppressed = generation.get("suppress_tokens") or []
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """The embeddings (tokens, D) of each medium, in their order; what the processor made of them comes by
        name."""
        found: list[Tensor] = []
        for kind in KINDS:
            patches = kwargs.get(f"{kind}_patches")
            if patches is not None:
                patches, positions, windows = (
                    _joined(kwargs[f"{kind}_{name}"]) for name in ("patches", "positions", "windows")
                )
                sizes = _joined(kwargs[f"{kind}_patches_sizes"])
                found += self._encode(patches, positions, windows, sizes.flatten().tolist())
        return found

    def _encode(self, patches: Tensor, positions: Tensor, windows: Tensor, sizes: list[int]) -> list[Tensor]:
        weight = next(self.vision_tower.parameters())
        bounds = nn.functional.pad(windows.to(weight.device).cumsum(0), (1, 0)).to(torch.int32)
        features: Any = encode_patches(
            self.vision_tower,
            patches.to(weight.device, weight.dtype),
            positions.to(weight.device),
            bounds,
            self.config.vision_feature_layer,
        ).last_hidden_state
        embeddings = self.connector(features.to(self.connector.linear_1.weight.dtype))
        return list(embeddings.split([size // self.connector.block for size in sizes]))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        """Hidden states of the language model.

        Args:
            input_ids: (L,) of all prompts, one after another.
            positions: (L,).
            intermediate_tensors: of the pipeline's stage before.
            inputs_embeds: (L, D), instead of `input_ids`.
            **kwargs: not used.
        """
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits, without the tokens that the folder suppresses: those that stand for features, in ours."""
        logits = self.language_model.compute_logits(hidden_states)
        if logits is not None and self.suppressed:
            logits[..., self.suppressed] = float("-inf")
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take over the weights of a folder, by our names or the published ones."""
        named = OUR_NAMES.apply(weights)
        fused = getattr(self.config.vision_config, "fused", False)
        return AutoWeightsLoader(self).load_weights(_split(named) if fused else named)


def _joined(given: Any) -> Tensor:
    return torch.cat(list(given)) if isinstance(given, list | tuple) else given


def _split(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Queries, keys and values of towers that hold them in one matrix, each by itself."""
    for name, weight in weights:
        if name.startswith("vision_tower.") and ".self_attn.qkv." in name:
            for part, own in zip("qkv", weight.chunk(3), strict=True):
                yield name.replace(".qkv.", f".{part}_proj."), own
        elif name.startswith("vision_tower."):
            yield name.replace(".self_attn.proj.", ".self_attn.out_proj."), weight
        else:
            yield name, weight


__all__ = ["OneVisionVLForConditionalGeneration"]
