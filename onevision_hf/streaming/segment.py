"""What a stream holds of its packets: those of the window that is waited for, and what it needs before."""

from collections import deque

import av
import numpy as np

from ..modeling.parameter_sets import ParameterSets
from ..modeling.video_demuxer import NO_TIME
from .packet_reader import BufferedPacket, PacketReader, StreamHead

# Pictures that may be shown before one that was decoded earlier, in H.264 and HEVC at most.
MAX_REORDER = 16
EPSILON = 1e-6  # seconds: times are quotients of integers


class Segment:
    """Packets of one format whose times go on: those of the window that is waited for, and before them back
    to the keyframe from which the picture before the window can be decoded (a signal may compare with it)."""

    def __init__(self, head: StreamHead, origin: int):
        self.head, self.origin = head, origin
        self.packets: list[BufferedPacket] = []
        self.bytes = 0
        self.first_frame = 0  # number of the first picture that is held
        self.begin = 0.0  # of the window that is waited for, in seconds from the origin
        self._recent: deque[int] = deque(maxlen=MAX_REORDER + 1)

    def add(self, packet: av.Packet, parameters: ParameterSets) -> None:
        if packet.pts is None and packet.dts is None:
            return
        held = BufferedPacket(packet, self.head.codec, parameters)
        self.packets.append(held)
        self.bytes += held.row.size
        self._recent.append(held.row.pts)

    def _seconds(self, pts: int) -> float:
        return (pts - self.origin) * self.head.time_base

    @property
    def newest(self) -> float:
        """Seconds up to which all pictures are known to be here."""
        last = self.packets[-1]
        if last.row.dts != NO_TIME:
            return self._seconds(last.row.dts)
        # Without decoding times: no picture is shown before one that came so many pictures earlier.
        return self._seconds(min(self._recent)) if len(self._recent) > MAX_REORDER else -np.inf

    @property
    def latest(self) -> float:
        """When the newest picture that has come is shown."""
        return self._seconds(max(self._recent))

    @property
    def span(self) -> float:
        first, last = (self.packets[0], self.packets[-1]) if self.packets else (None, None)
        return self._seconds(last.row.pts) - self._seconds(first.row.pts) if first and last else 0.0

    def due(self, window: float, stride: float) -> tuple[float, float] | None:
        """(begin, end) of the next window, if all its pictures are here."""
        end = self.begin + window
        return (self.begin, end) if self.newest >= end - EPSILON else None

    def rest(self, window: float, stride: float) -> tuple[float, float] | None:
        """(begin, end) of the next window, if a picture of it is here."""
        latest = max((self._seconds(held.row.pts) for held in self.packets), default=-np.inf)
        return (self.begin, self.begin + window) if latest >= self.begin - EPSILON else None

    def advance(self, reader: PacketReader | None, begin: float) -> None:
        """Wait for the window from `begin` on; let go of what it does not need."""
        self.begin = begin
        if reader is None:
            return
        times = reader.timestamps
        before = np.flatnonzero(times < begin - EPSILON)
        if not len(before):
            return
        needed = int(reader.index.pts[before[-1]])
        entries = [
            place for place, held in enumerate(self.packets) if held.row.keyframe and held.row.pts <= needed
        ]
        if entries and entries[-1]:
            entry = entries[-1]
            self.first_frame += int((reader.index.pts < self.packets[entry].row.pts).sum())
            self.bytes -= sum(held.row.size for held in self.packets[:entry])
            del self.packets[:entry]


__all__ = ["EPSILON", "Segment"]
