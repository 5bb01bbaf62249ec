"""The packets of a video's best stream, numbered in the order of decoding, with jumps that are checked."""

import itertools
import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.context import Flags2
from av.stream import Disposition

from .parameter_sets import ParameterTrack
from .video_source import VideoFile, VideoReadError

NO_TIME = -(1 << 63)
# A file whose index names more bytes than this many times its size goes in circles.
MAX_REPEATS = 64
# Containers that tell where they end; parts of the names that FFmpeg has for them.
KNOW_THEIR_LENGTH = ("mp4", "matroska", "avi")
# Packets that are read after a jump in search of one that is known.
LANDING_PACKETS = 16
# What DivX writes into MPEG-4 that keeps two pictures in a packet.
PACKED_MPEG4 = re.compile(rb"DivX\d+(?:Build|b)\d+p")


@dataclass(frozen=True)
class PacketTable:
    """What the container says of each packet, in the order of decoding: arrays of N.

    pts, dts int64 in the stream's time base, NO_TIME where unknown; size int64 in bytes; keyframe bool;
    shown bool, False outside the edit list and for pictures that are only referred to; start int64, the
    first byte in the file or -1.
    """

    pts: np.ndarray
    dts: np.ndarray
    size: np.ndarray
    keyframe: np.ndarray
    shown: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, rows: array) -> "PacketTable":
        """Of the rows that `packet_row` makes, one behind the other."""
        columns = np.frombuffer(rows, np.int64).reshape(-1, 6).T
        times, decode_times, size, keyframe, shown, starts = (column.copy() for column in columns)
        return cls(times, decode_times, size, keyframe.astype(bool), shown.astype(bool), starts)

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def has_distinct_times(self) -> bool:
        return bool((self.pts != NO_TIME).all() and (np.diff(self._sorted_pts) > 0).all())

    @cached_property
    def _by_pts(self) -> np.ndarray:
        return np.argsort(self.pts, kind="stable")

    @cached_property
    def _sorted_pts(self) -> np.ndarray:
        return self.pts[self._by_pts]

    def find(self, packet: av.Packet) -> int | None:
        """The rank of a packet, by its time and its size; None for one that the table does not have.

        After a jump into an MPEG program stream the first packet may be the end of one.
        """
        if packet.pts is None or not packet.size:
            return None
        place = int(np.searchsorted(self._sorted_pts, packet.pts))
        if place == len(self) or self._sorted_pts[place] != packet.pts:
            return None
        rank = int(self._by_pts[place])
        return rank if self.size[rank] == packet.size else None


@dataclass(frozen=True)
class PacketIndex:
    """What the demux pass found, a row a frame in display order.

    pts (N,) int64 in the stream's time base; size (N,) int64, bytes of the packet; keyframe (N,) bool;
    rank (N,) int64, the packet's place in decode order; start (N,) int64, its first byte in the file or -1.
    """

    pts: np.ndarray
    size: np.ndarray
    keyframe: np.ndarray
    rank: np.ndarray
    start: np.ndarray


class PacketRow(NamedTuple):
    """Of one packet, what `PacketTable` holds of all."""

    pts: int
    dts: int
    size: int
    keyframe: int
    shown: int
    start: int


def packet_row(packet: av.Packet, hidden: bool = False) -> PacketRow:
    """What is known of a packet. `hidden`: it is a picture that is only referred to."""
    pts = NO_TIME if packet.pts is None else packet.pts
    dts = NO_TIME if packet.dts is None else packet.dts
    start = -1 if packet.pos is None else packet.pos
    return PacketRow(pts, dts, packet.size, packet.is_keyframe, not (hidden or packet.is_discard), start)


def padded_packet(data: bytes) -> av.Packet:
    """A packet of one's own, a copy of `data` with zeros behind it.

    Decoders read beyond the end of a packet (FFmpeg's AV_INPUT_BUFFER_PADDING_SIZE). `av.Packet(data)` points
    to the bytes of Python, behind which lies whatever the process has there; FFmpeg's own allocation is
    longer than the data, and zero at the end.
    """
    packet = av.Packet(len(data))
    if data:
        packet.update(data)
    return packet


class Demuxer:
    """An open container that stands before the packet of rank `position`.

    Args:
        file: what to open.
        max_pixels: of a picture.
        motion_vectors: have the decoder export them.
        partial: of a truncated file, give the packets that are whole instead of an error.

    Raises:
        VideoReadError: it holds no video, or frames of more than `max_pixels`.
    """

    _partial = False
    cut_packets = 0  # that were left out
    last_shown = (NO_TIME, 0)  # (pts, duration) of the packet that is shown last, as `read_table` finds
    is_packed = False  # MPEG-4 with two pictures in a packet, as `read_table` finds

    def __init__(self, file: VideoFile, max_pixels: int, motion_vectors: bool = False, partial: bool = False):
        self.file = file
        self.max_pixels, self.motion_vectors = max_pixels, motion_vectors
        self._partial = partial
        self.container: Any = file.open_container()
        try:
            self.stream = self._best_stream()
            self.context = self.stream.codec_context
            if self.context is None:
                raise VideoReadError(file.name, "this FFmpeg has no decoder for its video codec")
            self.check_pixels()
        except BaseException:
            self.close()
            raise
        # In others the mark stands for damage on the way, behind which the stream goes on.
        self._partial &= any(name in self.container.format.name for name in KNOW_THEIR_LENGTH)
        # Slices only: under frame threading H.264's motion vectors are read while another thread writes them.
        self.context.thread_type = "SLICE"
        # The bitstream may hold larger pictures than the container admits.
        self.context.options = {"max_pixels": str(max_pixels)}
        if motion_vectors:
            self.context.flags2 |= Flags2.export_mvs
        self.position = 0
        self._packets: Iterator[av.Packet] = self.container.demux(self.stream)

    def __enter__(self) -> "Demuxer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[tuple[int, av.Packet]]:
        """(rank, packet) from where the container stands."""
        while True:
            try:
                packet = next(self._packets)
            except (StopIteration, IndexError):  # PyAV ends so where a stream turned up while it read
                return
            except av.FFmpegError:
                if self._partial:
                    return
                raise
            if self._partial and packet.is_corrupt:
                self.cut_packets += 1
            elif packet.size:
                self.position += 1
                yield self.position - 1, packet

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that come out after one packet, None being the end. Damage gives none: whoever wants
        such a frame finds it missing."""
        try:
            return self.context.decode(packet)
        except av.FFmpegError:
            self.check_pixels()
            return []

    def check_pixels(self, size: tuple[int, int] | None = None) -> None:
        """Refuse what the container, or the decoder by now, says of the size of the frames."""
        width, height = size or (self.context.width, self.context.height)
        if width * height > self.max_pixels:
            raise VideoReadError(
                self.file.name, f"frames of {width} x {height} pixels are over max_pixels={self.max_pixels}"
            )

    def read_table(self, parameters: ParameterTrack) -> PacketTable:
        """One pass over all packets; nothing is decoded. `parameters` follows it."""
        movie, vp8 = "mp4" in self.container.format.name, self.context.name == "vp8"
        # A row a packet in one growing buffer: an hour has 100 000 of them.
        rows = array("q")
        total, limit = 0, MAX_REPEATS * self.file.size if self.file.size else None
        for rank, packet in self:
            if movie and packet.is_corrupt:
                raise VideoReadError(self.file.name, f"is truncated: the data of packet {rank} are cut off")
            total += packet.size
            if limit is not None and total > limit:
                raise VideoReadError(
                    self.file.name,
                    f"its index goes in circles: it names over {limit} bytes, the file has {self.file.size}",
                )
            parameters.follow(rank, packet)
            if rank == 0 and self.context.name == "mpeg4":
                header = (self.context.extradata or b"") + bytes(packet)
                self.is_packed = PACKED_MPEG4.search(header) is not None
            if packet.pts is not None:
                self.last_shown = max(self.last_shown, (packet.pts, packet.duration or 0))
            hidden = vp8 and not self._is_shown_vp8(bytes(packet))
            rows.extend(packet_row(packet, hidden))
        return PacketTable.of(rows)

    def promised_packets(self, table: PacketTable) -> int | None:
        """Packets of the stream by its header, None where that does not tell. `table`: what there is."""
        if self.stream.frames:
            return self.stream.frames
        rate = float(self.stream.average_rate or 0)
        if "matroska" not in self.container.format.name or not rate or not table.has_distinct_times:
            return None
        end = (self.container.duration or 0) / 1e6  # of all streams; that of one is among its tags
        if told := re.match(r"(\d+):(\d+):([\d.]+)", self.stream.metadata.get("DURATION", "")):
            end = 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3])
        begin = float(table.pts.min()) * float(self.stream.time_base)
        return round((end - begin) * rate) if end else None

    def jump(self, rank: int, table: PacketTable) -> bool:
        """Seek to a packet or a little before it; what it lands on is looked up, so it is known to be right.

        Args:
            rank: of the packet. A jump forward does not land behind what was read.
            table: of this file.

        Returns:
            False where the container cannot, and stands nowhere known.
        """
        lowest = self.position if rank >= self.position else 0
        # Some containers seek by the time of decoding, some by that of display.
        for time in dict.fromkeys((int(table.pts[rank]), int(table.dts[rank]))):
            if time == NO_TIME:
                continue
            try:
                self.container.seek(time, stream=self.stream, backward=True)
            except av.FFmpegError:
                return False
            packets = self.container.demux(self.stream)
            for packet in itertools.islice(packets, LANDING_PACKETS):
                landed = table.find(packet)
                if landed is not None and landed > rank:
                    break
                if landed is not None and landed >= lowest:
                    self.position = landed
                    self._packets = itertools.chain([packet], packets)
                    return True
        return False

    def _is_shown_vp8(self, data: bytes) -> bool:
        """Whether a VP8 picture is not just a reference (RFC 6386, 9.1). Its decoder does not say that a
        picture is too large, so that is looked at here too."""
        if not data[0] & 1 and len(data) >= 10:
            width, height = struct.unpack("<HH", data[6:10])
            self.check_pixels((width & 0x3FFF, height & 0x3FFF))
        return bool(data[0] >> 4 & 1)

    def _best_stream(self) -> Any:
        videos = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not videos:
            kinds = {stream.type for stream in self.container.streams if stream.type != "video"}
            covers = {"cover art"} if self.container.streams.video else set()
            found = ", ".join(sorted(kinds | covers)) or "nothing"
            raise VideoReadError(self.file.name, f"has no video stream (found: {found})")
        try:
            best = self.container.streams.best("video")
        except IndexError:  # one that turned up after the file was opened
            best = None
        return best if best in videos else videos[0]
