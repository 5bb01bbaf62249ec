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

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import av
import numpy as np
from av.codec.context import Flags2

VideoSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# Larger frames are refused: a header of a few bytes can ask for gigabytes. This is HEVC's largest picture.
MAX_PIXELS = 8192 * 4320
# A jump over more bytes than this uses the container's seek; over fewer, it reads on and drops the packets.
SEEK_BYTES = 1 << 22
# What FFmpeg and PyAV raise on damaged data.
DECODE_ERRORS = (av.FFmpegError, OverflowError, MemoryError)
# FFmpeg's AVPictureType; S(GMC), SI, SP, BI are folded in.
PICTURE_TYPES = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "B"}


class VideoReadError(ValueError):
    """A video cannot be read: `path` names it ("<bytes>", "<file object>" in memory), `reason` says why."""

    def __init__(self, path: Any, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


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

    def rgb(self, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 as displayed: resized bicubically by swscale in one step, then turned."""
        turned = self.rotation % 180 != 0
        size = {"width": height, "height": width} if turned else {"width": width, "height": height}
        array = self.av_frame.reformat(format="rgb24", interpolation="BICUBIC", **size).to_ndarray()
        return turn(array, self.rotation)


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


class VideoReader:
    """An index of a video and a decoder of chosen frames.

    Args:
        source: a path, the bytes of a file, or a binary file object (read from its start; not closed).
        max_pixels: frames with more pixels than this are refused, against decompression bombs.

    Attributes: `index` (`PacketIndex`), `codec` (FFmpeg's name), `width`, `height` (pixels as displayed:
    rotation and pixel shape applied), `coded_width`, `coded_height` (as stored), `rotation` (degrees
    counter-clockwise from stored to displayed), `timestamps` (N,) float64 seconds from the first frame, `fps`
    (mean), `duration` (seconds). `len(reader)` is the number of frames.

    Raises:
        VideoReadError: the source cannot be opened, holds no video, is damaged, or is too large.
    """

    def __init__(self, source: VideoSource, *, max_pixels: int = MAX_PIXELS):
        self.max_pixels = max_pixels
        self.name, self._source = _resolve(source)
        self._container: Any = None
        with self._reporting():
            self._open()
            context = self._stream.codec_context
            self.codec: str = context.name
            self.index = self._build_index()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.index.pts)

    def close(self) -> None:
        """Free the decoder and the file. Reading again afterwards reopens them."""
        if self._container is not None:
            self._container.close()
            self._container = None

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn what FFmpeg raises into `VideoReadError`, with the file's name."""
        try:
            yield
        except VideoReadError:
            self.close()
            raise
        except DECODE_ERRORS as error:
            self.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise VideoReadError(self.name, f"not a video that FFmpeg can read: {reason}") from error

    # -- what the file says about itself --

    @cached_property
    def _first_frame(self) -> av.VideoFrame:
        """The first picture, which alone knows the display matrix (FFmpeg hands it over with the frames)."""
        rank = int(self.index.rank[0])
        with self._reporting():
            for frame in self._decode([(rank, rank)], {rank}):
                return frame
        raise VideoReadError(self.name, "its first frame cannot be decoded")

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
        ratio = float(self._sample_aspect_ratio or 1)
        if 0.05 <= ratio <= 20:
            width = max(1, round(width * ratio))
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
        return (len(self) - 1) / span if span > 0 else float(self._average_rate or 0)

    @property
    def duration(self) -> float:
        return float(self.timestamps[-1]) + (1 / self.fps if self.fps > 0 else 0.0)

    # -- opening and indexing --

    def _open(self, motion_vectors: bool = False) -> None:
        """(Re)open at the first packet: a fresh demuxer is the one rewind that works in every container."""
        self.close()
        if not isinstance(self._source, str):
            self._source.seek(0)
        self._container = av.open(self._source, "r", metadata_errors="ignore")
        if not self._container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            raise VideoReadError(self.name, f"has no video stream (found: {kinds})")
        stream = self._container.streams.best("video") or self._container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise VideoReadError(self.name, "this FFmpeg has no decoder for its video codec")
        if context.width * context.height > self.max_pixels:
            raise VideoReadError(
                self.name,
                f"frames of {context.width} x {context.height} pixels are over max_pixels={self.max_pixels}",
            )
        # Slices only: under frame threading H.264's motion vectors are read while another thread writes them.
        context.thread_type = "SLICE"
        if motion_vectors:
            context.flags2 |= Flags2.export_mvs
        self._stream = stream
        self._extradata = context.extradata
        self._average_rate = stream.average_rate
        self._sample_aspect_ratio = stream.sample_aspect_ratio or context.sample_aspect_ratio
        self._demuxer = self._container.demux(stream)
        self._position = 0  # the rank of the packet that `_packets` hands out next

    def _packets(self) -> Iterator[tuple[int, av.Packet]]:
        """(rank, packet) from where the container stands. Ranks count the packets in decode order."""
        for packet in self._demuxer:
            if packet.size:
                self._position += 1
                yield self._position - 1, packet

    def _build_index(self) -> PacketIndex:
        movie = "mp4" in self._container.format.name
        rows: list[tuple[int, int | None, int, bool, int]] = []  # rank, pts, size, keyframe, start
        self._rank_of_pts: dict[int, int] = {}
        for rank, packet in self._packets():
            if movie and packet.is_corrupt:
                raise VideoReadError(self.name, f"is truncated: the data of packet {rank} are cut off")
            if packet.pts is not None:
                self._rank_of_pts[packet.pts] = rank
            # Outside the edit list, or one of VP8's alternate references, which are never shown.
            if packet.is_discard or (self.codec == "vp8" and not bytes(packet)[0] >> 4 & 1):
                continue
            start = -1 if packet.pos is None else packet.pos
            rows.append((rank, packet.pts, packet.size, bool(packet.is_keyframe), start))
        listed = len(self._stream.index_entries) if movie else 0
        if listed > self._position:
            raise VideoReadError(
                self.name, f"is truncated: it lists {listed} frames, {self._position} of them can be read"
            )
        # A stream cut out of a broadcast starts with pictures that cannot be decoded.
        rows = rows[next((place for place, row in enumerate(rows) if row[3]), 0) :]
        if not rows:
            raise VideoReadError(self.name, "its video stream has no frames")
        self._first_rank = rows[0][0]

        # Only distinct pts tell the order of display. AVI has none (with B-pictures, FFmpeg's guess is the
        # order of decoding), and interlaced pictures may be two packets each: then the decoder has to say
        # what there is.
        interlaced = int(self._stream.codec_context.field_order) > 1 and self.codec != "mjpeg"
        guessed = self._container.format.name == "avi" and self.codec in ("h264", "hevc")
        self._seekable = len(self._rank_of_pts) == self._position and not interlaced and not guessed
        self._time_base = float(self._stream.time_base or 1)
        if self._seekable:
            # Pictures shown before the first keyframe refer to some that are not in the file.
            pts = np.array([row[1] for row in rows], np.int64)
            order = np.argsort(pts)
            order = order[pts[order] >= pts[0]]
            rows, pts = [rows[place] for place in order], pts[order]
        else:
            row_of_rank = {row[0]: row for row in rows}
            all_ranks = set(range(self._position))
            decoded = (
                frame.pts for frame in self._decode([(self._first_rank, self._position - 1)], all_ranks)
            )
            known = sorted(row[1] for row in rows if row[1] is not None)
            rows = [row_of_rank[rank] for rank in dict.fromkeys(decoded) if rank in row_of_rank]
            if not rows:
                raise VideoReadError(self.name, "no frame of its video stream can be decoded")
            if len(set(known)) >= len(rows):
                pts = np.array(known[: len(rows)], np.int64)
            else:
                pts = np.arange(len(rows))
                self._time_base = 1 / float(self._average_rate or 25)
        columns = [np.array([row[column] for row in rows]) for column in (2, 3, 0, 4)]
        return PacketIndex(pts, *columns)

    # -- decoding --

    def frames(
        self, frame_ids: Iterable[int], *, motion_vectors: bool = False, references: bool = False
    ) -> Iterator[DecodedFrame]:
        """Decode the frames `frame_ids` (numbers in display order), each once, in display order.

        Args:
            frame_ids: numbers in 0..len(self)-1, in any order.
            motion_vectors: have the decoder export them (H.264, MPEG-1/2/4, H.263).
            references: also yield the other pictures that had to be decoded, which include every I and P
            picture
                around a wanted one; tell them apart by `frame_id`.

        Raises:
            ValueError: a number is out of range. VideoReadError: a wanted frame cannot be decoded.
        """
        wanted = np.unique(np.fromiter(frame_ids, np.int64))
        if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < len(self)):
            bad = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise ValueError(f"{self.name}: frame {bad} asked for, but its frames are 0 to {len(self) - 1}")
        id_of_rank = self._id_of_rank
        wanted_ranks = {int(self.index.rank[frame_id]) for frame_id in wanted}
        rotation, missing = self.rotation, set(wanted_ranks)
        with self._reporting():
            for frame in self._decode(self._runs(wanted), wanted_ranks, motion_vectors):
                rank = int(frame.pts or 0)
                if rank in missing or (references and rank in id_of_rank and rank not in wanted_ranks):
                    missing.discard(rank)
                    yield DecodedFrame(frame, id_of_rank[rank], rotation)
        if missing:
            lost = sorted(id_of_rank[rank] for rank in missing)
            where = f"frame {lost[0]} ({self.timestamps[lost[0]]:.3f} s)"
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise VideoReadError(self.name, f"{where}{more} cannot be decoded: the data are damaged")

    def packets(self, frame_ids: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """(frame_id, data) of the packets of `frame_ids`, each once, in the order of decoding; nothing is decoded."""
        wanted = np.unique(np.fromiter(frame_ids, np.int64))
        runs = sorted((target, first) for frame_id in wanted for first, target in self._runs([frame_id]))
        with self._reporting():
            self._open()
            for target, keyframe in runs:
                self._go_to(keyframe, motion_vectors=False)
                for rank, packet in self._packets():
                    if rank == target:
                        yield self._id_of_rank[rank], bytes(packet)
                        break

    @property
    def extradata(self) -> bytes | None:
        """The codec's header, with its parameter sets."""
        return self._extradata

    @cached_property
    def _id_of_rank(self) -> dict[int, int]:
        return {int(rank): frame_id for frame_id, rank in enumerate(self.index.rank)}

    def _runs(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """(first, last) ranks of the stretches to decode: each begins with a keyframe; what lies between is
        skipped."""
        runs: list[tuple[int, int]] = []
        keys = np.flatnonzero(self.index.keyframe)
        for frame_id in wanted:
            before = np.searchsorted(keys, frame_id, side="right") - 1
            first = int(self.index.rank[keys[before]]) if before >= 0 else self._first_rank
            last = int(self.index.rank[frame_id])
            if runs and first <= runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], max(last, runs[-1][1]))
            else:
                runs.append((first, last))
        return runs

    def _decode(
        self, runs: list[tuple[int, int]], wanted: set[int], motion_vectors: bool = False
    ) -> Iterator[av.VideoFrame]:
        """Decode runs of packets; a frame's `pts` is the rank of its packet, which no container can get
        wrong."""
        self._open(motion_vectors)
        for first, last in runs:
            self._go_to(first, motion_vectors)
            context = self._stream.codec_context
            for rank, packet in self._packets():
                if rank < first:
                    continue
                packet.pts, packet.dts = rank, None
                # What nothing refers to and nobody wants is not decoded.
                context.skip_frame = "DEFAULT" if rank in wanted else "NONREF"
                with suppress(av.FFmpegError):  # damaged: if a wanted frame is lost by it, `frames` says so
                    yield from context.decode(packet)
                if rank >= last:
                    break
            context.skip_frame = "DEFAULT"
            yield from context.decode(None)
            context.flush_buffers()

    def _go_to(self, rank: int, motion_vectors: bool) -> None:
        """Bring the container to `rank` or before it: a seek over long gaps, reading on over short ones."""
        if not self._seekable or rank <= self._position:
            return
        index, here, there = self.index, self._id_of_rank.get(self._position), self._id_of_rank[rank]
        if here is None or index.start[there] - index.start[here] < SEEK_BYTES:
            return
        resume = self._position
        self._container.seek(int(index.pts[there]), stream=self._stream, backward=True)
        self._demuxer = self._container.demux(self._stream)
        for packet in self._demuxer:
            landed = self._rank_of_pts.get(packet.pts) if packet.size else None
            if landed is not None and resume <= landed <= rank:
                self._position = landed
                self._demuxer = itertools.chain([packet], self._demuxer)
                return
            break
        # The container's own table of times is wrong: read on from its start, now and from here on.
        self._seekable = False
        self._open(motion_vectors)


def _resolve(source: VideoSource) -> tuple[str, Any]:
    """(name for messages, what `av.open` takes)."""
    if isinstance(source, bytes | bytearray | memoryview):
        if not len(source):
            raise VideoReadError("<bytes>", "is empty (0 bytes)")
        return "<bytes>", io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if not isinstance(name, str):
            name = os.fsdecode(name)
        if "://" in name:
            return name, name
        path = Path(name)
        if not path.exists():
            raise VideoReadError(name, "no such file")
        if path.is_dir():
            raise VideoReadError(name, "is a folder, not a video file")
        if path.is_file() and path.stat().st_size == 0:
            raise VideoReadError(name, "is empty (0 bytes)")
        return name, f"file:{name}"  # a colon in a name is not a protocol
    if hasattr(source, "read"):
        label = f"<file object {getattr(source, 'name', '')}>".replace(" >", ">")
        seekable = getattr(source, "seekable", lambda: hasattr(source, "seek"))()
        if not seekable:
            return _resolve(source.read())
        return label, source
    raise TypeError(f"a video is a path, bytes or a binary file object, not {type(source).__name__}")
