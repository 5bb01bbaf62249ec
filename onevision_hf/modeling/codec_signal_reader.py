"""Codec signals of sampled frames of a video as arrays on the stream's own grid.

signals = read_codec_signals("clip.mp4", num_frames=64)
signals.vectors     # (T, ceil(H / 4), ceil(W / 4), 2) pixels, NaN where there is none
signals.residual    # (T, ceil(H / 16), ceil(W / 16)) what the prediction left over
signals.signal      # for each how it was obtained
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .codec_signals import VECTOR_CODECS, bits, read_standalone_pictures, residual_sums, vectors
from .frame_sampling import sample_frame_ids
from .motion_field import CELL
from .painted_decoder import PaintedPicture, PaintingError
from .painted_pictures import default_passes, has_painted_vectors, iter_painted_pictures
from .standalone_decoder import StandalonePicture, UnsupportedStreamError
from .video_reader import VideoReader, VideoSource

READABLE = ("vectors", "residual", "bits", "age")
DEFAULT = ("vectors", "residual", "bits")


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
        passes: of painted references, 1 or 2; by default two where it pays (VP8, VP9 without hidden
            pictures).
        errors: "raise", or "partial": of a truncated file, what is there.

    Returns:
        `CodecSignals`; what the codec does not give is None, and `signal` says why.

    Raises:
        VideoReadError: the video cannot be read.
        ValueError: an argument is out of range.
    """
    unknown = set(signals) - set(READABLE)
    if unknown or isinstance(signals, str):
        raise ValueError(f"signals must be some of {', '.join(READABLE)}, not {signals!r}")
    if passes not in (None, 1, 2):
        raise ValueError(f"passes must be 1 or 2, not {passes!r}")
    with VideoReader(video, errors=errors) as reader:
        if frame_ids is None:
            chosen = sample_frame_ids(len(reader), num_frames)
        else:
            chosen = np.array(list(frame_ids), np.int64)
            if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(reader):
                raise ValueError(f"frame_ids must be some of 0 to {len(reader) - 1}, not {chosen.tolist()}")
        return _ClipSignals(reader, chosen, passes).read(signals)


class _Told(NamedTuple):
    """What a picture says of itself."""

    picture_type: str
    size: tuple[int, ...]  # height, width
    is_damaged: bool


class _ClipSignals:
    """Reads the signals of frames of an open video, each in the way that its codec allows.

    Args:
        reader: the video.
        frame_ids: (T,) numbers of the frames.
        passes: of painted references.
    """

    def __init__(self, reader: VideoReader, frame_ids: np.ndarray, passes: int | None):
        self.reader, self.frame_ids, self.passes = reader, frame_ids, passes
        self.found: dict[str, Any] = dict.fromkeys(READABLE)
        self.signal: dict[str, str] = {}
        self.known: list[_Told] = []  # of each frame the picture that was read last
        self.vector_unit = "reference"

    def read(self, names: Sequence[str]) -> CodecSignals:
        if "vectors" in names:
            if has_painted_vectors(self.reader):
                names = [*dict.fromkeys((*names, "age"))]
            else:
                self._export_vectors()
        standalone = [name for name in ("residual", "bits") if name in names]
        if standalone:
            self._read_packets_alone(standalone)
        # What is still missing.
        if left := [name for name in names if name != "bits" and self.found[name] is None]:
            self._paint(left)
        if not self.known:
            told = {
                frame.frame_id: _Told(frame.picture_type, frame.luma.shape, frame.is_damaged)
                for frame in self.reader.frames(self.frame_ids)
            }
            self.known = [told[int(frame_id)] for frame_id in self.frame_ids]
        return CodecSignals(
            **self.found,
            frame_ids=self.frame_ids,
            picture_types=tuple(one.picture_type for one in self.known),
            packet_sizes=self.reader.index.size[self.frame_ids],
            picture_sizes=np.array([one.size for one in self.known], np.int64),
            signal=self.signal,
            vector_unit=self.vector_unit,
        )

    def _export_vectors(self) -> None:
        codec = self.reader.codec
        if codec not in VECTOR_CODECS:
            self.signal["vectors"] = f"none: FFmpeg's decoder exports no motion vectors of {codec}"
            return
        fields = {}
        for frame in self.reader.frames(self.frame_ids, motion_vectors=True):
            size = frame.av_frame.height, frame.av_frame.width
            field = vectors(frame.motion_vectors, *size, reference="either")
            fields[frame.frame_id] = (field, _Told(frame.picture_type, size, frame.is_damaged))
        self.found["vectors"] = _stack([fields[int(frame_id)][0] for frame_id in self.frame_ids])
        self.known = [fields[int(frame_id)][1] for frame_id in self.frame_ids]
        self.signal["vectors"] = f"motion vectors of {codec}" + _damaged_among(self.known)

    def _read_packets_alone(self, names: list[str]) -> None:
        try:
            pictures = read_standalone_pictures(self.reader, self.frame_ids)
        except UnsupportedStreamError as error:
            self.signal |= dict.fromkeys(names, f"none: {error}")
            return
        self.known = [_Told(one.picture_type, one.luma.shape, one.is_damaged) for one in pictures]
        sizes = self.reader.index.size[self.frame_ids].tolist()
        self.found |= _standalone_signals(pictures, sizes, names, self.signal)

    def _paint(self, names: list[str]) -> None:
        """Vectors, residual and age, those of them that are asked for."""
        if "age" in names and "vectors" not in names and self.found["vectors"] is not None:
            self.signal["age"] = "none: exported motion vectors do not tell which picture they refer to"
            names = [name for name in names if name != "age"]
        if not names:
            return
        try:
            passes = self.passes or default_passes(self.reader)
            pictures = dict(iter_painted_pictures(self.reader, self.frame_ids.tolist(), passes=passes))
        except PaintingError as error:
            for name in names:
                before = self.signal.get(name)
                self.signal[name] = f"{before}; {error}" if before else f"none: {error}"
            return
        missing = PaintedPicture("?", (self.reader.coded_height, self.reader.coded_width), is_damaged=True)
        ordered = [pictures.get(int(frame_id), missing) for frame_id in self.frame_ids]
        self.known = [_Told(one.picture_type, one.size, one.is_damaged) for one in ordered]
        silent = sum(one.field is None and not one.is_damaged for one in ordered)
        told = "painted references" + (", two passes" if passes == 2 else "")
        told += f"; {silent} of {len(ordered)} pictures are intra coded and have none" if silent else ""
        told += _damaged_among(self.known)
        if "vectors" in names:
            self.vector_unit = "frame"
            self.found["vectors"] = _stack([_painted_vectors(one) for one in ordered])
        if "age" in names:
            self.found["age"] = _stack([_painted_age(one) for one in ordered])
        if "residual" in names:
            self.found["residual"] = _stack([_painted_residual(one) for one in ordered])
        self.signal |= dict.fromkeys(names, told)


def _painted_vectors(picture: PaintedPicture) -> np.ndarray:
    """(ceil(H/4), ceil(W/4), 2) float32."""
    if picture.field is None:
        return np.full((*_blocks(picture.size, 4), 2), np.nan, np.float32)
    velocity = picture.field.velocity
    return _finer(np.stack([velocity.real, velocity.imag], -1), picture.size)


def _painted_age(picture: PaintedPicture) -> np.ndarray:
    """(ceil(H/4), ceil(W/4)) float32."""
    if picture.field is None:
        return np.full(_blocks(picture.size, 4), np.nan, np.float32)
    return _finer(picture.field.age, picture.size)


def _painted_residual(picture: PaintedPicture) -> np.ndarray:
    """(ceil(H/16), ceil(W/16)) float32, sums."""
    rows, columns = _blocks(picture.size, 16)
    if picture.field is None:
        return np.full((rows, columns), np.nan, np.float32)
    means = picture.field.residual
    sums = np.zeros((2 * rows, 2 * columns), np.float32)
    height, width = picture.size
    counts_y = np.minimum(CELL, height - np.arange(0, height, CELL))
    counts_x = np.minimum(CELL, width - np.arange(0, width, CELL))
    sums[: means.shape[0], : means.shape[1]] = means * (counts_y[:, None] * counts_x)
    return sums.reshape(rows, 2, columns, 2).sum((1, 3))


def _blocks(size: tuple[int, int], side: int) -> tuple[int, int]:
    return -(-size[0] // side), -(-size[1] // side)


def _finer(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """From cells of 8 x 8 pixels to blocks of 4 x 4."""
    rows, columns = _blocks(size, 4)
    return cells.repeat(2, 0).repeat(2, 1)[:rows, :columns]


def _damaged_among(pictures: Sequence[Any]) -> str:
    count = sum(picture.is_damaged for picture in pictures)
    return f"; {count} of {len(pictures)} pictures are damaged" if count else ""


def _stack(maps: Sequence[np.ndarray]) -> np.ndarray:
    """(T, rows, columns, ...) of maps of each picture, NaN beyond the smaller ones."""
    rows, columns = (max(values.shape[axis] for values in maps) for axis in (0, 1))
    stack = np.full((len(maps), rows, columns, *maps[0].shape[2:]), np.nan, np.float32)
    for place, values in zip(stack, maps, strict=True):
        place[: values.shape[0], : values.shape[1]] = values
    return stack


def _standalone_signals(
    pictures: list[StandalonePicture], sizes: list[int], names: list[str], signal: dict[str, str]
) -> dict[str, np.ndarray]:
    silent = [picture.picture_type == "I" or picture.is_damaged for picture in pictures]
    found = {}
    if "residual" in names:
        found["residual"] = _stack([residual_sums(picture) for picture in pictures])
        shifted = sum(picture.zero_level != 128 for picture in pictures if picture.picture_type != "I")
        signal["residual"] = "exact, packets decoded alone against grey references"
        if shifted:
            signal["residual"] += (
                f"; {shifted} pictures with weighted prediction, their commonest level removed"
            )
    if "bits" in names:
        estimates, source = bits(pictures, sizes)
        found["bits"] = _stack(estimates)
        signal["bits"] = f"estimated from the exact residual, {source}, scaled to the packets' sizes"
    for name, stack in found.items():
        stack[silent] = np.nan
        signal[name] += _damaged_among(pictures)
    return found
