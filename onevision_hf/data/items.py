"""An item of a source: one picture or video, where its bytes are, and what tells that they are still the
same."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..jobs.run_folder import digest_of

Kind = Literal["image", "video"]
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif")
VIDEO_EXTENSIONS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv", "wmv", "3gp")
# The first bytes of a file -> what it is. Offset, bytes, format.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG", "png"),
    (0, b"GIF8", "gif"),
    (0, b"BM", "bmp"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (8, b"WEBP", "webp"),
    (8, b"AVI ", "avi"),
    (4, b"ftypavi", "avif"),
    (4, b"ftypqt", "mov"),
    (4, b"ftyp", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "mkv"),
    (0, b"FLV", "flv"),
    (0, b"\0\0\1\xba", "mpg"),
    (0, b"G", "ts"),
)


class MediaError(ValueError):
    """One item cannot be used; the reason is the message."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One picture or video of a source.

    `path`, `size` (bytes) and `mtime_ns` are those of the file that holds it, which may hold others; `place`
    says
    where in that file: a byte offset (tar), a row number (parquet, Hugging Face), 0 for a plain file;
    `length` is the item's own number of bytes, -1 if it is not known before it is read.
    """

    key: str
    kind: Kind
    path: str
    size: int
    mtime_ns: int
    place: int = 0
    length: int = -1
    tags: tuple[str, ...] | None = None


def kind_of_extension(name: str) -> Kind | None:
    extension = name.rpartition(".")[2].lower()
    return "image" if extension in IMAGE_EXTENSIONS else "video" if extension in VIDEO_EXTENSIONS else None


def format_of(content: bytes, default: str = "bin") -> str:
    """The usual extension of `content`, by its first bytes."""
    return next((f for at, sign, f in _SIGNATURES if content[at : at + len(sign)] == sign), default)


@dataclasses.dataclass
class Source:
    """Items in the order of their keys, and how to read one.

    Attributes:
        items: every picture and video.
        identity: what tells one source from another beside its listing.
        reader: how items are read, as JSON: `open_reader` makes a reader of it in another process.
        digest: of the listing; equal digests mean equal files, as far as size and time of change tell.
    """

    items: list[Item]
    _read: Callable[[Item], str | bytes]
    identity: Any = None
    reader: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.items.sort(key=lambda item: item.key)
        for one, two in zip(self.items, self.items[1:], strict=False):
            if one.key == two.key:
                raise ValueError(f"two items have the key {one.key!r}: {one.path} and {two.path}")

    @functools.cached_property
    def digest(self) -> str:
        return digest_of(self._listing())

    def _listing(self) -> Iterator[Any]:
        yield self.identity
        for i in self.items:
            yield [i.key, i.size, i.mtime_ns, i.place]

    @functools.cached_property
    def tags_digest(self) -> str | None:
        """Of the tags alone; None when there are none."""
        if all(i.tags is None for i in self.items):
            return None
        return digest_of([i.key, *i.tags] for i in self.items if i.tags is not None)

    def open(self, item: Item) -> str | bytes:
        """A path (plain files) or the bytes of one item.

        Raises:
            MediaError: the file is gone or has changed since it was listed.
        """
        if item.path:
            try:
                found = os.stat(item.path)
            except OSError as error:
                raise MediaError(f"cannot be opened any more: {error.strerror}") from error
            if (found.st_size, found.st_mtime_ns) != (item.size, item.mtime_ns):
                raise MediaError(f"{item.path} changed after it was listed")
        return self._read(item)

    def read(self, item: Item) -> bytes:
        """The bytes of one item. Raises as `open`."""
        content = self.open(item)
        return Path(content).read_bytes() if isinstance(content, str) else content


def split_tags(value: Any) -> tuple[str, ...]:
    """Tags of one item: a list as it is, a text by its words; lower case, without the same tag twice."""
    words = value.split() if isinstance(value, str) else [] if value is None else [str(v) for v in value]
    cleaned = (word.casefold().strip(" \t\n.,;:!?\"'()[]{}<>") for word in words)
    return tuple(dict.fromkeys(word for word in cleaned if word))
