"""Pictures on which nothing can be seen: black, of one colour, or the green that is decoded of lost data.

Source: codec-video-prep 0.2.5 (PyPI, `frame_is_bad`), whose limits these are, in grey levels.
"""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])


def is_blank(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> bool:
    """Whether a picture is black, flat or mostly green.

    Args:
        red: (H, W) uint8.
        green: (H, W) uint8.
        blue: (H, W) uint8.
    """
    planes = red, green, blue
    means = np.array([plane.sum(dtype=np.uint64) for plane in planes]) / red.size
    if LUMA @ means <= 8 and np.tensordot(LUMA, np.stack(planes), 1).std() <= 6:
        return True
    if all(np.ptp(plane) <= 12 for plane in planes) and all(plane.std() <= 4 for plane in planes):
        return True
    if means[1] > 120 and means[1] - max(means[0], means[2]) > 80 and green.std() < 50:
        return True
    least, bright = 0.35 * red.size, green >= 180
    # Counting the bright ones decides most pictures.
    return bool(
        np.count_nonzero(bright) >= least and np.count_nonzero(bright & (red <= 90) & (blue <= 90)) >= least
    )


__all__ = ["is_blank"]
