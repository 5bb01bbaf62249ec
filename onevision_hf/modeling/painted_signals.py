"""Signals of sampled frames by painted references: motion vectors and residual of codecs that give none."""

import numpy as np

from .codec_signals import vector_energy
from .intra_fallback import PictureDifferences, keyframe_before, keyframes_before
from .painted_pictures import default_passes, iter_painted_pictures
from .picture_signals import PictureSignals
from .signal_settings import SignalSettings
from .video_reader import VideoReader

# Pixels a frame: smaller differences between neighbours are noise of the reading.
DEAD_ZONE = 0.25
NOISY_DEAD_ZONE = 0.5  # where residuals of the chroma are dense


def painted_signals(
    reader: VideoReader, frame_ids: np.ndarray, settings: SignalSettings
) -> tuple[list[PictureSignals], str]:
    """Vectors and residual of sampled frames.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        settings: which of "vectors" and "residual", also by the names "painted_vectors" and
            "painted_residual"; the camera model; how many passes.

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

    def read(wanted: set[int], changes: PictureDifferences) -> None:
        for frame_id, painted in iter_painted_pictures(reader, wanted, passes=passes):
            if painted.luma is not None:
                changes.add(frame_id, painted.luma)
            signals = PictureSignals(painted.picture_type, *painted.size, is_damaged=painted.is_damaged)
            if (field := painted.field) is not None:
                for name in names:
                    if name.endswith("vectors"):
                        vectors = np.stack([field.velocity.real, field.velocity.imag], -1)
                        energy = vector_energy(vectors, settings.camera_model)
                        dead = NOISY_DEAD_ZONE if noisy else DEAD_ZONE
                        signals.maps[name] = np.maximum(energy - np.float32(dead), 0)
                    else:
                        signals.maps[name] = field.residual
            pictures[frame_id] = signals

    read(sampled | {key for key in earlier.values() if key is not None}, changes)
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
