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

from dataclasses import dataclass

from .bitstream import (
    BitReader,
    BitWriter,
    change_unit_arrays,
    join_units,
    payload_of,
    split_annex_b,
    split_length_prefixed,
)
from .coded_picture import BitstreamError, CodedPicture
from .hevc_slices import picture_order_count

# Types of NAL units (table 5); those below 12 are slices.
RASL, IDR, CRA, SLICES = 3, range(7, 9), 9, range(12)
LEADING = range(2, 4)
SPS, PPS, PICTURE_HEADER, END_OF_SEQUENCE, END_OF_STREAM = 15, 16, 19, 21, 22
LONE_KINDS = (12, 13)  # of a container's header: operating points, capabilities of decoders
HEADER_BYTES = 256  # more than a picture header has up to its picture order count
MAX_SUBPICTURES = 1000  # slices of level 6.3


@dataclass(frozen=True)
class SequenceParameters:
    """What picture headers need of a sequence parameter set.

    Attributes:
        poc_lsb_bits: low bits of a picture order count.
        cycle_bits: of the higher ones where a picture tells them; 0: none does.
        extra_bits: of picture headers, reserved.
    """

    number: int
    poc_lsb_bits: int
    cycle_bits: int
    extra_bits: int


@dataclass(frozen=True)
class PictureHeader:
    """Up to the picture order count.

    Attributes:
        is_intra: whether no slice is predicted from other pictures.
        is_referred: whether others may be predicted from it.
        cycles: higher bits of the picture order count, None where they follow from earlier pictures.
    """

    is_intra: bool
    is_referred: bool
    poc_lsb: int
    poc_lsb_bits: int
    cycles: int | None


class RevealedVVC:
    """A `RevealedStream` of VVC.

    Which pictures one refers to is not read: `references` and `kept` are None but for intra pictures and for
    keys. `order` is the picture order count less that of the last key picture: IDR, and CRA at an entry.
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
        self._sequence_of: dict[int, int] = {}  # picture parameter set -> sequence parameter set
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
        self._is_entry = True
        self._key_poc: int | None = None
        self._skips_leading = False
        self._anchor = 0

    def split(self, packet: bytes) -> list[CodedPicture]:
        """The one step of a packet.

        Raises:
            BitstreamError: it cannot be read. The next packet may be tried.
        """
        units = self._units(packet)
        revealed = [self._follow_sets(unit) for unit in units]
        data = packet if revealed == units else join_units(revealed, self._length_size)
        header: PictureHeader | None = None
        first: bytes | None = None
        is_end = False
        for unit in units:
            if not _is_base(unit):
                continue
            kind = _kind(unit)
            if kind in (END_OF_SEQUENCE, END_OF_STREAM):
                is_end, self._is_entry = first is not None, self._is_entry or first is None
            elif kind == PICTURE_HEADER and header is None:
                header = self._read_header(BitReader(payload_of(unit[2 : 2 + HEADER_BYTES])))
            elif kind in SLICES and first is None:
                first = unit
                reader = BitReader(payload_of(unit[2 : 2 + HEADER_BYTES]))
                if reader.flag():
                    header = self._read_header(reader)
        if first is None:
            return [CodedPicture(data, -1, is_coded=False, is_shown=False)]
        if header is None:
            raise BitstreamError("a packet of VVC has slices without a picture header")
        picture = self._follow(data, _kind(first), (first[1] & 7) - 1, header)
        self._is_entry = is_end
        return [picture]

    def _follow(self, data: bytes, kind: int, layer: int, header: PictureHeader) -> CodedPicture:
        """The picture of a packet, and the state after it.

        Args:
            data: of the packet, changed.
            kind: type of its slices' NAL units.
            layer: temporal sub-layer.
            header: of the picture.
        """
        is_key = kind in IDR or (kind == CRA and self._is_entry)
        if kind in IDR or kind == CRA:
            self._skips_leading = is_key
        if kind == RASL and self._skips_leading:
            return CodedPicture(data, -1, is_coded=False, is_shown=False)
        if header.cycles is not None:
            poc = (header.cycles << header.poc_lsb_bits) + header.poc_lsb
        elif is_key:
            poc = header.poc_lsb
        else:
            poc = picture_order_count(header.poc_lsb, header.poc_lsb_bits, self._anchor)
        if is_key:
            self._key_poc = poc
        if layer == 0 and header.is_referred and kind not in LEADING:
            self._anchor = poc
        number, self._next_number = self._next_number, self._next_number + 1
        return CodedPicture(
            data,
            number,
            is_key=is_key,
            references=() if header.is_intra else None,
            kept=frozenset([number]) if is_key else None,
            order=None if self._key_poc is None else poc - self._key_poc,
        )

    def _units(self, packet: bytes) -> list[bytes]:
        size = self._length_size
        units = list(split_length_prefixed(packet, size)) if size else split_annex_b(packet)
        # FFmpeg takes up to three bytes behind the last unit for padding.
        if not units or (size and sum(map(len, units)) + size * len(units) < len(packet) - 3):
            raise BitstreamError("a packet is cut short or has no VVC units")
        return units

    def _follow_sets(self, unit: bytes) -> bytes:
        """Take note of a parameter set; the unit, changed where that is needed."""
        if not _is_base(unit):
            return unit
        if _kind(unit) == SPS:
            sequence, unit = reveal_sequence(unit)
            self._sequences[sequence.number] = sequence
        elif _kind(unit) == PPS:
            reader = BitReader(payload_of(unit[2:8]))
            number, sequence_number = reader.bits(6), reader.bits(4)
            self._sequence_of[number] = sequence_number
        return unit

    def _read_header(self, reader: BitReader) -> PictureHeader:
        """picture_header_structure (7.3.2.8)."""
        is_entry = reader.flag()
        is_referred = not reader.flag()
        is_refresh = is_entry and reader.flag()
        is_intra = not reader.flag()
        if not is_intra:
            reader.bits(1)
        number = reader.unsigned(63, "picture parameter set")
        if number not in self._sequence_of:
            raise BitstreamError(f"a picture needs picture parameter set {number}, which did not come")
        sequence = self._sequences.get(self._sequence_of[number])
        if sequence is None:
            raise BitstreamError(
                f"a picture needs sequence parameter set {self._sequence_of[number]}, which did not come"
            )
        poc_lsb = reader.bits(sequence.poc_lsb_bits)
        if is_refresh:
            reader.unsigned()
        reader.bits(sequence.extra_bits)
        has_cycles = sequence.cycle_bits > 0 and reader.flag()
        cycles = reader.bits(sequence.cycle_bits) if has_cycles else None
        return PictureHeader(is_intra, is_referred, poc_lsb, sequence.poc_lsb_bits, cycles)


def reveal_sequence(unit: bytes) -> tuple[SequenceParameters, bytes]:
    """A sequence parameter set (7.3.2.4); its unit with dpb_max_num_reorder_pics = 0 in all sub-layers.

    All other bits of the unit stay.
    """
    payload = payload_of(unit[2:])
    reader = BitReader(payload)
    number = reader.bits(4)
    reader.bits(4)
    sub_layers = reader.bits(3) + 1
    reader.bits(2)
    block_bits = 5 + reader.bits(2)
    if not reader.flag():
        raise BitstreamError(f"sequence parameter set {number} does not tell how pictures are reordered")
    _skip_profile(reader, sub_layers)
    reader.bits(1)
    if reader.flag():  # references of other sizes
        reader.bits(1)
    size = reader.unsigned(), reader.unsigned()
    for _ in range(4 if reader.flag() else 0):  # window
        reader.unsigned()
    if reader.flag():
        _skip_subpictures(reader, size, block_bits)
    reader.unsigned(), reader.bits(2)
    poc_lsb_bits = 4 + reader.bits(4)
    cycle_bits = 1 + reader.unsigned(32 - poc_lsb_bits - 1, "size of cycles, less 1,") if reader.flag() else 0
    extra_bits = sum(reader.flag() for _ in range(8 * reader.bits(2)))  # reserved bits of picture headers
    reader.bits(8 * reader.bits(2))  # and of slice headers
    has_all = sub_layers > 1 and reader.flag()
    writer = BitWriter().raw(BitReader(payload).rest()[: len(payload) * 8 - reader.left])
    for _ in range(sub_layers if has_all else 1):
        buffering, _, latency = reader.unsigned(), reader.unsigned(), reader.unsigned()
        writer.unsigned(buffering).unsigned(0).unsigned(latency)
    rest = reader.rest().rstrip("0")
    if not rest:
        raise BitstreamError("a sequence parameter set ends early")
    revealed = writer.raw(rest[:-1]).nal_unit(unit[:2])  # which writes the last 1 again, the stop bit
    return SequenceParameters(number, poc_lsb_bits, cycle_bits, extra_bits), revealed


def _skip_profile(reader: BitReader, sub_layers: int) -> None:
    """profile_tier_level (7.3.3.1)."""
    reader.bits(8 + 8 + 2)
    if reader.flag():  # general_constraints_info
        reader.bits(71)
        reader.bits(reader.bits(8))
    reader.bits(reader.left % 8)
    levels = sum(reader.flag() for _ in range(sub_layers - 1))
    reader.bits(reader.left % 8)
    reader.bits(8 * levels)
    reader.bits(32 * reader.bits(8))


def _skip_subpictures(reader: BitReader, size: tuple[int, int], block_bits: int) -> None:
    """From sps_num_subpics_minus1 on.

    Args:
        reader: in front of it.
        size: width and height of pictures.
        block_bits: log2 of the size of coding tree blocks.
    """
    count = 1 + reader.unsigned(MAX_SUBPICTURES - 1, "number of subpictures, less 1,")
    # Coordinates take as many bits as the number of blocks needs, none where there is one.
    bits = sum((-(-length >> block_bits) - 1).bit_length() for length in size)
    if count > 1:
        is_independent, is_uniform = reader.flag(), reader.flag()
        for place in range(count):
            if not is_uniform or place == 0:
                reader.bits(bits * ((place > 0) + (place < count - 1)))
            if not is_independent:
                reader.bits(2)
    id_bits = 1 + reader.unsigned(15, "size of subpicture numbers, less 1,")
    if reader.flag() and reader.flag():
        reader.bits(id_bits * count)


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
