"""Where a video comes from: a path, a URL, bytes or a file object, checked before FFmpeg sees it.

file = VideoFile("clip.mp4")
file.name, file.size            # for messages; bytes, None where nobody knows
file.open_container()           # PyAV's, any number of times: each has its own place in the file

FFmpeg is given one file and opens no other: what is on the net is fetched here first, formats that name other
files are refused (`video_formats`), and the only protocol is `file`, for a path, or none.
"""

import errno
import io
import os
import re
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.request import url2pathname

import av

from .embedded_media import EmbeddedMediaError, unwrap
from .mp4_boxes import claimed_samples, length_of_boxes
from .remote_file import is_url, open_url, shown
from .url_access import FETCHED, UrlAccess
from .video_formats import HEAD_BYTES, explain_refusal, explain_silence, options_for

VideoSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# What FFmpeg, PyAV and the file itself raise on what cannot be read.
READ_ERRORS = (av.FFmpegError, OSError, OverflowError, MemoryError, UnicodeError)
# Samples that tables may name for each byte of the file; old codecs of sound have up to six.
MAX_SAMPLES_A_BYTE = 16


class VideoReadError(ValueError):
    """A video cannot be read.

    Args:
        path: names it; "<bytes>", "<file object>" in memory.
        reason: says why.
    """

    def __init__(self, path: Any, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def reporting(name: str) -> Iterator[None]:
    """Turn what reading raises into `VideoReadError`, with the file's name."""
    try:
        yield
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoReadError(name, f"not a video that FFmpeg can read: {reason}") from error


class VideoFile:
    """A source that can be opened again and again.

    Args:
        source: a path, a URL, bytes or a file object.
        urls: whether a URL is fetched, and within which bounds.

    Raises:
        VideoReadError: no such file, a folder, empty.
        TypeError: not a video source at all.
    """

    name: str
    size: int | None

    def __init__(self, source: VideoSource, urls: UrlAccess = FETCHED):
        self._urls = urls
        try:
            source, name = unwrap(source)
        except EmbeddedMediaError as error:
            raise VideoReadError("<text>", f"holds no video: {error}") from None
        self._source: Any = source
        self._is_regular = self._is_nameless = self._is_checked = False
        if isinstance(source, bytes):
            self._set_bytes(name, source)
        elif isinstance(source, str | os.PathLike):
            self._set_path(os.fsdecode(source))
        elif hasattr(source, "read"):
            self._set_file(source)
        else:
            raise TypeError(f"a video is a path, bytes or a binary file object, not {type(source).__name__}")

    def open_container(self, options: dict[str, str] | None = None, timeout: float | None = None) -> Any:
        """PyAV's container over this file.

        Args:
            options: of FFmpeg's demuxer, besides those that keep it to this file.
            timeout: seconds that opening and reading may block.

        Raises:
            VideoReadError: it names other files, or is text. av.FFmpegError: no video for another reason.
        """
        self._check_claims()
        try:
            try:
                return self._open_container(options, timeout)
            except av.FFmpegError as error:
                # A name like shot%03d.png stands for numbered pictures with FFmpeg: read it without its name.
                if error.errno != errno.EINVAL or self._is_nameless or not self._is_regular:
                    raise
                self._is_nameless = True
                return self._open_container(options, timeout)
        except av.FFmpegError:
            if not isinstance(self._source, str) or self._is_regular:
                with self._open() as file:
                    if reason := explain_refusal(file.read(HEAD_BYTES)):
                        raise VideoReadError(self.name, reason) from None
            raise

    def _check_claims(self) -> None:
        """Before FFmpeg makes room for an index that is not there."""
        if self.size is None or self._is_checked:
            return
        with self._open() as file:
            try:
                count = claimed_samples(file, self.size)
            except ValueError as error:
                raise VideoReadError(self.name, str(error)) from None
        if count > MAX_SAMPLES_A_BYTE * self.size:
            raise VideoReadError(self.name, f"its index names {count} samples, and it has {self.size} bytes")
        self._is_checked = True

    def _open_container(self, options: dict[str, str] | None, timeout: float | None) -> Any:
        named = isinstance(self._source, str) and not self._is_nameless
        return av.open(
            f"file:{self._source}" if named else self._open(),  # a colon in a name is not a protocol
            "r",
            metadata_errors="ignore",
            container_options=options_for("file" if named else "none") | (options or {}),
            timeout=timeout,
        )

    def _open(self) -> Any:
        """A file object that stands at the first byte, and has no name."""
        if isinstance(self._source, bytes):
            return io.BytesIO(self._source)
        return _Nameless(self._source) if isinstance(self._source, str) else _OwnPlace(self._source)

    def why_no_picture(self, otherwise: str) -> str:
        """The reason that nothing can be decoded, or the other one where the file does not tell."""
        with self._open() as file:
            return explain_silence(file.read(HEAD_BYTES)) or otherwise

    @property
    def is_shared(self) -> bool:
        """Whether two openings read through one file object, which threads must not do."""
        return not isinstance(self._source, str | bytes)

    def missing_bytes(self, container_format: str) -> int:
        """By how much a file ends before its container says so.

        FFmpeg gives what is there and no error. Only mp4, mov, mkv, webm and avi know their length.
        """
        if self.size is None:
            return 0
        with self._open() as file:
            if "mp4" in container_format:
                declared = length_of_boxes(file, self.size)
            elif "matroska" in container_format:
                declared = _matroska_length(file)
            else:
                declared = _avi_length(file) if container_format == "avi" else 0
        return max(0, declared - self.size)

    def _set_bytes(self, name: str, data: bytes) -> None:
        if not data:
            raise VideoReadError(name, "is empty (0 bytes)")
        self.name, self.size, self._source = name, len(data), data

    def _set_path(self, name: str) -> None:
        self.name, self.size = shown(name), None
        if is_url(name):
            self._fetch(name)
            return
        path = local_path(name)
        try:
            status = Path(path).stat()
        except FileNotFoundError:
            raise VideoReadError(name, f"no such file{_of_frames(name)}") from None
        except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
            raise VideoReadError(name, getattr(error, "strerror", None) or str(error)) from error
        if Path(path).is_dir():
            raise VideoReadError(
                name, "is a folder, not a video file (frames=True takes its pictures for one)"
            )
        self._is_regular = Path(path).is_file()
        if self._is_regular:
            if status.st_size == 0:
                raise VideoReadError(name, "is empty (0 bytes)")
            self.size = status.st_size
        self._source = path

    def _fetch(self, url: str) -> None:
        """Into a file of its own, which goes when this does: an index reads all of a video, frames again."""
        try:
            with open_url(url, self._urls) as answer:
                handle, path = tempfile.mkstemp(prefix="onevision-")
                weakref.finalize(self, _remove, path, os.getpid())
                with open(handle, "wb") as file:
                    self.size = answer.save(file)
        except OSError as error:
            raise VideoReadError(self.name, getattr(error, "strerror", None) or str(error)) from error
        if self.size == 0:
            raise VideoReadError(self.name, "is empty (0 bytes)")
        self._source, self._is_regular = path, True

    def _set_file(self, file: Any) -> None:
        if isinstance(file, io.TextIOBase):
            raise TypeError("the file object gives text: open it in binary mode ('rb')")
        label = f"<file object {getattr(file, 'name', '')}>".replace(" >", ">")
        self.name = label
        with reporting(label):
            if not getattr(file, "seekable", lambda: hasattr(file, "seek"))():
                self._set_bytes(label, bytes(file.read()))
                return
            file.seek(0, os.SEEK_END)
            self.size = file.tell()
        if self.size == 0:
            raise VideoReadError(label, "is empty (0 bytes)")


def _of_frames(name: str) -> str:
    numbered = re.search(r"%0?\d*d", os.path.basename(name))
    return " (frames=True takes a pattern of pictures for one clip)" if numbered else ""


def local_path(name: str) -> str:
    """The path that a `file:` URL names (letters may be written as %20); any other name as it is.

    Raises:
        VideoReadError: a URL of another scheme, or of another machine.
    """
    if os.path.exists(name):
        return name
    scheme = re.match(r"file:|[a-z][a-z0-9+.-]+://", name, re.IGNORECASE)
    if scheme is None:
        return name
    if scheme[0].lower() not in ("file:", "file://"):
        raise VideoReadError(
            shown(name),
            f"{scheme[0]} is not read: a video is a file, or at http:// or https:// (live sources: "
            "`CodecStream`)",
        )
    path = name[len("file:") :]
    if path.startswith("//"):
        host, _, path = path[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise VideoReadError(name, f"is on another machine, {host}: give a path, or an http URL")
        path = f"/{path}"
    decoded = url2pathname(path)  # but the %03d of a name that is there is a part of it
    return path if os.path.exists(path) and not os.path.exists(decoded) else decoded


def _remove(path: str, process: int) -> None:
    """Delete what this process fetched; the copy of the object in a forked one has no say."""
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)


class _Nameless(io.FileIO):
    """A local file that does not tell its name, from which FFmpeg would guess what to read."""

    def __init__(self, path: str):
        super().__init__(path)
        del self.name

    def __del__(self) -> None:
        self.close()


class _OwnPlace(io.RawIOBase):
    """A file object read from a place of its own: two who read it do not disturb each other."""

    def __init__(self, file: Any):
        self._file, self._place = file, 0

    def read(self, count: int = -1) -> bytes:
        self._file.seek(self._place)
        data = self._file.read(count)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset, whence = self._place + offset, os.SEEK_SET
        self._file.seek(offset, whence)
        self._place = self._file.tell()
        return self._place

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _matroska_length(file: Any) -> int:
    """Where the segment ends; 0 where it does not say, as in a live recording."""
    at = 0
    for wanted in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or head[:4] != wanted or head[4] == 0:
            return 0
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:
            return 0
        at += 4 + width + length
    return at


def _avi_length(file: Any) -> int:
    """Where the first RIFF chunk ends; a recorder that was killed leaves 0."""
    head = file.read(8)
    length = int.from_bytes(head[4:], "little")
    return 8 + length if head[:4] == b"RIFF" and length else 0
