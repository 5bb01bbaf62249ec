"""The few parts of an H.264 bitstream that a standalone decode of one packet needs (ITU-T H.264, 7.3, 7.4).

To read the exact residual of an inter picture, its packet is decoded behind a grey picture that stands in for
all its references (`grey_picture`). For that one has to know the stream's parameter sets; everything else is
FFmpeg's.
"""

from dataclasses import dataclass

from .bitstream import BitReader, BitWriter, payload_of, split_annex_b
from .coded_picture import BitstreamError

SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8
# Profiles whose parameter set tells of chroma format and bit depth (section 7.3.2.1.1).
HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
MAX_MACROBLOCKS = 139_264  # of a picture: level 6.2 (table A-1)
SET_BYTES = 1 << 13  # more than a parameter set can have up to what is read of it


@dataclass(frozen=True)
class SequenceParameters:
    """What a grey picture needs of a sequence parameter set. Sizes in macroblocks."""

    number: int
    chroma_format: int
    bit_depth: int
    frame_num_bits: int
    poc_type: int
    poc_lsb_bits: int
    delta_poc_always_zero: bool
    width: int
    height: int
    frames_only: bool


def parse_extradata(extradata: bytes) -> tuple[list[bytes], int]:
    """(parameter sets as NAL units, bytes of a packet's length prefixes or 0 for start codes)."""
    if not extradata or extradata[0] != 1:
        return split_annex_b(extradata or b""), 0
    units, place = [], 6
    count = extradata[5] & 31
    for kind in range(2):
        if kind == 1:
            count = extradata[place] if place < len(extradata) else 0
            place += 1
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2], "big")
            units.append(extradata[place + 2 : place + 2 + length])
            place += 2 + length
    return [unit for unit in units if unit], (extradata[4] & 3) + 1


def parse_sequence_parameters(unit: bytes) -> SequenceParameters:
    """Of a NAL unit. Numbers are held to what the standard allows, since a grey picture is made of them.

    Raises:
        BitstreamError: it is damaged.
    """
    reader = BitReader(payload_of(unit[1:SET_BYTES]))
    profile = reader.bits(8)
    reader.bits(16)
    number = reader.unsigned(31, "sequence parameter set")
    chroma_format, bit_depth = 1, 8
    if profile in HIGH_PROFILES:
        chroma_format = reader.unsigned(3, "chroma format")
        if chroma_format == 3:
            reader.bits(1)
        bit_depth = 8 + max(reader.unsigned(6, "bit depth, less 8,") for _ in range(2))
        reader.bits(1)
        if reader.bits(1):
            for index in range(12 if chroma_format == 3 else 8):
                if reader.bits(1):
                    _skip_scaling_list(reader, 16 if index < 6 else 64)
    frame_num_bits = 4 + reader.unsigned(12, "size of frame numbers, less 4,")
    poc_type = reader.unsigned(2, "kind of picture order counts")
    poc_lsb_bits, always_zero = 0, False
    if poc_type == 0:
        poc_lsb_bits = 4 + reader.unsigned(12, "size of picture order counts, less 4,")
    elif poc_type == 1:
        always_zero = bool(reader.bits(1))
        reader.signed(), reader.signed()
        for _ in range(reader.unsigned(255, "number of pictures in a cycle")):
            reader.signed()
    reader.unsigned(), reader.bits(1)
    width, height = reader.unsigned() + 1, reader.unsigned() + 1
    if width * height > MAX_MACROBLOCKS:
        raise BitstreamError(
            f"a header has pictures of {width} x {height} macroblocks; the standard allows {MAX_MACROBLOCKS}"
        )
    return SequenceParameters(
        number,
        chroma_format,
        bit_depth,
        frame_num_bits,
        poc_type,
        poc_lsb_bits,
        always_zero,
        width,
        height,
        frames_only=bool(reader.bits(1)),
    )


@dataclass(frozen=True)
class PictureParameters:
    """What reading a slice header up to its direct prediction mode needs of a picture parameter set."""

    number: int
    sequence_number: int
    bottom_field_poc: bool
    redundant_pictures: bool


def parse_picture_parameters(unit: bytes) -> PictureParameters:
    reader = BitReader(payload_of(unit[1:SET_BYTES]))
    number = reader.unsigned(255, "picture parameter set")
    sequence_number = reader.unsigned(31, "sequence parameter set")
    reader.bits(1)
    bottom_field_poc = bool(reader.bits(1))
    if reader.unsigned():
        raise ValueError("slice groups are in use")
    reader.unsigned(), reader.unsigned(), reader.bits(3)
    reader.signed(), reader.signed(), reader.signed(), reader.bits(2)
    return PictureParameters(number, sequence_number, bottom_field_poc, bool(reader.bits(1)))


def slice_parameters_number(unit: bytes) -> int:
    """The number of the picture parameter set that a slice uses."""
    reader = BitReader(payload_of(unit[1:40]))
    reader.unsigned(), reader.unsigned()
    return reader.unsigned()


def direct_is_spatial(unit: bytes, sequence: SequenceParameters, picture: PictureParameters) -> bool | None:
    """Whether a B slice predicts its direct blocks from their neighbours (else from the co-located
    picture).

    Section 7.3.3 of the standard, for progressive streams without separate colour planes.

    Args:
        unit: the slice's NAL unit, emulation prevention taken out.
        sequence: the parameters of its sequence.
        picture: the parameters of its picture.

    Returns:
        None for slices that are not B.
    """
    reader = BitReader(payload_of(unit[1:60]))
    reader.unsigned()
    if reader.unsigned() % 5 != 1:
        return None
    reader.unsigned(), reader.bits(sequence.frame_num_bits)
    if sequence.poc_type == 0:
        reader.bits(sequence.poc_lsb_bits)
        if picture.bottom_field_poc:
            reader.signed()
    elif sequence.poc_type == 1 and not sequence.delta_poc_always_zero:
        reader.signed()
        if picture.bottom_field_poc:
            reader.signed()
    if picture.redundant_pictures:
        reader.unsigned()
    return bool(reader.bits(1))


def grey_picture(sequence: SequenceParameters, free_number: int) -> list[bytes]:
    """NAL units of a picture that decodes to 128 everywhere: a picture parameter set of its own and an IDR
    slice.

    Every macroblock is I_16x16 with DC prediction and no coefficients. Without neighbours DC prediction is
    128, and from there on the neighbours are 128.
    """
    parameters = BitWriter().unsigned(free_number).unsigned(sequence.number)
    parameters.bits(0b00, 2)  # CAVLC, no field order in slices
    parameters.unsigned(0).unsigned(0).unsigned(0)  # one slice group, one reference a list
    parameters.bits(0b000, 3)  # no weights
    parameters.unsigned(0).unsigned(0).unsigned(0)  # QP and chroma QP offsets
    parameters.bits(0b100, 3)  # slices control deblocking
    picture = BitWriter().unsigned(0).unsigned(7).unsigned(free_number)
    picture.bits(0, sequence.frame_num_bits)
    picture.unsigned(0)  # idr_pic_id
    if sequence.poc_type == 0:
        picture.bits(0, sequence.poc_lsb_bits)
    elif sequence.poc_type == 1 and not sequence.delta_poc_always_zero:
        picture.unsigned(0)
    picture.bits(0b00, 2).unsigned(0).unsigned(1)  # no long-term reference, QP, no deblocking
    # mb_type 3, chroma mode DC (where there is chroma), QP change 0, no coefficients.
    macroblock = "00100" + ("1" if sequence.chroma_format else "") + "1" + "1"
    picture.raw(macroblock * (sequence.width * sequence.height))
    return [parameters.nal_unit(b"\x68"), picture.nal_unit(b"\x65")]


def _skip_scaling_list(reader: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.signed()) % 256
        last = following or last
