"""What a reference is painted with, so that what is predicted from it tells from where, and from which.

Chroma is a plane of complex numbers U + iV = slope * colour * (x + iy), in luma pixels, modulo the whole
range of a sample. The *colour* is one of three directions, 120 degrees apart. Luma is flat, its *level*. In a
picture predicted from paint the slope of the chroma tells the colour (of two averaged references: both, and
with which weights), the level tells which of the references of this colour, and the chroma's value where.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

# Three colours tell any two references apart whose motion is opposite, as those of a B picture are: two that
# average to a flat picture would look intra coded. Turned a little, no slope is a whole number of levels, so
# rounding is spread evenly.
COLOURS = np.exp(2j * np.pi * (np.arange(3) / 3 + 1 / 17))
PERIOD = 256  # levels of 8 bits: where chroma begins anew
SLOPE = 2.0  # levels a luma pixel
LEVELS = np.arange(44, 213, 8)  # residuals on both sides have room
WIDEST = 60.0  # levels: references further apart than this are told apart anyway


@dataclass(eq=False)
class Paint:
    """One painted reference.

    Attributes:
        number: of the picture, in the order of decoding.
        time: when it is shown, in frames.
        colour: of `COLOURS`.
        level: of its luma, in levels of 8 bits.
        velocity: (rows, columns) complex64, its own motion field, once it was read.
    """

    number: int
    time: float
    colour: int
    level: float
    velocity: np.ndarray | None = None


def choose_paint(number: int, time: float, others: list[Paint], compound: bool = True) -> Paint:
    """A colour other than those of the nearest references before and after, and the level that keeps all that
    can come out of a prediction (one reference, the mean of two) furthest apart.

    Args:
        number: of the picture to be painted.
        time: when it is shown, in frames.
        others: the references that it will be kept together with.
        compound: whether the codec averages two references.
    """
    past = sorted((paint for paint in others if paint.time < time), key=lambda paint: -paint.time)
    future = sorted((paint for paint in others if paint.time > time), key=lambda paint: paint.time)
    # Without one after it, the two before it: a mean of both would not tell them apart.
    near = past[:1] + future[:1] if future else past[:2]
    colours = [colour for colour in range(3) if colour not in {paint.colour for paint in near}]
    kept = tuple(sorted((paint.colour, paint.level) for paint in others))
    choices = [(*_clearest_level(colour, kept, compound), colour) for colour in colours or [number % 3]]
    _, level, colour = max(choices, key=lambda choice: choice[0])
    return Paint(number, time, colour, level)


@lru_cache(4096)  # groups of pictures are alike
def _clearest_level(colour: int, kept: tuple[tuple[int, float], ...], compound: bool) -> tuple[float, float]:
    """(how clear, level) of the level of a colour that is best told from the paints (colour, level) kept."""
    by_colour = [np.array([level for other, level in kept if other == one]) for one in range(3)]
    same = by_colour[colour]
    gap = np.abs(LEVELS[:, None] - same).min(1) if len(same) else np.full(len(LEVELS), 255.0)
    for other, levels in enumerate(by_colour):
        if compound and other != colour and len(levels) and len(same):
            means = (same[:, None] + levels).ravel() / 2
            new = (LEVELS[:, None] + levels) / 2
            gap = np.minimum(gap, 2 * np.abs(new[:, :, None] - means).min((1, 2)))
    score = np.minimum(gap, WIDEST) - np.abs(LEVELS - 128) / 64  # of equals the middle one
    place = int(score.argmax())
    return float(score[place]), float(LEVELS[place])


@dataclass
class PaintBrush:
    """Lays paint on pictures.

    Args:
        slope: of the chroma, in levels a luma pixel.
        negative: whether luma gets 256 less the level (of the second of two passes).
        keeps_luma: whether luma stays as it was decoded.
    """

    slope: float = SLOPE
    negative: bool = False
    keeps_luma: bool = False
    _ramps: dict[tuple, list[np.ndarray]] = field(default_factory=dict)

    def paint(
        self,
        planes: list[np.ndarray],
        paint: Paint,
        bits: int,
        step: tuple[float, float],
        start: tuple[float, float],
    ) -> None:
        """Overwrite a decoded picture, which is the decoder's reference.

        Args:
            planes: Y, U and V, which are written to.
            paint: what with.
            bits: of a sample.
            step: distance of neighbouring chroma samples across and down, in luma pixels of the stream's
                first picture (others may have another size).
            start: place of the first chroma sample there.
        """
        level = 256 - paint.level if self.negative else paint.level
        if not self.keeps_luma:
            planes[0][...] = round(level * 2 ** (bits - 8))
        key = (paint.colour, planes[1].shape, bits, step, start)
        if key not in self._ramps:
            if len(self._ramps) > 8:  # sizes of long ago
                self._ramps.clear()
            plane = ramp(planes[1].shape, step, start, paint.colour, self.slope) * 2 ** (bits - 8)
            limit = PERIOD << (bits - 8)
            self._ramps[key] = [
                (np.floor(part + 0.5) % limit).astype(planes[1].dtype) for part in (plane.real, plane.imag)
            ]
        for plane, values in zip(planes[1:3], self._ramps[key], strict=True):
            plane[...] = values


def ramp(
    shape: tuple[int, ...],
    step: tuple[float, float],
    start: tuple[float, float],
    colour: int,
    slope: float,
) -> np.ndarray:
    """The chroma of a paint before it is wrapped.

    Args:
        shape: of the plane.
        step: as in `PaintBrush.paint`.
        start: likewise.
        colour: of `COLOURS`.
        slope: in levels a luma pixel.

    Returns:
        (rows, columns) complex128, levels of 8 bits.
    """
    y, x = (np.arange(shape[axis]) * step[1 - axis] + start[1 - axis] for axis in (0, 1))
    return slope * COLOURS[colour] * (x + 1j * y[:, None])
