"""What the page shows of a clip, as HTML: the panels that move, the packets along the time axis, the figures.

The three panels are one video, one below the other, so that they cannot drift apart; player.js cuts it into
three canvases and moves the playhead.
"""

import base64
import html
import json
from collections.abc import Iterator

import numpy as np

from ..synthetic import EncodingSettings, encode
from ..view.clip_view import ClipView
from ..view.painting import TYPE_COLOURS
from ..view.timeline import TimeAxis
from .opened_clip import Kept, spread

WIDTH, BARS, STRIP, GAP = 1000, 90, 24, 6  # of the time axis, in units of its own
PANELS = (
    ("kept", "what is kept", "dropped patches are dimmed"),
    ("energy", "energy", "brighter: more happens"),
    ("uniform", "whole frames instead", "as many as the same budget pays for"),
)
KINDS = {"I": "I, coded alone", "P": "P, from the past", "B": "B, from both sides", "?": "unknown"}


def empty() -> str:
    """Before there is a clip."""
    return '<div class="ov-hint">Drop a clip on the left, or take one of the examples.</div>'


def failure(message: str) -> str:
    """In the place of a clip that cannot be shown."""
    return f'<div class="ov-error" role="alert">{html.escape(message)}</div>'


def show(kept: Kept) -> str:
    """The panels, the time axis and the figures."""
    return f'<div class="ov-clip">{_panels(kept)}{_axis(kept.view)}{_figures(kept)}</div>'


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


def _panels(kept: Kept) -> str:
    view = kept.view
    content, pace = video(view)
    height, width = (2 * (side // 2) for side in view.frames.shape[1:3])
    axis = TimeAxis(view, 0, WIDTH)
    moments = [round(axis.middle(t), 1) for t in range(len(view.frames))]
    figures = "".join(
        f"<figure><figcaption><b>{title}</b> <span>{note}</span></figcaption>"
        f'<canvas data-panel="{place}" width="{width}" height="{height}" role="img" aria-label="{title}">'
        "</canvas></figure>"
        for place, (_, title, note) in enumerate(PANELS)
    )
    source = "data:video/mp4;base64," + base64.b64encode(content).decode()
    captions = [view.caption(t) for t in range(len(view.frames))]
    return (
        f'<div class="ov-panels" data-pace="{pace}" data-moments="{json.dumps(moments)}"'
        f' data-captions="{html.escape(json.dumps(captions))}">{figures}'
        f'<video muted loop playsinline src="{source}"></video></div>'
        '<div class="ov-controls"><button type="button" class="ov-play">pause</button>'
        '<span class="ov-now"></span></div>'
    )


def _axis(view: ClipView) -> str:
    """Packets as bars in the colour of their picture type, triangles at the sampled ones, shares below."""
    axis = TimeAxis(view, 0, WIDTH)
    height = BARS + 14 + 2 * (STRIP + GAP)
    parts = [f'<rect class="ov-ground" x="0" y="0" width="{WIDTH}" height="{BARS}"/>']
    parts += _bars(view, axis)
    for t in range(len(view.frames)):
        x = axis.middle(t)
        parts.append(f'<path class="ov-mark" d="M{x:.1f} {BARS + 2}l4 8h-8z"/>')
    top = BARS + 14
    shares = np.sqrt(view.kept.mean(axis=(1, 2)))
    uniform = np.isin(np.arange(len(view.frames)), view.seen).astype(float)
    for name, values in (("kept", shares), ("uniform", uniform)):
        parts.append(f'<rect class="ov-ground" x="0" y="{top}" width="{WIDTH}" height="{STRIP}"/>')
        for t, value in enumerate(values):
            if value > 0:
                start, end = axis.until(t)
                tall = max(1.0, STRIP * float(value))
                parts.append(
                    f'<rect class="ov-{name}" x="{start:.1f}" y="{top + STRIP - tall:.1f}"'
                    f' width="{max(1.0, 0.85 * (end - start)):.1f}" height="{tall:.1f}"/>'
                )
        top += STRIP + GAP
    parts.append(f'<line class="ov-playhead" x1="0" x2="0" y1="0" y2="{height}"/>')
    return (
        f'<div class="ov-axis"><div class="ov-legend">{_legend(view)}</div>'
        f'<svg viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" role="img"'
        ' aria-label="packets of the stream along time">' + "".join(parts) + "</svg>"
        '<div class="ov-legend"><span>packets, triangles: sampled; below: what is kept (square roots)</span>'
        '<span><i class="ov-kept"></i>share of each frame</span>'
        '<span><i class="ov-uniform"></i>whole frames instead</span></div></div>'
    )


def _bars(view: ClipView, axis: TimeAxis) -> Iterator[str]:
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
        colour = f"rgb{TYPE_COLOURS[packets.picture_types[frame]]}".replace(" ", "")
        yield (
            f'<rect fill="{colour}" x="{start:.1f}" y="{BARS - tall:.1f}"'
            f' width="{max(0.6, 0.85 * (end - start)):.1f}" height="{tall:.1f}"/>'
        )


def _legend(view: ClipView) -> str:
    assert view.packets is not None
    types = list(view.packets.picture_types)
    return "".join(
        f'<span data-kind="{kind}"><i style="background:rgb{TYPE_COLOURS[kind]}"></i>'
        f"{words}: {types.count(kind):,}</span>"
        for kind, words in KINDS.items()
        if kind in types
    )


def _figures(kept: Kept) -> str:
    """The budget against whole frames at the same budget."""
    view, clip, selection = kept.view, kept.clip, kept.selection
    per_frame = selection.geometry.patches_per_frame
    seen = tuple(view.seen.tolist())
    total = selection.energy.size
    codec_seconds = clip.seconds["signals"] + clip.seconds["frames"]
    touched = int(view.kept.any(axis=(1, 2)).sum())
    rows = [
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
    body = "".join(f"<tr><th>{name}</th><td>{ours}</td><td>{theirs}</td></tr>" for name, ours, theirs in rows)
    report = clip.report
    return (
        f'<p class="ov-clip-line">{html.escape(view.title)} · {report["width"]} x {report["height"]} · '
        f"{report['duration']:.1f} s · {html.escape(str(report['codec']))} · energy: "
        f'<b class="ov-signal">{html.escape(selection.signal)}</b></p>'
        '<table class="ov-figures"><thead><tr><th></th><td>codec patches</td><td>whole frames</td></tr>'
        "</thead>"
        f"<tbody>{body}</tbody></table>"
    )


def directions(probabilities: dict[str, float], truth: str) -> str:
    """What the linear head on onevision-tiny predicts for the drawn clip, right or wrong.

    Args:
        probabilities: of each direction.
        truth: the direction that the clip was drawn with.
    """
    predicted = max(probabilities, key=lambda name: probabilities[name])
    verdict = "right" if predicted == truth else "wrong"
    rows = "".join(
        f"<tr><th>{name}</th><td>{100 * probability:.1f} %</td>"
        f"<td>{'the truth' if name == truth else ''}</td></tr>"
        for name, probability in sorted(probabilities.items(), key=lambda pair: -pair[1])
    )
    return (
        '<p class="ov-clip-line">Which way does the shape of this drawn clip move? A linear head on '
        f"onevision-tiny predicts <b>{predicted}</b>, which is {verdict}.</p>"
        f'<table class="ov-figures"><tbody>{rows}</tbody></table>'
    )
