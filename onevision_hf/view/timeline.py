"""Strips along the time axis: the packets of the stream, which frames were sampled, what was kept of each."""

from collections.abc import Collection

import numpy as np
from PIL import ImageDraw

from .clip_view import ClipView
from .painting import ACCENT, FAINT, INK, PANEL, TYPE_COLOURS, draw_text

Box = tuple[float, float, float, float]  # left, top, right, bottom


class TimeAxis:
    """Where moments lie between two edges of a picture, in pixels; equal steps where there are no times.

    The stream's packets make the axis, or, where there are none, the sampled frames.
    """

    def __init__(self, view: ClipView, left: float, right: float):
        self.left, self.right = left, right
        times = view.timestamps if view.packets is None else view.packets.timestamps
        times = np.asarray(times, np.float64)
        if not np.isfinite(times).all():
            times = np.arange(len(times), dtype=np.float64)
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        self.start, self.end = float(times[0]), float(times[-1]) + (step or 1.0)
        edges = np.append(times, self.end)
        self.edges = left + (right - left) * (edges - self.start) / (self.end - self.start)
        self.sampled = np.arange(len(times)) if view.packets is None else np.asarray(view.packets.frame_ids)

    def span(self, frame: int) -> tuple[float, float]:
        """Left and right of a frame of the stream."""
        return float(self.edges[frame]), float(self.edges[frame + 1])

    def middle(self, t: int) -> float:
        """The middle of sampled frame `t`."""
        return sum(self.span(int(self.sampled[t]))) / 2

    def until(self, t: int) -> tuple[float, float]:
        """From sampled frame `t` to the next one."""
        after = self.sampled[t + 1] if t + 1 < len(self.sampled) else len(self.edges) - 1
        return float(self.edges[self.sampled[t]]), float(self.edges[after])


def draw_packets(
    draw: ImageDraw.ImageDraw, view: ClipView, axis: TimeAxis, top: float, bottom: float
) -> None:
    """A bar a packet in the colour of its picture type. Heights are square roots: a keyframe may be a hundred
    times as large as its neighbours.

    Args:
        draw: what is drawn into.
        view: with packets.
        axis: where each frame lies.
        top: of the bars, pixels.
        bottom: of the bars, pixels.
    """
    packets = view.packets
    assert packets is not None
    draw.rectangle((axis.left, top, axis.right, bottom), PANEL)
    share = np.sqrt(packets.sizes / max(1, packets.sizes.max()))
    # The small over the large: where bars share a pixel column all stay visible.
    for frame in np.argsort(-share, kind="stable"):
        start, end = axis.span(int(frame))
        end = end - 1 - (end - start >= 5)
        height = max(1.0, (bottom - top) * float(share[frame]))
        colour = TYPE_COLOURS[packets.picture_types[frame]]
        draw.rectangle((start, bottom - height, max(start, end), bottom), colour)


def draw_sample_marks(
    draw: ImageDraw.ImageDraw, axis: TimeAxis, top: float, size: float, chosen: Collection[int]
) -> None:
    """A triangle under each sampled frame.

    Args:
        draw: what is drawn into.
        axis: where each frame lies.
        top: of the triangles, pixels.
        size: of a large triangle, pixels.
        chosen: sampled frames whose triangles are bright and large.
    """
    for t in sorted(range(len(axis.sampled)), key=lambda t: t in chosen):
        x, scale = axis.middle(t), 1.0 if t in chosen else 0.6
        half, height = size * scale / 2, size * scale
        points = [(x, top), (x - half, top + height), (x + half, top + height)]
        draw.polygon(points, INK if t in chosen else FAINT)


def draw_shares(
    draw: ImageDraw.ImageDraw,
    axis: TimeAxis,
    values: np.ndarray,
    top: float,
    bottom: float,
    bright: Collection[int],
) -> None:
    """A bar a sampled frame, as high as its value.

    Args:
        draw: what is drawn into.
        axis: where each frame lies.
        values: (T,) in 0..1.
        top: of the bars, pixels.
        bottom: of the bars, pixels.
        bright: sampled frames whose bars are bright.
    """
    draw.rectangle((axis.left, top, axis.right, bottom), PANEL)
    dark = tuple(round(0.55 * c) for c in ACCENT)
    for t, value in enumerate(values):
        if value <= 0:
            continue
        start, end = axis.until(t)
        height = max(2.0, (bottom - top) * float(value))
        end = max(start, end - max(1.0, min(4.0, (end - start) / 4)))
        draw.rectangle((start, bottom - height, end, bottom), ACCENT if t in bright else dark)


def draw_times(draw: ImageDraw.ImageDraw, axis: TimeAxis, top: float, size: int) -> None:
    """Seconds under the axis, at round numbers.

    Args:
        draw: what is drawn into.
        axis: where each frame lies.
        top: of the digits, pixels.
        size: of the font in pixels.
    """
    length = axis.end - axis.start
    step = next(s for e in range(-3, 7) for s in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if length / s <= 9)
    digits = max(0, -int(np.floor(np.log10(step))))
    for second in np.arange(0, length, step):
        x = axis.left + (axis.right - axis.left) * second / length
        if axis.right - x > 3 * size or second == 0:
            draw_text(draw, (x, top), f"{second:.{digits}f} s", size, FAINT, "la")
