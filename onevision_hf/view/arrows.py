"""Motion vectors as arrows over the picture, beside it what the prediction left over."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from ..modeling.codec_signal_reader import FrameSignals
from ..modeling.decoded_frame import DecodedFrame, converted
from .painting import FAINT, INK, PAPER, colour_map, draw_text

BLOCK = 16  # pixels of the picture that have an arrow
SMALLEST_PANEL, LARGEST_PANEL = 480, 960  # pixels across
GAIN = 3  # an arrow is as long as the motion of so many frames
STILL = 0.25  # pixels: less than that is a dot
CAPTION = 34
RESIDUAL_LEVELS = 12.0  # mean grey levels that are drawn brightest
AGE_FRAMES = 8.0  # likewise frames to the reference
COLOURS = ("direction", "age")


def draw_arrows(
    frames: Iterable[DecodedFrame], signals: Iterable[FrameSignals], colour: str = "direction"
) -> Iterator[Image.Image]:
    """A picture for each frame that both have: arrows from where each block was to where it is, `GAIN` times
    as long, over the frame; beside it the residual.

    Args:
        frames: decoded, in the order of display.
        signals: of the same frames, in the same order; some may have no picture.
        colour: of the arrows, by their "direction", or by the "age" of the reference.

    Raises:
        ValueError: another colour.
    """
    if colour not in COLOURS:
        raise ValueError(f"arrows are coloured by {' or '.join(COLOURS)}, not {colour!r}")
    left = iter(signals)
    size: tuple[int, int] | None = None
    for frame in frames:
        found = next((one for one in left if one.frame_id == frame.frame_id), None)
        if found is None:
            return
        picture = _draw(frame, found, colour)
        size = size or picture.size
        yield picture if picture.size == size else picture.resize(size)


def _draw(frame: DecodedFrame, found: FrameSignals, colour: str) -> Image.Image:
    stored = converted(frame.av_frame, format="rgb24").to_ndarray()
    height, width = stored.shape[:2]
    scale = min(max(width, SMALLEST_PANEL), LARGEST_PANEL) / width
    size = round(width * scale), round(height * scale)
    # A little darker and greyer, so that arrows stand out.
    dim = 0.35 * stored + 0.4 * stored.mean(-1, keepdims=True)
    picture = Image.fromarray(dim.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    if found.vectors is not None:
        _draw_field(ImageDraw.Draw(picture), found, colour, scale)
    panels = [frame.turned(np.asarray(picture))]
    if found.residual is not None:
        panels.append(frame.turned(_residual_panel(found, size)))
    return _beside(panels, _caption(found, colour))


def _draw_field(draw: ImageDraw.ImageDraw, found: FrameSignals, colour: str, scale: float) -> None:
    assert found.vectors is not None
    motion = -_block_median(found.vectors)  # from where it was to here
    ages = None if found.age is None else _block_median(found.age[..., None])[..., 0]
    for row, column in np.argwhere(np.isfinite(motion[..., 0])):
        dx, dy = motion[row, column]
        x, y = scale * BLOCK * (column + 0.5), scale * BLOCK * (row + 0.5)
        speed = float(np.hypot(dx, dy))
        if colour == "age":
            age = 0.0 if ages is None else float(abs(ages[row, column]))
            red, green, blue = (int(c) for c in colour_map(np.array(0.35 + 0.65 * age / AGE_FRAMES)))
        else:
            red, green, blue = _direction_colour(dx, dy)
        if speed < STILL:
            draw.ellipse((x - 1, y - 1, x + 1, y + 1), FAINT)
            continue
        length = GAIN * scale
        start, head = (x - dx * length, y - dy * length), min(5.0 * scale, 0.5 * speed * length)
        ux, uy = dx / speed, dy / speed
        wings = [(x - head * (ux + side * uy), y - head * (uy - side * ux)) for side in (0.6, -0.6)]
        draw.line((*start, x, y), (red, green, blue), max(1, round(1.5 * scale)))
        draw.polygon([(x, y), *wings], (red, green, blue))


def _direction_colour(dx: float, dy: float) -> tuple[int, int, int]:
    """A hue a direction: right is red, up is green-yellow, left cyan, down violet."""
    hue = np.arctan2(-dy, dx) + np.deg2rad((0, 120, 240)) * -1
    red, green, blue = (int(c) for c in 150 + 105 * np.cos(hue))
    return red, green, blue


def _block_median(field: np.ndarray) -> np.ndarray:
    """(ceil(H/16), ceil(W/16), n) of (ceil(H/4), ceil(W/4), n); NaN where most of a block is."""
    rows, columns = (-(-side // 4) for side in field.shape[:2])
    whole = np.full((4 * rows, 4 * columns, field.shape[2]), np.nan, np.float32)
    whole[: field.shape[0], : field.shape[1]] = field
    blocks = whole.reshape(rows, 4, columns, 4, -1).swapaxes(1, 2).reshape(rows, columns, 16, -1)
    order = np.sort(blocks, 2)  # NaN last
    known = np.isfinite(blocks[..., 0]).sum(-1)
    middle = np.take_along_axis(order, np.maximum(known // 2 - (known % 2 == 0), 0)[..., None, None], 2)
    return np.where((known >= 8)[..., None], middle[:, :, 0], np.nan)


def _residual_panel(found: FrameSignals, size: tuple[int, int]) -> np.ndarray:
    assert found.residual is not None
    height, width = found.picture_size
    rows = np.minimum(16, height - np.arange(0, height, 16))
    columns = np.minimum(16, width - np.arange(0, width, 16))
    means = np.nan_to_num(found.residual) / (rows[:, None] * columns)
    pixels = colour_map(means / RESIDUAL_LEVELS).repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def _caption(found: FrameSignals, colour: str) -> str:
    words = [f"{found.time:.2f} s", found.picture_type, f"{found.packet_size:,} bytes"]
    if found.is_damaged:
        words.append("damaged")
    elif found.picture_type == "I":
        words.append("intra coded: no motion")
    elif found.vectors is not None:
        since = "last frame" if found.vector_unit == "frame" else "reference"
        words.append(f"{GAIN} x the motion since the {since}, coloured by {colour}")
    if found.residual is not None:
        words.append("beside it the residual")
    return "   ".join(words)


def _beside(panels: list[np.ndarray], caption: str) -> Image.Image:
    """Side by side, with even sides and a line of words."""
    edges = [0, *np.cumsum([panel.shape[1] for panel in panels]).tolist()]
    width, height = edges[-1], max(panel.shape[0] for panel in panels) + CAPTION
    picture = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    for (place, _), panel in zip(pairwise(edges), panels, strict=True):
        picture.paste(Image.fromarray(np.ascontiguousarray(panel)), (place, 0))
    draw_text(ImageDraw.Draw(picture), (10, height - CAPTION / 2), caption, 15, INK, "lm")
    return picture
