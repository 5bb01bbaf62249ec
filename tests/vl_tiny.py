"""A multimodal model of a few thousand parameters, its tokenizer and processor, for the tests."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from onevision_hf import (
    OneVisionConfig,
    OneVisionVLConfig,
    OneVisionVLForConditionalGeneration,
    OneVisionVLImageProcessor,
    OneVisionVLProcessor,
    OneVisionVLVideoProcessor,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"]
LANGUAGE_MODELS = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}


def tiny_tokenizer(special: list[str] = SPECIAL) -> PreTrainedTokenizerFast:
    """A token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[0], pad_token=special[0], model_max_length=4096
    )
    fast.add_special_tokens({"additional_special_tokens": special[1:]})
    return fast


def tiny_text_config(kind: str = "qwen3", **overrides: Any) -> Any:
    sizes = {
        "vocab_size": 264,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }
    if kind == "qwen3":
        sizes["head_dim"] = 16
    return LANGUAGE_MODELS[kind](**{**sizes, **overrides})


def tiny_config(
    connector: str = "mlp2x_gelu", text: str = "qwen3", vision: Any = None, **overrides: Any
) -> OneVisionVLConfig:
    vision = vision or OneVisionConfig.tiny(initializer_range=0.1)
    return OneVisionVLConfig(
        text_config=tiny_text_config(text),
        vision_config=vision,
        connector=connector,
        image_token_id=259,
        video_token_id=260,
        **overrides,
    )


def tiny_model(*args: Any, seed: int = 0, **kwargs: Any) -> OneVisionVLForConditionalGeneration:
    torch.manual_seed(seed)
    return OneVisionVLForConditionalGeneration(tiny_config(*args, **kwargs)).eval()


def tiny_processor(config: OneVisionVLConfig, **video: Any) -> OneVisionVLProcessor:
    common = {"patch_size": config.vision_patch_size, "merge_size": config.merge_size}
    settings = {"size": 56, **common, "takes_codec_input": config.takes_codec_input, **video}
    if not config.takes_codec_input:
        settings["rope_temporal_size"] = None
    return OneVisionVLProcessor(
        OneVisionVLImageProcessor(**common),
        OneVisionVLVideoProcessor(**settings),
        tiny_tokenizer(),
        merge_size=config.merge_size,
    )


def user(*parts: Any) -> list[dict[str, Any]]:
    """A conversation of one turn; a part is text or ("image" | "video", media)."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0], part[0]: part[1]}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def prompt(processor: OneVisionVLProcessor, conversation: Any, **settings: Any) -> Any:
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs=settings
    )
