"""The brushes of the pictures: colours, text, panels."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, PANEL, RULE = (17, 19, 25), (30, 33, 42), (58, 63, 78)
INK, FAINT, ACCENT = (238, 239, 243), (150, 157, 174), (255, 183, 77)
# By picture type: intra, predicted from the past, from both sides, unknown.
TYPE_COLOURS = {"I": ACCENT, "P": (112, 166, 255), "B": (72, 198, 158), "?": FAINT}


@lru_cache
def _colour_table(size: int = 256) -> np.ndarray:
    """Dark violet to pale yellow, even steps of lightness in OKLab (Ottosson 2020), (size, 3) uint8."""
    at = np.linspace(0, 1, size)
    lightness, hue = 0.14 + 0.82 * at, np.deg2rad(280 + 178 * at)
    chroma = 0.045 + 0.15 * np.sin(np.pi * at) ** 0.9
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    to_lms = np.array(
        [[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.2914855480]]
    )
    lms = (lightness + to_lms @ np.stack([a, b])) ** 3
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_rgb @ lms, 0, 1).T
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


def colour_map(values: np.ndarray) -> np.ndarray:
    """Colours for values in 0..1 (clipped): uint8 RGB in a new last axis, lighter for more."""
    table = _colour_table()
    return table[np.round(np.clip(values, 0, 1) * (len(table) - 1)).astype(int)]


def paste(image: Image.Image, panel: np.ndarray, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Paste pixels, resized.

    Args:
        image: what is drawn into.
        panel: (H, W, 3) uint8.
        place: left and top in pixels.
        size: width and height in pixels.
    """
    picture = Image.fromarray(np.ascontiguousarray(panel))
    image.paste(picture.resize(size, Image.Resampling.LANCZOS), place)


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(size, 11))


def draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], words: str, size: int, fill: tuple, anchor: str
) -> None:
    """Write a line.

    Args:
        draw: what is drawn into.
        place: x and y in pixels of the anchor.
        words: the line.
        size: of the font in pixels.
        fill: the colour.
        anchor: what of the line lies at the place, as in Pillow.
    """
    draw.text(place, words, fill=fill, font=font_of(size), anchor=anchor)


def shorten(words: str, limit: int) -> str:
    """Long file names lose their middle."""
    half = (limit - 3) // 2
    return words if len(words) <= limit else f"{words[:half]}...{words[-half:]}"


def count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
