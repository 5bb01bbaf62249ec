"""HEVC streams whose pictures come out of the decoder at once, and what their headers say of each (ITU-T
H.265).

All that changes is `sps_max_num_reorder_pics` in the sequence parameter sets, of the container's header and
of packets: with 0 FFmpeg's decoder hands out each picture right behind its packet, in the order of decoding.

    stream = RevealedHEVC(extradata)
    for packet in packets:                      # from a keyframe on
        for picture in stream.split(packet):
            decoder.decode(picture.data)
"""

from .bitstream import (
    change_unit_arrays,
    join_units,
    payload_of,
    prevent_emulation,
    split_packet,
)
from .coded_picture import BitstreamError, CodedPicture, Reference
from .hevc_sequence import SequenceParameters, read_sequence_parameters, without_reordering
from .hevc_slices import (
    IDR,
    IRAP,
    PictureParameters,
    SliceHeader,
    long_term_count,
    picture_order_count,
    read_picture_parameters,
    read_slice_header,
)
from .parameter_sets import HEVC_PPS, HEVC_SPS, parse_hevc_extradata

# Types of NAL units (table 7-1).
SLICES = frozenset([*range(10), *range(16, 22)])
LEADING = range(6, 10)  # shown before the intra picture that they come behind
SKIPPED_LEADING = range(8, 10)  # of these, the ones that may refer to what came before it
BROKEN_LINKS = range(16, 19)
END_OF_SEQUENCE, END_OF_STREAM = 36, 37


class RevealedHEVC:
    """A `RevealedStream` of HEVC.

    The `order` of pictures is their picture order count less that of the last picture which is a key: IDR and
    BLA pictures, and a CRA picture at an entry. Leading pictures of it have less than 0. Numbers go on
    after `enter`. Pictures of sequences whose slices hide them (`pic_output_flag`) are made to come out too.
    Leading pictures that cannot be decoded after an entry (RASL) and packets without a picture give one step
    that is not coded and has number -1; the decoder must see their data, and hands out nothing.

    Args:
        extradata: the container's header, b"" where the packets have the parameter sets.

    Attributes:
        extradata: what the decoder is opened with instead.

    Raises:
        BitstreamError: the header cannot be read.
    """

    def __init__(self, extradata: bytes):
        self._sequences: dict[int, SequenceParameters] = {}
        self._pictures: dict[int, PictureParameters] = {}
        self._next_number = 0
        _, self._length_size = parse_hevc_extradata(extradata[:23])
        self.extradata = self._reveal_header(extradata)
        self.enter()

    def enter(self) -> None:
        """Forget all pictures (not the parameter sets): the next packet is an entry."""
        self._numbers: dict[int, int] = {}  # picture order count -> number, of what may be referred to
        self._is_entry = True
        self._key_poc: int | None = None
        self._skips_leading = False
        self._anchor = 0  # picture order count of the last picture that counts are told relative to

    def split(self, packet: bytes) -> list[CodedPicture]:
        """The one step of a packet.

        Raises:
            BitstreamError: it cannot be read. The next packet may be tried.
        """
        units = split_packet(packet, self._length_size)
        revealed = [self._follow_sets(unit) for unit in units]
        headers: list[SliceHeader] = []
        kind = layer = -1
        is_end = False
        for place, unit in enumerate(units):
            if _is_base(unit) and _kind(unit) in (END_OF_SEQUENCE, END_OF_STREAM):
                is_end, self._is_entry = bool(headers), self._is_entry or not headers
            if not _is_base(unit) or _kind(unit) not in SLICES:
                continue
            header = read_slice_header(unit, self._sequences, self._pictures)
            if header is None:
                continue
            if header.is_first == bool(headers):
                if headers:
                    break  # FFmpeg decodes one picture of a packet
                raise BitstreamError("a packet begins in the midst of a picture")
            headers.append(header)
            kind, layer = _kind(unit), unit[1] & 7
            if header.hidden_at is not None:
                revealed[place] = _set_bit(unit, header.hidden_at)
        data = packet if revealed == units else join_units(revealed, self._length_size)
        if not headers:
            return [CodedPicture(data, -1, is_coded=False, is_shown=False)]
        picture = self._follow(data, kind, layer - 1, headers)
        self._is_entry = is_end
        return [picture]

    def _follow(self, data: bytes, kind: int, layer: int, headers: list[SliceHeader]) -> CodedPicture:
        """The picture of a packet, and the state after it.

        Args:
            data: of the packet, changed.
            kind: type of its slices' NAL units.
            layer: temporal sub-layer.
            headers: of its independent slices.
        """
        first = headers[0]
        is_key = kind in IDR or kind in BROKEN_LINKS or (kind in IRAP and self._is_entry)
        if kind in IRAP:
            self._skips_leading = is_key
        if kind in SKIPPED_LEADING and self._skips_leading:
            return CodedPicture(data, -1, is_coded=False, is_shown=False)
        poc = first.poc_lsb
        if not is_key:
            poc = picture_order_count(poc, first.sequence.poc_lsb_bits, self._anchor)
        numbers = {} if is_key else self._numbers
        if is_key:
            self._key_poc = poc
        is_referred = kind in IRAP or kind % 2 == 1  # by pictures of its own sub-layer
        if layer == 0 and is_referred and kind not in LEADING:
            self._anchor = poc
        used, kept = self._reference_sets(first, poc, numbers)
        references = [
            Reference(number, use.weights, use.offsets)
            for header in headers
            for use in header.uses
            if (number := used[use.index]) is not None
        ]
        number, self._next_number = self._next_number, self._next_number + 1
        self._numbers = kept | {poc: number}
        return CodedPicture(
            data,
            number,
            is_shown=first.hidden_at is None,
            is_key=is_key,
            references=tuple(dict.fromkeys(references)),
            kept=frozenset(self._numbers.values()),
            order=None if self._key_poc is None else poc - self._key_poc,
        )

    def _reference_sets(
        self, header: SliceHeader, poc: int, numbers: dict[int, int]
    ) -> tuple[list[int | None], dict[int, int]]:
        """Numbers of the pictures that one uses, in the order of `Use.index`, None for those that are
        missing; and of all that stay (8.3.2).

        Args:
            header: of any of its slices.
            poc: its picture order count.
            numbers: of the pictures that may be referred to, by their counts.
        """
        bits = header.sequence.poc_lsb_bits
        counts: list[tuple[int | None, bool]] = [(poc + near, is_used) for near, is_used in header.short_term]
        for far in header.long_term:
            counts.append((long_term_count(far, poc, bits, numbers), far.is_used))
        kept = {count: numbers[count] for count, _ in counts if count in numbers}
        return [
            numbers.get(count) if count is not None else None for count, is_used in counts if is_used
        ], kept

    def _reveal_header(self, extradata: bytes) -> bytes:
        if not self._length_size:
            units, _ = parse_hevc_extradata(extradata)
            if extradata and not units:
                raise BitstreamError("the header of an HEVC stream has no units")
            return join_units([self._follow_sets(unit) for unit in units], 0)
        return change_unit_arrays(extradata, 22, self._follow_sets)

    def _follow_sets(self, unit: bytes) -> bytes:
        """Take note of a parameter set; the unit, changed where that is needed."""
        if not _is_base(unit):
            return unit
        if _kind(unit) == HEVC_SPS:
            sequence = read_sequence_parameters(unit)
            self._sequences[sequence.number] = sequence
            return without_reordering(unit)
        if _kind(unit) == HEVC_PPS:
            picture = read_picture_parameters(unit)
            self._pictures[picture.number] = picture
        return unit


def _is_base(unit: bytes) -> bool:
    """Whether a unit is well formed and of layer 0: decoders pass over others."""
    return len(unit) >= 2 and not unit[0] & 0x81 and not unit[1] >> 3 and unit[1] & 7 > 0


def _kind(unit: bytes) -> int:
    return unit[0] >> 1 & 63


def _set_bit(unit: bytes, place: int) -> bytes:
    """The unit with a bit of its payload set."""
    payload = bytearray(payload_of(unit[2:]))
    payload[place // 8] |= 0x80 >> place % 8
    return unit[:2] + prevent_emulation(bytes(payload))
