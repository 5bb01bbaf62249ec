"""Codec signals of sampled frames of a video as arrays on the stream's own grid.

signals = read_codec_signals("clip.mp4", num_frames=64)
signals.vectors     # (T, ceil(H / 4), ceil(W / 4), 2) pixels, NaN where there is none
signals.residual    # (T, ceil(H / 16), ceil(W / 16)) what the prediction left over
signals.signal      # for each how it was obtained

for frame in iter_codec_signals("clip.mp4"):    # every frame, one at a time
    print(frame.time, frame.picture_type, frame.vectors.shape)
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from .frame_maps import AT_ONCE, FrameMaps, FrameSignalWays, best_of, told_by
from .frame_sampling import sample_frame_ids
from .video_reader import VideoReader, VideoSource

READABLE = ("vectors", "residual", "bits", "age")
DEFAULT = ("vectors", "residual", "bits")
ITERABLE = ("vectors", "residual", "age")  # bits are fitted to all pictures of a clip


@dataclass(frozen=True, eq=False)
class CodecSignals:
    """Signals of T frames on the stream's own grid, in stored orientation; H, W are the stored picture's (of
    the largest, where the stream changes its size: smaller ones lie in the upper left, NaN around them).

    Args:
        vectors: (T, ceil(H/4), ceil(W/4), 2) float32 [x, y] pixels from the block to where it was, in
            `vector_unit`, sub-pixel precision and camera motion left in; NaN where intra or none.
        residual: (T, ceil(H/16), ceil(W/16)) float32, sum of the absolute luma residual; NaN for I
            pictures.
        bits: (T, ceil(H/16), ceil(W/16)) float32, estimated bits of each block; NaN for I pictures.
        age: (T, ceil(H/4), ceil(W/4)) float32, frames from the picture back to its reference, negative where
            that is shown later, of two references the mean; NaN where intra or unknown.
        frame_ids: (T,) int64, numbers of the frames in display order.
        picture_types: T of "I", "P", "B".
        packet_sizes: (T,) int64 bytes.
        picture_sizes: (T, 2) int64, height and width of each stored picture.
        signal: for each of the four how it was obtained, or why it is None. Damaged pictures have NaN.
        vector_unit: "reference": pixels to the reference, as the decoder exports them (past where there is
            one); "frame": pixels a frame towards the past, whichever reference was used (painted references).
    """

    vectors: np.ndarray | None
    residual: np.ndarray | None
    bits: np.ndarray | None
    age: np.ndarray | None
    frame_ids: np.ndarray
    picture_types: tuple[str, ...]
    packet_sizes: np.ndarray
    picture_sizes: np.ndarray
    signal: dict[str, str]
    vector_unit: str = "reference"


@dataclass(frozen=True, eq=False)
class FrameSignals:
    """Signals of one frame on the stream's own grid, in stored orientation; H, W are the stored picture's.

    Args:
        frame_id: number in display order.
        time: seconds from the first frame.
        picture_type: "I", "P", "B", or "?" where nothing was decoded.
        packet_size: bytes.
        picture_size: height and width of the stored picture.
        vectors: (ceil(H/4), ceil(W/4), 2) float32, as in `CodecSignals`; None where the stream has none.
        residual: (ceil(H/16), ceil(W/16)) float32, likewise.
        age: (ceil(H/4), ceil(W/4)) float32, likewise.
        is_damaged: the decoder met errors in it, or gave nothing: what it does not know is NaN.
        vector_unit: "reference" or "frame", as in `CodecSignals`.
        signal: for each signal how it was obtained, or why there is none.
    """

    frame_id: int
    time: float
    picture_type: str
    packet_size: int
    picture_size: tuple[int, int]
    vectors: np.ndarray | None
    residual: np.ndarray | None
    age: np.ndarray | None
    is_damaged: bool
    vector_unit: str
    signal: dict[str, str]


def iter_codec_signals(
    video: VideoSource,
    *,
    signals: Sequence[str] = ITERABLE,
    passes: int | None = None,
    errors: str = "raise",
) -> Iterator[FrameSignals]:
    """Motion vectors, residual and age of the references of every frame, in display order, with flat memory.

    The values are those of `read_codec_signals`. A frame that cannot be decoded comes as a damaged one.

    Args:
        video: a path, bytes, or a binary file object (one that cannot seek is read to its end first; of live
            sources, whose end does not come, `CodecStream` makes windows of patches).
        signals: which of "vectors", "residual", "age"; the age comes with painted vectors.
        passes: of painted references, as in `read_codec_signals`.
        errors: "raise", or "partial": of a truncated file, what is there.

    Yields:
        `FrameSignals`; what the codec does not give is None, and `signal` says why.

    Raises:
        VideoReadError: the video cannot be read.
        ValueError: an argument is out of range.
    """
    _check(signals, ITERABLE, passes)

    def frames() -> Iterator[FrameSignals]:
        with VideoReader(video, errors=errors) as reader:
            yield from iter_frame_signals(reader, range(len(reader)), signals, passes)

    return frames()


def iter_frame_signals(
    reader: VideoReader, frame_ids: Sequence[int], signals: Sequence[str], passes: int | None = None
) -> Iterator[FrameSignals]:
    """`iter_codec_signals` of some frames of an open video.

    Args:
        reader: the video.
        frame_ids: sorted numbers of the frames.
        signals: as in `iter_codec_signals`.
        passes: as in `iter_codec_signals`.
    """
    with closing(FrameSignalWays(reader, frame_ids, signals, passes, AT_ONCE)) as ways:
        reasons = {name: f"none: {reason}" for name, reason in ways.reasons.items()}
        unit = "frame" if ways.has_painted_vectors else "reference"
        times, sizes = reader.timestamps, reader.index.size
        for frame_id, found in ways:
            told = told_by(found)
            height, width = told.size
            maps = {name: best_of(found, name) for name in ITERABLE if name in ways.given}
            yield FrameSignals(
                frame_id=frame_id,
                time=float(times[frame_id]),
                picture_type=told.picture_type,
                packet_size=int(sizes[frame_id]),
                picture_size=(height, width),
                **{name: maps[name].map_of(name) if name in maps else None for name in ITERABLE},
                is_damaged=any(one.is_damaged for one in found),
                vector_unit=unit,
                signal=reasons | {name: one.how[name] for name, one in maps.items()},
            )


def read_codec_signals(
    video: VideoSource,
    *,
    num_frames: int = 64,
    frame_ids: Iterable[int] | None = None,
    signals: Sequence[str] = DEFAULT,
    passes: int | None = None,
    errors: str = "raise",
) -> CodecSignals:
    """Motion vectors, residual, bit cost and age of the references of sampled frames, with a stock FFmpeg.

    Args:
        video: a path, bytes, or a binary file object.
        num_frames: frames sampled uniformly, floor(linspace(0, N - 1, num_frames)).
        frame_ids: which frames instead, numbers in display order.
        signals: which of "vectors", "residual", "bits", "age" to read; the age comes with painted vectors.
        passes: of painted references, 1 or 2; by default two where it pays (VP8, realtime VP9) or vectors
            need it (VVC).
        errors: "raise", or "partial": of a truncated file, what is there.

    Returns:
        `CodecSignals`; what the codec does not give is None, and `signal` says why.

    Raises:
        VideoReadError: the video cannot be read.
        ValueError: an argument is out of range.
    """
    _check(signals, READABLE, passes)
    with VideoReader(video, errors=errors) as reader:
        if frame_ids is None:
            chosen = sample_frame_ids(len(reader), num_frames)
        else:
            chosen = np.array(list(frame_ids), np.int64)
            if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(reader):
                raise ValueError(f"frame_ids must be some of 0 to {len(reader) - 1}, not {chosen.tolist()}")
        ids = np.unique(chosen).tolist()
        with closing(FrameSignalWays(reader, ids, signals, passes, at_once=None)) as ways:
            by_id = dict(ways)
        found = [by_id[frame_id] for frame_id in chosen.tolist()]
        told = [told_by(one) for one in found]
        maps = {name: [best_of(one, name) for one in found] for name in ways.given}
        return CodecSignals(
            **{
                name: _stack([one.map_of(name) for one in maps[name]]) if name in maps else None
                for name in READABLE
            },
            frame_ids=chosen,
            picture_types=tuple(one.picture_type for one in told),
            packet_sizes=reader.index.size[chosen],
            picture_sizes=np.array([one.size for one in told], np.int64),
            signal={name: f"none: {reason}" for name, reason in ways.reasons.items()}
            | {name: _in_words(name, column) for name, column in maps.items()},
            vector_unit="frame" if ways.has_painted_vectors else "reference",
        )


def _check(signals: Sequence[str], allowed: Sequence[str], passes: int | None) -> None:
    if isinstance(signals, str) or set(signals) - set(allowed):
        raise ValueError(f"signals must be some of {', '.join(allowed)}, not {signals!r}")
    if passes not in (None, 1, 2):
        raise ValueError(f"passes must be 1 or 2, not {passes!r}")


def _in_words(name: str, found: Sequence[FrameMaps]) -> str:
    """How a signal was obtained, and of how many pictures there is more to say."""
    words = next((one.how[name] for one in found if name in one.maps), found[0].how[name])
    notes = [note for one in found for note in one.notes] + ["are damaged"] * sum(o.is_damaged for o in found)
    for note in dict.fromkeys(notes):
        words += f"; {notes.count(note)} of {len(found)} pictures {note}"
    return words


def _stack(maps: Sequence[np.ndarray]) -> np.ndarray:
    """(T, rows, columns, ...) of maps of each picture, NaN beyond the smaller ones."""
    rows, columns = (max(values.shape[axis] for values in maps) for axis in (0, 1))
    stack = np.full((len(maps), rows, columns, *maps[0].shape[2:]), np.nan, np.float32)
    for place, values in zip(stack, maps, strict=True):
        place[: values.shape[0], : values.shape[1]] = values
    return stack
