"""Which medium belongs to which prompt, and how pictures are read: parts of the multimodal processor."""

import io
import os
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import load_image

from .frame_sequence import is_encoded
from .remote_file import fetch_picture, is_url, shown


def read_picture(image: Any) -> Any:
    """What the image processor takes of a path, a URL, bytes, a PIL image or an array, grey ones included.

    Raises OSError, which names the image, for one that cannot be read.
    """
    if isinstance(image, str | os.PathLike | bytes):
        remote = isinstance(image, str) and is_url(image)
        name = "<bytes>" if isinstance(image, bytes) else shown(os.fsdecode(image))[:200]
        try:
            data = fetch_picture(str(image)) if remote else image
            encoded = isinstance(data, bytes)
            return load_image(Image.open(io.BytesIO(data)) if encoded else os.fspath(data))  # type: ignore
        except (ValueError, OSError) as error:
            absent = not (remote or isinstance(image, bytes) or os.path.exists(image))
            reason = "no such file" if absent else error
            raise OSError(f"{name}: not an image that can be read: {reason}") from error
    if getattr(image, "ndim", 3) == 2:
        return image[..., None].repeat(3, -1) if isinstance(image, np.ndarray) else image.expand(3, -1, -1)
    return image


def media_parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message that are no text."""
    content = message.get("content")
    return [part for part in content if part["type"] != "text"] if isinstance(content, list) else []


def medium_of(part: dict[str, Any]) -> Any:
    """What a part of a message shows, under any of the keys that transformers knows."""
    keys = (part["type"], "url", "path", "base64")
    found = next((part[key] for key in keys if part.get(key) is not None), None)
    if found is None:
        raise ValueError(f"a part of a message names no {part['type']}: {part!r}")
    return found


def is_unreadable(error: Exception) -> bool:
    """A file that cannot be read. `VideoReadError` is told by what it says: code that travels with a model is
    loaded once for each part."""
    return isinstance(error, OSError) or (hasattr(error, "path") and hasattr(error, "reason"))


def media_of_prompts(media: Any, prompts: list[str], token: str, kind: str) -> list[list[Any]]:
    """The media of each prompt, of which each has a token.

    Args:
        media: flat, over all prompts, or a list for each prompt; None: there are none.
        prompts: texts.
        token: stands for one medium.
        kind: "image" or "video".

    Returns:
        a list of media a prompt.

    Raises:
        ValueError: other numbers of media than of tokens.
    """
    counts = [prompt.count(token) for prompt in prompts]
    if media is None:
        found: list[Any] = []
    elif not isinstance(media, list | tuple) or (kind == "video" and is_clip(media)):
        found = [media]
    else:
        found = list(media)
    nested = bool(found) and all(
        isinstance(own, list | tuple) and not (kind == "video" and is_clip(own)) for own in found
    )
    given = [len(own) for own in found] if nested else [len(found)]
    if nested and len(found) == len(prompts) and given == counts:
        return [list(own) for own in found]
    flat = [one for own in found for one in own] if nested else found
    if len(flat) != sum(counts) or (nested and len(found) != len(prompts)) or (nested and given != counts):
        raise ValueError(
            f"the prompts have {sum(counts)} {kind} tokens ({token}) and {len(flat)} {kind}s were given: "
            f"each {kind} needs one token in its prompt (prompt by prompt: {counts} tokens, {given} {kind}s)"
        )
    return [flat[start:stop] for start, stop in pairwise(np.cumsum([0, *counts]))]


def is_clip(media: Any) -> bool:
    """A list of pictures: one video of decoded frames."""
    first = media[0] if len(media) else None
    return not is_encoded(first) and (hasattr(first, "convert") or getattr(first, "ndim", 0) in (2, 3))
