"""What the boxes of an mp4 or mov say before FFmpeg reads them: where the file ends, how many samples it has.

An index of samples is made from tables that may stand for millions of samples in a few bytes. FFmpeg makes
room for all of them before it looks whether there are any.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

# Boxes that are looked at; a fragmented recording has two a second.
MAX_BOXES = 1 << 17
# Boxes in which FFmpeg looks for tables, wherever they lie.
HOLD_OTHERS = frozenset(b"moov cmov moof trak traf mdia minf stbl edts dinf gmhd tref udta".split())
PIECE = 1 << 20  # bytes that are unpacked at once
MAX_INDEX_BYTES = 1 << 26  # of all indexes of a file that are stored compressed
SIZES_OF_ITS_OWN = 0xF00  # flags of a run of samples that says something of each one


class Box(NamedTuple):
    """Its kind, where what it holds begins and where it ends, bytes from the start of the file."""

    kind: bytes
    start: int
    end: int


def length_of_boxes(file: Any, size: int) -> int:
    """Where the first box that holds pictures or their index ends beyond the file, or 0."""
    for box in _boxes(file, 0, size):
        if box.end > size:
            return box.end if box.kind in (b"mdat", b"moov", b"moof") else 0
    return 0


def claimed_samples(file: Any, size: int, is_unpacked: bool = False) -> int:
    """Of how many samples the tables speak without a word of each.

    Args:
        file: seekable, with the boxes.
        size: of the file in bytes.
        is_unpacked: these boxes were compressed; a second time is not looked into.

    Raises:
        ValueError: compressed indexes unpack to more than MAX_INDEX_BYTES.
    """
    count, room = 0, MAX_INDEX_BYTES
    for box in _boxes(file, 0, size, HOLD_OTHERS):
        file.seek(box.start)
        head = file.read(12)
        if len(head) < 12:
            continue
        flags, first, second = struct.unpack(">III", head)
        if box.kind == b"stsz" and first:  # all samples have one size
            count += second
        elif box.kind == b"trun" and not flags & SIZES_OF_ITS_OWN:
            count += first
        elif box.kind == b"cmvd" and not is_unpacked:  # a compressed index, behind its length
            file.seek(box.start + 4)
            packed = file.read(max(0, min(box.end, size) - box.start - 4))
            index, unpacked = _unpacked(packed, room)
            room -= unpacked
            if room < 0:
                raise ValueError(f"its compressed indexes unpack to more than {MAX_INDEX_BYTES} bytes")
            count += claimed_samples(io.BytesIO(index), len(index), is_unpacked=True)
    return count


def _unpacked(packed: bytes, room: int) -> tuple[bytes, int]:
    """A compressed index, of which no more than a piece over `room` is unpacked, and how many bytes were. Of
    a broken one nothing, though what came before the break was unpacked too."""
    inflate, found = zlib.decompressobj(), bytearray()
    try:
        while packed and len(found) <= room:
            found += inflate.decompress(packed, PIECE)
            packed = inflate.unconsumed_tail
    except zlib.error:
        # The piece with the break may have been as long as any.
        return b"", len(found) + PIECE
    return bytes(found), len(found)


def _boxes(file: Any, start: int, end: int, opened: frozenset[bytes] = frozenset()) -> Iterator[Box]:
    """Boxes between two places, and those within the ones to be opened."""
    at = start
    for _ in range(MAX_BOXES):
        if at >= end:  # a length has up to 64 bits, more than any file can be sought
            return
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head[:8])
        header = 8
        if length == 1 and len(head) == 16:
            (length,), header = struct.unpack(">Q", head[8:]), 16
        if length < 8:  # 0: up to the end of the file
            return
        yield Box(kind, at + header, at + length)
        at += header if kind in opened else length
