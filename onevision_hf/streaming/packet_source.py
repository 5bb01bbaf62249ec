"""Packets of a live source, read in a thread of their own, so that silence can be noticed.

source = PacketSource("udp://127.0.0.1:5000", {}, max_bytes=64 << 20, give_up_after=30.0)
source.start()
source.get(timeout=2.0)     # a `StreamHead`, packets, in the end a `StreamEnd`; None: nothing came
"""

import errno
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import av

from ..modeling.decoded_frame import orientation_of
from ..modeling.remote_file import is_url, open_url, shown
from ..modeling.url_access import UrlAccess
from ..modeling.video_demuxer import padded_packet
from ..modeling.video_formats import HEAD_BYTES, explain_refusal, options_for
from ..modeling.video_source import READ_ERRORS, VideoFile, VideoReadError
from .packet_reader import StreamHead, new_decoder

# Scheme of a live source -> the protocols that FFmpeg then has, and formats besides those of files.
LIVE = {
    "pipe": ("pipe", ""),
    "unix": ("unix", ""),
    "tcp": ("tcp", ""),
    "tls": ("tls,tcp", ""),
    "udp": ("udp", ""),
    "srt": ("srt", ""),
    "rtp": ("rtp,udp", "rtp"),
    "srtp": ("srtp,rtp,udp", "rtp"),
    "rtsp": ("rtsp,rtp,udp,tcp", "rtsp"),
    "rtsps": ("rtsps,rtsp,srtp,rtp,udp,tls,tcp", "rtsp"),
    "rtmp": ("rtmp,tcp", ""),
    "rtmps": ("rtmps,tls,tcp", ""),
}
# Options of FFmpeg's http, which is not used.
HTTP_OPTIONS = {
    "headers",
    "user_agent",
    "referer",
    "cookies",
    "http_proxy",
}


@dataclass(frozen=True)
class StreamEnd:
    """Why nothing more comes: `kind` is "ended" or "cut"."""

    kind: str
    reason: str


Message = StreamHead | av.Packet | StreamEnd | BaseException


class PacketSource:
    """See the module. A thread reads ahead by `max_bytes` at most, then it holds up the source.

    Raises:
        TypeError: `source` is no URL, file object or iterable.
    """

    def __init__(self, source: Any, options: dict[str, str], max_bytes: float, give_up_after: float):
        self._source, self._options = source, options
        self._limit, self._give_up_after = max_bytes, give_up_after
        if isinstance(source, str | os.PathLike):
            self.name = shown(os.fsdecode(source))
        elif hasattr(source, "read"):
            self.name = f"<file object {getattr(source, 'name', '')}>".replace(" >", ">")
        elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray | memoryview):
            self.name = "<packets>"
        else:
            raise TypeError(
                "a stream is a URL or path, a binary file object, or an iterator of PyAV packets, not "
                f"{type(source).__name__}"
            )
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.held_bytes = 0
        # A daemon: a read that blocks must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name=f"read {self.name}", daemon=True)

    def start(self) -> None:
        """Begin to read. Raises ValueError the second time: a live source has no beginning to go back to."""
        if self._closed or self._thread.ident is not None:
            raise ValueError(f"{self.name} was read before: open another CodecStream")
        self._thread.start()

    def get(self, timeout: float) -> StreamHead | av.Packet | StreamEnd | None:
        """The next message, or None when none came in `timeout` seconds.

        Raises:
            VideoReadError: the source cannot be opened or holds no video.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout)
            if not self._messages:
                return StreamEnd("ended", "it was closed here") if self._closed else None
            message = self._messages.popleft()
            if isinstance(message, av.Packet):
                self.held_bytes -= message.size
                self._changed.notify_all()
        if isinstance(message, BaseException):
            raise message
        return message

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._messages.clear()
            self.held_bytes = 0
            self._changed.notify_all()

    # -- in the thread --

    def _put(self, message: Message) -> bool:
        """Wait for room; False when nobody reads any more."""
        size = message.size if isinstance(message, av.Packet) else 0
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self.held_bytes or self.held_bytes + size <= self._limit
            )
            if self._closed:
                return False
            self._messages.append(message)
            self.held_bytes += size
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        opened = False
        try:
            for message in self._read():
                opened = True
                if not self._put(message):
                    return
            self._put(StreamEnd("ended", "the source ended"))
        except READ_ERRORS as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if isinstance(error, av.ExitError):  # of the interrupt that PyAV's timeout sets
                reason = f"nothing has come for {self._give_up_after:g} s"
            elif getattr(error, "errno", None) == errno.EINVAL:
                reason += ": of no format that is read, which playlists are not"
            if opened:
                self._put(StreamEnd("cut", reason))
            else:
                self._put(VideoReadError(self.name, f"not a stream that FFmpeg can read: {reason}"))
        except BaseException as error:  # of the caller's iterator, or a mistake: raised where it is read
            self._put(error)

    def _read(self) -> Iterator[Message]:
        if self.name == "<packets>":
            yield from self._read_packets(self._source)
            return
        with ExitStack() as opened:
            container = opened.enter_context(self._open(opened))
            try:
                stream = container.streams.best("video")
            except IndexError:
                stream = None
            if stream is None:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                raise VideoReadError(self.name, f"has no video stream (found: {kinds})")
            if stream.codec_context is None:
                raise VideoReadError(self.name, "this FFmpeg has no decoder for its video codec")
            yield from self._read_packets(_demuxed(container, stream))

    def _open(self, opened: ExitStack) -> Any:
        """PyAV's container over the source, which opens nothing else."""
        given, options = self._source, self._options
        if not isinstance(given, str | os.PathLike):
            return self._open_file(given)
        given = os.fsdecode(given)
        if is_url(given):
            if unused := HTTP_OPTIONS & options.keys():
                raise ValueError(
                    f"FFmpeg does not read http here, so its options {sorted(unused)} have no effect: give "
                    "the file object of a response of your own"
                )
            access = UrlAccess(url_timeout=self._give_up_after)
            return self._open_file(opened.enter_context(open_url(given, access)))
        found = re.match(r"(\w+)://|(pipe|unix):", given)
        scheme = (found[1] or found[2]) if found else ""
        if scheme in LIVE and not os.path.exists(given):
            options = options_for(*LIVE[scheme]) | options
            return av.open(given, "r", container_options=options, timeout=self._give_up_after)
        return VideoFile(given).open_container(options, self._give_up_after)

    def _open_file(self, file: Any) -> Any:
        file = _Nameless(file)
        try:
            return av.open(file, "r", container_options=options_for("none") | self._options)
        except av.FFmpegError:
            if reason := explain_refusal(file.head):
                raise VideoReadError(self.name, reason) from None
            raise

    def _read_packets(self, packets: Iterable[av.Packet]) -> Iterator[Message]:
        """The head once the first keyframe is there, then packets from that on."""
        known: Any = None
        for packet in packets:
            if not isinstance(packet, av.Packet):
                raise TypeError(f"the iterator gives {type(packet).__name__}, expected PyAV packets")
            if not packet.size:
                continue
            stream: Any = packet.stream
            if stream is None or stream.type != "video":
                found = "a packet of no stream" if stream is None else f"a packet of {stream.type}"
                raise VideoReadError(self.name, f"{found}: demux one video stream of a container")
            if stream is not known:
                if not packet.is_keyframe:
                    continue
                known = stream
                yield self._head_of(stream, packet)
            yield packet

    def _head_of(self, stream: Any, keyframe: av.Packet) -> StreamHead:
        context = stream.codec_context
        codec = context.codec.canonical_name
        own = {"av1": "libdav1d"}.get(codec, codec)  # packets that come from an encoder
        # Only the container's own decoder knows. Packets that somebody else demuxes are left alone.
        unknown = self.name == "<packets>"
        rotation, mirrored = (0, False) if unknown else _orientation(context, keyframe)
        return StreamHead(
            name=self.name,
            codec=codec,
            decoder=context.name if context.is_decoder else own,
            extradata=context.extradata or b"",
            time_base=float(keyframe.time_base or stream.time_base or 1),
            rate=float(stream.average_rate or 0),
            pixel_shape=float(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1),
            rotation=rotation,
            mirrored=mirrored,
        )


class _Nameless:
    """A file object, read from where it stands, without the name from which FFmpeg would guess what it is."""

    def __init__(self, file: Any):
        self._file, self.head = file, b""
        if getattr(file, "seekable", lambda: hasattr(file, "seek"))():
            self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(self.head) < HEAD_BYTES:
            self.head += data[:HEAD_BYTES]
        return data


def _demuxed(container: Any, stream: Any) -> Iterator[av.Packet]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except IndexError:  # PyAV: a stream turned up while it read
            raise OSError("the container has another stream from here on: open it anew") from None
        yield packet


def _orientation(context: Any, keyframe: av.Packet) -> tuple[int, bool]:
    """How pictures are shown, which FFmpeg tells with a frame."""
    try:
        frames = [*context.decode(keyframe), *context.decode(None)]
    except av.FFmpegError:
        frames = []
    context.flush_buffers()
    return orientation_of(frames[0]) if frames else (0, False)


def picture_format(head: StreamHead, keyframe: av.Packet, max_pixels: int) -> str | None:
    """What tells pictures of one format from another's where a codec has no parameter sets.

    Args:
        head: of the stream.
        keyframe: a packet with a whole picture.
        max_pixels: larger pictures are refused.

    Returns:
        size and pixel format of its picture; None where this packet does not tell.
    """
    try:
        context = new_decoder(head, max_pixels)
        frames = [*context.decode(padded_packet(bytes(keyframe))), *context.decode(None)]
    except av.FFmpegError:
        return None
    return f"{frames[0].width} x {frames[0].height} {frames[0].format.name}" if frames else None
