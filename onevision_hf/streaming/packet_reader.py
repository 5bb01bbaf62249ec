"""A span of a stream's packets, held in memory, behind the interface of `VideoReader`.

A file and a stream give the same packets, so what is selected of a span of them can only be the same if
the same code does it: `PacketReader` is a `VideoReader` whose demuxer reads a list.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.codec.context import Flags2

from ..modeling.parameter_sets import ParameterSets, ParameterTrack
from ..modeling.video_demuxer import Demuxer, PacketTable, packet_row, padded_packet
from ..modeling.video_reader import VideoReader
from ..modeling.video_source import reporting


@dataclass(frozen=True)
class StreamHead:
    """What is known of a stream beside its packets.

    name: for messages. codec: FFmpeg's name (h264, hevc...). decoder: the decoder's. extradata: the codec's
    header. time_base: seconds of a unit of time. rate: mean frames a second, 0 where nobody knows.
    pixel_shape: width of a pixel over its height. rotation: degrees counter-clockwise from stored to
    displayed. mirrored: whether left and right change places before that.
    """

    name: str
    codec: str
    decoder: str
    extradata: bytes
    time_base: float
    rate: float = 0.0
    pixel_shape: float = 1.0
    rotation: int = 0
    mirrored: bool = False


class BufferedPacket:
    """A copy of a packet, the row that `packet_row` made of it (decoding writes over its times), and the
    parameter sets in force at it."""

    def __init__(self, packet: av.Packet, codec: str, parameters: ParameterSets):
        self.parameters = parameters
        content = bytes(packet)
        self.row = packet_row(packet, codec == "vp8" and not content[0] >> 4 & 1)
        self.packet = padded_packet(content)


@dataclass(frozen=True)
class _Held:
    """Stands where a `VideoReader` has its file."""

    name: str
    is_shared = False


class BufferedPackets(Demuxer):
    """A demuxer of packets that are in memory, with a decoder of its own."""

    def __init__(
        self,
        head: StreamHead,
        packets: Sequence[BufferedPacket],
        max_pixels: int,
        motion_vectors: bool = False,
    ):
        self.file: Any = _Held(head.name)
        self.max_pixels, self.motion_vectors = max_pixels, motion_vectors
        self.position = 0
        self.context = new_decoder(head, max_pixels)
        if motion_vectors:
            self.context.flags2 |= Flags2.export_mvs
        self._all = [held.packet for held in packets]
        self._packets = iter(self._all)

    def jump(self, rank: int, table: PacketTable) -> bool:
        """To the packet itself."""
        self.context.flush_buffers()
        self.position, self._packets = rank, iter(self._all[rank:])
        return True

    def close(self) -> None:
        self._packets = iter(())


def new_decoder(head: StreamHead, max_pixels: int) -> Any:
    """A decoder that has seen nothing of its stream."""
    context: Any = av.CodecContext.create(head.decoder, "r")
    context.extradata = head.extradata
    context.thread_type = "SLICE"
    context.options = {"max_pixels": str(max_pixels)}
    if head.codec == "h264":
        # A container's decoder has seen how far pictures are re-ordered. This one has not, and would drop
        # what comes too late; when strict it waits as long as the stream's level allows.
        context.options |= {"strict": "strict"}
    return context


class PacketReader(VideoReader):
    """Frames of packets that begin with a keyframe, in the order of decoding.

    Args:
        head: of their stream.
        packets: each with data and a time.
        origin: the time (pts) from which `timestamps` count; the first frame's by default.

    Raises:
        VideoReadError: none of them can be shown, or frames are too large.
    """

    def __init__(
        self,
        head: StreamHead,
        packets: Sequence[BufferedPacket],
        *,
        origin: int | None = None,
        max_pixels: int,
    ):
        self.max_pixels = max_pixels
        self._head, self._held = head, list(packets)
        self._file: Any = _Held(head.name)
        self.name, self.codec, self.extradata = head.name, head.codec, head.extradata
        self._parameters = ParameterTrack.of(head.codec, [held.parameters for held in self._held])
        self._time_base, self._average_rate = head.time_base, head.rate
        self._pixel_shape = head.pixel_shape
        rows = array("q")
        for held in self._held:
            rows.extend(held.row)
        self._table = PacketTable.of(rows)
        with reporting(self.name):
            self._build_index()
        self.origin = int(self.index.pts[0]) if origin is None else origin

    @property
    def _orientation(self) -> tuple[int, bool]:  # type: ignore[override]
        return self._head.rotation, self._head.mirrored

    @cached_property
    def timestamps(self) -> np.ndarray:
        return (self.index.pts - self.origin) * self._time_base

    @property
    def fps(self) -> float:
        span = float(self.timestamps[-1] - self.timestamps[0])
        return (len(self) - 1) / span if span > 0 else self._average_rate

    @property
    def has_container_timestamps(self) -> bool:
        """Whether the frames' times are those of the packets, and not made up from their order."""
        return self._time_base == self._head.time_base

    def _demux(self, motion_vectors: bool = False) -> Demuxer:
        return BufferedPackets(self._head, self._held, self.max_pixels, motion_vectors)
