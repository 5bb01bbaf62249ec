"""Bits of headers, most significant first, and the NAL units of H.264, HEVC and VVC."""

import io
import re
from collections.abc import Callable, Container, Iterator

from .coded_picture import BitstreamError

START_CODE = b"\x00\x00\x00\x01"
_START_LIKE = re.compile(rb"\x00\x00(?=[\x00-\x03])")


class BitReader:
    """Reads bits and Exp-Golomb codes; of a NAL unit give it the `payload_of` it.

    Attributes:
        left: bits that were not read yet.

    Raises:
        BitstreamError: more is read than there is, or a number is larger than may be.
    """

    def __init__(self, data: bytes):
        self._data, self._size = data, len(data) * 8
        self.left = self._size

    def bits(self, count: int) -> int:
        if count > self.left:
            raise BitstreamError("a header ends early")
        begin = self._size - self.left
        end = begin + count
        self.left -= count
        # No more than the bytes they are in: a unit may have megabytes, and a header thousands of numbers.
        return int.from_bytes(self._data[begin >> 3 : end + 7 >> 3], "big") >> (-end & 7) & ((1 << count) - 1)

    def flag(self) -> bool:
        return bool(self.bits(1))

    def unsigned(self, most: int = (1 << 32) - 2, name: str = "number") -> int:
        """An Exp-Golomb code, ue(v), of a number that is at most so large."""
        zeros = 0
        while not self.bits(1):
            zeros += 1
            if zeros > 32:
                raise BitstreamError("a header has an Exp-Golomb code of over 32 bits")
        value = (1 << zeros) - 1 + self.bits(zeros)
        if value > most:
            raise BitstreamError(f"a header has a {name} of {value}; the standard allows {most}")
        return value

    def signed(self) -> int:
        """An Exp-Golomb code, se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    def rest(self) -> str:
        """What was not read yet, as zeros and ones."""
        if not self.left:
            return ""
        value = int.from_bytes(self._data[self._size - self.left >> 3 :], "big")
        return format(value & ((1 << self.left) - 1), f"0{self.left}b")


class BitWriter:
    """Writes bits and Exp-Golomb codes; each call gives the writer back."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def bits(self, value: int, count: int) -> "BitWriter":
        self._bits.append(format(value, f"0{count}b") if count else "")
        return self

    def unsigned(self, value: int) -> "BitWriter":
        code = format(value + 1, "b")
        self._bits.append("0" * (len(code) - 1) + code)
        return self

    def raw(self, bits: str) -> "BitWriter":
        """Zeros and ones as they are."""
        self._bits.append(bits)
        return self

    def to_bytes(self) -> bytes:
        """The bits so far, zeros up to a byte behind them."""
        bits = "".join(self._bits)
        bits += "0" * (-len(bits) % 8)
        return int(bits or "0", 2).to_bytes(len(bits) // 8, "big")

    def nal_unit(self, header: bytes) -> bytes:
        """The bits so far as a NAL unit: stop bit, padding to a byte, emulation prevention."""
        self._bits.append("1")
        return header + prevent_emulation(self.to_bytes())


def payload_of(data: bytes) -> bytes:
    """A NAL unit's bytes with the emulation prevention taken out."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


def prevent_emulation(payload: bytes) -> bytes:
    """The opposite: bytes in which no start code can be found."""
    return _START_LIKE.sub(b"\x00\x00\x03", payload)


def split_annex_b(data: bytes) -> list[bytes]:
    """NAL units of a byte stream with start codes."""
    units = data.split(b"\x00\x00\x01")[1:]
    return [unit.rstrip(b"\x00") for unit in units if unit.rstrip(b"\x00")]


def split_length_prefixed(data: bytes, length_size: int) -> Iterator[bytes]:
    """NAL units of a packet of mp4 or mkv."""
    place = 0
    while place + length_size <= len(data):
        length = int.from_bytes(data[place : place + length_size], "big")
        place += length_size
        if length == 0 or place + length > len(data):
            return
        yield data[place : place + length]
        place += length


def split_packet(packet: bytes, length_size: int) -> list[bytes]:
    """NAL units of a packet of HEVC or VVC, with length prefixes of so many bytes or, 0, with start codes.

    Raises:
        BitstreamError: it is cut short, or has none.
    """
    units = list(split_length_prefixed(packet, length_size)) if length_size else split_annex_b(packet)
    # FFmpeg takes up to three bytes behind the last unit for padding.
    read = sum(map(len, units)) + length_size * len(units)
    if not units or (length_size and read < len(packet) - 3):
        raise BitstreamError("a packet is cut short or has no NAL units")
    return units


def join_units(units: list[bytes], length_size: int) -> bytes:
    """A packet of NAL units: with length prefixes of so many bytes, or with start codes where it is 0."""
    if not length_size:
        return b"".join(START_CODE + unit for unit in units)
    longest = max(map(len, units), default=0)
    if longest >> 8 * length_size:
        raise BitstreamError(f"{longest} bytes of a unit cannot be counted in {length_size} bytes")
    return b"".join(len(unit).to_bytes(length_size, "big") + unit for unit in units)


def change_unit_arrays(
    record: bytes, at: int, change: Callable[[bytes], bytes], lone_kinds: Container[int] = ()
) -> bytes:
    """The header that mp4 and mkv have for HEVC and VVC (ISO 14496-15), each of its NAL units changed.

    Args:
        record: the header.
        at: where it counts its arrays of units.
        change: a unit -> what is put in its place.
        lone_kinds: types of units of which an array has one, without a count of them (VVC).

    Raises:
        BitstreamError: the header ends early.
    """
    source = io.BytesIO(record)

    def take(count: int) -> bytes:
        data = source.read(count)
        if len(data) < count:
            raise BitstreamError("the header of a stream ends early")
        return data

    changed = bytearray(take(at + 1))
    for _ in range(changed[-1]):
        head = take(1)
        is_lone = head[0] & 31 in lone_kinds
        head += b"" if is_lone else take(2)
        changed += head
        for _ in range(1 if is_lone else int.from_bytes(head[1:], "big")):
            unit = take(int.from_bytes(take(2), "big"))
            changed += join_units([change(unit)], 2)
    return bytes(changed + source.read())
