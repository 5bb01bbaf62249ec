"""The raw signals of one picture, before they are scaled and laid onto the patch grid."""

from dataclasses import dataclass, field

import numpy as np

from .codec_signals import vector_energy, vectors

CELL = 8  # pixels: the smallest block that FFmpeg tells the vector of
# Pixels: encoders choose vectors for their price, so small differences between neighbours mean nothing.
VECTOR_DEAD_ZONE = 0.5


@dataclass
class PictureSignals:
    """Raw maps of one picture in stored orientation, by signal; `intra_fallback` stands in where
    a picture is intra coded. A damaged one has neither."""

    picture_type: str
    height: int
    width: int
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    intra_fallback: np.ndarray | None = None
    is_damaged: bool = False


def own_motion(records: np.ndarray | None, height: int, width: int, camera: str) -> np.ndarray:
    """What each block moves beyond the camera, against the past or the future, whichever is more, less a dead
    zone; zero where it has no vector."""
    energy = np.zeros((-(-height // CELL), -(-width // CELL)), np.float32)
    source = np.empty(0, np.int32) if records is None else np.ascontiguousarray(records["source"])
    for reference, sign in (("past", -1), ("future", 1)):
        if not (source * sign > 0).any():
            continue
        field = vectors(records, height, width, reference=reference, block=CELL)
        energy = np.maximum(energy, vector_energy(field, camera))
    return np.maximum(energy - VECTOR_DEAD_ZONE, 0)
