"""Signals of the frames of an open video, frame by frame in the order of display, with flat memory.

Motion vectors are exported by the decoder, the residual comes of packets that are decoded alone, and both,
with the age of the references, of painted references. Which of these ways are gone depends on the stream;
they are gone side by side. `codec_signal_reader` makes of it what users see.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np

from .codec_signals import VECTOR_CODECS, bits, decode_packets_alone, residual_sums, vectors
from .motion_field import CELL
from .painted_codecs import PaintingError, has_painted_vectors
from .painted_decoder import PaintedPicture
from .painted_pictures import default_passes, iter_painted_pictures
from .picture_difference import block_sizes
from .standalone_decoder import StandaloneDecoder, StandalonePicture, UnsupportedStreamError
from .video_reader import VideoReader, VideoReadError

AT_ONCE = 32  # packets that are decoded alone side by side
EXACT = "exact, packets decoded alone against grey references"
BLOCK_SIDE = {"vectors": 4, "age": 4, "residual": 16, "bits": 16}  # pixels
Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class FrameMaps:
    """What one way of reading says of one frame.

    Attributes:
        picture_type: "I", "P", "B" or "?".
        size: height and width of the stored picture.
        is_damaged: the decoder met errors in it, or gave nothing.
        maps: by signal, on the stream's own grid, sums of whole blocks.
        how: by signal how it was obtained, or "none: " and why not.
        notes: what else is to be said: the ends of "3 of 64 pictures ...".
    """

    picture_type: str
    size: tuple[int, ...]
    is_damaged: bool = False
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def map_of(self, name: str) -> np.ndarray:
        """The map of a signal, NaN where there is none."""
        if name in self.maps:
            return self.maps[name]
        shape = _blocks(self.size, BLOCK_SIDE[name]) + ((2,) if name == "vectors" else ())
        return np.full(shape, np.nan, np.float32)


Way = Iterator[tuple[int, FrameMaps]]


class FrameSignalWays:
    """The signals of frames of an open video, each read in the way that the stream allows.

    Iterating gives (frame_id, what each way says of the frame).

    Args:
        reader: the video.
        frame_ids: sorted numbers of the frames.
        names: of the signals.
        passes: of painted references, None for what pays.
        at_once: packets that are decoded alone together; frames that cannot be decoded are damaged. None:
            all are read before the first is told, so that the bits can be fitted to all; a frame that cannot
            be decoded is an error.

    Attributes:
        given: names of the signals that there are.
        reasons: why there are not the others.
        has_painted_vectors: whether vectors are read by painted references.
    """

    def __init__(
        self,
        reader: VideoReader,
        frame_ids: Sequence[int],
        names: Sequence[str],
        passes: int | None,
        at_once: int | None,
    ):
        self.given: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.has_painted_vectors = False
        self._ways: list[Way] = []
        self._opened: list[Any] = []
        if "vectors" in names:
            if has_painted_vectors(reader):
                names = [*dict.fromkeys((*names, "age"))]
            elif reader.codec in VECTOR_CODECS:
                self._go(["vectors"], _decoded_maps(reader, frame_ids, True, at_once))
            else:
                self.reasons["vectors"] = f"FFmpeg's decoder exports no motion vectors of {reader.codec}"
        if alone := [name for name in ("residual", "bits") if name in names]:
            self._go(alone, _exact_maps(reader, frame_ids, alone, at_once))
        left = [name for name in names if name != "bits" and name not in self.given]
        if "age" in left and "vectors" in self.given:
            self.reasons["age"] = "exported motion vectors do not tell which picture they refer to"
            left.remove("age")
        if left:
            painted = [name for name in names if name in left or name == "residual"]
            self._go(left, _painted_maps(reader, frame_ids, painted, passes))
            self.has_painted_vectors = "vectors" in left and "vectors" in self.given
        if not self._ways:
            self._go([], _decoded_maps(reader, frame_ids, False, at_once))

    def _go(self, names: list[str], way: Way) -> None:
        """Take a way for these signals, if it has a beginning."""
        self._opened.append(way)
        try:
            first = next(way)
        except (UnsupportedStreamError, PaintingError) as error:
            for name in names:
                before = self.reasons.get(name)
                self.reasons[name] = f"{before}; {error}" if before else str(error)
            return
        self._ways.append(chain([first], way))
        self.given |= set(names)
        for name in names:
            self.reasons.pop(name, None)

    def __iter__(self) -> Iterator[tuple[int, list[FrameMaps]]]:
        for found in zip(*self._ways, strict=True):
            yield found[0][0], [maps for _, maps in found]

    def close(self) -> None:
        for way in self._opened:
            way.close()


def best_of(ways: Sequence[FrameMaps], name: str) -> FrameMaps:
    """The way that is believed for a signal: the first that has it, else one that says why it has not."""
    for found in ways:
        if name in found.maps:
            return found
    return next((found for found in ways if name in found.how), ways[-1])


def told_by(ways: Sequence[FrameMaps]) -> FrameMaps:
    """The way that is believed for type and size: the last that knows them."""
    return next((found for found in reversed(ways) if found.picture_type != "?"), ways[-1])


def in_display_order(
    found: Iterable[tuple[int, Found]], frame_ids: Sequence[int], ranks: np.ndarray
) -> Iterator[tuple[int, Found | None]]:
    """(frame_id, what was found of it, or None) in the order of display, as soon as that is known.

    Frames are waited for until one comes whose packet lies behind theirs, so no more are held than the stream
    itself decodes ahead.

    Args:
        found: in the order of the packets, some may be missing.
        frame_ids: sorted numbers of all frames.
        ranks: (N,) places of the packets of all frames of the stream.
    """
    waiting: dict[int, Found] = {}
    left = deque(frame_ids)
    for frame_id, one in found:
        waiting[frame_id] = one
        while left and (left[0] in waiting or ranks[left[0]] < ranks[frame_id]):
            first = left.popleft()
            yield first, waiting.pop(first, None)
    for first in left:
        yield first, waiting.pop(first, None)


def _decoded_maps(
    reader: VideoReader, frame_ids: Sequence[int], with_vectors: bool, at_once: int | None
) -> Way:
    """Vectors that the decoder exports, or nothing but types and sizes."""
    how = {"vectors": f"motion vectors of {reader.codec}"} if with_vectors else {}

    def decoded() -> Way:
        for frame in reader.frames(frame_ids, motion_vectors=with_vectors):
            size = frame.av_frame.height, frame.av_frame.width
            maps = {}
            if with_vectors:
                maps["vectors"] = vectors(frame.motion_vectors, *size, reference="either")
            yield frame.frame_id, FrameMaps(frame.picture_type, size, frame.is_damaged, maps, how)

    if at_once is None:
        found = dict(decoded())
        yield from ((frame_id, found[frame_id]) for frame_id in frame_ids)
        return
    left = deque(frame_ids)
    missing = FrameMaps("?", (reader.coded_height, reader.coded_width), True, how=how)
    try:
        for frame_id, maps in decoded():
            while left and left[0] < frame_id:
                yield left.popleft(), missing
            if left and left[0] == frame_id:
                yield left.popleft(), maps
    except VideoReadError:  # it names the frames that are missing
        if len(left) == len(frame_ids):
            raise
    yield from ((frame_id, missing) for frame_id in left)


def _exact_maps(reader: VideoReader, frame_ids: Sequence[int], names: list[str], at_once: int | None) -> Way:
    if "bits" in names:
        found: Iterable[tuple[int, FrameMaps]] = _with_bits(reader, frame_ids, names)
    else:
        found = _exact_residuals(reader, frame_ids, at_once)
    for frame_id, maps in in_display_order(found, frame_ids, reader.index.rank):
        if maps is None:
            raise UnsupportedStreamError(f"the packet of frame {frame_id} cannot be found")
        yield frame_id, maps


def _exact_residuals(reader: VideoReader, frame_ids: Sequence[int], at_once: int | None) -> Way:
    """In the order of decoding."""
    decoder = StandaloneDecoder(reader.codec, block_qp=False)
    packets = reader.packets(frame_ids)
    is_known = at_once is None  # whether a packet that fails is an exception
    while batch := list(islice(packets, at_once)):
        try:
            yield from _residuals_of(decoder, reader, batch)
        except UnsupportedStreamError:
            if at_once is None:
                raise
            found = []
            for packet in batch:
                try:
                    found += _residuals_of(decoder, reader, [packet])
                    is_known = True
                except UnsupportedStreamError as error:
                    if packet is batch[-1] and not is_known:
                        raise
                    size = reader.coded_height, reader.coded_width
                    found.append((packet[0], FrameMaps("?", size, how={"residual": f"none: {error}"})))
            yield from found
        is_known = True


def _residuals_of(
    decoder: StandaloneDecoder, reader: VideoReader, packets: list[tuple[int, bytes]]
) -> list[tuple[int, FrameMaps]]:
    without = [False] * len(packets)
    maps = decode_packets_alone(decoder, reader, packets, lambda picture, _: _residual_map(picture), without)
    return [(frame_id, found) for (frame_id, _), found in zip(packets, maps, strict=True)]


def _residual_map(picture: StandalonePicture) -> FrameMaps:
    is_inter = picture.picture_type != "I"
    values = residual_sums(picture)
    if not is_inter or picture.is_damaged:
        values[:] = np.nan
    is_shifted = is_inter and picture.zero_level != 128
    return FrameMaps(
        picture.picture_type,
        picture.luma.shape,
        picture.is_damaged,
        {"residual": values},
        {"residual": EXACT},
        ("have weighted prediction, their commonest level removed",) if is_shifted else (),
    )


def _with_bits(reader: VideoReader, frame_ids: Sequence[int], names: list[str]) -> Way:
    """Residual and bits, which are fitted to all pictures together."""
    packets = list(reader.packets(frame_ids))
    decoder = StandaloneDecoder(reader.codec)
    pictures = decode_packets_alone(decoder, reader, packets, lambda picture, _: picture)
    ids = [frame_id for frame_id, _ in packets]
    estimates, source = bits(pictures, reader.index.size[ids].tolist())
    how = f"estimated from the exact residual, {source}, scaled to the packets' sizes"
    for frame_id, picture, estimate in zip(ids, pictures, estimates, strict=True):
        if picture.picture_type == "I" or picture.is_damaged:
            estimate = np.full_like(estimate, np.nan)
        found = _residual_map(picture)
        found.maps["bits"], found.how["bits"] = estimate, how
        yield frame_id, found


def _painted_maps(
    reader: VideoReader, frame_ids: Sequence[int], names: Sequence[str], passes: int | None
) -> Way:
    passes = passes or default_passes(reader)
    how = dict.fromkeys(names, "painted references" + (", two passes" if passes == 2 else ""))
    failures: list[PaintingError] = []

    def pictures() -> Iterator[tuple[int, PaintedPicture]]:
        came = False
        try:
            for found in iter_painted_pictures(reader, frame_ids, passes=passes):
                came = True
                yield found
        except PaintingError as error:  # joined streams may end in another format
            if not came:
                raise
            failures.append(error)

    missing = PaintedPicture("?", (reader.coded_height, reader.coded_width), is_damaged=True)
    for frame_id, picture in in_display_order(pictures(), frame_ids, reader.index.rank):
        if picture is None and failures:
            none = dict.fromkeys(names, f"none: {failures[0]}")
            yield frame_id, FrameMaps("?", missing.size, how=none, notes=(f"have none: {failures[0]}",))
            continue
        picture = picture or missing
        notes: tuple[str, ...] = ()
        if picture.field is None and not picture.is_damaged:
            notes = ("are intra coded and have none",)
        found = FrameMaps(picture.picture_type, picture.size, picture.is_damaged, {}, how, notes)
        for name in names:
            found.maps[name] = found.map_of(name) if picture.field is None else _painted_map(picture, name)
        yield frame_id, found


def _painted_map(picture: PaintedPicture, name: str) -> np.ndarray:
    assert picture.field is not None
    if name == "residual":
        return _sums(picture.field.residual, picture.size)
    velocity = picture.field.velocity
    cells = picture.field.age if name == "age" else np.stack([velocity.real, velocity.imag], -1)
    rows, columns = _blocks(picture.size, BLOCK_SIDE[name])
    return cells.repeat(2, 0).repeat(2, 1)[:rows, :columns]


def _sums(means: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(ceil(H/16), ceil(W/16)) float32 sums over pixels, of means of cells."""
    (rows, columns), (height, width) = _blocks(size, 16), size
    sums = np.zeros((2 * rows, 2 * columns), np.float32)
    sums[: means.shape[0], : means.shape[1]] = means * block_sizes(height, width, CELL)
    return sums.reshape(rows, 2, columns, 2).sum((1, 3))


def _blocks(size: Sequence[int], side: int) -> tuple[int, int]:
    return -(-size[0] // side), -(-size[1] // side)
