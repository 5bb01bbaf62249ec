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
    means = np.array([plane.mean() for plane in planes])
    if LUMA @ means <= 8 and np.tensordot(LUMA, np.stack(planes), 1).std() <= 6:
        return True
    if all(np.ptp(plane) <= 12 for plane in planes) and all(plane.std() <= 4 for plane in planes):
        return True
    if means[1] > 120 and means[1] - max(means[0], means[2]) > 80 and green.std() < 50:
        return True
    return float(((green >= 180) & (red <= 90) & (blue <= 90)).mean()) >= 0.35


__all__ = ["is_blank"]
