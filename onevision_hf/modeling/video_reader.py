"""Reads a video the way codec patchification needs it: an index first, then only the pictures asked for.

One demux pass gives (pts, size, keyframe) of every packet. No picture is decoded for it, so it is cheap, and
it works in containers that name no frame count (mkv, webm, ts). Frames are numbered in display order; what no
wanted frame needs is not decoded: whole GOPs are jumped over, pictures that nothing refers to are dropped by
the decoder.

    with VideoReader("clip.mp4") as reader:
        print(len(reader), reader.width, reader.height, reader.fps)
        for frame in reader.frames([0, 10, 20], motion_vectors=True):
            print(frame.picture_type, frame.luma.shape, frame.rgb(224, 224).shape, len(frame.motion_vectors))
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from .video_demuxer import NO_TIME, Demuxer
from .video_source import VideoFile, VideoReadError, VideoSource, reporting

__all__ = ["MAX_PIXELS", "DecodedFrame", "PacketIndex", "VideoReadError", "VideoReader", "VideoSource"]

# Larger frames are refused: a header of a few bytes can ask for gigabytes. This is HEVC's largest picture.
MAX_PIXELS = 8192 * 4320
# A jump over more bytes than this uses the container's seek; over fewer, it reads on and drops the packets.
SEEK_BYTES = 1 << 22
# FFmpeg's AVPictureType; S(GMC), SI, SP, BI are folded in.
PICTURE_TYPES = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "B"}
# Decoders that take `skip_frame` only when they are opened.
NEVER_SKIPS = ("libdav1d", "libaom-av1", "av1")


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


@dataclass(frozen=True)
class DecodedFrame:
    """One decoded picture: planes as stored, `rgb` as displayed. `frame_id` counts in display order."""

    av_frame: av.VideoFrame
    frame_id: int
    rotation: int

    @property
    def picture_type(self) -> str:
        """I, P, B, or ? where the decoder does not say."""
        return PICTURE_TYPES.get(int(self.av_frame.pict_type), "?")

    @property
    def luma(self) -> np.ndarray:
        """(H, W) uint8 brightness as stored; deeper formats are reduced to 8 bits, RGB is converted."""
        return luma_plane(self.av_frame)

    @property
    def motion_vectors(self) -> np.ndarray | None:
        """FFmpeg's records (source, w, h, dst_x, dst_y, motion_x, motion_y, motion_scale...), or None.

        Read the fields, never the raw bytes: the records hold uninitialised padding.
        """
        side_data = self.av_frame.side_data.get("MOTION_VECTORS")
        return None if side_data is None else side_data.to_ndarray()

    def rgb_planes(self, width: int, height: int) -> list[np.ndarray]:
        """Red, green and blue, (height, width) uint8 each, as displayed: resized bicubically by swscale in
        one step, then turned. Planes are what it writes fastest, and it interpolates the chroma fully for
        them."""
        turned = self.rotation % 180 != 0
        size = {"width": height, "height": width} if turned else {"width": width, "height": height}
        frame = self.av_frame.reformat(format="gbrp", interpolation="BICUBIC", **size)
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes
        ]
        green, blue, red = (turn(plane[: frame.height, : frame.width], self.rotation) for plane in planes)
        return [red, green, blue]

    def rgb(self, width: int, height: int) -> np.ndarray:
        """The same as one picture (height, width, 3)."""
        return np.stack(self.rgb_planes(width, height), -1)


def luma_plane(frame: av.VideoFrame) -> np.ndarray:
    """(H, W) uint8 brightness of a picture, a view where it has an 8-bit luma plane."""
    planar = frame.format.name.startswith(("yuv4", "yuvj4", "nv12", "nv21", "gray"))
    if not planar or frame.format.components[0].bits != 8:
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]


def turn(array: np.ndarray, degrees: int) -> np.ndarray:
    """Turn the first two axes counter-clockwise by a multiple of 90 degrees: from stored to displayed."""
    return np.ascontiguousarray(np.rot90(array, degrees // 90 % 4)) if degrees % 360 else array


class _FalseKeyframe(Exception):
    """Decoding cannot start at a packet that the container calls a keyframe."""


class VideoReader:
    """An index of a video and a decoder of chosen frames.

    Args:
        source: a path, the bytes of a file, or a binary file object (read from its start; not closed).
        max_pixels: frames with more pixels than this are refused, against decompression bombs.

    Attributes: `index` (`PacketIndex`), `codec` (FFmpeg's name: h264, hevc, av1...), `width`, `height`
    (pixels as displayed: rotation and pixel shape applied), `coded_width`, `coded_height` (as stored),
    `rotation` (degrees counter-clockwise from stored to displayed), `timestamps` (N,) float64 seconds from
    the first frame, `fps` (mean), `duration` (seconds). `len(reader)` is the number of frames. A reader has
    no file open between calls; any number of `frames` may run side by side.

    Raises:
        VideoReadError: the source cannot be opened, holds no video, is damaged, or is too large.
    """

    def __init__(self, source: VideoSource, *, max_pixels: int = MAX_PIXELS):
        self.max_pixels = max_pixels
        self._file = VideoFile(source)
        self.name = self._file.name
        with reporting(self.name), self._demux() as demuxer:
            self._file.check_complete(demuxer.container.format.name)
            self.codec: str = demuxer.context.codec.canonical_name
            stream = demuxer.stream
            self._time_base = float(stream.time_base or 1)
            self._average_rate = float(stream.average_rate or 0)
            self._pixel_shape = float(stream.sample_aspect_ratio or demuxer.context.sample_aspect_ratio or 1)
            # Only distinct pts tell the order of display. AVI has none (with B-pictures, FFmpeg's guess is
            # the order of decoding), and interlaced pictures may be two packets each.
            interlaced = int(demuxer.context.field_order) > 1 and self.codec != "mjpeg"
            guessed = demuxer.container.format.name == "avi" and self.codec in ("h264", "hevc")
            self._table = demuxer.read_table()
        shown = np.flatnonzero(self._table.shown)
        # A stream cut out of a broadcast starts with pictures that cannot be decoded.
        keys = np.flatnonzero(self._table.keyframe)
        self._first_rank = int(keys[0]) if len(keys) else 0
        shown = shown[shown >= self._first_rank]
        if not len(shown):
            raise VideoReadError(self.name, "its video stream has no frames")
        self._fields = interlaced
        self._times_tell = self._table.has_distinct_times and not interlaced and not guessed
        self._can_seek, self._keyframes_hold = self._times_tell, True
        self.index = self._index_by_times(shown) if self._times_tell else self._index_by_decoding(shown)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.index.pts)

    def close(self) -> None:
        """Free the picture that is kept for its size. Files are open only while `frames` runs."""
        self.__dict__.pop("_first_frame", None)

    # -- what the file says about itself --

    @cached_property
    def _first_frame(self) -> av.VideoFrame:
        """The first picture, which alone knows the display matrix (FFmpeg hands it over with the frames)."""
        rank = int(self.index.rank[0])
        for frame in self._decode(np.array([0])):
            if frame.pts == rank:
                return frame
        raise VideoReadError(self.name, "its first frame cannot be decoded: the data are damaged")

    @property
    def coded_width(self) -> int:
        return self._first_frame.width

    @property
    def coded_height(self) -> int:
        return self._first_frame.height

    @property
    def rotation(self) -> int:
        return round(self._first_frame.rotation / 90) * 90 % 360

    @cached_property
    def _display_size(self) -> tuple[int, int]:
        """(width, height) as displayed. Pixel shapes beyond 1:20 are header noise, not pictures."""
        width, height = self.coded_width, self.coded_height
        if 0.05 <= self._pixel_shape <= 20:
            width = max(1, round(width * self._pixel_shape))
        return (height, width) if self.rotation % 180 else (width, height)

    @property
    def width(self) -> int:
        return self._display_size[0]

    @property
    def height(self) -> int:
        return self._display_size[1]

    @cached_property
    def timestamps(self) -> np.ndarray:
        return (self.index.pts - self.index.pts[0]) * self._time_base

    @property
    def fps(self) -> float:
        span = float(self.timestamps[-1])
        return (len(self) - 1) / span if span > 0 else self._average_rate

    @property
    def duration(self) -> float:
        return float(self.timestamps[-1]) + (1 / self.fps if self.fps > 0 else 0.0)

    # -- indexing --

    def _index_by_times(self, shown: np.ndarray) -> PacketIndex:
        """Frames in the order of their pts, without those that need pictures before the first keyframe."""
        shown = shown[self._table.pts[shown] >= self._table.pts[self._first_rank]]
        if not len(shown):
            raise VideoReadError(self.name, "its video stream has no frames")
        return self._index_of(shown[np.argsort(self._table.pts[shown])])

    def _index_by_decoding(self, shown: np.ndarray) -> PacketIndex:
        """Frames in the order in which the decoder gives them, all of which it has to decode for that."""
        everything = (self._first_rank, len(self._table) - 1)
        wanted = set(range(len(self._table)))
        decoded = [int(frame.pts or 0) for frame in self._decode_runs([everything], wanted)]
        ranks = np.array(list(dict.fromkeys(decoded)), np.int64)
        ranks = ranks[np.isin(ranks, shown)]
        if not len(ranks):
            raise VideoReadError(self.name, "no frame of its video stream can be decoded")
        index = self._index_of(ranks)
        times = np.sort(index.pts)
        if times[0] == NO_TIME or not (np.diff(times) > 0).all():
            times = np.arange(len(ranks))
            self._time_base = 1 / (self._average_rate or 25)
        return PacketIndex(times, index.size, index.keyframe, index.rank, index.start)

    def _index_of(self, ranks: np.ndarray) -> PacketIndex:
        table = self._table
        return PacketIndex(
            table.pts[ranks], table.size[ranks], table.keyframe[ranks], ranks, table.start[ranks]
        )

    # -- decoding --

    def frames(
        self, frame_ids: Iterable[int], *, motion_vectors: bool = False, references: bool = False
    ) -> Iterator[DecodedFrame]:
        """Decode the frames `frame_ids` (numbers in display order), each once, in display order.

        Args:
            frame_ids: numbers in 0..len(self)-1, in any order.
            motion_vectors: have the decoder export them (H.264, MPEG-1/2/4, H.263).
            references: also yield the other pictures that had to be decoded, which include every I and P
                picture around a wanted one; tell them apart by `frame_id`.

        Raises:
            ValueError: a number is out of range. VideoReadError: a wanted frame cannot be decoded.
        """
        wanted = np.unique(np.fromiter(frame_ids, np.int64))
        if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < len(self)):
            bad = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise ValueError(f"{self.name}: frame {bad} asked for, but its frames are 0 to {len(self) - 1}")
        return self._frames(wanted, motion_vectors, references)

    def _frames(self, wanted: np.ndarray, motion_vectors: bool, references: bool) -> Iterator[DecodedFrame]:
        rotation, missing = self.rotation, set(wanted.tolist())
        newest = -1
        for frame in self._decode(wanted, motion_vectors):
            frame_id = self._id_of_rank.get(int(frame.pts or 0), -1)
            if frame_id in missing or (references and frame_id > newest):
                newest = frame_id
                missing.discard(frame_id)
                yield DecodedFrame(frame, frame_id, rotation)
        if missing:
            lost = min(missing)
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise VideoReadError(
                self.name,
                f"frame {lost} ({self.timestamps[lost]:.3f} s){more} cannot be decoded: the data are damaged",
            )

    def packets(self, frame_ids: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """(frame_id, data) of the packets of `frame_ids`, each once, in the order of decoding; none is
        decoded."""
        wanted = np.unique(np.fromiter(frame_ids, np.int64))
        runs = sorted((last, first) for frame_id in wanted for first, last in self._runs([frame_id]))
        with reporting(self.name):
            demuxer = self._demux()
            try:
                for target, entry in runs:
                    demuxer = self._go_to(entry, demuxer, False) if entry > demuxer.position else demuxer
                    for rank, packet in demuxer:
                        if rank == target:
                            yield self._id_of_rank[rank], bytes(packet)
                            break
            finally:
                demuxer.close()

    @cached_property
    def extradata(self) -> bytes:
        """The codec's header with its parameter sets, b"" where they are in the packets only."""
        with reporting(self.name), self._demux() as demuxer:
            return demuxer.context.extradata or b""

    @cached_property
    def _id_of_rank(self) -> dict[int, int]:
        return {int(rank): frame_id for frame_id, rank in enumerate(self.index.rank)}

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

    def _runs(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """(first, last) ranks of the stretches to decode: each begins with a keyframe; what lies between is
        skipped."""
        times, entries = self._entries
        runs: list[tuple[int, int]] = []
        for frame_id in wanted:
            last = int(self.index.rank[frame_id])
            place = int(np.searchsorted(times, self.index.pts[frame_id], side="right")) - 1
            first = int(entries[place]) if place >= 0 else self._first_rank
            first = first if self._first_rank <= first <= last else self._first_rank
            if runs and first <= runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
            else:
                runs.append((first, last))
        return runs

    def _decode(self, wanted: np.ndarray, motion_vectors: bool = False) -> Iterator[av.VideoFrame]:
        """The frames `wanted` and what they need, each with the rank of its packet as `pts`, which no
        container can get wrong."""
        ranks = set(self.index.rank[wanted].tolist())
        if self._fields:  # the second field of a picture may be a packet of its own
            ranks |= {rank + 1 for rank in ranks}
        if self._keyframes_hold:
            try:
                yield from self._decode_runs(self._runs(wanted), ranks, motion_vectors)
                return
            except _FalseKeyframe:
                self._keyframes_hold = False
        if ranks:
            yield from self._decode_runs([(self._first_rank, max(ranks))], ranks, motion_vectors)

    def _decode_runs(
        self, runs: list[tuple[int, int]], wanted: set[int], motion_vectors: bool = False
    ) -> Iterator[av.VideoFrame]:
        with reporting(self.name):
            demuxer = self._demux(motion_vectors)
            try:
                for first, last in runs:
                    demuxer = self._go_to(first, demuxer, motion_vectors)
                    frames = self._decode_run(demuxer, first, last, wanted)
                    yield from frames if first == self._first_rank else self._from_entry(first, frames)
            finally:
                demuxer.close()

    def _from_entry(self, first: int, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The frames of a run from its keyframe `first` on, if that is one: in streams with gradual refresh
        the decoder gives no picture there."""
        entry, entered = self._id_of_rank.get(first), False
        for frame in frames:
            if frame.pts == first:
                entered = True
            elif entry is not None:
                if self._id_of_rank.get(int(frame.pts or 0), -1) < entry:
                    continue  # a leading picture, made of references that are not there
                if not entered:
                    raise _FalseKeyframe
            yield frame
        if entry is not None and not entered:
            raise _FalseKeyframe

    def _decode_run(
        self, demuxer: Demuxer, first: int, last: int, wanted: set[int]
    ) -> Iterator[av.VideoFrame]:
        context = demuxer.context
        skips = context.name not in NEVER_SKIPS
        for rank, packet in demuxer:
            if rank < first:
                continue
            packet.pts, packet.dts = rank, None
            if skips:  # what nothing refers to and nobody wants is not decoded
                context.skip_frame = "DEFAULT" if rank in wanted or rank == first else "NONREF"
            yield from _decode_packet(demuxer, packet)
            if rank >= last:
                break
        if skips:
            context.skip_frame = "DEFAULT"
        yield from _decode_packet(demuxer, None)
        context.flush_buffers()

    def _demux(self, motion_vectors: bool = False) -> Demuxer:
        return Demuxer(self._file, self.max_pixels, motion_vectors)

    def _go_to(self, rank: int, demuxer: Demuxer, motion_vectors: bool) -> Demuxer:
        """Bring the container to `rank` or before it: a seek over long gaps, reading on over short ones."""
        gap = int(self._table.size[demuxer.position : rank].sum())
        if not self._can_seek or gap < SEEK_BYTES or demuxer.jump(rank, self._table):
            return demuxer
        # The container's own table of times is wrong: read on from its start, now and from here on.
        self._can_seek = False
        demuxer.close()
        return self._demux(motion_vectors)


def _decode_packet(demuxer: Demuxer, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The frames that come out after one packet, None being the end. Damage gives none: whoever wants such a
    frame finds it missing."""
    try:
        frames = demuxer.context.decode(packet)
    except av.FFmpegError:
        demuxer.check_pixels()
        return []
    return frames
