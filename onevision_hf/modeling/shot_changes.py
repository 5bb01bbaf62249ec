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
CUT = 0.38  # of a picture against the one before, above what is usual around it
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


def cuts_among(thumbnails: Mapping[int, np.ndarray]) -> list[int]:
    """The pictures that begin a shot, of some of a clip's: each is compared with the one before, if that is
    there.

    Args:
        thumbnails: by number in the order of display.

    Returns:
        their numbers, sorted.
    """
    numbers = sorted(thumbnails)
    looks = [thumbnails[number] for number in numbers]
    near = np.diff(numbers) == 1
    changes = np.array([distance(*looks[k : k + 2]) if near[k] else np.nan for k in range(len(near))])
    found = []
    for place in np.flatnonzero(changes >= CUT).tolist():
        around = np.concatenate([changes[max(0, place - AROUND) : place], changes[place + 1 :][:AROUND]])
        known = around[~np.isnan(around)]
        usual = float(np.median(known)) if len(known) else 0.0
        if changes[place] - usual >= CUT and not _goes_back(looks, place + 1):
            found.append(numbers[place + 1])
    return found


def _goes_back(looks: Sequence[np.ndarray], place: int) -> bool:
    """Whether a picture is one of few that differ, after or before which all is as before."""
    pairs = [(place - 1 - early, place + late) for early, late in FLASHES]
    return any(
        distance(looks[before], looks[after]) < CUT
        for before, after in pairs
        if before >= 0 and after < len(looks)
    )
