"""Signals of sampled frames from decoded pictures: exported vectors, compensated residual, difference."""

import numpy as np

from .codec_signals import compensated, vector_energy, vectors
from .decoded_frame import with_neighbours
from .frame_sequence import FrameSequence
from .picture_difference import difference
from .picture_signals import PictureSignals, own_motion
from .shot_cuts import ShotSearch
from .signal_settings import SignalSettings
from .video_reader import VideoReader


def decoded_signals(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    settings: SignalSettings,
    search: ShotSearch | None = None,
) -> list[PictureSignals]:
    """Signals of sampled frames.

    Args:
        reader: the open video, or frames.
        frame_ids: (T,) numbers of the sampled frames.
        settings: which signals; the camera model.
        search: for cuts, which looks on.
    """
    names = [name for name, _ in settings.pairs]
    with_vectors = bool({"vectors", "compensated"} & set(names))
    # What is compared with the frame before needs that frame decoded too: all, or the pictures without
    # vectors.
    compared = frame_ids
    if with_vectors and "difference" not in names and isinstance(reader, VideoReader):
        compared = frame_ids[reader.index.keyframe[frame_ids]]
    wanted = np.union1d(frame_ids, compared[compared > 0] - 1)
    sampled = {int(frame_id) for frame_id in frame_ids}
    found: dict[int, PictureSignals] = {}
    watched = set() if search is None else search.on_the_way(wanted)
    frames = reader.frames(
        watched.union(wanted.tolist()), motion_vectors=with_vectors, references=with_vectors
    )
    if search is not None and watched:
        frames = search.looking_on(frames, set(wanted.tolist()), with_vectors)
    for frame, before, past, future in with_neighbours(frames):
        if frame.frame_id not in sampled:
            continue
        luma, records = frame.luma, frame.motion_vectors if with_vectors else None
        height, width = luma.shape
        signals = PictureSignals(frame.picture_type, height, width, is_damaged=frame.is_damaged)
        found[frame.frame_id] = signals
        if signals.is_damaged:
            continue
        if "difference" in names:
            signals.maps["difference"] = difference(luma, before)
        if records is None or not len(records):
            signals.intra_fallback = difference(luma, before) if with_vectors else None
        else:
            if "vectors" in names and settings.preset == "published":
                # As the published grids do, blocks without a past reference count as standing still.
                field = np.nan_to_num(vectors(records, *luma.shape, whole_pixels=True))
                signals.maps["vectors"] = vector_energy(field, settings.camera_model)
            elif "vectors" in names:
                signals.maps["vectors"] = own_motion(records, height, width, settings.camera_model)
            if "compensated" in names:
                signals.maps["compensated"] = compensated(luma, records, past, future)
    return [found[int(frame_id)] for frame_id in frame_ids]
