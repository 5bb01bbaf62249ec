"""Decodes runs of a video's packets, each from a keyframe on, with a container that is kept for the next."""

import contextlib
import threading
from collections.abc import Iterator
from functools import cached_property

import av
import numpy as np

from .coded_picture import BitstreamError, RevealedStream
from .decoded_frame import PICTURE_TYPES
from .parameter_sets import ParameterTrack
from .video_demuxer import Demuxer, PacketIndex, PacketTable, padded_packet
from .video_source import VideoFile, reporting

# A jump over more bytes than this uses the container's seek; over fewer, it reads on and drops the packets.
SEEK_BYTES = 1 << 22
# Decoders that take `skip_frame` only when they are opened.
NEVER_SKIPS = ("libdav1d", "libaom-av1", "av1")


class UnusedPictures:
    """Finds AV1 packets without which all other pictures are the same: theirs is kept in no slot.

    Args:
        extradata: the container's header.
    """

    def __init__(self, extradata: bytes):
        from .av1_bitstream import RevealedAV1  # with its tables, for videos of this codec alone

        self._stream: RevealedStream | None = None
        with contextlib.suppress(BitstreamError):
            self._stream = RevealedAV1(extradata)

    def is_one(self, packet: bytes) -> bool:
        """Whether the next packet is one. All of them have to be shown to it, in the order of decoding."""
        if self._stream is None:
            return False
        try:
            steps = self._stream.split(packet)
        except BitstreamError:  # let the decoder say what it can make of it
            self._stream = None
            return False
        return bool(steps) and all(
            step.is_coded and step.kept is not None and step.number not in step.kept for step in steps
        )


class FalseKeyframe(Exception):
    """Decoding cannot start at a packet that the container calls a keyframe."""


class RunDecoder:
    """What `VideoReader` decodes with. Frames come with the rank of their packet as `pts`."""

    name: str
    index: PacketIndex
    max_pixels: int
    _file: VideoFile
    _table: PacketTable
    _parameters: ParameterTrack
    _partial = False
    _joined: bool  # parameter sets change on the way
    _packed = False  # two pictures in a packet: a decoder that skips one loses the other
    _idle: Demuxer | None = None
    _first_rank: int
    _times_tell: bool
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
        unused = None
        if context.name in NEVER_SKIPS and not wanted.issuperset(range(first, last + 1)):
            unused = UnusedPictures(context.extradata or b"")
        for rank, packet in demuxer:
            if rank < first:
                continue
            if unused is not None and unused.is_one(bytes(packet)) and rank not in wanted:
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

    def _packet_run(self, demuxer: Demuxer, first: int, last: int) -> Iterator[tuple[float, bytes]]:
        sets = None if self._joined else self._parameters.at(first)
        for rank, packet in demuxer:
            if rank >= first:
                data, before = bytes(packet), sets
                sets = self._parameters.at(rank)
                yield self._number_of(rank), data if sets is before else sets.prefix + data
            if rank >= last:
                break

    @cached_property
    def _id_of_rank(self) -> dict[int, int]:
        return {int(rank): frame_id for frame_id, rank in enumerate(self.index.rank)}

    def _number_of(self, rank: int) -> float:
        """When the packet of this rank is shown, in frames."""
        if rank in self._id_of_rank:
            return float(self._id_of_rank[rank])
        if not self._times_tell:
            return float(np.searchsorted(self.index.rank, rank))
        time, times = self._table.pts[rank], self.index.pts
        if len(times) < 2:
            return float(np.sign(time - times[0]))
        # Outside of the edit list the frames go on as at its ends.
        before = min(max(int(np.searchsorted(times, time)) - 1, 0), len(times) - 2)
        return float(before + (time - times[before]) / (times[before + 1] - times[before]))

    @cached_property
    def _entries(self) -> tuple[np.ndarray, np.ndarray]:
        """(times, ranks) of the packets at which decoding can start. Leading pictures of an open GOP are
        shown before its keyframe and need the GOP before, so it is the time of display that counts."""
        if not self._times_tell:
            frame_ids = np.flatnonzero(self.index.keyframe)
            return self.index.pts[frame_ids], self.index.rank[frame_ids]
        ranks = np.flatnonzero(self._table.keyframe)
        ranks = ranks[np.argsort(self._table.pts[ranks])]
        return self._table.pts[ranks], ranks

    def _runs(self, wanted: np.ndarray, tail: int = 0) -> list[tuple[int, int]]:
        """(first, last) ranks of the segments to decode: each begins with a keyframe; what lies between is
        skipped, if it is more than `tail` packets."""
        times, entries = self._entries
        runs: list[tuple[int, int]] = []
        for frame_id in wanted:
            last = int(self.index.rank[frame_id])
            place = int(np.searchsorted(times, self.index.pts[frame_id], side="right")) - 1
            first = int(entries[place]) if place >= 0 else -1
            first = first if self._first_rank <= first <= last else self._first_rank
            if runs and first <= runs[-1][1] + 1 + tail:
                runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
            else:
                runs.append((first, last))
        return runs

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

    def _decode_runs(
        self, runs: list[tuple[int, int]], wanted: set[int], motion_vectors: bool = False, tail: int = 0
    ) -> Iterator[av.VideoFrame]:
        with reporting(self.name):
            demuxer = self._take(motion_vectors)
            try:
                for first, last in runs:
                    demuxer = self._go_to(first, demuxer, motion_vectors)
                    frames = self._decode_run(demuxer, first, last, wanted, tail)
                    yield from frames if first == self._first_rank else self._from_entry(first, frames)
            finally:
                self._give_back(demuxer)

    def _from_entry(self, first: int, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The frames of a run from its keyframe `first` on, if that is one: in streams with gradual refresh
        the decoder gives no picture there."""
        entry, entered = self._id_of_rank.get(first), False
        for frame in frames:
            if frame.pts == first:
                if PICTURE_TYPES.get(int(frame.pict_type)) in ("P", "B"):
                    raise FalseKeyframe  # the container calls every picture of H.263 a keyframe
                entered = True
            elif entry is not None:
                if self._id_of_rank.get(int(frame.pts or 0), -1) < entry:
                    continue  # a leading picture, made of references that are not there
                if not entered:
                    raise FalseKeyframe
            yield frame
        if entry is not None and not entered:
            raise FalseKeyframe
