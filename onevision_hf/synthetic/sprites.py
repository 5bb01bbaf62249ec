"""Shapes with a colour and a texture, painted at sixteenths of a pixel with soft borders, in whole numbers.

Coordinates are (x, y) in sixteenths of a pixel; the middle of the top left pixel is (0, 0).
"""

import itertools
from dataclasses import dataclass

import numpy as np

from .families import COLOURS
from .lettering import lettered

SUB = 16  # parts of a pixel
COVERED = 16  # of a pixel that is wholly inside
OPAQUE = 64
_INK, _PLATE = (250, 248, 240), (24, 26, 38)


@dataclass
class Sprite:
    """What is painted, and where it is in each of T frames.

    Attributes:
        colour, shape, texture: names; `shape` is "text" for a word on a plate.
        centres: (T, 2) int64, sixteenths of a pixel of the world, before the camera.
        radii: (T,) int64, sixteenths of a pixel.
        opacity: (T,) int64, 0 (absent) to 64.
        word: the letters of a text.
        wraps: leaves the picture on one side and comes back on the other.
    """

    colour: str
    shape: str
    texture: str
    centres: np.ndarray
    radii: np.ndarray
    opacity: np.ndarray
    word: str | None = None
    wraps: bool = False


def paint(
    frames: np.ndarray,
    owners: np.ndarray,
    number: int,
    sprite: Sprite,
    centres: np.ndarray,
    radii: np.ndarray,
) -> None:
    """Paint a sprite over `frames` (T, H, W, 3) int16 and write `number` into `owners` where it is on top.

    `centres` (T, 2) and `radii` (T,) are those on the screen. A pixel is the sprite's when at least half of
    it is covered.

    Args:
        frames: (T, H, W, 3) int16, painted over.
        owners: (T, H, W) uint8, see `Truth.owners`.
        number: of the sprite among the owners.
        sprite: what is painted.
        centres: (T, 2) on the screen, sixteenths of a pixel.
        radii: (T,) on the screen, sixteenths of a pixel.
    """
    states = np.column_stack([centres, radii, sprite.opacity])
    changes = np.flatnonzero((states[1:] != states[:-1]).any(axis=1)) + 1
    starts = [0, *changes.tolist(), len(states)]
    for start, end in itertools.pairwise(starts):
        x, y, radius, opacity = states[start].tolist()
        if opacity == 0:
            continue
        half_x, half_y = _half_sizes(sprite, radius)
        left, top = max(0, (x - half_x) // SUB), max(0, (y - half_y) // SUB)
        right = min(frames.shape[2], (x + half_x) // SUB + 2)
        bottom = min(frames.shape[1], (y + half_y) // SUB + 2)
        if left >= right or top >= bottom:
            continue
        dx = np.arange(left, right, dtype=np.int64)[None, :] * SUB - x
        dy = np.arange(top, bottom, dtype=np.int64)[:, None] * SUB - y
        coverage, colours = _texels(sprite, dx, dy, radius)
        weight = (coverage * opacity // COVERED).astype(np.int16)[..., None]  # 0..64
        under = frames[start:end, top:bottom, left:right]
        under += ((colours - under) * weight + 32) >> 6
        owned = owners[start:end, top:bottom, left:right]
        owned[:, coverage * 2 >= COVERED] = number


def _half_sizes(sprite: Sprite, radius: int) -> tuple[int, int]:
    if sprite.word is None:
        return radius + SUB, radius + SUB
    height, width = lettered(sprite.word, _letter_scale(radius)).shape
    return (width + 4) * SUB // 2 + SUB, (height + 4) * SUB // 2 + SUB


def _texels(sprite: Sprite, dx: np.ndarray, dy: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (h, w) 0..16 and colours (h, w, 3) int16 at offsets from the centre."""
    if sprite.word is not None:
        return _text(sprite.word, dx, dy, radius)
    coverage = np.clip(_depth(sprite.shape, dx, dy, radius) + SUB // 2, 0, COVERED)
    colour = np.array(COLOURS[sprite.colour], dtype=np.int16)
    dark = _pattern(sprite.texture, dx, dy, radius)[..., None]
    return coverage, np.where(dark, colour * 3 // 8, colour)


def _depth(shape: str, dx: np.ndarray, dy: np.ndarray, r: int) -> np.ndarray:
    """How far inside the shape an offset lies, in sixteenths of a pixel (negative: outside)."""
    ax, ay = np.abs(dx), np.abs(dy)
    if shape == "disc":
        # The square root of IEEE 754 is exactly rounded, so its floor is the same everywhere.
        return r - np.sqrt((dx * dx + dy * dy).astype(np.float64)).astype(np.int64)
    if shape == "square":
        return r * 7 // 8 - np.maximum(ax, ay)
    if shape == "triangle":  # the apex on top, the base as wide as twice the radius
        return np.minimum(r * 3 // 4 - dy, ((dy + r) * 4 - ax * 7) // 8)
    if shape == "cross":
        arm = r * 3 // 8
        return np.maximum(np.minimum(r - ax, arm - ay), np.minimum(arm - ax, r - ay))
    raise ValueError(f"no shape is called {shape!r}")


def _pattern(texture: str, dx: np.ndarray, dy: np.ndarray, r: int) -> np.ndarray:
    """(h, w) bool: the dark part of a texture, which moves and grows with its sprite."""
    cell = max(r * 3 // 7, 1)
    if texture == "plain":
        return np.zeros(np.broadcast_shapes(dx.shape, dy.shape), dtype=bool)
    column, row = (dx + cell // 2) // cell & 1, (dy + cell // 2) // cell & 1
    if texture == "striped":
        return np.broadcast_to(row == 1, np.broadcast_shapes(dx.shape, dy.shape))
    if texture == "checked":
        return column != row
    if texture == "dotted":
        x, y = (dx + cell) % (2 * cell) - cell, (dy + cell) % (2 * cell) - cell
        return x * x + y * y <= (cell * 5 // 8) ** 2
    raise ValueError(f"no texture is called {texture!r}")


def _text(word: str, dx: np.ndarray, dy: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright letters on a dark plate. Letters stand on whole pixels: a blurred dot is no letter."""
    dots = np.pad(lettered(word, _letter_scale(radius)), 2)
    height, width = dots.shape
    column, row = dx // SUB + width // 2, dy // SUB + height // 2
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    ink = dots[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    colours = np.where(ink[..., None], np.array(_INK, dtype=np.int16), np.array(_PLATE, dtype=np.int16))
    return inside * COVERED, colours


def _letter_scale(radius: int) -> int:
    """Pixels a dot: seven pixels of height for a radius of four to seven, and so on."""
    return max(1, radius // (4 * SUB))
