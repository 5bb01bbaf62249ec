"""Media that come inside something else: `data:` URLs, base64 text, and the cells of `datasets`.

content, name = unwrap("data:video/mp4;base64,AAAA...")     # bytes, "<data URL>"
content, name = unwrap({"path": "a.mp4", "bytes": None})    # "a.mp4", "a.mp4"
"""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

# How base64 of media begins: mp4, mkv, avi and webp, gif, png, jpeg, ogg, flv, mpeg, bmp.
_BEGINNINGS = ("AAAA", "GkXf", "UklG", "R0lG", "iVBO", "/9j/", "T2dn", "RkxW", "AAAB", "Qk")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
# No path is as long (Linux' PATH_MAX), and no medium as short.
LONGEST_PATH, SHORTEST_MEDIUM = 4096, 48
CELL = {"path", "bytes"}


class EmbeddedMediaError(OSError):
    """A text that should hold a medium does not; the message says why."""


def is_cell(medium: Any) -> bool:
    """Whether this is {"path": ..., "bytes": ...}, as `datasets` stores media, either of them left out."""
    return isinstance(medium, Mapping) and bool(medium.keys() & CELL) and medium.keys() <= CELL


def unwrap(medium: Any) -> tuple[Any, str]:
    """What a medium is in the end (bytes, a path, a URL, or itself), and a short name for messages.

    Args:
        medium: anything; a `data:` URL, base64, a cell of `datasets` or what its Video column gives is
            opened.

    Raises:
        EmbeddedMediaError: there is nothing in it, or its base64 is broken.
    """
    cell = getattr(medium, "_hf_encoded", medium)  # the decoder that a Video column gives keeps its file
    if is_cell(cell):
        content, path = cell.get("bytes"), cell.get("path")
        if content is None and path is None:
            raise EmbeddedMediaError("a cell with neither bytes nor a path")
        return (path, str(path)) if content is None else (bytes(content), str(path or "<bytes>"))
    if isinstance(medium, bytes | bytearray | memoryview):
        return bytes(medium), "<bytes>"
    if isinstance(medium, str) and not (len(medium) < LONGEST_PATH and os.path.exists(medium)):
        if medium[:5].lower() == "data:":
            return _of_data_url(medium), "<data URL>"
        if _is_base64(medium):
            return decode_base64(medium), "<base64>"
    named = isinstance(medium, str | os.PathLike)
    return medium, os.fsdecode(medium) if named else f"<{type(medium).__name__}>"


def decode_base64(text: str) -> bytes:
    """The bytes of base64 in either alphabet, with or without padding, line breaks or a `data:` URL around.

    Raises:
        EmbeddedMediaError: it is none.
    """
    if text[:5].lower() == "data:":
        return _of_data_url(text)
    letters = re.sub(r"\s+", "", text).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise EmbeddedMediaError(f"base64 of {len(text)} characters that is broken: {error}") from None


def _of_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise EmbeddedMediaError(f"a data URL without a comma before its data, of {len(url)} characters")
    data = unquote_to_bytes(body)
    return decode_base64(data.decode("latin-1")) if head.lower().endswith(";base64") else data


def _is_base64(text: str) -> bool:
    """Whether a text that names no file is base64 of a medium."""
    if len(text) < SHORTEST_MEDIUM or not (text.startswith(_BEGINNINGS) or len(text) > LONGEST_PATH):
        return False
    return _BASE64.fullmatch(text) is not None
