"""What the camera did to a picture's motion vectors, fitted and taken off: what is left moved by itself."""

from collections.abc import Callable

import numpy as np

CAMERA_MODELS = ("none", "median", "similarity", "affine")
FITTED = 64  # vectors at least, for models of more than a shift
MOST_FITTED = 2048  # of more vectors so many, evenly taken, tell as much

# Places and motions as x + iy: a zoom and a turn together are then one factor.
_Motion = Callable[[np.ndarray], np.ndarray]


def remove_camera_motion(field: np.ndarray, model: str = "similarity") -> np.ndarray:
    """Subtract what the camera did from a motion field.

    Args:
        field: (rows, columns, 2) float32 pixels; NaN stays NaN.
        model: "none"; "median", one shift for the picture; "similarity" (shift, zoom, turn) and "affine",
            fitted by least squares to the vectors, twice more to the 70 % that fit best, since what moves by
            itself does not.

    Returns:
        (rows, columns, 2) float32.

    Raises:
        ValueError: an unknown model.
    """
    if model not in CAMERA_MODELS:
        raise ValueError(f"unknown camera model {model!r}: choose one of {', '.join(CAMERA_MODELS)}")
    present = ~np.isnan(field[..., 0])
    if model == "none" or not present.any():
        return field
    known = field[present]
    # Too few vectors for four or six parameters: a shift is all that they tell.
    if model == "median" or len(known) < FITTED:
        # An axis at a time, which numpy sorts several times quicker than pairs.
        return field - np.array([np.median(known[:, axis]) for axis in (0, 1)], np.float32)
    fit = _fit_similarity if model == "similarity" else _fit_affine
    rows, columns = field.shape[:2]
    y, x = np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2
    places = x + 1j * y[:, None]
    step = max(1, len(known) // MOST_FITTED)
    points, motion = places[present][::step], known[::step].astype(np.float64).view(np.complex128)[:, 0]
    count = max(FITTED, int(0.7 * len(points)))
    camera = fit(points, motion)
    for _ in range(2):
        best = np.argpartition(np.abs(motion - camera(points)), count - 1)[:count]
        camera = fit(points[best], motion[best])
    moved = np.ascontiguousarray(camera(places)).view(np.float64).reshape(field.shape)
    return (field - moved).astype(np.float32)


def _fit_similarity(points: np.ndarray, motion: np.ndarray) -> _Motion:
    middle, shift = points.mean(), motion.mean()
    away = points - middle
    factor = np.vdot(away, motion) / max(np.vdot(away, away).real, 1e-9)
    return lambda places: shift + factor * (places - middle)


def _fit_affine(points: np.ndarray, motion: np.ndarray) -> _Motion:
    def design(places: np.ndarray) -> np.ndarray:
        return np.stack([np.ones_like(places), places, places.conj()], -1)

    parameters = np.linalg.lstsq(design(points), motion, rcond=None)[0]
    return lambda places: design(places) @ parameters
