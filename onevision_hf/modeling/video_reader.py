"""Reads a video the way codec patchification needs it: an index first, then only the pictures asked for.

One demux pass gives (pts, size, keyframe) of every packet. One picture is decoded for it, so it is cheap, and
it works in containers that name no frame count (mkv, webm, ts); interlaced streams, and AVI with B-pictures,
have to be decoded once to be counted. Frames are numbered in display order; what no wanted frame needs is not
decoded: whole GOPs are jumped over, pictures that nothing refers to are dropped by the decoder.

    with VideoReader("clip.mp4") as reader:
        print(len(reader), reader.width, reader.height, reader.fps)
        for frame in reader.frames([0, 10, 20], motion_vectors=True):
            print(frame.picture_type, frame.luma.shape, frame.rgb(224, 224).shape, len(frame.motion_vectors))
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import av
import numpy as np

from .decoded_frame import PICTURE_TYPES, DecodedFrame, in_order, orientation_of
from .parameter_sets import ParameterSets, ParameterTrack
from .run_decoder import FalseKeyframe, RunDecoder
from .url_access import SILENCE, UrlAccess
from .video_demuxer import NO_TIME, PacketIndex
from .video_source import VideoFile, VideoReadError, VideoSource, reporting

__all__ = ["MAX_PIXELS", "DecodedFrame", "PacketIndex", "VideoReadError", "VideoReader", "VideoSource"]

# Larger frames are refused: a header of a few bytes can ask for gigabytes. This is HEVC's largest picture.
MAX_PIXELS = 8192 * 4320
# Decoders that hold a picture back until the next reference, and give it without vectors at the end of data.
HOLD_BACK = ("mpeg1video", "mpeg2video", "mpeg4")
# Pictures among which B-pictures are looked for where the times may be those of decoding.
PROBED_PICTURES = 256
# Packets in which the next reference is looked for.
HOLD_BACK_PACKETS = 32


class VideoReader(RunDecoder):
    """An index of a video and a decoder of chosen frames.

    Args:
        source: a path, an http or https URL (fetched once), the bytes of a file, or a binary file object
            (read from its start; not closed). It opens nothing but itself: playlists are refused.
        max_pixels: frames with more pixels than this are refused, against decompression bombs.
        errors: "raise", or "partial": of a truncated file, read what is there; `missing` says how much.
        allow_urls: False refuses URLs: for what strangers name.
        url_timeout: seconds without a byte after which a server is given up, see `UrlAccess`.
        max_url_bytes: that are fetched; None: 16 GiB.

    Attributes: `index` (`PacketIndex`), `codec` (FFmpeg's name: h264, hevc, av1...), `width`, `height`
    (pixels as displayed: rotation and pixel shape applied), `coded_width`, `coded_height` (as stored; all
    four of the first frame, where the stream changes its size), `rotation` (degrees counter-clockwise from
    stored to displayed) and `mirrored` (whether left and right change places before that), `timestamps` (N,)
    float64 seconds from the first frame, `fps` (mean), `duration` (seconds, the last frame's own time
    included), `extradata` (the codec's header, with its parameter sets; b"" where the packets have them),
    `missing` (what of a truncated file is there, "" of a whole one), `promised_frames` (that the header
    names; None where a truncated file does not tell). `len(reader)` is the number of frames. Any number of
    `frames` may run side by side; between them a reader keeps one container open, until it is closed.

    Raises:
        VideoReadError: the source cannot be opened, holds no video, is damaged, truncated, or too large.
        ValueError: another word for `errors`, or a bound that is no positive number.
    """

    promised_frames: int | None = None
    _last_shown = (NO_TIME, 0)
    missing = ""

    def __init__(
        self,
        source: VideoSource,
        *,
        max_pixels: int = MAX_PIXELS,
        errors: str = "raise",
        allow_urls: bool = True,
        url_timeout: float = SILENCE,
        max_url_bytes: int | None = None,
    ):
        if errors not in ("raise", "partial"):
            raise ValueError(f'errors must be "raise" or "partial", not {errors!r}')
        self.max_pixels, self._partial = max_pixels, errors == "partial"
        self._file = VideoFile(source, UrlAccess(allow_urls, url_timeout, max_url_bytes))
        self.name = self._file.name
        try:
            self._open()
        except BaseException:  # an error that somebody keeps would keep the file open
            self.close()
            raise

    def _open(self) -> None:
        with reporting(self.name):
            demuxer = self._idle = self._demux()
            lost = self._file.missing_bytes(demuxer.container.format.name)
            if lost and not self._partial:
                size = self._file.size or 0
                raise VideoReadError(
                    self.name, f"is truncated: its header promises {size + lost} bytes, {size} are there"
                )
            self.codec: str = demuxer.context.codec.canonical_name
            self.extradata: bytes = demuxer.context.extradata or b""
            stream = demuxer.stream
            self._time_base = float(stream.time_base or 1)
            self._average_rate = float(stream.average_rate or 0)
            self._pixel_shape = float(stream.sample_aspect_ratio or demuxer.context.sample_aspect_ratio or 1)
            self._parameters = ParameterTrack(self.codec, self.extradata)
            self._table = demuxer.read_table(self._parameters)
            self._packed = demuxer.is_packed
            self._last_shown = demuxer.last_shown
            reorders = self.codec in ("h264", "hevc")
            guessed = self._packed or (reorders and demuxer.container.format.name == "avi")
            rising = bool((np.diff(self._table.pts) > 0).all())
            suspect = reorders and not guessed and rising and demuxer.context.has_b_frames
            lost += demuxer.cut_packets
            promised = demuxer.promised_packets(self._table) if lost else len(self._table)
        self._build_index(guessed, suspect)
        # Not all packets are frames: some are outside of the edit list.
        self.promised_frames = None if promised is None else len(self) + max(0, promised - len(self._table))
        if lost:
            there = len(self) if promised is None else f"{len(self)} of {self.promised_frames}"
            self.missing = f"is truncated: {there} frames are there"

    def _build_index(self, guessed: bool = False, suspect: bool = False) -> None:
        """Number the frames of the table. `guessed`: the container tells no time of display. `suspect`: its
        times may be those of decoding."""
        shown = np.flatnonzero(self._table.shown)
        # A stream cut out of a broadcast starts with pictures that cannot be decoded.
        keys = np.flatnonzero(self._table.keyframe)
        self._first_rank = int(keys[0]) if len(keys) else 0
        shown = shown[shown >= self._first_rank]
        if not len(shown):
            raise VideoReadError(self.name, "its video stream has no frames")
        # Where even the form of the packets changes, a decoder has to see all of them.
        self._can_seek, self._keyframes_hold = False, not self._parameters.changes_form
        self._joined = not self._parameters.in_header and not self._parameters.changes_form
        # Only a landing that can be looked up by its time can be trusted.
        self._can_return = self._table.has_distinct_times and not (guessed or suspect)
        first = self._first_decoded()
        guessed = guessed or (suspect and self._are_times_of_decoding())
        # Only distinct pts tell the order of display. AVI has none (with B-pictures, FFmpeg's guess is the
        # order of decoding), and interlaced pictures may be two packets each.
        # (PyAV has the stream's `field_order` only from version 17 on.)
        self._fields = self.codec != "mjpeg" and first is not None and bool(first.interlaced_frame)
        self._times_tell = self._table.has_distinct_times and not self._fields and not guessed
        self._can_seek = self._times_tell
        self._can_return = self._times_tell and (self._can_return or suspect)
        by_times = self._times_tell
        self.index = self._index_by_times(shown, first) if by_times else self._index_by_decoding(shown)
        if first is not None and first.pts == self.index.rank[0]:
            self.__dict__["_first_frame"] = first

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.index.pts)

    def close(self) -> None:
        """Close the file, and free the picture that is kept for its size. Both come back when asked for."""
        self.__dict__.pop("_first_frame", None)
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.close()

    # -- what the file says about itself --

    @cached_property
    def _first_frame(self) -> av.VideoFrame:
        """The first picture, which alone knows the display matrix (FFmpeg hands it over with the frames)."""
        rank = int(self.index.rank[0])
        for frame in self._decode(np.array([0])):
            if frame.pts == rank:
                return frame
        reason = "its first frame cannot be decoded: the data are damaged"
        raise VideoReadError(self.name, self._file.why_no_picture(reason))

    @property
    def coded_width(self) -> int:
        return self._first_frame.width

    @property
    def coded_height(self) -> int:
        return self._first_frame.height

    @cached_property
    def _orientation(self) -> tuple[int, bool]:
        return orientation_of(self._first_frame)

    @property
    def rotation(self) -> int:
        return self._orientation[0]

    @property
    def mirrored(self) -> bool:
        return self._orientation[1]

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
        pts, length = self._last_shown
        if pts == self.index.pts[-1] and length > 0 and self._times_tell:  # the last one may stand longer
            return float(self.timestamps[-1]) + length * self._time_base
        return float(self.timestamps[-1]) + (1 / self.fps if self.fps > 0 else 0.0)

    @property
    def is_packed(self) -> bool:
        """Whether packets have two pictures, as DivX writes MPEG-4 with B pictures."""
        return self._packed

    @property
    def has_b_pictures(self) -> bool:
        """Whether pictures are decoded in another order than they are displayed."""
        return bool((np.diff(self.index.rank) < 0).any())

    # -- indexing --

    def _first_decoded(self) -> av.VideoFrame | None:
        """The first picture that comes out of the decoder."""
        everything = [(self._first_rank, len(self._table) - 1)]
        return next(self._decode_runs(everything, set(range(len(self._table)))), None)

    def _are_times_of_decoding(self) -> bool:
        """Whether rising times are those of decoding, as some muxers write them: with B-pictures the decoder
        then gives the pictures in another order."""
        last = min(self._first_rank + PROBED_PICTURES, len(self._table) - 1)
        latest, reordered = -1, False
        for frame in self._decode_runs([(self._first_rank, last)], set(range(len(self._table)))):
            if int(frame.pts or 0) < latest:
                return True
            latest = int(frame.pts or 0)
            is_b = PICTURE_TYPES.get(int(frame.pict_type)) == "B"
            if reordered and not is_b:  # B-pictures came, and what they lie before came after them
                return False
            reordered = reordered or is_b
        return False

    def _index_by_times(self, shown: np.ndarray, first: av.VideoFrame | None) -> PacketIndex:
        """Frames in the order of their pts, without those that need pictures before the first keyframe.

        What is shown before that keyframe may need nothing but it (HEVC and VVC: RADL pictures, as many as
        31 at libvvenc's defaults). Then `first`, which the decoder gave first, is one of them.
        """
        start = self._table.pts[self._first_rank]
        if first is not None and first.pts is not None and not first.is_corrupt:
            start = min(start, self._table.pts[first.pts])
        shown = shown[self._table.pts[shown] >= start]
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
            reason = "no frame of its video stream can be decoded"
            raise VideoReadError(self.name, self._file.why_no_picture(reason))
        index = self._index_of(ranks)
        times = np.sort(index.pts)
        if times[0] == NO_TIME or not (np.diff(times) > 0).all():
            times = np.arange(len(ranks))
            self._time_base = 1 / (self._average_rate or 25)
        return PacketIndex(times, index.size, index.keyframe, index.rank, index.start)

    def _index_of(self, ranks: np.ndarray) -> PacketIndex:
        all_ = self._table
        return PacketIndex(all_.pts[ranks], all_.size[ranks], all_.keyframe[ranks], ranks, all_.start[ranks])

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
            ValueError: a number is out of range.
            VideoReadError: a wanted frame cannot be decoded.
        """
        return self._frames(self._checked(frame_ids), motion_vectors, references)

    def packets(self, frame_ids: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """(frame_id, data) of the packets of `frame_ids`, each once, in the order of decoding; nothing is
        decoded.

        Raises:
            ValueError: a number is out of range.
        """
        return self._packets(self._checked(frame_ids))

    def _packets(self, wanted: np.ndarray) -> Iterator[tuple[int, bytes]]:
        with reporting(self.name):
            demuxer = self._take()
            try:
                for frame_id in wanted[np.argsort(self.index.rank[wanted])]:
                    ((entry, target),) = self._runs(np.array([frame_id]))
                    if target < demuxer.position or entry > demuxer.position:
                        demuxer = self._go_to(entry, demuxer)
                    for rank, packet in demuxer:
                        if rank == target:
                            yield int(frame_id), bytes(packet)
                            break
            finally:
                self._give_back(demuxer)

    def packet_runs(self, frame_ids: Iterable[int]) -> Iterator[Iterator[tuple[float, bytes]]]:
        """What a decoder of one's own needs for `frame_ids`: runs of packets, each from a keyframe on, in the
        order of decoding, as (frame number, data). Packets outside of the edit list have the number at which
        they would be shown. Where parameter sets change, those in force come before the data.

        Raises:
            ValueError: a number is out of range.
        """
        wanted = self._checked(frame_ids)
        if self._keyframes_hold:
            runs = self._runs(wanted)
        else:
            runs = [(self._first_rank, int(self.index.rank[wanted].max()))] if len(wanted) else []
        with reporting(self.name):
            demuxer = self._take()
            try:
                for first, last in runs:
                    demuxer = self._go_to(first, demuxer)
                    yield self._packet_run(demuxer, first, last)
            finally:
                self._give_back(demuxer)

    def parameter_sets(self, frame_id: int) -> ParameterSets:
        """Those of H.264 and HEVC that are in force at a frame; joined streams have several."""
        return self._parameters.at(int(self.index.rank[frame_id]))

    def _checked(self, frame_ids: Iterable[int]) -> np.ndarray:
        """Sorted, each once."""
        wanted = np.unique(np.fromiter(frame_ids, np.int64))
        if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < len(self)):
            bad = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise ValueError(f"{self.name}: frame {bad} asked for, but its frames are 0 to {len(self) - 1}")
        return wanted

    def _frames(self, wanted: np.ndarray, motion_vectors: bool, references: bool) -> Iterator[DecodedFrame]:
        rotation, mirrored, missing = self.rotation, self.mirrored, set(wanted.tolist())
        newest = -1
        decoded = (
            DecodedFrame(frame, self._id_of_rank.get(int(frame.pts or 0), -1), rotation, mirrored)
            for frame in self._decode(wanted, motion_vectors)
        )
        for frame in decoded if references else in_order(decoded, wanted.tolist()):
            if frame.frame_id in missing or (references and frame.frame_id > newest):
                newest = frame.frame_id
                missing.discard(newest)
                yield frame
        if missing:
            lost = min(missing)
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise VideoReadError(
                self.name,
                f"frame {lost} ({self.timestamps[lost]:.3f} s){more} cannot be decoded: the data are damaged",
            )

    def on_the_way(self, frame_ids: Iterable[int]) -> np.ndarray:
        """Numbers of the frames whose packets are read when these are decoded."""
        wanted = self._checked(frame_ids)
        runs = self._runs(wanted) if self._keyframes_hold else [(0, int(self.index.rank[wanted].max()))]
        bounds = np.array([[first, last + 1] for first, last in runs]).ravel()
        return np.flatnonzero(np.searchsorted(bounds, self.index.rank, side="right") % 2)

    def decode_segments(self, frame_ids: Iterable[int], count: int) -> list[np.ndarray]:
        """`frame_ids` in at most `count` parts that threads can decode side by side: each begins behind a
        keyframe, so nothing is decoded twice, and has about the same number of packets."""
        wanted = self._checked(frame_ids)
        if count < 2 or len(wanted) < 2 or self._file.is_shared or not self._times_tell:
            return [wanted]
        times, _ = self._entries
        entry = np.searchsorted(times, self.index.pts[wanted], side="right")
        starts = np.flatnonzero(np.diff(entry)) + 1
        if not len(starts):
            return [wanted]
        ranks = self.index.rank[wanted]
        even = np.linspace(ranks[0], ranks[-1], count + 1)[1:-1]
        nearest = np.abs(ranks[starts] - even[:, None]).argmin(1)
        return np.split(wanted, np.unique(starts[nearest]))

    def _decode(self, wanted: np.ndarray, motion_vectors: bool = False) -> Iterator[av.VideoFrame]:
        """The frames `wanted` and what they need, each with the rank of its packet as `pts`, which no
        container can get wrong."""
        ranks = set(self.index.rank[wanted].tolist())
        if self._fields:  # the second field of a picture may be a packet of its own
            ranks |= {rank + 1 for rank in ranks}
        tail = HOLD_BACK_PACKETS if motion_vectors and self.codec in HOLD_BACK else 0
        if self._keyframes_hold:
            try:
                yield from self._decode_runs(self._runs(wanted, tail), ranks, motion_vectors, tail)
                return
            except FalseKeyframe:
                self._keyframes_hold = False
        if ranks:
            yield from self._decode_runs([(self._first_rank, max(ranks))], ranks, motion_vectors, tail)
