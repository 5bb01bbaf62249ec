"""Signals of sampled frames by painted references: motion vectors and residual of codecs that give none."""

import numpy as np

from .codec_signals import vector_energy
from .intra_fallback import PictureDifferences, keyframe_before, keyframes_before
from .motion_field import MotionField
from .painted_pictures import default_passes, iter_painted_pictures
from .picture_signals import PictureSignals
from .shot_cuts import ShotSearch
from .signal_settings import SignalSettings
from .video_reader import VideoReader

# Pixels a frame: smaller differences between neighbours are noise of the reading.
DEAD_ZONE = 0.25
NOISY_DEAD_ZONE = 0.5  # where residuals of the chroma are dense
FILLED_ROUNDS = 2
AGREEING = 1.0  # pixels a frame
# Grey levels of residual: a cell with more differs from its surroundings, and need not move as they do.
EXPLAINED = 8.0
# Grey levels of residual that count, where no velocity is known, as a pixel a frame.
LEVELS_A_PIXEL = 24.0


def painted_signals(
    reader: VideoReader,
    frame_ids: np.ndarray,
    settings: SignalSettings,
    search: ShotSearch | None = None,
) -> tuple[list[PictureSignals], str]:
    """Vectors and residual of sampled frames.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        settings: which of "vectors" and "residual", also by the names "painted_vectors" and
            "painted_residual"; the camera model; how many passes.
        search: for cuts, which looks on.

    Returns:
        T pictures, and what is to be said of them.

    Raises:
        PaintingError: the references of this stream cannot be painted.
    """
    names = dict(settings.pairs)
    passes = settings.passes or default_passes(reader)
    noisy = passes == 2 and settings.passes is None
    sampled = {int(frame_id) for frame_id in frame_ids}
    earlier = keyframes_before(reader.index, sampled)
    pictures: dict[int, PictureSignals] = {}
    changes = PictureDifferences(earlier)

    def read(wanted: set[int], changes: PictureDifferences, search: ShotSearch | None = None) -> None:
        for frame_id, painted in iter_painted_pictures(reader, wanted, passes=passes, search=search):
            if painted.luma is not None:
                changes.add(frame_id, painted.luma)
            signals = PictureSignals(painted.picture_type, *painted.size, is_damaged=painted.is_damaged)
            if (field := painted.field) is not None:
                for name in names:
                    if name.endswith("vectors"):
                        velocity = filled(field)
                        vectors = np.stack([velocity.real, velocity.imag], -1)
                        energy = vector_energy(vectors, settings.camera_model)
                        unknown = np.isnan(velocity.real)
                        energy[unknown] = field.residual[unknown] / np.float32(LEVELS_A_PIXEL)
                        dead = NOISY_DEAD_ZONE if noisy else DEAD_ZONE
                        signals.maps[name] = np.maximum(energy - np.float32(dead), 0)
                    else:
                        signals.maps[name] = field.residual
            pictures[frame_id] = signals

    needed = sampled | {key for key in earlier.values() if key is not None}
    read(needed, changes, search)
    # I pictures that the container calls no keyframes.
    unmarked = [i for i in sampled - earlier.keys() if i in pictures and pictures[i].picture_type == "I"]
    if unmarked:
        more = PictureDifferences(keyframe_before(reader.index, unmarked))
        kept = dict(pictures)
        read({*unmarked, *(key for key in more.earlier.values() if key is not None)}, more)
        pictures |= kept
        changes.found |= more.found
    for frame_id in sampled:
        # What the decoder does not give is damaged.
        signals = pictures.setdefault(
            frame_id, PictureSignals("?", reader.coded_height, reader.coded_width, is_damaged=True)
        )
        if not signals.maps and not signals.is_damaged:
            signals.intra_fallback = changes.found.get(frame_id)
    note = " (painted references" + (", two passes)" if passes == 2 else ")")
    return [pictures[int(frame_id)] for frame_id in frame_ids], note


def filled(field: MotionField) -> np.ndarray:
    """(rows, columns) complex64: the velocity. Where it is not known and the residual is small, the paint
    mostly wraps: that of the neighbours, if at least three of the eight agree. Others stay NaN: intra coded
    cells, and what moves in a way that the paint does not tell."""
    velocity = field.velocity
    for _ in range(FILLED_ROUNDS):
        places = np.flatnonzero(np.isnan(velocity.real) & ~field.is_intra & (field.residual < EXPLAINED))
        if not len(places):
            break
        rows, columns = velocity.shape
        framed = np.full((rows + 2, columns + 2), complex(np.nan, np.nan), np.complex64)
        framed[1:-1, 1:-1] = velocity
        corner = places // columns * (columns + 2) + places % columns
        offsets = [y * (columns + 2) + x for y in range(3) for x in range(3) if (y, x) != (1, 1)]
        around = framed.ravel()[corner[:, None] + offsets]
        # NaN is sorted to the end, so the middle of the known ones is in the middle of the beginning.
        known = np.count_nonzero(~np.isnan(around.real), 1)
        middle = (np.maximum(known, 1) - 1)[:, None] // 2
        x, y = (np.take_along_axis(np.sort(part, 1), middle, 1)[:, 0] for part in (around.real, around.imag))
        likely = x + 1j * y
        agree = np.count_nonzero(np.abs(around - likely[:, None]) < AGREEING, 1) >= 3
        velocity = velocity.copy()
        velocity.ravel()[places[agree]] = likely[agree]
    return velocity
