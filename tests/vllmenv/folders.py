"""Folders that vLLM serves in the tests, what is asked of them, and what transformers answers.

vLLM's kernels for processors take heads of 32 numbers and more, so the language models have such.
"""

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ov2_recorded import PUBLISHED, RECORDED
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from vl_tiny import tiny_config, tiny_processor

from onevision_hf import OneVisionVLForConditionalGeneration

TOKENS = 12  # of an answer


def own_folder(folder: Path) -> Path:
    """A tiny model of ours, codec input by default."""
    torch.manual_seed(0)
    config = tiny_config("patch_merger")
    config.text_config.head_dim = 32
    config.text_config.initializer_range = 0.3
    model = OneVisionVLForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    tiny_processor(config, num_frames=8, num_patches=64).save_pretrained(folder)
    return folder


def published_folder(folder: Path) -> Path:
    """The recorded folder, its own tower and connector, and a language model with wider heads."""
    config = AutoConfig.from_pretrained(PUBLISHED)
    config.text_config.head_dim = 32
    config.text_config.initializer_range = 0.3
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    recorded = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    model.vision_tower.load_state_dict(recorded.vision_tower.state_dict())
    model.connector.load_state_dict(recorded.connector.state_dict())
    model.generation_config = recorded.generation_config
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(PUBLISHED).save_pretrained(folder)
    return folder


@cache
def of_transformers(folder: Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def expected(
    folder: Path, conversation: list[dict[str, Any]], least: int = TOKENS, **settings: Any
) -> tuple[list[int], list[int]]:
    """The prompt's tokens and the greedy answer's, by transformers."""
    model, processor = of_transformers(folder)
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs=settings
    )
    output = model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=least, do_sample=False)
    length = inputs["input_ids"].shape[1]
    return output[0, :length].tolist(), output[0, length:].tolist()


def picture() -> Image.Image:
    return Image.fromarray(RECORDED["image.raw_0"])


def data_url(medium: Path | Image.Image) -> str:
    if isinstance(medium, Image.Image):
        file = io.BytesIO()
        medium.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return "data:video/mp4;base64," + base64.b64encode(medium.read_bytes()).decode()


def as_openai(conversation: list[dict[str, Any]], url_of: Any = data_url) -> list[dict[str, Any]]:
    """A conversation of ours in the form of OpenAI's, with URLs for media."""

    def part(own: dict[str, Any]) -> dict[str, Any]:
        kind = own["type"]
        if kind == "text":
            return own
        medium = own[kind]
        return {"type": f"{kind}_url", f"{kind}_url": {"url": url_of(medium)}}

    return [
        {**message, "content": [part(own) for own in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in conversation
    ]
