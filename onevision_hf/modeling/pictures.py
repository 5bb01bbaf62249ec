"""Still pictures as displayed: orientation applied, transparency on white, three channels of 8 bits."""

import io
import os
from typing import Any

from PIL import Image, ImageOps

from .embedded_media import unwrap
from .remote_file import fetch_picture, is_url, shown
from .url_access import FETCHED, UrlAccess
from .video_source import local_path

# What PIL raises on damaged or dangerous files.
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, MemoryError)


# A picture of more pixels than this that has less than a byte for so many of them is no photograph or scan:
# a few kilobytes would become hundreds of megabytes.
LARGE, PIXELS_A_BYTE = 1 << 25, 200


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture as displayed (EXIF orientation applied, transparency on white), RGB, fully decoded.

    Raises:
        Image.DecompressionBombError: it has far more pixels than bytes. What else PIL raises on damage.
    """
    _check_size(picture)
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _check_size(picture: Image.Image) -> None:
    pixels, file = picture.width * picture.height, getattr(picture, "fp", None)
    if pixels <= LARGE or file is None or not file.seekable():
        return
    place = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(place)
    if pixels > PIXELS_A_BYTE * size:
        raise Image.DecompressionBombError(
            f"{picture.width} x {picture.height} pixels in {size} bytes: save it smaller if you trust it"
        )


def load_picture(source: Any, urls: UrlAccess = FETCHED) -> Image.Image:
    """The picture that a path, a URL (`file:` and `data:` too), base64, bytes or a cell of `datasets` name.

    Args:
        source: names it.
        urls: whether an http or https URL is fetched, and within which bounds.

    Raises:
        OSError: it cannot be read; the message names it.
    """
    name = "<bytes>"
    try:
        content, name = unwrap(source)
        if isinstance(content, str) and is_url(content):
            content = fetch_picture(content, urls)
        elif isinstance(content, str | os.PathLike):
            content = local_path(os.fsdecode(content))
        elif hasattr(content, "read"):
            content = content.read()
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as picture:
            return as_rgb(picture)
    except PICTURE_ERRORS as error:
        reason = str(getattr(error, "reason", error))
        if isinstance(error, FileNotFoundError):
            reason = "no such file"
        elif isinstance(error, Image.UnidentifiedImageError):
            reason = "holds no picture that can be read"
        raise OSError(f"{shown(name)}: not an image that can be read: {reason}") from error
