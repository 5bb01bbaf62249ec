"""VVC streams whose pictures come out of the decoder at once (ITU-T H.266).

All that changes is `dpb_max_num_reorder_pics` in the sequence parameter sets, of the container's header and
of packets. With 0 FFmpeg's decoder hands out each picture right behind its packet, in the order of decoding,
if it has the flag `low_delay`: else it works on several packets at a time.

    stream = RevealedVVC(extradata)
    decoder.flags |= av.codec.context.Flags.low_delay
    for packet in packets:                      # from a keyframe on
        for picture in stream.split(packet):
            decoder.decode(picture.data)
"""

from .bitstream import (
    BitReader,
    change_unit_arrays,
    join_units,
    payload_of,
    split_annex_b,
    split_packet,
)
from .coded_picture import BitstreamError, CodedPicture, Reference
from .hevc_slices import LongTerm, long_term_count, picture_order_count
from .vvc_pictures import (
    IDR,
    PictureHeader,
    PictureParameters,
    References,
    read_picture_header,
    read_picture_parameters,
    read_references,
)
from .vvc_sequence import SequenceParameters, reveal_sequence

# Types of NAL units (table 5); those below 12 are slices.
RASL, CRA, SLICES = 3, 9, range(12)
LEADING = range(2, 4)
SPS, PPS, PICTURE_HEADER, END_OF_SEQUENCE, END_OF_STREAM = 15, 16, 19, 21, 22
LONE_KINDS = (12, 13)  # of a container's header: operating points, capabilities of decoders
# Pictures that are remembered where it is not read which stay; far more than a decoder holds.
MAX_NUMBERS = 256
HEADER_BYTES = 2048  # more than headers have up to their weights


class RevealedVVC:
    """A `RevealedStream` of VVC.

    `order` is the picture order count less that of the last key picture: IDR, and CRA at an entry. What
    pictures of several slices or tiles refer to is not read: `references` and `kept` are None.
    Pictures that lead such a CRA picture and cannot be decoded (RASL), and packets without a picture, give
    one step that is not coded and has number -1; the decoder must see their data, and hands out nothing.
    Pictures that are not for display (ph_pic_output_flag) do not come out.

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
        self._length_size = 0
        self._next_number = 0
        if extradata and extradata[0] >> 3 == 31:  # VvcDecoderConfigurationRecord
            self._length_size = (extradata[0] >> 1 & 3) + 1
            place = _arrays_place(extradata)
            self.extradata = change_unit_arrays(extradata, place, self._follow_sets, LONE_KINDS)
        else:
            units = split_annex_b(extradata)
            if extradata and not units:
                raise BitstreamError("the header of a VVC stream has no units")
            self.extradata = join_units([self._follow_sets(unit) for unit in units], 0)
        self.enter()

    def enter(self) -> None:
        """Forget all pictures (not the parameter sets): the next packet is an entry."""
        self._numbers: dict[int, int] = {}  # picture order count -> number, of what may be referred to
        self._is_entry = True
        self._key_poc: int | None = None
        self._skips_leading = False
        self._anchor = 0

    def split(self, packet: bytes) -> list[CodedPicture]:
        """The one step of a packet.

        Raises:
            BitstreamError: it cannot be read. The next packet may be tried.
        """
        units = split_packet(packet, self._length_size)
        revealed = [self._follow_sets(unit) for unit in units]
        data = packet if revealed == units else join_units(revealed, self._length_size)
        header: PictureHeader | None = None
        references: References | None = None
        first: bytes | None = None
        is_end = False
        for unit in units:
            if not _is_base(unit):
                continue
            kind = _kind(unit)
            reader = BitReader(payload_of(unit[2 : 2 + HEADER_BYTES]))
            if kind in (END_OF_SEQUENCE, END_OF_STREAM):
                is_end, self._is_entry = first is not None, self._is_entry or first is None
            elif kind == PICTURE_HEADER and header is None:
                header = read_picture_header(reader, self._sequences, self._pictures)
            elif kind in SLICES and first is None:
                first = unit
                is_within = reader.flag()
                if is_within:
                    header = read_picture_header(reader, self._sequences, self._pictures)
                if header is not None and header.is_whole:
                    references = read_references(reader, kind, header, is_within)
        if first is None:
            return [CodedPicture(data, -1, is_coded=False, is_shown=False)]
        if header is None:
            raise BitstreamError("a packet of VVC has slices without a picture header")
        picture = self._follow(data, first, header, references)
        self._is_entry = is_end
        return [picture]

    def _follow(
        self, data: bytes, unit: bytes, header: PictureHeader, refers: References | None
    ) -> CodedPicture:
        """The picture of a packet, and the state after it.

        Args:
            data: of the packet, changed.
            unit: the picture's first slice.
            header: of the picture.
            refers: what it refers to, None where that was not read.
        """
        kind, layer, bits = _kind(unit), (unit[1] & 7) - 1, header.sequence.poc_lsb_bits
        is_key = kind in IDR or (kind == CRA and self._is_entry)
        if kind in IDR or kind == CRA:
            self._skips_leading = is_key
        if kind == RASL and self._skips_leading:
            return CodedPicture(data, -1, is_coded=False, is_shown=False)
        if header.cycles is not None:
            poc = (header.cycles << bits) + header.poc_lsb
        else:
            poc = header.poc_lsb if is_key else picture_order_count(header.poc_lsb, bits, self._anchor)
        if is_key:
            self._key_poc, self._numbers = poc, {}
        if layer == 0 and header.is_referred and kind not in LEADING:
            self._anchor = poc
        number, self._next_number = self._next_number, self._next_number + 1
        references: tuple[Reference, ...] | None = () if header.is_intra else None
        if refers is not None:
            counts = [
                long_term_count(entry, poc, bits, self._numbers)
                if isinstance(entry, LongTerm)
                else poc + entry
                for entry in refers.entries
            ]
            self._numbers = {count: self._numbers[count] for count in counts if count in self._numbers}
            used = [
                Reference(self._numbers[count], use.weights, use.offsets)
                for use in refers.uses
                if (count := counts[use.index]) in self._numbers
            ]
            references = tuple(dict.fromkeys(used))
        self._numbers[poc] = number
        if len(self._numbers) > MAX_NUMBERS:
            del self._numbers[next(iter(self._numbers))]
        return CodedPicture(
            data,
            number,
            is_shown=header.is_shown,
            is_key=is_key,
            references=references,
            kept=None if refers is None and not is_key else frozenset(self._numbers.values()),
            order=None if self._key_poc is None else poc - self._key_poc,
        )

    def _follow_sets(self, unit: bytes) -> bytes:
        """Take note of a parameter set; the unit, changed where that is needed."""
        if not _is_base(unit):
            return unit
        if _kind(unit) == SPS:
            sequence, unit = reveal_sequence(unit)
            self._sequences[sequence.number] = sequence
        elif _kind(unit) == PPS:
            picture = read_picture_parameters(unit)
            self._pictures[picture.number] = picture
        return unit


def _arrays_place(record: bytes) -> int:
    """Where a VvcDecoderConfigurationRecord counts its arrays (ISO 14496-15, 11.2.4.2)."""
    reader = BitReader(record)
    reader.bits(7)
    if reader.flag():  # profile, tier and level
        reader.bits(9)
        sub_layers = reader.bits(3)
        reader.bits(4 + 8 + 2)
        reader.bits(8 * max(1, reader.bits(6)) + 16)
        if sub_layers > 1:
            levels = sum(reader.flag() for _ in range(sub_layers - 1))
            reader.bits(9 - sub_layers + 8 * levels)
        reader.bits(32 * reader.bits(8) + 48)
    return len(record) - reader.left // 8


def _is_base(unit: bytes) -> bool:
    """Whether a unit is well formed and of layer 0."""
    return len(unit) >= 2 and not unit[0] and unit[1] & 7 > 0


def _kind(unit: bytes) -> int:
    return unit[1] >> 3
