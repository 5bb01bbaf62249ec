"""The clip over time: at every sampled frame its panels, its signals, and where it lies among the packets."""

from collections.abc import Iterator

from PIL import Image, ImageDraw

from .clip_view import ClipView
from .painting import ACCENT, FAINT, INK, PAPER, draw_text, font_of, paste, shorten
from .timeline import TimeAxis, draw_packets, draw_sample_marks, draw_shares


def draw_moments(view: ClipView, panel_width: int = 480) -> Iterator[Image.Image]:
    """The panels at every sampled frame in turn: T pictures of one size, with even sides.

    Frame, uniform sampling, energy and kept patches in pairs, or of a portrait clip in one row; below them a
    row with a small panel for each signal that the clip gives; at the foot the packets of the stream and the
    share kept of each frame.
    """
    height, width = view.frames.shape[1:3]
    columns = 2 if width >= height else 4
    if columns == 2:
        panel_width = min(panel_width, round(0.9 * panel_width * width / height))
    scale = panel_width / 480
    # Over a narrow panel its name and its note have a line each.
    margin, gap, name_height = (2 * round(v * scale / 2) for v in (28, 16, 34 if columns == 2 else 62))
    head = 2 * round(33 * scale)
    panel_width = panel_width if columns == 2 else (2 * panel_width - 2 * gap) // 4
    tile = (2 * (panel_width // 2), 2 * round(panel_width * height / width / 2))
    inner = columns * tile[0] + (columns - 1) * gap
    # Five to a row, whatever the clip gives, so that pictures of different clips can be laid side by side.
    small_width = (inner - 4 * gap) // 5
    small = (small_width, round(small_width * height / width))
    small_name = round(26 * scale)
    signals_height = small[1] + small_name + gap if view.given else 0
    foot = 2 * round(27 * scale)
    panels_top = margin + head + margin
    signals_top = panels_top + 4 // columns * (tile[1] + name_height + gap)
    foot_top = signals_top + signals_height
    size = (inner + 2 * margin, 2 * ((foot_top + foot + margin + 1) // 2))
    figures = " · ".join(f"{value} {label}" for label, value in view.figures)
    while font_of(round(16 * scale)).getlength(figures) > size[0] - 2 * margin:
        figures = figures.rpartition(" · ")[0]

    ground = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(ground)
    draw_text(draw, (margin, margin), shorten(view.title, 34), round(26 * scale), INK, "la")
    draw_text(draw, (margin, margin + 36 * scale), figures, round(16 * scale), FAINT, "la")
    axis = TimeAxis(view, margin, size[0] - margin)
    shares = view.kept.sum(axis=(1, 2)) / view.energy[0].size
    strip = (foot_top, foot_top + foot)
    if view.packets is None:
        draw_shares(draw, axis, shares, *strip, range(len(shares)))
    else:
        draw_packets(draw, view, axis, *strip)
    for t in range(len(view.frames)):
        image = ground.copy()
        draw = ImageDraw.Draw(image)
        draw_text(
            draw, (size[0] - margin, margin + 4 * scale), view.caption(t), round(20 * scale), FAINT, "ra"
        )
        last = int(view.seen[view.seen <= t].max())
        age = view.timestamps[t] - view.timestamps[last]
        panels = [
            ("frame", f"{t + 1} of {len(view.frames)}", view.frames[t]),
            ("uniform", "seen now" if last == t else f"last seen {age:.2f} s ago", view.frames[last]),
            ("energy", "", view.heat(t)),
            ("kept", f"{view.kept[t].sum():,} of {view.kept[t].size:,} patches", view.dimmed(t)),
        ]
        for i, (name, note, panel) in enumerate(panels):
            x = margin + (i % columns) * (tile[0] + gap)
            y = panels_top + (i // columns) * (tile[1] + name_height + gap)
            draw_text(draw, (x, y + 3 * scale), name, round(20 * scale), INK, "la")
            if columns == 2:
                draw_text(draw, (x + tile[0], y + 5 * scale), note, round(17 * scale), FAINT, "ra")
            else:
                draw_text(draw, (x, y + 31 * scale), note, round(17 * scale), FAINT, "la")
            paste(image, panel, (x, y + name_height), tile)
        for place, name in enumerate(view.given):
            x = margin + place * (small[0] + gap)
            used = name in view.weights
            draw_text(draw, (x, signals_top), name, round(15 * scale), INK if used else FAINT, "la")
            if used and scale > 0.8:
                words = f"x {view.weights[name]:g}"
                draw_text(draw, (x + small[0], signals_top), words, round(15 * scale), ACCENT, "ra")
            paste(image, view.heat(t, name), (x, signals_top + small_name), small)
        now = axis.middle(t)
        draw.rectangle((now - 1, strip[0] - 4 * scale, now + 1, strip[1]), fill=INK)
        draw_sample_marks(draw, axis, strip[1] + 4 * scale, 12 * scale, (t,))
        yield image
