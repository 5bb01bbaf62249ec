"""VP8 of which the decoder hands out every picture, the hidden ones too (RFC 6386).

Bit 4 of a picture's first byte is `show_frame` (section 9.1). It decides about nothing but the output, so it
is set. What a picture goes into and refers to stands in its first partition, behind an arithmetic code.
"""

from .coded_picture import BitstreamError, CodedPicture, Reference

SHOW_FRAME = 0b10000
START_CODE = b"\x9d\x01\x2a"
TAG_BYTES, KEY_HEADER_BYTES = 3, 10
LAST, GOLDEN, ALTERNATE = range(3)
EMPTY = (-1, -1, -1)


class RevealedVP8:
    """VP8, a `RevealedStream`.

    A decoder refuses pictures before the first keyframe; here they have no references.

    Args:
        extradata: the container's header; it is kept as it is.
    """

    def __init__(self, extradata: bytes = b""):
        self.extradata = extradata
        self._count = 0
        self.enter()

    def enter(self) -> None:
        self._slots = EMPTY  # numbers of the pictures that are last, golden and alternate reference

    def split(self, packet: bytes) -> list[CodedPicture]:
        if not packet:  # stands for a picture that was dropped: nothing is decoded
            return []
        is_key, partition = _first_partition(packet)
        references = () if is_key else tuple(Reference(n) for n in dict.fromkeys(self._slots) if n >= 0)
        number = self._count
        self._slots = (number,) * 3 if is_key else slots_after(partition, self._slots, number)
        self._count += 1
        return [
            CodedPicture(
                bytes([packet[0] | SHOW_FRAME]) + packet[1:],
                number,
                is_shown=bool(packet[0] & SHOW_FRAME),
                is_key=is_key,
                references=references,
                kept=frozenset(self._slots) - {-1},
            )
        ]


class BoolDecoder:
    """The arithmetic decoder of VP8 for bits that are as often 0 as 1 (section 7.3). Behind the end come
    zeros."""

    def __init__(self, data: bytes):
        self._data = iter(data)
        self._value = self._byte() << 8 | self._byte()
        self._range, self._shifts = 255, 0

    def _byte(self) -> int:
        return next(self._data, 0)

    def flag(self) -> bool:
        split = 1 + (self._range - 1 >> 1)
        bit = self._value >= split << 8
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < 128:
            self._value <<= 1
            self._range <<= 1
            self._shifts += 1
            if self._shifts == 8:
                self._shifts = 0
                self._value |= self._byte()
        return bit

    def bits(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = value << 1 | self.flag()
        return value

    def skip_optional(self, count: int) -> None:
        """A flag, and if it is set so many bits."""
        if self.flag():
            self.bits(count)


def slots_after(partition: bytes, slots: tuple[int, ...], number: int) -> tuple[int, int, int]:
    """Where the pictures are after an inter picture (sections 9.3 to 9.7, 19.2).

    Args:
        partition: the first partition of its packet.
        slots: the numbers of the last, golden and alternate picture before it.
        number: its own.
    """
    decoder = BoolDecoder(partition)
    if decoder.flag():  # segments
        new_map, new_data = decoder.flag(), decoder.flag()
        if new_data:
            decoder.bits(1)
            for bits in (7, 7, 7, 7, 6, 6, 6, 6):  # quantizers and loop filters, with signs
                decoder.skip_optional(bits + 1)
        if new_map:
            for _ in range(3):
                decoder.skip_optional(8)
    decoder.bits(1 + 6 + 3)  # the loop filter's kind, level and sharpness
    if decoder.flag() and decoder.flag():  # changes of its level by reference and by mode
        for _ in range(8):
            decoder.skip_optional(6 + 1)
    decoder.bits(2 + 7)  # the number of partitions, the quantizer
    for _ in range(5):
        decoder.skip_optional(4 + 1)
    into_golden, into_alternate = decoder.flag(), decoder.flag()
    # Both are copied from what was there before, as in FFmpeg's decoder: with two copies they change places.
    golden, alternate = slots[GOLDEN], slots[ALTERNATE]
    if not into_golden:
        golden = (golden, slots[LAST], alternate, golden)[decoder.bits(2)]
    if not into_alternate:
        alternate = (alternate, slots[LAST], slots[GOLDEN], alternate)[decoder.bits(2)]
    decoder.bits(2 + 1)  # signs of motion vectors; whether the probabilities stay
    into_last = decoder.flag()
    return (
        number if into_last else slots[LAST],
        number if into_golden else golden,
        number if into_alternate else alternate,
    )


def _first_partition(packet: bytes) -> tuple[bool, bytes]:
    """Whether a picture is a keyframe, and its first partition (section 9.1).

    Raises:
        BitstreamError: the packet is too short for it, or is none of VP8.
    """
    if len(packet) < TAG_BYTES:
        raise BitstreamError(f"a VP8 picture of {len(packet)} bytes ends within its header")
    is_key = not packet[0] & 1
    begin = KEY_HEADER_BYTES if is_key else TAG_BYTES
    size = int.from_bytes(packet[:TAG_BYTES], "little") >> 5
    if is_key and packet[TAG_BYTES : TAG_BYTES + len(START_CODE)] != START_CODE:
        raise BitstreamError("a VP8 keyframe has no start code")
    if not 0 < size <= len(packet) - begin:
        raise BitstreamError(f"a VP8 picture of {len(packet)} bytes says that its first partition has {size}")
    return is_key, packet[begin : begin + size]
