"""VP9 of which the decoder hands out every picture, the hidden ones too (VP9 specification, 6.2, annex B).

A superframe holds hidden pictures and the one that it shows. It is cut into its pictures, and behind a hidden
one goes a frame of a byte or two, `show_existing_frame` of a slot that the picture just went into. FFmpeg's
decoder hands that slot out and changes no state; libvpx makes such frames itself. The flag `show_frame` of
the hidden picture is left as it is: it decides about the next picture's motion vectors.

FFmpeg's decoder of VP9 knows no `skip_loop_filter`. The level of the filter is in the header, so the stream
can have it off.
"""

from dataclasses import dataclass

from .bitstream import BitReader, BitWriter
from .coded_picture import BitstreamError, CodedPicture, Reference

SLOTS = 8
ALL_SLOTS = (1 << SLOTS) - 1
SYNC_CODE = 0x498342
RGB = 7
# No header is longer than this up to the last field that is read here.
HEADER_BYTES = 24
LEVEL_BITS = 6


@dataclass(frozen=True)
class FrameHeader:
    """The begin of an uncompressed header.

    Attributes:
        profile: 0 to 3.
        shows_slot: the slot that the frame displays and nothing else, or None for a coded picture.
        is_key: intra coded, and nothing decoded before it is referred to later.
        is_shown: the picture is displayed when it is decoded.
        refreshes: a bit a slot that the picture goes into, slot 0 the lowest.
        refers: the slots that it is predicted from.
        level_at: the bit at which the level of the loop filter begins.
    """

    profile: int
    shows_slot: int | None = None
    is_key: bool = False
    is_shown: bool = True
    refreshes: int = 0
    refers: tuple[int, ...] = ()
    level_at: int = 0


class RevealedVP9:
    """VP9, a `RevealedStream`.

    A slot that no picture went into since the entry is nobody's reference: a decoder refuses such a picture.

    Args:
        extradata: the container's header; it is kept as it is.
        loop_filter: False turns the filter off in all pictures, which then have other pixels.
    """

    def __init__(self, extradata: bytes = b"", *, loop_filter: bool = True):
        self.extradata, self._loop_filter = extradata, loop_filter
        self._count = 0
        self.enter()

    def enter(self) -> None:
        self._slots = [-1] * SLOTS  # numbers of pictures

    def split(self, packet: bytes) -> list[CodedPicture]:
        frames = split_superframe(packet)
        headers = [read_header(frame) for frame in frames]  # all, before the slots change
        return [self._step(frame, header) for frame, header in zip(frames, headers, strict=True)]

    def _step(self, data: bytes, header: FrameHeader) -> CodedPicture:
        if header.shows_slot is not None:
            return CodedPicture(data, self._slots[header.shows_slot], is_coded=False, kept=self._kept())
        references = dict.fromkeys(self._slots[slot] for slot in header.refers)
        number = self._count
        self._count += 1
        for slot in range(SLOTS):
            if header.refreshes >> slot & 1:
                self._slots[slot] = number
        return CodedPicture(
            data if self._loop_filter else without_loop_filter(data, header),
            number,
            reveal=b"" if header.is_shown else reveal(header),
            is_shown=header.is_shown,
            is_key=header.is_key,
            references=tuple(Reference(other) for other in references if other >= 0),
            kept=self._kept(),
        )

    def _kept(self) -> frozenset[int]:
        return frozenset(self._slots) - {-1}


def split_superframe(packet: bytes) -> list[bytes]:
    """The frames of a packet (annex B); those without a byte are left out.

    Raises:
        BitstreamError: the sizes in the index do not fit into the packet.
    """
    mark = packet[-1] if packet else 0
    count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index_size = 2 + count * width
    # The index begins and ends with the same byte; anything else is a frame that ends so by chance.
    if mark & 0xE0 != 0xC0 or len(packet) < index_size or packet[-index_size] != mark:
        return [packet] if packet else []
    end = len(packet) - index_size
    frames, place = [], 0
    for k in range(count):
        start = end + 1 + k * width
        size = int.from_bytes(packet[start : start + width], "little")
        if place + size > end:
            raise BitstreamError(
                f"a VP9 superframe of {end} bytes says that frame {k} ends at {place + size}"
            )
        if size:
            frames.append(packet[place : place + size])
        place += size
    return frames


def read_header(frame: bytes) -> FrameHeader:
    """An uncompressed header, up to the level of the loop filter (section 6.2).

    Raises:
        BitstreamError: it is none, or ends early.
    """
    try:
        return _read_header(BitReader(frame[:HEADER_BYTES]))
    except ValueError as error:
        raise BitstreamError(f"a VP9 frame of {len(frame)} bytes: {error}") from error


def reveal(header: FrameHeader) -> bytes:
    """A frame that shows what a picture with this header left in a slot; b"" if it left nothing."""
    if not header.refreshes:
        return b""
    slot = (header.refreshes & -header.refreshes).bit_length() - 1
    writer = BitWriter().bits(0b10, 2).bits(header.profile & 1, 1).bits(header.profile >> 1, 1)
    if header.profile == 3:
        writer.bits(0, 1)
    return writer.bits(1, 1).bits(slot, 3).to_bytes()


def without_loop_filter(frame: bytes, header: FrameHeader) -> bytes:
    """The coded picture with this header, its loop filter at level 0, which is off."""
    begin, end = header.level_at // 8, -(-(header.level_at + LEVEL_BITS) // 8)
    behind = 8 * end - header.level_at - LEVEL_BITS
    kept = int.from_bytes(frame[begin:end], "big") & ~(((1 << LEVEL_BITS) - 1) << behind)
    return frame[:begin] + kept.to_bytes(end - begin, "big") + frame[end:]


def _read_header(reader: BitReader) -> FrameHeader:
    size = reader.left
    if reader.bits(2) != 0b10:
        raise ValueError("it does not begin with the marker of one")
    profile = reader.bits(1) | reader.bits(1) << 1
    if profile == 3 and reader.bits(1):
        raise ValueError("its profile is above 3")
    if reader.flag():
        return FrameHeader(profile, shows_slot=reader.bits(3))
    is_key, is_shown, is_resilient = not reader.flag(), reader.flag(), reader.flag()
    refreshes = ALL_SLOTS
    refers: tuple[int, ...] = ()
    if is_key:
        _read_sync_code(reader)
        _skip_colors(reader, profile)
        _skip_size(reader)
    else:
        is_intra = not is_shown and reader.flag()
        if not is_resilient:
            reader.bits(2)  # which probabilities are reset
        if is_intra:
            _read_sync_code(reader)
            if profile > 0:
                _skip_colors(reader, profile)
        refreshes = reader.bits(SLOTS)
        if not is_intra:
            refers = tuple(reader.bits(4) >> 1 for _ in range(3))  # each with a sign bit
        is_of_size = not is_intra and any(reader.flag() for _ in refers)  # of one of its references
        _skip_size(reader, has_size=not is_of_size)
        if not is_intra:
            reader.bits(1)  # precision of vectors
            if not reader.flag():  # one interpolation for all blocks
                reader.bits(2)
    if not is_resilient:
        reader.bits(2)  # which probabilities go on
    reader.bits(2)
    level_at = size - reader.left
    reader.bits(LEVEL_BITS)
    return FrameHeader(
        profile,
        is_key=is_key,
        is_shown=is_shown,
        refreshes=refreshes,
        refers=refers,
        level_at=level_at,
    )


def _skip_size(reader: BitReader, has_size: bool = True) -> None:
    """Size of the picture, and the size it is to be displayed with."""
    if has_size:
        reader.bits(32)
    if reader.flag():
        reader.bits(32)


def _read_sync_code(reader: BitReader) -> None:
    found = reader.bits(24)
    if found != SYNC_CODE:
        raise ValueError(f"it is intra coded and its sync code is {found:06x} instead of {SYNC_CODE:06x}")


def _skip_colors(reader: BitReader, profile: int) -> None:
    """Bit depth, color space, range and subsampling (section 6.2.2)."""
    if profile >= 2:
        reader.bits(1)
    if reader.bits(3) != RGB:
        reader.bits(1)
        if profile & 1:
            reader.bits(3)
    elif profile & 1:
        reader.bits(1)
    else:
        raise ValueError(f"it is RGB, which profile {profile} does not have")
