"""One item's content as pictures: what features, packing and contact sheets have in common."""

import io
import warnings

import numpy as np
from PIL import Image

from ..modeling.pictures import PICTURE_ERRORS, as_rgb
from ..modeling.video_reader import VideoReader, VideoReadError
from .items import MediaError

# What a broken item may raise. Not every ValueError: a mistake of ours must stop the job, not reject its
# items.
BROKEN = (MediaError, VideoReadError, OSError)
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: orientations that swap the sides


def open_picture(content: str | bytes) -> Image.Image:
    """A picture as displayed (EXIF orientation applied, transparency on white), RGB, fully decoded.

    Raises:
        MediaError: it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return as_rgb(Image.open(io.BytesIO(content) if isinstance(content, bytes) else content))
    except PICTURE_ERRORS as error:
        reason = (
            "holds no picture that can be read" if isinstance(error, Image.UnidentifiedImageError) else error
        )
        raise MediaError(f"not a readable picture: {reason}") from error


def picture_size(content: bytes) -> tuple[int, int]:
    """(width, height) as displayed, from the header alone.

    Raises:
        MediaError: there is no picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            sideways = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
            return picture.size[::-1] if sideways else picture.size
    except PICTURE_ERRORS as error:
        raise MediaError(f"not a readable picture: {error}") from error


def reason_of(error: BaseException) -> str:
    """One line for `rejected.jsonl`, without the path, which the line names by its key."""
    text = error.reason if isinstance(error, VideoReadError) else str(error)
    return " ".join(text.split()) or type(error).__name__


def errors_setting(errors: str) -> dict[str, str]:
    """What a plan says of truncated media: nothing with "skip", as plans of before.

    Raises:
        ValueError: neither "skip" nor "partial".
    """
    if errors not in ("skip", "partial"):
        raise ValueError(f'errors must be "skip" or "partial", not {errors!r}')
    return {"errors": errors} if errors == "partial" else {}


def segment_centers(frames: int, segments: int) -> list[int]:
    """The frame in the middle of each of `segments` equal parts; a frame again where there are fewer
    frames."""
    return [min(frames - 1, int((2 * s + 1) * frames / (2 * segments))) for s in range(segments)]


def read_frames(reader: VideoReader, frame_ids: list[int], shorter_side: int) -> list[np.ndarray]:
    """Chosen frames of an open video.

    Args:
        reader: the video.
        frame_ids: numbers of the frames, in any order.
        shorter_side: that it is brought to, in pixels.

    Returns:
        RGB uint8 (height, width, 3), one a number.
    """
    scale = shorter_side / min(reader.width, reader.height)
    width, height = max(1, round(reader.width * scale)), max(1, round(reader.height * scale))
    found = {f.frame_id: f.rgb(width, height) for f in reader.frames(sorted(set(frame_ids)))}
    return [found[i] for i in frame_ids]
