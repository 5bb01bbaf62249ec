"""A budget that follows the content: only as many patches as have a share of the clip's energy.

The energy by which patches are ranked is divided picture by picture, so that every picture has its say, and a
share of it would mean little. What is shared is the absolute energy (`signal_energy`), in one unit for all
pictures: pixels of motion beyond the camera, residual in four grey levels, each above the noise of its
picture. Which patches come first is the same as with any budget.
"""

import bisect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

DEFAULT_KEEP_RATIO = 0.125
MOST_KEEP_RATIO = 0.25  # of a budget that follows the content
# Energies are about 1 where a block moves as much as the picture's 95th percentile. When even the strongest
# hundredth of a clip stays below this on average, nothing moves; nor where no absolute energy reaches it.
STILL = 0.35
NOISE = 0.1  # of the encoder and the sensor, where half of the picture has none
# Medians of a picture that are noise too, and up to where: what grain and a camera leave lies everywhere, but
# all of a picture may move.
USUAL, MOST_NOISE = 2.0, 1.0


def outstanding_energy(absolute: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(T, gh, gw) float32: what each patch has above the noise of its picture, from `NOISE` to `MOST_NOISE`.

    Args:
        absolute: (T, gh, gw) float32 >= 0, in one unit for all pictures.
        allowed: (gh, gw) bool, the patches that may be kept.
    """
    if absolute.max() < STILL:
        return np.zeros_like(absolute)
    usual = np.median(absolute[:, allowed], axis=1)[:, None, None]
    noise = np.minimum(NOISE + USUAL * usual, MOST_NOISE)
    return np.maximum(absolute - noise, 0) * allowed


def patches_of_energy(
    keep_energy: float, energy: np.ndarray, most: int, kept: Callable[[int], np.ndarray], fewest: int
) -> int:
    """The fewest patches that have a share of the energy, `most` where no fewer are enough.

    Args:
        keep_energy: the share, above 0 and up to 1.
        energy: (T, gh, gw) >= 0, of the patches that may be kept.
        most: patches.
        kept: gives the positions (K, 3) of so many patches; more of them hold the fewer.
        fewest: patches.
    """
    energy = energy.astype(np.float64)
    may_be_lost = (1 - keep_energy) * energy.sum()

    def is_enough(count: int) -> bool:
        lost = energy.copy()
        lost[tuple(kept(count).T)] = 0
        return bool(lost.sum() <= may_be_lost)

    return bisect.bisect_left(range(most), True, fewest, key=is_enough)


def under_energy(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on which `keep_energy` is laid: what they say of the budget stays, as its bound. The eighth
    that is the default of a fixed budget goes, for the bound's own default of a quarter.

    Args:
        settings: as they are stored.
        given: what is laid on top.
    """
    follows = given.get("keep_energy") is not None and settings.get("keep_energy") is None
    if follows and settings.get("keep_ratio") == DEFAULT_KEEP_RATIO:
        return {name: value for name, value in settings.items() if name != "keep_ratio"}
    return dict(settings)
