"""What a picture of a clip needs, and the selection does not hold: frames, every signal, the packets."""

import numpy as np

from ..modeling.codec_signal_reader import iter_frame_signals
from ..modeling.painted_codecs import PaintingError, has_painted_vectors
from ..modeling.patch_selection import Selection
from ..modeling.picture_signals import PictureSignals
from ..modeling.signal_energy import given_signals, pool_into, signal_maps
from ..modeling.signal_settings import SIGNALS, SignalSettings
from ..modeling.standalone_decoder import UnsupportedStreamError
from ..modeling.video_reader import VideoReader
from .clip_view import Packets


def read_frames(reader: VideoReader, selection: Selection) -> np.ndarray:
    """The sampled frames as the selection lays them out, (T, H, W, 3) uint8."""
    geometry = selection.geometry
    size = (geometry.resized_width, geometry.resized_height)
    return np.stack([geometry.place(frame.rgb(*size)) for frame in reader.frames(selection.frame_ids)])


def read_signals(
    reader: VideoReader, selection: Selection, settings: SignalSettings
) -> tuple[dict[str, np.ndarray | str], dict[str, float]]:
    """Every signal of the sampled frames.

    Args:
        reader: the open clip.
        selection: of that clip, T frames on a grid of gh x gw patches.
        settings: those that its energy was made with.

    Returns:
        (signals, weights): name -> (T, gh, gw) or why this codec does not give it; and the weights of those
        that the energy is made of, which are the very maps that went into it.
    """
    maps, weights, *_ = signal_maps(reader, selection.frame_ids, selection.geometry, settings)
    del maps["intra_fallback"], weights["intra_fallback"]
    signals: dict[str, np.ndarray | str] = {}
    for name in SIGNALS:
        if name.startswith("painted_") and name not in maps:
            continue  # another way to read vectors and residual
        signals[name] = maps[name] if name in maps else _other_signal(reader, selection, name)
        if name == "vectors" and has_painted_vectors(reader):
            signals["age"] = _ages(reader, selection)
    return signals, weights


def _ages(reader: VideoReader, selection: Selection) -> np.ndarray | str:
    """How many frames lie between each patch and what it was predicted from, (T, gh, gw): the mean of its
    blocks, whichever side the reference lies on; 0 where they are intra coded or unknown."""
    frame_ids = selection.frame_ids.tolist()
    read = iter_frame_signals(reader, sorted(set(frame_ids)), ("vectors",))
    found = {frame.frame_id: frame for frame in read}
    pictures, ages = [], {}
    for t, frame_id in enumerate(frame_ids):
        frame = found[frame_id]
        if frame.age is None:
            return frame.signal["age"]
        pictures.append(PictureSignals(frame.picture_type, *frame.picture_size))
        ages[t] = np.abs(frame.age)
    total, known = np.zeros_like(selection.energy), np.zeros_like(selection.energy)
    shown = reader.rotation, reader.mirrored
    pool_into(total, {t: np.nan_to_num(age) for t, age in ages.items()}, pictures, selection.geometry, shown)
    parts = {t: np.isfinite(age).astype(np.float32) for t, age in ages.items()}
    pool_into(known, parts, pictures, selection.geometry, shown)
    return np.divide(total, known, out=np.zeros_like(total), where=known > 0)


def _other_signal(reader: VideoReader, selection: Selection, name: str) -> np.ndarray | str:
    """A signal that is not in the energy, or why there is none."""
    if name not in given_signals(reader):
        if name in ("vectors", "compensated"):
            return f"none: FFmpeg's decoder exports no motion vectors of {reader.codec}"
        return f"none: a packet of {reader.codec} cannot be decoded alone"
    # Bits of one picture are compared with those of the others.
    settings = SignalSettings(signals=(name,), normalize="clip" if name == "bits" else None)
    try:
        return signal_maps(reader, selection.frame_ids, selection.geometry, settings)[0][name]
    except ValueError as error:
        if isinstance(error.__cause__, PaintingError):
            return f"none: {error.__cause__}"
        if not isinstance(error.__cause__, UnsupportedStreamError):
            raise
        return f"none: packets cannot be decoded alone, {error.__cause__}"


def read_packets(reader: VideoReader, selection: Selection) -> Packets:
    """The packets of the stream, with the picture type of every frame, most of which nobody has decoded.

    Keyframes are I, what is shown before a picture that was decoded earlier is B, the rest P. Of the sampled
    ones the decoder knows.
    """
    index = reader.index
    decoded = np.argsort(index.rank)
    late = np.empty(len(decoded), bool)
    late[decoded] = decoded < np.maximum.accumulate(decoded)
    types = np.where(index.keyframe, "I", np.where(late, "B", "P"))
    types[selection.frame_ids] = selection.picture_types
    return Packets(reader.timestamps, index.size, types.tolist(), selection.frame_ids)
