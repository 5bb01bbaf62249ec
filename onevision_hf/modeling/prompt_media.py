"""Which medium belongs to which prompt, how pictures are read, and the numbers of media tokens: parts of the
multimodal processor."""

import os
from itertools import pairwise
from typing import Any

import numpy as np

from .embedded_media import is_cell
from .frame_files import is_many, refuse_stills
from .frame_sequence import FrameSequence, is_encoded, is_frames, pair_of
from .message_media import Medium, kind_of
from .pictures import as_rgb, load_picture
from .url_access import FETCHED, UrlAccess


def read_picture(image: Any, urls: UrlAccess = FETCHED) -> Any:
    """What the image processor takes of a path, a URL (fetched as `urls` allows), base64, bytes, a PIL image
    or an array, grey ones included.

    Raises OSError, which names the image, for one that cannot be read.
    """
    if isinstance(image, str | os.PathLike | bytes) or is_cell(image):
        return load_picture(image, urls)
    if hasattr(image, "convert"):
        return as_rgb(image)
    if getattr(image, "ndim", 3) == 2:
        return image[..., None].repeat(3, -1) if isinstance(image, np.ndarray) else image.expand(3, -1, -1)
    return image


def media_parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message that are no text."""
    content = message.get("content")
    return [part for part in content if kind_of(part) != "text"] if isinstance(content, list) else []


def is_unreadable(error: Exception) -> bool:
    """A file that cannot be read. `VideoReadError` is told by what it says: code that travels with a model is
    loaded once for each part."""
    return isinstance(error, OSError) or (hasattr(error, "path") and hasattr(error, "reason"))


def media_of_prompts(
    media: Any, prompts: list[str], token: str, kind: str, frames: bool = False
) -> list[list[Any]]:
    """The media of each prompt, of which each has a token.

    Args:
        media: flat, over all prompts, or a list for each prompt; None: there are none.
        prompts: texts.
        token: stands for one medium.
        kind: "image" or "video".
        frames: lists of picture files are clips.

    Returns:
        a list of media a prompt.

    Raises:
        ValueError: other numbers of media than of tokens.
    """
    counts = [prompt.count(token) for prompt in prompts]

    def is_clip(own: Any) -> bool:
        return kind == "video" and _is_clip(own, frames)

    if media is None:
        found: list[Any] = []
    elif not isinstance(media, list | tuple) or is_clip(media):
        found = [media]
    else:
        found = list(media)
    nested = bool(found) and all(isinstance(own, list | tuple) and not is_clip(own) for own in found)
    given = [len(own) for own in found] if nested else [len(found)]
    if nested and len(found) == len(prompts) and given == counts:
        return [list(own) for own in found]
    flat = [one for own in found for one in own] if nested else found
    if kind == "video" and not frames:
        refuse_stills(flat)
    if len(flat) != sum(counts) or (nested and len(found) != len(prompts)) or (nested and given != counts):
        raise ValueError(
            f"the prompts have {sum(counts)} {kind} tokens ({token}) and {len(flat)} {kind}s were given: "
            f"each {kind} needs one token in its prompt (prompt by prompt: {counts} tokens, {given} {kind}s)"
        )
    return [flat[start:stop] for start, stop in pairwise(np.cumsum([0, *counts]))]


def _is_clip(media: Any, frames: bool) -> bool:
    """Whether a list is one video: decoded pictures, frames with their metadata, or files of pictures."""
    if is_frames(media) or pair_of(media) is not None:
        return True
    if not frames or not media:
        return False
    single = all(is_encoded(one) and not is_many(one) for one in media)
    return single and not any(isinstance(one, Medium | FrameSequence) for one in media)


def token_id(tokenizer: Any, token: str) -> int:
    """The number of a media token. Raises ValueError where a tokenizer has none."""
    if tokenizer is None:
        raise ValueError("a tokenizer is needed, found None")
    number = tokenizer.convert_tokens_to_ids(token)
    if number is None or (number == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ValueError(
            f"the tokenizer has no token {token}: `onevision assemble` adds it, or "
            f"tokenizer.add_special_tokens({{'additional_special_tokens': [{token!r}]}}) and "
            "model.resize_token_embeddings"
        )
    return number
