"""In which ways a picture may have been predicted from paint, and what each would look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .painted_cells import chroma_values
from .reference_paint import COLOURS, PERIOD, Paint

# Squared distance of a cell's four slopes from those of its nearest explanation, in slopes of a paint.
FAR = 0.8
# What a grey level between a cell's luma and its explanation's counts beside that.
LEVEL_COST = 0.0004
SAME_COLOUR_COST = 0.01  # two references of one colour look like one: one, where both fit
STRAY = 24.0  # grey levels that a median residual may have: areas that were not decoded show old paint
WEAKEST = 0.2  # of a paint's slope: means of opposite motion tell nothing

Brushes = list[tuple[int, float]]  # of each pass: whether it is added or taken off, its slope


@dataclass(frozen=True)
class Prediction:
    """A way in which a cell may have been predicted: from one paint, or from two, and with which weights.

    weights and offsets are those of Y, U and V; those of two references are half as large, so they add up.
    """

    paints: tuple[Paint, ...]
    weights: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def is_weighted(self) -> bool:
        """Whether what comes out is more or less than the mean of the paints."""
        totals = (sum(of_channel) for of_channel in zip(*self.weights, strict=True))
        return any(self.offsets) or any(abs(total - 1) > 1e-6 for total in totals)

    @property
    def is_of_one_colour(self) -> bool:
        """Whether it is from two paints that only their levels tell apart."""
        return len(self.paints) == 2 and self.paints[0].colour == self.paints[1].colour


class PredictionTable:
    """The possible predictions of a picture as arrays, a row each; the row -1 is that of unknown cells.

    slopes (N + 1, 4) float32, of U across and down, of V across and down, in slopes of a paint; levels
    (N + 1,) float32; ages (N + 1,) float32, mean frames to the references; factors (N + 1,) complex64, what a
    velocity is multiplied with to be the chroma's value; periods (N + 1,) float32; biases (N + 1,) float32,
    what weights and offsets make of middle grey, less that.

    Args:
        predictions: N of them.
        time: when the picture is shown, in frames.
        slope: of the paint, in levels a luma pixel.
        is_difference: whether the cells are half of one pass less the other, which have the same offsets.
    """

    def __init__(
        self, predictions: Sequence[Prediction], time: float, slope: float, is_difference: bool = False
    ):
        self.predictions, self.time, self.slope = list(predictions), time, slope
        rows = [_row_of(prediction, time) for prediction in self.predictions]
        slopes, levels, ages, factors, periods, gains = zip(*rows, _UNKNOWN, strict=True)
        self.slopes, self.levels = np.array(slopes, np.float32), np.array(levels, np.float32)
        self.ages, self.factors = np.array(ages, np.float32), np.array(factors, np.complex64)
        self.periods, self._gains = np.array(periods, np.float32), np.array(gains, np.float32)
        offsets = np.array([p.offsets for p in self.predictions] + [(0, 0, 0)], np.float32)
        self._offsets = offsets[:, 1:]
        self.is_weighted = any(p.is_weighted for p in self.predictions)
        luma = [sum(weights[0] for weights in p.weights) for p in self.predictions]
        self.biases = offsets[:, 0] + np.array([128 * (gain - 1) for gain in luma] + [0], np.float32)
        if is_difference:
            self.levels -= self.biases
        self._group()
        self._uneven = [
            row
            for row, one in enumerate(self.predictions)
            if len({*one.weights}) > 1 or (is_difference and one.is_weighted)
        ]

    def choose(self, slopes: np.ndarray, steepness: np.ndarray, level: np.ndarray) -> np.ndarray:
        """(rows, columns) int64: of each cell the row of the prediction that explains it best, -1 where that
        is flat (intra coded) or nothing does.

        Args:
            slopes: (4, rows, columns) float32, in slopes of a paint.
            steepness: (rows, columns) float32, the sum of their squares.
            level: (rows, columns) uint8.
        """
        cells, places = slopes.reshape(4, -1), level.ravel().astype(np.intp)
        # Squared distances less the square of the cell's own slopes, which is that of a flat one.
        distances = (-2 * self._middles) @ cells
        best = np.minimum(0, np.float32(FAR) - steepness.ravel())
        group = np.zeros(level.size, np.intp)
        for number, (distance, cost) in enumerate(zip(distances, self._costs, strict=True), 1):
            distance += cost.take(places)
            group[distance < best] = 256 * number
            np.minimum(best, distance, out=best)
        return self._nearest.ravel().take(group + places).reshape(level.shape)

    def _group(self) -> None:
        """Bring together what has the same slopes: of each group and each level of luma, what the nearest of
        its rows costs, and which that is."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for row, values in enumerate(np.round(self.slopes[:-1], 3).tolist()):
            groups.setdefault(tuple(values), []).append(row)
        self._middles = np.array(list(groups), np.float32).reshape(-1, 4)
        self._costs = np.empty((len(groups), 256), np.float32)
        self._nearest = np.full((1 + len(groups), 256), -1)  # the first is none
        every = np.arange(256, dtype=np.float32)
        for number, (middle, rows) in enumerate(zip(self._middles, groups.values(), strict=True)):
            off = np.abs(every[:, None] - self.levels[rows])
            costs = np.minimum(off, 2 * STRAY) ** 2 * np.float32(LEVEL_COST)
            costs += [SAME_COLOUR_COST * self.predictions[row].is_of_one_colour for row in rows]
            nearest = costs.argmin(1)
            cost = costs[np.arange(256), nearest] + np.square(middle).sum()
            cost[off[np.arange(256), nearest] >= STRAY] = np.inf
            self._costs[number], self._nearest[number + 1] = cost, np.array(rows)[nearest]

    def values_of(
        self,
        cells: np.ndarray,
        chosen: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        scale: tuple[float, float],
        share: float,
        brushes: Brushes,
        usual: complex,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the chroma of cells says of their motion, up to the period, and how far samples are off.

        Args:
            cells: (4, 4, 2, rows, columns) int16, of `chroma_cells`.
            chosen: (rows, columns) rows of this table.
            x: (columns,) of the cells' corners, in pixels of the first picture.
            y: (rows, 1) likewise.
            scale: as in `DecodedPlanes`.
            share: of the paint's slope that these cells have.
            brushes: of the passes that add up to them.
            usual: how most of the picture moves, pixels a frame.

        Returns:
            (2, rows, columns) float32 each, in levels of 8 bits.
        """
        slopes = self.slopes * np.float32(self.slope * share)
        value, spread = chroma_values(cells, slopes, chosen, scale)
        across, down = np.ascontiguousarray(slopes[:, 0::2].T), np.ascontiguousarray(slopes[:, 1::2].T)
        if self.is_weighted and len(brushes) == 1:  # passes have the same
            value -= self._offsets.T.take(chosen, 1)
        value -= across.take(chosen, 1) * x
        value -= down.take(chosen, 1) * y
        for row in self._uneven:
            self._add_turns(row, value, np.nonzero(chosen == row), (x, y), brushes, usual)
        if self.is_weighted:
            for channel in (0, 1):
                value[channel] /= self._gains[:, channel].take(chosen)
        return value, spread

    def _add_turns(
        self,
        row: int,
        value: np.ndarray,
        cells: tuple[np.ndarray, ...],
        places: tuple[np.ndarray, np.ndarray],
        brushes: Brushes,
        usual: complex,
    ) -> None:
        """Of two references with unequal weights a turn of the one is not a turn of the other: add those that
        each has made where the cells were, if they moved as most of the picture does.

        Args:
            row: of the prediction.
            value: (2, rows, columns) of all cells, less the slope and before the gains; changed.
            cells: rows and columns of those that were predicted so.
            places: x (columns,) and y (rows, 1) of all cells' corners.
            brushes: as in `values_of`.
            usual: likewise.
        """
        if not len(cells[0]):
            return
        corner = places[0][cells[1]] + 1j * places[1][cells[0], 0]
        found, expected = value[:, cells[0], cells[1]], np.zeros((2, 1), np.float32)
        prediction = self.predictions[row]
        for paint, weights in zip(prediction.paints, prediction.weights, strict=True):
            moved = (self.time - paint.time) * usual
            for sign, slope in brushes:
                ramp, more = slope * COLOURS[paint.colour] * (corner + moved), sign * slope * moved
                more *= COLOURS[paint.colour]
                for channel, part, motion in ((0, ramp.real, more.real), (1, ramp.imag, more.imag)):
                    turns = np.floor((part + 0.5) / PERIOD)
                    found[channel] += sign * weights[1 + channel] * PERIOD * turns
                    expected[channel] += weights[1 + channel] * motion
        found -= PERIOD * np.rint((found - expected) / PERIOD)
        value[:, cells[0], cells[1]] = found

    @property
    def is_weak(self) -> np.ndarray:
        """(N + 1,) bool: means of opposite motion, which tell nothing of it."""
        return np.abs(self.factors) <= WEAKEST

    def take_own_fields(self, field: np.ndarray, chosen: np.ndarray) -> None:
        """A reference of the same time is the hidden picture that this one shows: the field is that one's."""
        for row, prediction in enumerate(self.predictions):
            (paint, *more) = prediction.paints
            if more or paint.time != self.time or paint.velocity is None:
                continue
            if paint.velocity.shape == field.shape:
                here = chosen == row
                field[here] = paint.velocity[here]


def _row_of(prediction: Prediction, time: float) -> tuple[Any, ...]:
    """(slopes, level, age, factor, period, gains) of a prediction, see `PredictionTable`."""
    slopes, level, age, factor = [0.0] * 4, prediction.offsets[0], 0.0, 0j
    gains = [sum(weights[channel] for weights in prediction.weights) for channel in (1, 2)]
    for paint, (y, u, v) in zip(prediction.paints, prediction.weights, strict=True):
        colour = complex(COLOURS[paint.colour])
        parts = (u * colour.real, -u * colour.imag, v * colour.imag, v * colour.real)
        slopes = [total + part for total, part in zip(slopes, parts, strict=True)]
        level += y * paint.level
        age += (time - paint.time) / len(prediction.paints)
        # The weights of U and V are taken off the values, so that the periods are whole again.
        factor += (u + v) / (sum(gains) or 1) * colour * (time - paint.time)
    share = max(u + v for _, u, v in prediction.weights) / (sum(gains) or 1)
    return slopes, level, age, factor, PERIOD * share, [gain or 1 for gain in gains]


_UNKNOWN = ([0.0] * 4, 0.0, np.nan, 0j, 1.0, [1.0, 1.0])
