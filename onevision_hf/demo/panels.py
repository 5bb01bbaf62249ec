"""What the page shows of a clip, as HTML: the panels that move, the packets along the time axis, the figures.

The three panels are one video, one below the other, so that they cannot drift apart; player.js cuts it into
three canvases and moves the playhead.
"""

import base64
import html
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..jobs.pages import render
from ..synthetic import EncodingSettings, encode
from ..view.clip_view import ClipView
from ..view.painting import TYPE_COLOURS
from ..view.timeline import TimeAxis
from .opened_clip import Kept, spread

HERE = Path(__file__).parent
Bar = tuple[float, float, float, float]  # x, y, width, height
WIDTH, BARS, STRIP, GAP = 1000, 90, 24, 6  # of the time axis, in units of its own
PANELS = (
    ("what is kept", "dropped patches are dimmed"),
    ("energy", "brighter: more happens"),
    ("whole frames instead", "as many as the budget pays for"),
)
KINDS = {"I": "I, coded alone", "P": "P, from the past", "B": "B, from both sides", "?": "unknown"}


def empty() -> str:
    """Before there is a clip."""
    return '<div class="ov-hint">Drop a clip, or take one of the examples.</div>'


def failure(message: str) -> str:
    """In the place of a clip that cannot be shown."""
    return f'<div class="ov-error" role="alert">{html.escape(message)}</div>'


def show(kept: Kept) -> str:
    """The panels, the time axis and the figures."""
    view, axis = kept.view, TimeAxis(kept.view, 0, WIDTH)
    assert view.packets is not None
    content, pace = video(view)
    height, width = (2 * (side // 2) for side in view.frames.shape[1:3])
    middles = [axis.middle(t) for t in range(len(view.frames))]
    strips = list(_strips(view, axis))
    return render(
        HERE / "clip.html",
        pace=pace,
        moments=json.dumps([round(x, 1) for x in middles]),
        captions=json.dumps([view.caption(t) for t in range(len(view.frames))]),
        panels=PANELS,
        shape="portrait" if height > width else "landscape",
        width=width,
        height=height,
        video=base64.b64encode(content).decode(),
        kinds=KINDS,
        types=list(view.packets.picture_types),
        colours=TYPE_COLOURS,
        axis={"width": WIDTH, "bars": BARS, "strip": STRIP, "height": strips[-1][1] + STRIP + GAP},
        packets=_bars(view, axis),
        middles=middles,
        strips=strips,
        title=view.title,
        report=kept.clip.report,
        signal=kept.selection.signal,
        figures=_figures(kept),
    )


def video(view: ClipView) -> tuple[bytes, float]:
    """The panels over time as one mp4, below one another, and seconds a frame."""
    pace = float(np.median(np.diff(view.timestamps))) if len(view.timestamps) > 1 else 0.125
    rate = int(np.clip(round(1 / max(pace, 1e-3)), 4, 30))
    height, width = (2 * (side // 2) for side in view.frames.shape[1:3])
    pictures = np.empty((len(view.frames), len(PANELS) * height, width, 3), np.uint8)
    last = 0
    for t in range(len(view.frames)):
        last = t if t in view.seen else last
        for place, panel in enumerate((view.dimmed(t), view.heat(t), view.frames[last])):
            pictures[t, place * height : (place + 1) * height] = panel[:height, :width]
    return encode(pictures, EncodingSettings(fps=rate, gop=16, quality=24)), 1 / rate


def _strips(view: ClipView, axis: TimeAxis) -> Iterator[tuple[str, int, list[Bar]]]:
    """What is kept of each sampled frame and which are shown whole: name, place from above, bars."""
    uniform = np.isin(np.arange(len(view.frames)), view.seen).astype(float)
    top = BARS + 14
    for name, values in (("kept", np.sqrt(view.kept.mean(axis=(1, 2)))), ("uniform", uniform)):
        marks = []
        for t in np.flatnonzero(values > 0):
            start, end = axis.until(int(t))
            tall = max(1.0, STRIP * float(values[t]))
            marks.append((start, top + STRIP - tall, max(1.0, 0.85 * (end - start)), tall))
        yield name, top, marks
        top += STRIP + GAP


def _bars(view: ClipView, axis: TimeAxis) -> Iterator[tuple[str, float, float, float, float]]:
    """Packets as bars: the type of each picture, x, y, width, height."""
    packets = view.packets
    assert packets is not None
    share = np.sqrt(packets.sizes / max(1, packets.sizes.max()))
    # Of a long stream a bar for every fifth of a unit, the largest packet in it: nobody sees more.
    seen: set[int] = set()
    for frame in np.argsort(-share, kind="stable"):
        start, end = axis.span(int(frame))
        place = int(5 * start)
        if place in seen:
            continue
        seen.add(place)
        tall = max(1.0, BARS * float(share[frame]))
        kind = packets.picture_types[frame]
        yield kind, start, BARS - tall, max(0.6, 0.85 * (end - start)), tall


def _figures(kept: Kept) -> list[tuple[str, str, str]]:
    """The budget against whole frames at the same budget."""
    view, clip, selection = kept.view, kept.clip, kept.selection
    per_frame = selection.geometry.patches_per_frame
    seen = tuple(view.seen.tolist())
    total = selection.energy.size
    codec_seconds = clip.seconds["signals"] + clip.seconds["frames"]
    touched = int(view.kept.any(axis=(1, 2)).sum())
    return [
        (
            "tokens",
            f"{len(selection):,} of {total:,} ({100 * len(selection) / total:.1f} %)",
            f"{len(seen) * per_frame:,}",
        ),
        ("frames of which something is seen", f"{touched} of {len(view.frames)}", f"{len(seen)}"),
        (
            "longest time unseen",
            f"{spread(view.timestamps[view.kept.any(axis=(1, 2))]):.2f} s",
            f"{spread(view.timestamps[list(seen)]):.2f} s",
        ),
        (
            "share of what happens (energy)",
            f"{100 * kept.energy_kept:.0f} %",
            f"{100 * kept.energy_seen:.0f} %",
        ),
        ("seconds to read", f"{codec_seconds:.2f} s", f"{clip.seconds_for(seen):.2f} s"),
    ]


def directions(probabilities: dict[str, float], truth: str) -> str:
    """What the linear head on onevision-tiny predicts for the drawn clip, right or wrong.

    Args:
        probabilities: of each direction.
        truth: the direction that the clip was drawn with.
    """
    predicted = max(probabilities, key=lambda name: probabilities[name])
    return render(HERE / "directions.html", probabilities=probabilities, truth=truth, predicted=predicted)
