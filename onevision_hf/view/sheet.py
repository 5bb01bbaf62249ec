"""One picture of a clip: the time axis, and a column for each moment: frame, signals, energy and patches."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .clip_view import ClipView
from .painting import (
    ACCENT,
    FAINT,
    INK,
    PAPER,
    RULE,
    TYPE_COLOURS,
    count_of,
    draw_text,
    font_of,
    paste,
    shorten,
)
from .timeline import TimeAxis, draw_packets, draw_sample_marks, draw_shares, draw_times

SHEET_WIDTH, MARGIN, GAP, LABELS = 2000, 56, 12, 222
HEADER, PACKET_HEIGHT, SHARE_HEIGHT = 222, 84, 26
NOTES = {
    "vectors": ("how far it moves,", "camera taken off"),
    "age": ("frames to what it was", "predicted from"),
    "residual": ("what prediction left", "over, exactly"),
    "compensated": ("against the picture", "before, moved"),
    "difference": ("against the picture", "before, as it is"),
    "bits": ("what each block cost", "(estimate)"),
}


def draw_sheet(view: ClipView) -> Image.Image:
    """The sheet: header, packets and samples along the time axis, then the rows of panels."""
    height, width = view.frames.shape[1:3]
    room = SHEET_WIDTH - 2 * MARGIN - LABELS
    tile_width = min((room - 5 * GAP) // 6, round(236 * width / height))
    tile = (tile_width, round(tile_width * height / width))
    columns = (room + GAP) // (tile_width + GAP)
    # Whole width, whatever the shape of the frames.
    gap = (room - columns * tile_width) / max(1, columns - 1)
    moments = _moments(view, columns)
    left = MARGIN + LABELS
    rows = ["frames", *view.given, "energy", "kept"]
    axis = TimeAxis(view, left, SHEET_WIDTH - MARGIN)
    axis_height = 2 * SHARE_HEIGHT + GAP + (PACKET_HEIGHT + 60 if view.packets else 0)
    total = HEADER + axis_height + 62 + len(rows) * (tile[1] + GAP) + 32 * len(view.missing) + MARGIN - GAP
    image = Image.new("RGB", (SHEET_WIDTH, total), PAPER)
    draw = ImageDraw.Draw(image)
    _draw_header(draw, view, SHEET_WIDTH)
    centres = [left + column * (tile_width + gap) + tile_width / 2 for column in range(len(moments))]
    top = _draw_axis(draw, view, axis, HEADER, moments)
    for t, centre in zip(moments, centres, strict=True):
        draw.line((axis.middle(t), top + 2, centre, top + 34), RULE, 2)
        draw_text(draw, (centre, top + 48), view.caption(t), 20, FAINT, "mm")
    top += 62
    for name in rows:
        _draw_label(draw, view, name, moments, top)
        for t, centre in zip(moments, centres, strict=True):
            place = (round(centre - tile_width / 2), top)
            paste(image, _panel(view, name, t), place, tile)
            lines = _words(view, name, t)
            for line, words in enumerate(lines):
                y = top + tile[1] / 2 + 24 * (line - (len(lines) - 1) / 2)
                draw_text(draw, (place[0] + tile[0] / 2, y), words, 18, INK, "mm")
        top += tile[1] + GAP
    for name, reason in view.missing.items():
        draw_text(draw, (MARGIN, top + 2), name, 22, FAINT, "la")
        draw_text(draw, (left, top + 5), reason, 18, FAINT, "la")
        top += 32
    return image


def _panel(view: ClipView, name: str, t: int) -> np.ndarray:
    if name == "frames":
        return view.frames[t]
    return view.dimmed(t) if name == "kept" else view.heat(t, name)


def _words(view: ClipView, name: str, t: int) -> tuple[str, ...]:
    """What stands on a panel that would be black, in lines."""
    if name == "energy" and view.kept[t].all() and not view.energy[t].any():
        return "anchor:", "kept whole"
    if name in view.given and not view.given[name][t].any():
        if name == "difference" and t == 0:
            return "nothing", "before it"
        return (
            ("intra: none",)
            if view.picture_types and view.picture_types[t] == "I"
            else ("zero", "everywhere")
        )
    return ()


def _draw_label(
    draw: ImageDraw.ImageDraw, view: ClipView, name: str, moments: Sequence[int], top: int
) -> None:
    kept, total = len(view.positions), view.energy.size
    notes: Sequence[str]
    if name == "frames":
        notes = (f"{len(moments)} of the {len(view.frames)}", "that were sampled")
    elif name == "energy":
        notes = (" + ".join(_term(view, name) for name in view.weights) or "how much happens",)
    elif name == "kept":
        notes = (f"{kept:,} of {total:,}", f"patches, {100 * kept / total:.1f} %")
    else:
        notes = NOTES.get(name, ())
    used = name in view.weights
    draw_text(draw, (MARGIN, top + 2), name, 30, INK if used or name not in view.given else FAINT, "la")
    place = top + 44
    for note in notes:
        size = 18 if font_of(18).getlength(note) < LABELS - 12 else 15
        draw_text(draw, (MARGIN, place), note, size, FAINT, "la")
        place += 25
    if name in view.given and view.weights:
        words = f"weight {view.weights[name]:g} in the energy" if used else "not in the energy"
        draw_text(draw, (MARGIN, place), words, 16, ACCENT if used else FAINT, "la")


def _term(view: ClipView, name: str) -> str:
    weight = view.weights[name]
    return name if weight == 1 else f"{weight:g} {name}"


def _draw_axis(
    draw: ImageDraw.ImageDraw, view: ClipView, axis: TimeAxis, top: int, moments: Sequence[int]
) -> int:
    """Packets, samples, uniform sampling and shares along the time axis. Returns the end."""
    label = axis.left - 20
    if view.packets is not None:
        draw_text(draw, (MARGIN, top), "packets", 30, INK, "la")
        sizes = view.packets.sizes
        draw_text(draw, (MARGIN, top + 42), f"{sizes.min():,} to {sizes.max():,} bytes,", 16, FAINT, "la")
        draw_text(draw, (MARGIN, top + 64), "heights: square roots", 16, FAINT, "la")
        x = float(MARGIN)
        for kind, colour in TYPE_COLOURS.items():
            count = sum(found == kind for found in view.packets.picture_types)
            if count:
                draw.rectangle((x, top + 95, x + 9, top + 104), colour)
                draw_text(draw, (x + 15, top + 100), f"{kind} {count:,}", 16, INK, "lm")
                x += 27 + font_of(16).getlength(f"{kind} {count:,}")
        draw_packets(draw, view, axis, top, top + PACKET_HEIGHT)
        draw_sample_marks(draw, axis, top + PACKET_HEIGHT + 4, 16, moments)
        draw_times(draw, axis, top + PACKET_HEIGHT + 24, 16)
        top += PACKET_HEIGHT + 60
    uniform = np.isin(np.arange(len(view.frames)), view.seen).astype(float)
    whole = f"uniform: {count_of(len(view.seen), 'whole frame')}"
    shares = view.kept.sum(axis=(1, 2)) / view.energy[0].size
    for words, values in ((whole, uniform), ("share kept of each", shares)):
        draw_text(draw, (label, top + SHARE_HEIGHT / 2), words, 17, FAINT, "rm")
        draw_shares(draw, axis, values, top, top + SHARE_HEIGHT, moments)
        top += SHARE_HEIGHT + GAP
    return top - GAP


def _moments(view: ClipView, columns: int) -> list[int]:
    """Which sampled frames get a column: first to last, evenly.

    As many columns as uniform sampling has frames would show those and no others, as if it missed nothing.
    """
    frames = len(view.frames)
    if columns == len(view.seen) < frames:
        columns -= 1
    return sorted(set(np.floor(np.linspace(0, frames - 1, min(columns, frames))).astype(int).tolist()))


def _draw_header(draw: ImageDraw.ImageDraw, view: ClipView, width: int) -> None:
    draw_text(draw, (MARGIN, MARGIN - 8), shorten(view.title, 44), 44, INK, "la")
    for line, words in enumerate(view.subtitle.split("\n")[:2]):
        draw_text(draw, (width - MARGIN, MARGIN - 6 + 32 * line), shorten(words, 100), 22, FAINT, "ra")
    widths = [
        max(font_of(32).getlength(value), font_of(19).getlength(label)) for label, value in view.figures
    ]
    spare = (width - 2 * MARGIN - sum(widths)) / max(len(widths), 1)
    x = float(MARGIN)
    for index, (label, value) in enumerate(view.figures):
        draw.line((x, 130, x, 196), RULE if index else ACCENT, 3)
        draw_text(draw, (x + 18, 126), value, 32, INK, "la")
        draw_text(draw, (x + 18, 172), label, 19, FAINT, "la")
        x += widths[index] + spare
