"""Signals of sampled frames whose packets are decoded alone (see `standalone_decoder`)."""

import numpy as np

from .codec_signals import VECTOR_CODECS, bits, read_standalone_pictures, residual_energy
from .intra_fallback import PictureDifferences, keyframes_before, read_differences
from .picture_signals import CELL, PictureSignals, own_motion
from .shot_cuts import ShotSearch, parts_explained
from .standalone_decoder import StandalonePicture
from .video_reader import PacketIndex, VideoReader


def standalone_signals(
    reader: VideoReader,
    frame_ids: np.ndarray,
    names: list[str],
    camera: str,
    search: ShotSearch | None = None,
) -> list[PictureSignals]:
    """Signals of sampled frames, the vectors of B pictures taken from P pictures.

    Alone, a B picture's vectors come out wrong: direct blocks take theirs from the co-located picture, which
    is grey here, and the other blocks' are told as differences to those. They are taken from the P picture
    that follows it (before a keyframe: that precedes it). Those are exact, and what moves there moves one to
    three frames earlier too, by less than a patch beside it.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        names: of the signals.
        camera: the model that is taken off the vectors.
        search: for cuts, which looks on.
    """
    watched = set() if search is None else search.watched
    sampled = {int(frame_id) for frame_id in frame_ids}
    source = vector_sources(reader.index)
    sources = {int(source[frame_id]) for frame_id in sampled} if "vectors" in names else set()
    # Bits need no replacement in intra pictures: they have their own.
    earlier = {} if "bits" in names else keyframes_before(reader.index, sampled)
    changes = PictureDifferences(earlier)

    def measure(picture: StandalonePicture, frame_id: int) -> PictureSignals:
        height, width = picture.luma.shape
        signals = PictureSignals(picture.picture_type, height, width, is_damaged=picture.is_damaged)
        if picture.is_damaged:
            return signals
        changes.add(frame_id, picture.luma)
        if search is not None and frame_id in watched:
            if picture.picture_type == "I":
                search.see(frame_id, picture.luma)
            elif reader.codec in VECTOR_CODECS:
                search.see_vectors(frame_id, *parts_explained(picture.vectors, picture.luma, height, width))
        if picture.picture_type == "I" or frame_id not in needed:
            return signals
        if frame_id in sources:
            signals.maps["vectors"] = own_motion(picture.vectors, height, width, camera)
        if "residual" in names and frame_id in sampled:
            signals.maps["residual"] = residual_energy(picture, CELL)
        return signals

    needed = sampled | sources | {key for key in earlier.values() if key is not None}
    wanted = sorted(needed if "bits" in names else needed | watched)
    if "bits" in names:
        pictures = read_standalone_pictures(reader, wanted)
        known = {
            frame_id: measure(picture, frame_id) for frame_id, picture in zip(wanted, pictures, strict=True)
        }
        estimates = bits(pictures, reader.index.size[wanted].tolist())[0]
        for frame_id, estimate in zip(wanted, estimates, strict=True):
            if not known[frame_id].is_damaged:
                known[frame_id].maps["bits"] = estimate
        if more := sorted(watched - needed):  # they have no say in what a bit is
            read_standalone_pictures(reader, more, block_qp=False, then=measure)
    else:
        results = read_standalone_pictures(
            reader, wanted, vectors_of=sources | watched, block_qp=False, then=measure
        )
        known = dict(zip(wanted, results, strict=True))
        unmarked = [i for i in sampled - earlier.keys() if known[i].picture_type == "I"]
        changes.found |= read_differences(reader, unmarked)
    for frame_id in sampled:
        picture = known[frame_id]
        if picture.is_damaged:
            continue
        if picture.picture_type == "I":
            picture.intra_fallback = changes.found.get(frame_id)
        elif sources:
            other = known[int(source[frame_id])]
            if "vectors" in other.maps and (other.height, other.width) == (picture.height, picture.width):
                picture.maps["vectors"] = other.maps["vectors"]
    return [known[int(frame_id)] for frame_id in frame_ids]


def vector_sources(index: PacketIndex) -> np.ndarray:
    """(N,) for each frame the P picture whose motion is nearest to its own; a P picture's is itself.

    Known from the order alone: what is shown before a picture that was decoded earlier is a B picture, and
    the last shown of those decoded earlier is the reference after it.
    """
    decoded = np.argsort(index.rank)
    latest = np.maximum.accumulate(decoded)
    following = np.empty_like(decoded)
    following[decoded] = latest
    references = np.unique(latest)
    place = np.searchsorted(references, following)
    # A keyframe has no motion, so what leads up to it takes that of the reference before.
    return np.where(index.keyframe[following], references[np.maximum(place - 1, 0)], following)
