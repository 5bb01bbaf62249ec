"""From a picture that was predicted from paint to its motion field and its residual.

Everything is found on cells of 8 x 8 luma pixels. A cell's chroma has a slope, which tells the paint's
colour, and a value, which tells where it comes from; its luma tells the level, and what is left of that is
the residual (see `reference_paint`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .painted_cells import (
    CELL,
    chroma_cells,
    chroma_slopes,
    mean_of_twice,
    mean_residual,
    median_luma,
)
from .prediction_table import Brushes, Prediction, PredictionTable
from .reference_paint import SLOPE

# Squared slopes, in slopes of a paint, of a cell that is intra coded.
FLAT = 0.1
SPREAD = 8.0  # levels by which a cell's chroma may be off its slope on average
FASTEST = 24.0  # pixels a frame that are taken for sure where the period allows them
MOST_COUNTED = 8192  # cells that tell the usual velocities
ASTRAY = 1.5  # pixels a frame off the most usual velocity
WIDE = 8.0  # pixels a frame between possible velocities
MOST_USUAL = 6  # velocities that are tried where several are possible


@dataclass(frozen=True, eq=False)
class MotionField:
    """What one picture says, on cells of 8 x 8 luma pixels.

    Attributes:
        velocity: (rows, columns) complex64, x + iy: pixels a frame from a cell to where it was; NaN where it
            is intra coded or not known.
        residual: (rows, columns) float32, mean absolute luma residual in grey levels of 8 bits. Where nothing
            is known of a cell: of what is off its median.
        age: (rows, columns) float32, frames to the reference, of two their mean; NaN like `velocity`.
        is_intra: (rows, columns) bool, cells without any paint.
        noise: by how many levels the chroma of three quarters of the other cells is off at most.
    """

    velocity: np.ndarray
    residual: np.ndarray
    age: np.ndarray
    is_intra: np.ndarray
    noise: float

    def cut(self, height: int, width: int) -> "MotionField":
        """The same of a picture of `height` x `width` pixels, whose coded size is larger."""
        here = np.s_[: -(-height // CELL), : -(-width // CELL)]
        return replace(
            self,
            velocity=self.velocity[here],
            residual=self.residual[here],
            age=self.age[here],
            is_intra=self.is_intra[here],
        )


class DecodedPlanes(NamedTuple):
    """A decoded picture: Y, U and V as they are, the bits of a sample, chroma's subsampling (across, down),
    and by what a pixel's place is multiplied to be one of the stream's first picture (across, down)."""

    planes: list[np.ndarray]
    bits: int
    subsampling: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def step(self) -> tuple[float, float]:
        """Distance of chroma samples in luma pixels of the first picture."""
        return self.subsampling[0] * self.scale[0], self.subsampling[1] * self.scale[1]

    @property
    def start(self) -> tuple[float, float]:
        """The first chroma sample's place there: the middles of samples are what is scaled."""
        across, down = (sub / 2 * (s - 1) for sub, s in zip(self.subsampling, self.scale, strict=True))
        return across, down


class FieldReader:
    """Reads motion fields one picture after the other; it remembers how most of the last one moved.

    Args:
        slope: of the paint, in levels a luma pixel; of two passes the sum of both.
        gentle_slope: of the first of two passes, or None.
    """

    def __init__(self, slope: float = SLOPE, gentle_slope: float | None = None):
        self.slope, self.gentle_slope = slope, gentle_slope
        self._brushes: Brushes = [(1, slope)]
        if gentle_slope is not None:
            self._brushes = [(1, gentle_slope), (-1, gentle_slope - slope)]
        self._usual = np.zeros(1, np.complex64)

    def restart(self) -> None:
        """Forget what the last picture did."""
        self._usual = np.zeros(1, np.complex64)

    def read(
        self,
        picture: DecodedPlanes,
        time: float,
        predictions: Sequence[Prediction],
        negative: list[np.ndarray] | None = None,
    ) -> MotionField:
        """The field of one picture.

        Args:
            picture: as the decoder gave it.
            time: when it is shown, in frames.
            predictions: what it may have been predicted from.
            negative: the planes of the second pass, whose paint has the opposite sign.
        """
        planes, bits, subsampling, scale = picture
        rows, columns = (-(-side // CELL) for side in planes[0].shape)
        chroma = chroma_cells(planes[1:3], rows, columns, bits, subsampling)
        gentle = None
        if negative is None:
            luma, exact = planes[0], None
        else:
            # Half the difference is the paint without the residual, half the sum the residual without paint.
            gentle = chroma
            chroma = chroma - chroma_cells(negative[1:3], rows, columns, bits, subsampling)
            both = planes[0].astype(np.int32) - negative[0] + (1 << bits)
            luma = (both >> 1).clip(0, (1 << bits) - 1).astype(planes[0].dtype)
            exact = planes[0].astype(np.int32) + negative[0] - (1 << bits)
        level = median_luma(luma, rows, columns, bits)
        table = PredictionTable(predictions, time, self.slope, is_difference=negative is not None)
        slopes = chroma_slopes(chroma, scale, self.slope)
        steepness = np.square(slopes).sum(0)
        chosen = table.choose(slopes, steepness, level)
        is_intra = (chosen < 0) & (steepness < FLAT)
        start = picture.start
        x = (np.arange(columns) * (CELL * scale[0]) + start[0]).astype(np.float32)
        y = (np.arange(rows) * (CELL * scale[1]) + start[1]).astype(np.float32)[:, None]
        usual = complex(self._usual[0])
        value, spread = table.values_of(chroma, chosen, x, y, scale, 1.0, self._brushes, usual)
        spread = np.maximum(spread[0], spread[1])
        noise = third_quartile(spread[chosen >= 0])
        unclear = spread >= SPREAD
        chosen[unclear | table.is_weak.take(chosen)] = -1
        lattice = _Lattice(table, chosen, self.slope)
        if gentle is None or self.gentle_slope is None:
            velocity = self._unwrapped(value, lattice)
        else:
            share = self.gentle_slope / self.slope
            rough, _ = table.values_of(gentle, chosen, x, y, scale, share, self._brushes[:1], usual)
            near = self._unwrapped(rough, _Lattice(table, chosen, self.gentle_slope))
            velocity = lattice.nearest(value, near)
        age = table.ages.take(chosen)
        known = chosen >= 0
        velocity[~known] = complex(np.nan, np.nan)  # both parts
        age[~known] = np.nan
        if scale != (1.0, 1.0):
            velocity = (velocity.real / scale[0] + 1j * velocity.imag / scale[1]).astype(np.complex64)
        table.take_own_fields(velocity, chosen)
        if exact is not None:
            if table.is_weighted:
                bias = np.rint(table.biases.take(chosen) * 2 ** (bits - 7)).astype(np.int32)
                exact -= bias.repeat(CELL, 0).repeat(CELL, 1)[: exact.shape[0], : exact.shape[1]]
            residual = mean_of_twice(exact, bits)
        else:
            expected = np.where(known, table.levels.take(chosen), level)
            residual = mean_residual(luma, expected, bits)
        return MotionField(velocity, residual, age, is_intra, noise)

    def _unwrapped(self, value: np.ndarray, lattice: "_Lattice") -> np.ndarray:
        """(rows, columns) complex64: velocities, each that of its lattice which is nearest to what most of
        the picture does. Where the lattice is wide, another usual velocity may explain a cell better."""
        still = lattice.nearest(value)
        sure = np.flatnonzero(lattice.is_sure)
        if 5 * len(sure) > np.count_nonzero(lattice.is_known):
            self._usual = _usual_velocities(still.ravel()[sure[:: len(sure) // MOST_COUNTED + 1]])
        first, *others = self._usual.tolist()
        found = lattice.nearest(value, first) if first else still.copy()
        # What is sure, or near to the first, stays.
        off = found - first
        astray = lattice.is_wide & (off.real * off.real + off.imag * off.imag > ASTRAY**2)
        places = np.flatnonzero(astray & ~lattice.is_sure)
        if others and len(places):
            some, here = value.reshape(2, -1)[:, places], lattice.at(places)
            best = found.ravel()[places]
            fits = np.abs(best[:, None] - self._usual).min(1) <= 0.5
            for point in others:
                near = here.nearest(some, point)
                better = ~fits & (np.abs(near - point) < 0.5)
                best[better], fits = near[better], fits | better
            found.ravel()[places] = best
        np.copyto(found, still, where=lattice.is_sure)
        return found


class _Lattice:
    """The velocities that are possible in each cell: a value is known up to the period.

    Args:
        table: of the predictions.
        chosen: (rows, columns) rows of the table.
        slope: of the paint that values are of.
    """

    def __init__(self, table: "PredictionTable", chosen: np.ndarray, slope: float):
        factors, periods = table.factors * np.float32(slope), table.periods
        size = np.abs(factors)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = (1 / factors).astype(np.complex64)
        self.is_known = chosen >= 0
        self._period, self._turns = periods.take(chosen), (1 / periods).take(chosen)
        self._factor, self._inverse = factors.take(chosen), inverse.take(chosen)
        # The nearest to no motion is right, whatever moves by less than `FASTEST`.
        self.is_sure = ((size > 0) & (size * FASTEST < periods / 2)).take(chosen)
        self.is_wide = (periods > WIDE * size).take(chosen)

    def at(self, places: np.ndarray) -> "_Lattice":
        """The same of cells at these places of the flattened grid."""
        part = object.__new__(_Lattice)
        part.__dict__ = {name: values.ravel()[places] for name, values in self.__dict__.items()}
        return part

    def nearest(self, value: np.ndarray, to: np.ndarray | complex | None = None) -> np.ndarray:
        """complex64: of the velocities that explain values (2, ...), those nearest to others, or to none."""
        if to is not None:
            moved = self._factor * to
            value = np.stack((value[0] - moved.real, value[1] - moved.imag))
        turns = np.rint(value * self._turns)
        turns *= self._period
        found = np.empty(value.shape[1:], np.complex64)
        np.subtract(value[0], turns[0], out=found.real)
        np.subtract(value[1], turns[1], out=found.imag)
        with np.errstate(invalid="ignore"):
            found *= self._inverse
        return found if to is None else found + to


def third_quartile(values: np.ndarray) -> float:
    """As numpy's `percentile` has it, which sorts more of N values; of none 0."""
    if not len(values):
        return 0.0
    place, part = divmod(3 * (len(values) - 1), 4)
    after = min(place + 1, len(values) - 1)
    near = np.partition(values, (place, after))[[place, after]].tolist()
    return near[0] + part / 4 * (near[1] - near[0])


def _usual_velocities(velocities: np.ndarray) -> np.ndarray:
    """The velocities that most of N cells have, to a pixel, the most usual first: (up to 6,) complex64."""
    side = int(2 * FASTEST)
    parts = velocities.real, velocities.imag
    x, y = (np.rint(part).clip(-side, side).astype(np.int32) + side for part in parts)
    place = y * (2 * side + 1) + x
    counts = np.bincount(place, minlength=(2 * side + 1) ** 2)
    few = max(3, int(0.003 * len(velocities)))
    often = np.flatnonzero(counts >= few)
    if not len(often):
        return np.array([np.median(velocities.real) + 1j * np.median(velocities.imag)], np.complex64)
    usual = often[np.argsort(-counts[often], kind="stable")[:MOST_USUAL]]
    means = [np.bincount(place, part)[usual] / counts[usual] for part in parts]
    return (means[0] + 1j * means[1]).astype(np.complex64)
