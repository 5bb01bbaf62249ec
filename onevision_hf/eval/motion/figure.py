"""The figure: accuracy over the motion families against the budget, with the spread over seeds as bands."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .summary import Results

LINES = {
    "codec": ("codec", "#1f5fa8"),
    "codec_published": ("codec, published", "#5aa0d8"),
    "codec_bits": ("codec, bits", "#2a9d8f"),
    "difference_all": ("difference of all frames", "#c2571a"),
    "difference_few": ("difference of few frames", "#e0a458"),
    "positions": ("positions only", "#8a3d8f"),
    "uniform": ("uniform frames", "#3a7d44"),
    "random": ("random patches", "#9aa0a6"),
}
CEILING, DENSE, CHANCE, INK, QUIET, FAINT = "#111111", "#7a1f1f", "#555555", "#1c2430", "#6a7485", "#e4e8ee"
SCALE = 2  # drawn larger and reduced, for smooth lines
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, KEY = 460, 380, 56, 48, 52, 210
VIEWS = (("all", "all clips"), ("moving", "clips with camera motion"))

Point = tuple[float, float]


def draw(results: Results, budgets: Sequence[float]) -> Image.Image:
    """Two panels, all clips and those with a moving camera, and a key."""
    budgets = sorted(budgets)
    group, families = next(iter(results.groups().items()))
    views = (
        VIEWS if any(results.seeds(n, b, families, "moving") for n in LINES for b in budgets) else VIEWS[:1]
    )
    size = ((LEFT + WIDTH) * len(views) + KEY, TOP + HEIGHT + BOTTOM)
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    pen = ImageDraw.Draw(picture, "RGBA")
    for number, (view, title) in enumerate(views):
        panel = _Panel(pen, (LEFT + WIDTH) * number + LEFT, budgets)
        panel.frame(f"{group} families, {title}" if group != "all" else "all clips")
        for name, (_, colour) in LINES.items():
            panel.line([results.seeds(name, b, families, view) for b in budgets], colour)
        ceilings = [results.ceiling(budget, families, view) for budget in budgets]
        panel.dashed([np.nan if c is None else c for c in ceilings], CEILING)
        panel.dashed([results.chance(families)] * len(budgets), CHANCE, 3)
        panel.dashed([_mean(results.seeds("dense", 1.0, families, view))] * len(budgets), DENSE, 9)
    _key(pen, (LEFT + WIDTH) * len(views) + 16, results, budgets, families)
    return picture.resize(size, Image.Resampling.LANCZOS)


class _Panel:
    """One pair of axes: budgets in doublings from left to right, accuracy 0 to 1 upwards."""

    def __init__(self, pen: Any, left: int, budgets: Sequence[float]):
        self.pen, self.left, self.budgets = pen, left, budgets

    def at(self, place: int, value: float) -> Point:
        inner, count = WIDTH - 72, len(self.budgets)
        x = self.left + 24 + (inner * place / (count - 1) if count > 1 else inner / 2)
        return x * SCALE, (TOP + HEIGHT * (1 - value)) * SCALE

    def frame(self, title: str) -> None:
        right = self.left + WIDTH - 24
        text(self.pen, (self.left, TOP - 34), title, INK, 15)
        for tenth in range(0, 11, 2):
            y = TOP + HEIGHT * (1 - tenth / 10)
            self.pen.line(_scaled([(self.left, y), (right, y)]), FAINT, SCALE)
            text(self.pen, (self.left - 32, y - 8), f"{tenth / 10:.1f}", QUIET)
        for place, budget in enumerate(self.budgets):
            x = self.at(place, 0)[0] / SCALE
            text(self.pen, (x - 18, TOP + HEIGHT + 8), f"{100 * budget:.3g} %", QUIET)
        text(
            self.pen,
            (self.left + WIDTH / 2 - 110, TOP + HEIGHT + 28),
            "patches kept, of all in a clip",
            QUIET,
        )

    def line(self, seeds: Sequence[Sequence[float]], colour: str) -> None:
        """A line through the means, over a band from the lowest to the highest seed."""
        known = [place for place, values in enumerate(seeds) if values]
        upper = [self.at(place, max(seeds[place])) for place in known]
        lower = [self.at(place, min(seeds[place])) for place in known]
        if len(known) > 1 and upper != lower:
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            self.pen.polygon([*upper, *reversed(lower)], fill=(red, green, blue, 50))
        means = [self.at(place, float(np.mean(seeds[place]))) for place in known]
        if len(means) > 1:
            self.pen.line(means, colour, 2 * SCALE, joint="curve")
        for x, y in means:
            r = 4 * SCALE
            self.pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)

    def dashed(self, values: Sequence[float], colour: str, dash: int = 6) -> None:
        points = [self.at(place, v) for place, v in enumerate(values) if not np.isnan(v)]
        if len(points) == 1:
            (x, y), reach = points[0], 60 * SCALE
            points = [(x - reach, y), (x + reach, y)]
        _dashes(self.pen, points, colour, dash)


def _dashes(pen: Any, points: Sequence[Point], colour: str, dash: int) -> None:
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = float(np.hypot(x1 - x0, y1 - y0))
        pieces = max(1, int(length / (2 * dash * SCALE)))
        for piece in range(pieces):
            a, b = piece / pieces, (piece + 0.5) / pieces
            pen.line(
                [x0 + (x1 - x0) * a, y0 + (y1 - y0) * a, x0 + (x1 - x0) * b, y0 + (y1 - y0) * b],
                colour,
                2 * SCALE,
            )


def _key(pen: Any, left: int, results: Results, budgets: Sequence[float], families: tuple[str, ...]) -> None:
    y = TOP
    for name, (title, colour) in LINES.items():
        if any(results.seeds(name, budget, families) for budget in budgets):
            pen.line(_scaled([(left, y + 8), (left + 22, y + 8)]), colour, 3 * SCALE)
            text(pen, (left + 30, y), title, INK)
            y += 24
    dashed = [("what uniform frames", CEILING, 6), ("chance", CHANCE, 3)]
    if results.seeds("dense", 1.0, families):
        dashed.append(("dense, every pixel", DENSE, 9))
    for title, colour, dash in dashed:
        _dashes(pen, _scaled([(left, y + 8), (left + 22, y + 8)]), colour, dash // 2)
        text(pen, (left + 30, y), title, INK)
        y += 24
        if colour == CEILING:
            text(pen, (left + 30, y - 6), "could tell at best", INK)
            y += 18


def text(pen: Any, at: Point, content: str, colour: str, size: int = 13) -> None:
    pen.text((at[0] * SCALE, at[1] * SCALE), content, colour, ImageFont.load_default(size * SCALE))


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
