"""Codec patchification of a live stream: packets in, windows of selected patches out.

    with CodecStream("tcp://127.0.0.1:5000", window=2.0, num_frames=16) as stream:
        for item in stream:
            if isinstance(item, StreamWindow):
                outputs = model(**item.inputs)
            else:
                print(item)             # a `StreamEvent`: stalled, damaged, changed, cut, ended...

A window is what the processor makes of a file between the same times, to the bit:
`processor(file, start=window.start, end=window.end)`.

Memory is bounded: the packets of a window and of the GOP before it are held, `max_bytes` at most, and as many
again wait to be looked at; whoever reads too slowly holds up the source. A window comes when the first packet
has come that is decoded at its end or later: that is one picture after its last one, or, where pictures are
re-ordered, two to five (with two B pictures in a row); plus the time to select and cut. `StreamWindow.delay`
and `seconds` say how much that was.
"""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature

from ..modeling.frame_sampling import SamplingSettings
from ..modeling.parameter_sets import ParameterTrack
from ..modeling.patch_selection import Selection
from ..modeling.patchify_config import PatchifyConfig
from ..modeling.processing_llava_onevision2 import LlavaOnevision2Processor, ShownMedium
from ..modeling.readiness_groups import MIN_GROUP_FRAMES
from ..modeling.standalone_decoder import STANDALONE_CODECS
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from ..modeling.video_reader import MAX_PIXELS, VideoReadError
from .packet_reader import PacketReader, StreamHead
from .packet_source import PacketSource, StreamEnd, picture_format
from .segment import EPSILON, Segment

MAX_BYTES = 64 << 20
# Seconds by which decoding times may jump forward between two packets before time counts as broken.
MAX_GAP = 10.0

EVENTS = {
    "stalled": "nothing has come for `stall_after` seconds; the stream is still waited for",
    "damaged": "packets or a window that cannot be decoded; the stream goes on",
    "changed": "the pictures have another format from here on; times and frames count anew",
    "jumped": "the times jump, back or far ahead; times and frames count anew from the next keyframe",
    "overrun": "`max_bytes` of packets without a whole window; they are let go, times and frames count anew",
    "cut": "the source failed or was silent for `give_up_after` seconds; nothing comes after this",
    "ended": "the source ended; nothing comes after this",
}


@dataclass(frozen=True)
class StreamEvent:
    """What happened instead of a window.

    Args:
        kind: one of `EVENTS`.
        reason: in words.
        segment: as in `StreamWindow`.
    """

    kind: str
    reason: str
    segment: int

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclass(frozen=True, eq=False)
class StreamWindow:
    """The selected patches of a span of a stream.

    Args:
        inputs: `pixel_values_videos` (1, K, C*p*p), `patch_positions` (1, K, 3), `pixel_attention_mask` (1,
            K).
        selection: as of a file; `frame_ids` and `timestamps` count from the first picture of the segment. Of
            a published LLaVA-OneVision-2's processor the canvases, which stand for the window in a prompt;
            `inputs` then has `pixel_values`, `image_grid_thw` and `patch_positions`.
        start: seconds of the first picture in the window, from the first of the segment.
        end: seconds of the last one, likewise.
        segment: how often the stream changed its format, jumped or overran before.
        delay: seconds of the stream from the window's last picture to the newest one that had come by then.
        seconds: that selecting and cutting took.
    """

    inputs: BatchFeature
    selection: Selection | ShownMedium
    start: float
    end: float
    segment: int
    delay: float
    seconds: float


class CodecStream:
    """Windows of selected patches of a live source.

    Iterating gives `StreamWindow` and `StreamEvent`; `cut` and `ended` are the last. A last window may be
    shorter than the others, and one that has fewer patches than `num_patches` gives all.

    Args:
        source: a URL (tcp, udp, rtsp, rtmp, srt, http...), a path, a binary file object (a pipe, a
            socket's), or an iterator of PyAV packets of one video stream. Read once, from where it stands.
        processor: how frames are sampled, selected and cut, see `OneVisionVideoProcessor`; the default one
            if left out. A `LlavaOnevision2Processor` makes canvases, whole groups of each window.
        window: seconds of a window.
        stride: seconds between the beginnings of two, `window` by default; smaller ones overlap.
        stall_after: seconds of silence until the event `stalled`.
        give_up_after: seconds of silence until the event `cut`.
        max_bytes: of packets that are held, at most.
        max_pixels: larger pictures are refused.
        options: of FFmpeg's demuxer and protocol, such as {"rtsp_transport": "tcp"}.
        **settings: of the processor, for this stream.

    Raises:
        VideoReadError: (at the first step) the source cannot be opened, or holds no video.
        ValueError: an argument is out of range.
        TypeError: no such source.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Any | Iterable[av.Packet],
        processor: OneVisionVideoProcessor | LlavaOnevision2Processor | None = None,
        *,
        window: float = 2.0,
        stride: float | None = None,
        stall_after: float = 2.0,
        give_up_after: float = 30.0,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        options: dict[str, str] | None = None,
        **settings: Any,
    ):
        self.processor: Any = processor or OneVisionVideoProcessor()
        self.window, self.stride = window, window if stride is None else stride
        named = {"window": window, "stride": self.stride, "stall_after": stall_after}
        for name, value in (named | {"give_up_after": give_up_after, "max_bytes": max_bytes}).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        self.stall_after, self.give_up_after = stall_after, give_up_after
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self._canvases: dict[str, Any] | None = None
        if isinstance(processor, LlavaOnevision2Processor):
            videos: Any = processor.video_processor
            self._canvases = {"preset": videos.preset or "ov2", **settings}
            videos.check_settings(**self._canvases)
            self._config = PatchifyConfig.from_dict({})
        else:
            videos = self.processor
            self._config = videos.patchify_config(**settings)
        sampling = self._config.sampling
        if sampling.timestamps is not None or sampling.start is not None or sampling.end is not None:
            raise ValueError(
                "timestamps, start and end are a file's: a stream is cut by `window` and `stride`"
            )
        self._source = PacketSource(source, options or {}, max_bytes, give_up_after)
        self._head: StreamHead | None = None
        self._segment: Segment | None = None
        self._segments = 0
        self._parameters: ParameterTrack | None = None
        self._renewed = False  # parameter sets came that differ from those before
        self._format: str | None = None
        self._last_dts: int | None = None
        self._in_damage = False

    def __enter__(self) -> "CodecStream":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. A read that blocks ends when its source does, or after `give_up_after` seconds."""
        self._source.close()

    @property
    def held_bytes(self) -> int:
        """Of packets, in windows and waiting."""
        return self._source.held_bytes + (self._segment.bytes if self._segment else 0)

    def __iter__(self) -> Iterator[StreamWindow | StreamEvent]:
        self._source.start()
        try:
            yield from self._items()
        finally:  # also where the reader stops before the end: the source's thread would wait for room
            self.close()

    def _items(self) -> Iterator[StreamWindow | StreamEvent]:
        heard, stalled = time.monotonic(), False
        while True:
            silent = time.monotonic() - heard
            wait = (
                self.give_up_after - silent if stalled else min(self.stall_after, self.give_up_after) - silent
            )
            message = self._source.get(max(wait, 0.0))
            if message is None:
                silent = time.monotonic() - heard
                if silent >= self.give_up_after:
                    yield from self._flush()
                    yield self._event("cut", f"nothing has come for {silent:.1f} s")
                    return
                if not stalled and silent >= self.stall_after:
                    stalled = True
                    yield self._event("stalled", f"nothing has come for {silent:.1f} s")
                continue
            heard, stalled = time.monotonic(), False
            if isinstance(message, StreamEnd):
                yield from self._flush()
                yield self._event(message.kind, message.reason)
                return
            if isinstance(message, StreamHead):
                if self._segment is not None:
                    yield from self._restart("changed", f"packets of another stream, {message.codec}")
                self._head, self._format = message, None
                self._parameters = ParameterTrack(message.codec, message.extradata)
                continue
            yield from self._take(message)

    # -- packets --

    def _take(self, packet: av.Packet) -> Iterator[StreamWindow | StreamEvent]:
        """One more packet, and what it brings."""
        assert self._head is not None and self._parameters is not None
        if self._parameters.follow(0, packet):
            self._parameters.forget()
            self._renewed = True
        if packet.is_corrupt and not self._in_damage:
            yield self._event("damaged", f"a packet at {_seconds(packet)} is incomplete")
        self._in_damage = bool(packet.is_corrupt)
        if self._jumps(packet):
            yield from self._restart(
                "jumped", f"from {self._last_dts} to {packet.dts} of 1/{_rate(packet)} s"
            )
        self._last_dts = packet.dts if packet.dts is not None else self._last_dts
        if packet.is_keyframe:
            yield from self._look_at(packet)
        if self._segment is None:
            return
        if self._segment.bytes + packet.size > self.max_bytes:
            held, seconds = self._segment.bytes, self._segment.span
            reason = f"{held} bytes over {seconds:.1f} s are held and {packet.size} come"
            yield from self._restart("overrun", f"{reason}, max_bytes={self.max_bytes}")
            if not packet.is_keyframe or packet.size > self.max_bytes:
                return
            yield from self._look_at(packet)
        self._segment.add(packet, self._parameters.latest)
        while (due := self._segment.due(self.window, self.stride)) is not None:
            yield from self._give(due)

    def _jumps(self, packet: av.Packet) -> bool:
        if self._last_dts is None or packet.dts is None or self._head is None:
            return False
        step = (packet.dts - self._last_dts) * self._head.time_base
        return step < 0 or step > max(MAX_GAP, self.window, self.give_up_after)

    def _look_at(self, keyframe: av.Packet) -> Iterator[StreamWindow | StreamEvent]:
        """Begin a segment, the first one or one of another format."""
        assert self._head is not None
        if keyframe.pts is None:
            reason = "its packets carry no times: a stream needs a container that has them, such as MPEG-TS"
            if self._segment is None and not self._segments:
                raise VideoReadError(self._head.name, reason)
            yield self._event("damaged", reason)
            return
        reason = self._change_at(keyframe)
        if reason and self._segment is not None:
            yield from self._restart("changed", reason)
        elif reason and self._segments:
            yield self._event("changed", reason)
        if self._segment is None:
            self._segment = Segment(self._head, keyframe.pts)

    def _change_at(self, keyframe: av.Packet) -> str:
        """What is new in the format of the pictures from a keyframe on, or nothing."""
        assert self._head is not None and self._parameters is not None
        reason = ""
        if self._head.codec not in STANDALONE_CODECS:
            found = picture_format(self._head, keyframe, self.max_pixels)
            if self._format is not None and found not in (None, self._format):
                reason = f"pictures of {found} instead of {self._format}"
            self._format = found or self._format
        elif self._renewed:
            self._renewed = False
            self._head = dataclasses.replace(self._head, extradata=self._parameters.latest.extradata)
            reason = "other parameter sets"
        return f"{reason} from {_seconds(keyframe)} on" if reason else ""

    def _restart(self, kind: str, reason: str) -> Iterator[StreamWindow | StreamEvent]:
        """Give what is there, tell why, and begin a new segment at the next keyframe."""
        if kind != "overrun":
            yield from self._flush()
        yield self._event(kind, reason)
        self._segment, self._last_dts = None, None
        self._segments += 1

    # -- windows --

    def _flush(self) -> Iterator[StreamWindow | StreamEvent]:
        """The windows that were begun when the stream ended or changed."""
        segment = self._segment
        while segment is not None and (due := segment.rest(self.window, self.stride)) is not None:
            yield from self._give(due)

    def _give(self, due: tuple[float, float]) -> Iterator[StreamWindow | StreamEvent]:
        """The window between two times, if it has pictures and they can be decoded."""
        assert self._segment is not None
        segment, began = self._segment, time.perf_counter()
        begin, finish = due
        reader: PacketReader | None = None
        try:
            found_reader = PacketReader(
                segment.head, segment.packets, origin=segment.origin, max_pixels=self.max_pixels
            )
            if not found_reader.has_container_timestamps:
                raise VideoReadError(found_reader.name, "its pictures' times are not distinct")
            reader = found_reader
            times = reader.timestamps
            inside = np.flatnonzero((times >= begin - EPSILON) & (times < finish - EPSILON))
            if len(inside):
                first, last = float(times[inside[0]]), float(times[inside[-1]])
                if self._canvases is not None:
                    yield self._group(reader, segment, inside, (first, last), began)
                    segment.advance(reader, begin + self.stride)
                    return
                found = self.processor.process_reader(reader, self._bounded(reader, first, last, len(inside)))
                seconds = time.perf_counter() - began
                yield self._window(found, segment, first, last, finish, seconds)
        except VideoReadError as error:
            yield self._event("damaged", f"no window from {begin:g} to {finish:g} s: {error.reason}")
        segment.advance(reader, begin + self.stride)

    def _group(
        self,
        reader: PacketReader,
        segment: Segment,
        inside: np.ndarray,
        times: tuple[float, float],
        began: float,
    ) -> StreamWindow:
        """A window as canvases; its groups are what attends to itself."""
        if len(inside) < MIN_GROUP_FRAMES:
            few = f"{len(inside)} pictures, and a group of canvases has {MIN_GROUP_FRAMES} or more"
            raise VideoReadError(reader.name, few)
        span = (int(inside[0]), int(inside[-1]) + 1)
        read = self.processor.read_window(reader, span, segment.first_frame, **(self._canvases or {}))
        inputs = BatchFeature(
            {"pixel_values": read.patches, "image_grid_thw": read.grid, "patch_positions": read.positions}
        )
        delay, seconds = max(0.0, segment.latest - times[1]), time.perf_counter() - began
        return StreamWindow(inputs, read, *times, self._segments, delay, seconds)

    def _bounded(self, reader: PacketReader, first: float, last: float, count: int) -> PatchifyConfig:
        """The settings of a window; a short one may have fewer patches than are asked for."""
        if count == 1:
            sampling = SamplingSettings(timestamps=(first,))
        else:
            sampling = dataclasses.replace(self._config.sampling, start=first, end=last)
        return dataclasses.replace(self._config, sampling=sampling).within(reader)

    def _window(
        self,
        found: dict[str, Any],
        segment: Segment,
        first: float,
        last: float,
        finish: float,
        seconds: float,
    ) -> StreamWindow:
        selection: Selection = found["selection"]
        selection = dataclasses.replace(selection, frame_ids=selection.frame_ids + segment.first_frame)
        count = len(found["positions"])
        inputs = BatchFeature(
            {
                "pixel_values_videos": torch.from_numpy(found["patches"])[None],
                "patch_positions": torch.from_numpy(found["positions"])[None],
                "pixel_attention_mask": torch.ones((1, count), dtype=torch.bool),
            }
        )
        delay = max(0.0, segment.latest - last)
        return StreamWindow(inputs, selection, first, last, self._segments, delay, seconds)

    def _event(self, kind: str, reason: str) -> StreamEvent:
        assert kind in EVENTS
        return StreamEvent(kind, " ".join(reason.split()), self._segments)


def _seconds(packet: av.Packet) -> str:
    return "an unknown time" if packet.pts is None else f"{float(packet.pts * (packet.time_base or 1)):.3f} s"


def _rate(packet: av.Packet) -> int:
    return packet.time_base.denominator if packet.time_base else 1
