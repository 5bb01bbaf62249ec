"""How much each picture of a clip differs from the one before it, by small pictures of its luma.

Two pictures are compared after each was brought to the same mean and contrast, which takes fades, flashes and
flicker out, and at the shift by which they fit best, which takes the camera out. Unrelated pictures then
differ by about 1.1, neighbours of one shot by at most 0.6, and then so do all around them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

CELLS = 32  # along the longer side
MOST_SHIFT = 4  # cells
FLAT = 4.0  # grey levels of contrast below which there is nothing to see
# Of a picture against the one before, above what is usual around it.
CUT = 0.38
AROUND = 6  # pictures to each side that tell what is usual
# (pictures before the last of the one shot, after the first of the other) that are compared, so that one or
# two pictures of something else are no shot.
FLASHES = ((0, 1), (0, 2), (1, 0), (2, 0))


def thumbnail(luma: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> about `CELLS` cells along the longer side, float32 of mean 0 and deviation 1."""
    step = max(1, max(luma.shape) // (2 * CELLS))
    small = luma[::step, ::step].astype(np.float32)
    height, width = (max(1, side // 2) for side in small.shape)
    if min(small.shape) > 1:
        small = small[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return (small - small.mean()) / max(FLAT, float(small.std()))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails where they fit best: 0 of equal ones, about 1.1 of unrelated
    ones."""
    if first.shape != second.shape:
        return 2.0
    plain = float(np.abs(first - second).mean())
    if plain < CUT:
        return plain
    height, width = first.shape
    match = np.fft.irfft2(np.fft.rfft2(first) * np.conj(np.fft.rfft2(second)), first.shape)
    down, across = (min(MOST_SHIFT, (side - 1) // 2) for side in first.shape)
    match = np.roll(match, (down, across), (0, 1))[: 2 * down + 1, : 2 * across + 1]
    y, x = (int(place) for place in np.unravel_index(match.argmax(), match.shape))
    y, x = y - down, x - across
    here = first[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
    there = second[max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)]
    return min(plain, float(np.abs(here - there).mean()))


def cuts_among(thumbnails: Mapping[int, np.ndarray], places: Sequence[int] | None = None) -> list[int]:
    """The pictures that begin a shot.

    Args:
        thumbnails: by number; only neighbours are compared, so what is to be judged comes with some.
        places: those that are judged, all by default.

    Returns:
        their numbers, sorted.
    """
    changes: dict[int, float] = {}

    def change(number: int) -> float | None:
        """Against the one before, None where one of them is not there."""
        if number not in thumbnails or number - 1 not in thumbnails:
            return None
        if number not in changes:
            changes[number] = distance(thumbnails[number - 1], thumbnails[number])
        return changes[number]

    found = []
    for number in sorted(thumbnails if places is None else places):
        here = change(number)
        if here is None or here < CUT:
            continue
        around = [change(number + step) for step in range(-AROUND, AROUND + 1) if step]
        known = [value for value in around if value is not None]
        usual = float(np.median(known)) if known else 0.0
        if here - usual >= CUT and not _goes_back(thumbnails, number):
            found.append(number)
    return found


def _goes_back(thumbnails: Mapping[int, np.ndarray], number: int) -> bool:
    """Whether a picture is one of few that differ, after or before which all is as before."""
    pairs = [(number - 1 - early, number + late) for early, late in FLASHES]
    known = [(thumbnails[a], thumbnails[b]) for a, b in pairs if a in thumbnails and b in thumbnails]
    return any(distance(before, after) < CUT for before, after in known)
