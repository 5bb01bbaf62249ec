"""Decodes runs of a video's packets, each from a keyframe on, with a container that is kept for the next."""

import threading
from collections.abc import Iterator
from functools import cached_property

import av

from .parameter_sets import ParameterTrack
from .video_demuxer import Demuxer, PacketTable, padded_packet
from .video_source import VideoFile

# A jump over more bytes than this uses the container's seek; over fewer, it reads on and drops the packets.
SEEK_BYTES = 1 << 22
# Decoders that take `skip_frame` only when they are opened.
NEVER_SKIPS = ("libdav1d", "libaom-av1", "av1")


class RunDecoder:
    """What `VideoReader` decodes with. Frames come with the rank of their packet as `pts`."""

    max_pixels: int
    _file: VideoFile
    _table: PacketTable
    _parameters: ParameterTrack
    _partial = False
    _joined: bool  # parameter sets change on the way
    _packed = False  # two pictures in a packet: a decoder that skips one loses the other
    _idle: Demuxer | None = None
    # Whether the container can jump, and can be used for another pass.
    _can_seek: bool
    _can_return: bool

    @cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    def _decode_run(
        self, demuxer: Demuxer, first: int, last: int, wanted: set[int], tail: int
    ) -> Iterator[av.VideoFrame]:
        context = demuxer.context
        skips = context.name not in NEVER_SKIPS and not self._packed
        for rank, packet in demuxer:
            if rank < first:
                continue
            if rank == first and self._joined:  # the decoder may come from anywhere
                packet = padded_packet(self._parameters.at(rank).prefix + bytes(packet))
            if rank in self._parameters.breaks:
                yield from demuxer.decode(None)
                context.flush_buffers()
            packet.pts, packet.dts = rank, None
            if skips:  # what nothing refers to and nobody wants is not decoded
                context.skip_frame = "DEFAULT" if rank in wanted or rank == first else "NONREF"
            frames = demuxer.decode(packet)
            yield from frames
            if rank >= last + tail or (rank >= last and any(frame.pts == last for frame in frames)):
                break
        if skips:
            context.skip_frame = "DEFAULT"
        yield from demuxer.decode(None)
        context.flush_buffers()

    def _demux(self, motion_vectors: bool = False) -> Demuxer:
        return Demuxer(self._file, self.max_pixels, motion_vectors, self._partial)

    def _take(self, motion_vectors: bool = False) -> Demuxer:
        """The container that is open and idle, if its decoder is set so, or another one."""
        with self._lock:
            if self._idle is not None and self._idle.motion_vectors == motion_vectors:
                demuxer, self._idle = self._idle, None
                demuxer.position = len(self._table) + 1  # wherever it stands, a jump comes first
                if self._can_return:
                    return demuxer
                demuxer.close()
        return self._demux(motion_vectors)

    def _give_back(self, demuxer: Demuxer) -> None:
        """Keep one that can return for the next pass: opening costs more than a jump."""
        with self._lock:
            if self._idle is None and self._can_return:
                self._idle = demuxer
                return
        demuxer.close()

    def _go_to(self, rank: int, demuxer: Demuxer, motion_vectors: bool = False) -> Demuxer:
        """Bring the container to `rank` or before it: a seek over long gaps, reading on over short ones."""
        if rank >= demuxer.position:
            gap = int(self._table.size[demuxer.position : rank].sum())
            if not self._can_seek or gap < SEEK_BYTES:
                return demuxer
        if demuxer.jump(rank, self._table):
            return demuxer
        # The container's own table of times is wrong: read on from its start, now and from here on.
        self._can_seek = self._can_return = False
        demuxer.close()
        return self._demux(motion_vectors)
