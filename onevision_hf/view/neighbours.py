"""A clip, the motion found in it, and the drawn clips most like it, as one picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .painting import ACCENT, FAINT, INK, PANEL, PAPER, RULE, draw_text, paste

TILE, GAP, MARGIN, LABEL, FRAMES = 132, 8, 24, 236, 5
# Clockwise from the right, as directions are named.
_TURNS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")


@dataclass(frozen=True)
class Row:
    """A clip of the picture.

    Attributes:
        frames: (T, H, W, 3) uint8; five of them are shown.
        title, lines: what is written beside them.
        directions: how much speaks for each direction, drawn as a compass; empty for none.
    """

    frames: np.ndarray
    title: str
    lines: Sequence[str]
    directions: Mapping[str, float]


def neighbours_sheet(rows: Sequence[Row], heading: str, note: str) -> Image.Image:
    """The first row is the clip in question, the others are its neighbours."""
    width = 2 * MARGIN + LABEL + FRAMES * (TILE + GAP) + TILE
    top, height = MARGIN + 42, TILE + 2 * GAP
    image = Image.new("RGB", (width, top + height * len(rows) + 34 + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    draw_text(draw, (MARGIN, MARGIN), heading, 20, INK, "la")
    for number, row in enumerate(rows):
        y = top + height * number + (14 if number else 0)
        if number == 1:
            draw.line((MARGIN, y - 10, width - MARGIN, y - 10), RULE, 1)
        draw_text(draw, (MARGIN, y), row.title, 16, ACCENT if number == 0 else INK, "la")
        for place, line in enumerate(row.lines):
            draw_text(draw, (MARGIN, y + 26 + 19 * place), line, 13, FAINT, "la")
        for place, t in enumerate(np.linspace(0, len(row.frames) - 1, FRAMES).round().astype(int)):
            paste(image, row.frames[t], (MARGIN + LABEL + place * (TILE + GAP), y), (TILE, TILE))
        if row.directions:
            _compass(draw, row.directions, (MARGIN + LABEL + FRAMES * (TILE + GAP), y))
    draw_text(draw, (MARGIN, image.height - MARGIN), note, 13, FAINT, "ls")
    return image


def _compass(draw: ImageDraw.ImageDraw, directions: Mapping[str, float], place: tuple[int, int]) -> None:
    """A petal for each direction, as long as what speaks for it; the longest is marked."""
    x, y, radius = place[0] + TILE / 2, place[1] + TILE / 2, TILE / 2 - 6
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), PANEL, RULE)
    best = max(directions, key=lambda name: directions[name])
    for name, score in directions.items():
        angle, length = _TURNS.index(name) * math.pi / 4, radius * min(1.0, max(0.04, score))
        tip = (x + length * math.cos(angle), y + length * math.sin(angle))
        sides = [
            (x + 0.5 * length * math.cos(angle + turn), y + 0.5 * length * math.sin(angle + turn))
            for turn in (-0.28, 0.28)
        ]
        draw.polygon(((x, y), sides[0], tip, sides[1]), ACCENT if name == best else FAINT)
