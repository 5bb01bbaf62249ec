"""Over which stretch of time the parts of a picture are predicted, read quickly on some of its cells.

What a picture shows that was seen before is predicted over the time between; over a cut next to nothing is.
"""

from collections.abc import Sequence

import numpy as np

from .motion_field import DecodedPlanes
from .painted_cells import CELL, chroma_cells, chroma_slopes, median_luma
from .prediction_table import Prediction, PredictionTable
from .shot_cuts import Span

CELLS = 32  # at most, that are looked at along a side
EXPLAINED = 8.0  # grey levels of residual that a predicted cell has at most


def predicted_spans(
    picture: DecodedPlanes,
    time: float,
    predictions: Sequence[Prediction],
    slope: float,
    negative: list[np.ndarray] | None = None,
) -> list[Span]:
    """Of a picture over painted references.

    Args:
        picture: as the decoder gave it.
        time: when it is shown, in frames.
        predictions: what it may have been predicted from.
        slope: of the paint, of two passes the sum of both.
        negative: the planes of the second pass, whose paint has the opposite sign.
    """
    planes, bits, subsampling, scale = picture
    steps = [max(1, side // CELL // CELLS) for side in planes[0].shape]
    (luma, *chroma), other = _some_cells(planes, steps), None
    rows, columns = (-(-side // CELL) for side in luma.shape)
    cells = chroma_cells(chroma, rows, columns, bits, subsampling)
    if negative is None:
        level = median_luma(luma, rows, columns, bits)
    else:
        other, *chroma = _some_cells(negative, steps)
        cells = cells - chroma_cells(chroma, rows, columns, bits, subsampling)
        half = ((luma.astype(np.int32) - other + (1 << bits)) >> 1).clip(0, (1 << bits) - 1)
        level = median_luma(half.astype(luma.dtype), rows, columns, bits)
    table = PredictionTable(predictions, time, slope, is_difference=negative is not None)
    slopes = chroma_slopes(cells, scale, slope)
    chosen = table.choose(slopes, np.square(slopes).sum(0), level)
    if other is None:
        off = level - table.levels.take(chosen)
    else:
        off = median_luma((luma >> 1) + (other >> 1), rows, columns, bits) - np.float32(128)
    known = chosen >= 0
    if known.any():
        off = off - np.median(off[known])  # the light may have changed
    counts = np.bincount(chosen[known & (np.abs(off) < EXPLAINED)], minlength=len(predictions))
    times = [[time, *(paint.time for paint in one.paints)] for one in predictions]
    shares = (counts / chosen.size).tolist()
    return [Span(min(own), max(own), share) for own, share in zip(times, shares, strict=True) if share]


def _some_cells(planes: Sequence[np.ndarray], steps: Sequence[int]) -> list[np.ndarray]:
    """Every so manieth cell down and across, side by side."""
    found = []
    for plane in planes[:3]:
        height, width = (
            CELL * side // whole for side, whole in zip(plane.shape, planes[0].shape, strict=True)
        )
        height, width = max(1, round(height)), max(1, round(width))
        rows, columns = plane.shape[0] // height, plane.shape[1] // width
        cells = plane[: rows * height, : columns * width].reshape(rows, height, columns, width)
        cells = cells[:: steps[0], :, :: steps[1]]
        found.append(np.ascontiguousarray(cells).reshape(cells.shape[0] * height, cells.shape[2] * width))
    return found
