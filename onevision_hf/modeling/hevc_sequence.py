"""HEVC's sequence parameter sets (ITU-T H.265, 7.3.2.2): read, and changed so that pictures need not wait.

A decoder holds back up to `sps_max_num_reorder_pics` pictures until those that are shown before them were
decoded. Where that is 0 it hands out each picture right after it was decoded.
"""

from dataclasses import dataclass

from .bitstream import BitReader, BitWriter, payload_of
from .coded_picture import BitstreamError

MAX_PICTURES = 16  # that a decoder holds, and so entries of reference lists and sets
# Main, Main 10 and Main Still Picture: they have no range extension.
PLAIN_PROFILES = (1, 2, 3)

# Pictures by the difference of their picture order count, and whether the current one uses them; those before
# it come first, the nearest of them at the front, then those after it.
ShortTerm = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class SequenceParameters:
    """What slices need of a sequence parameter set.

    Attributes:
        has_chroma: whether there are chroma planes, coded with luma (ChromaArrayType is not 0).
        has_separate_planes: whether the three planes are coded like three grey pictures.
        bit_depths: of luma and chroma.
        num_blocks: coding tree blocks of a picture.
        poc_lsb_bits: of a picture order count in slice headers.
        short_term_sets: sets of references that slices choose from.
        long_term_lsbs: as many long-term references; low bits of their count, whether they are used.
        has_fine_offsets: whether weighted prediction adds levels of the stream's own bit depth.
    """

    number: int
    has_chroma: bool
    has_separate_planes: bool
    bit_depths: tuple[int, int]
    num_blocks: int
    poc_lsb_bits: int
    has_sample_offsets: bool
    short_term_sets: tuple[ShortTerm, ...]
    has_long_term: bool
    long_term_lsbs: tuple[tuple[int, bool], ...]
    has_temporal_vectors: bool
    has_fine_offsets: bool


@dataclass(frozen=True)
class _Beginning:
    """A sequence parameter set up to what a decoder must hold."""

    sub_layers: int
    profile: int
    number: int
    chroma_format: int
    has_separate_planes: bool
    size: tuple[int, int]  # width, height
    bit_depths: tuple[int, int]
    poc_lsb_bits: int
    buffered_layers: int  # of which it is said how many pictures to hold


def read_sequence_parameters(unit: bytes) -> SequenceParameters:
    """Of a NAL unit."""
    reader = BitReader(payload_of(unit[2:]))
    start = _read_beginning(reader)
    for _ in range(3 * start.buffered_layers):
        reader.unsigned()
    block_bits = 3 + reader.unsigned(3, "block size, log2 less 3,")
    block_bits += reader.unsigned(6 - block_bits, "difference of block sizes, log2,")
    columns, rows = (-(-length >> block_bits) for length in start.size)
    for _ in range(4):  # sizes and depths of transforms
        reader.unsigned()
    if reader.flag() and reader.flag():
        skip_scaling_lists(reader)
    reader.bits(1)
    has_sample_offsets = reader.flag()
    if reader.flag():  # PCM
        reader.bits(8), reader.unsigned(), reader.unsigned(), reader.bits(1)
    sets: list[ShortTerm] = []
    for _ in range(reader.unsigned(64, "number of short-term reference sets")):
        sets.append(read_short_term(reader, sets, in_slice=False))
    has_long_term = reader.flag()
    count = reader.unsigned(32, "number of long-term references") if has_long_term else 0
    long_term_lsbs = tuple((reader.bits(start.poc_lsb_bits), reader.flag()) for _ in range(count))
    return SequenceParameters(
        number=start.number,
        has_chroma=start.chroma_format > 0 and not start.has_separate_planes,
        has_separate_planes=start.has_separate_planes,
        bit_depths=start.bit_depths,
        num_blocks=columns * rows,
        poc_lsb_bits=start.poc_lsb_bits,
        has_sample_offsets=has_sample_offsets,
        short_term_sets=tuple(sets),
        has_long_term=has_long_term,
        long_term_lsbs=long_term_lsbs,
        has_temporal_vectors=reader.flag(),
        has_fine_offsets=start.profile not in PLAIN_PROFILES and _read_fine_offsets(reader, start.sub_layers),
    )


def without_reordering(unit: bytes) -> bytes:
    """The NAL unit with sps_max_num_reorder_pics = 0 in all sub-layers; all other bits stay."""
    payload = payload_of(unit[2:])
    reader = BitReader(payload)
    start = _read_beginning(reader)
    read = len(payload) * 8 - reader.left
    writer = BitWriter().raw(BitReader(payload).rest()[:read])
    for _ in range(start.buffered_layers):
        buffering, _, latency = reader.unsigned(), reader.unsigned(), reader.unsigned()
        writer.unsigned(buffering).unsigned(0).unsigned(latency)
    rest = reader.rest().rstrip("0")
    if not rest:
        raise BitstreamError("a sequence parameter set ends early")
    return writer.raw(rest[:-1]).nal_unit(unit[:2])  # which writes the last 1 again, the stop bit


def read_short_term(reader: BitReader, sets: list[ShortTerm], in_slice: bool) -> ShortTerm:
    """st_ref_pic_set (7.3.7).

    Args:
        reader: in front of it.
        sets: the ones before, of the sequence.
        in_slice: whether it stands in a slice header, where it may refer to any of them.

    Raises:
        BitstreamError: it is damaged.
    """
    found: list[tuple[int, bool]] = []
    if sets and reader.flag():  # another set, shifted and thinned out
        back = 1 + (reader.unsigned(len(sets) - 1, "distance to a reference set, less 1,") if in_slice else 0)
        sign = -1 if reader.flag() else 1
        shift = sign * (reader.unsigned() + 1)
        for difference, _ in (*sets[-back], (0, True)):
            is_used = reader.flag()
            if (is_used or reader.flag()) and difference + shift:
                found.append((difference + shift, is_used))
        if len(found) > MAX_PICTURES:
            raise BitstreamError(f"a header has a reference set of {len(found)} pictures")
        return tuple(sorted(found, key=lambda pair: (pair[0] > 0, abs(pair[0]))))
    counts = [reader.unsigned(MAX_PICTURES, "number of references before or after") for _ in range(2)]
    for count, sign in zip(counts, (-1, 1), strict=True):
        difference = 0
        for _ in range(count):
            difference += sign * (reader.unsigned() + 1)
            found.append((difference, reader.flag()))
    return tuple(found)


def skip_scaling_lists(reader: BitReader) -> None:
    """scaling_list_data (7.3.4)."""
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not reader.flag():
                reader.unsigned()
                continue
            for _ in range(min(64, 16 << 2 * size) + (size > 1)):
                reader.signed()


def skip_profile(reader: BitReader, sub_layers: int) -> int:
    """Read profile_tier_level (7.3.3) to its end; general_profile_idc."""
    reader.bits(3)
    profile = reader.bits(5)
    reader.bits(80 + 8)
    present = [(reader.bits(1), reader.bits(1)) for _ in range(8 if sub_layers > 1 else 0)]
    for has_profile, has_level in present[: sub_layers - 1]:
        reader.bits(88 * has_profile + 8 * has_level)
    return profile


def _read_beginning(reader: BitReader) -> _Beginning:
    reader.bits(4)
    sub_layers = reader.bits(3) + 1
    if sub_layers > 7:
        raise BitstreamError(f"a sequence parameter set has {sub_layers} sub-layers; the standard allows 7")
    reader.bits(1)
    profile = skip_profile(reader, sub_layers)
    number = reader.unsigned(15, "sequence parameter set")
    chroma_format = reader.unsigned(3, "chroma format")
    has_separate_planes = chroma_format == 3 and reader.flag()
    size = reader.unsigned(), reader.unsigned()
    if not all(size):
        raise BitstreamError(f"a sequence parameter set is of pictures of {size[0]} x {size[1]}")
    _skip_window(reader)
    depths = [8 + reader.unsigned(8, "bit depth, less 8,") for _ in range(2)]
    poc_lsb_bits = 4 + reader.unsigned(12, "size of picture order counts, less 4,")
    return _Beginning(
        sub_layers,
        profile,
        number,
        chroma_format,
        has_separate_planes,
        size,
        (depths[0], depths[1]),
        poc_lsb_bits,
        buffered_layers=sub_layers if reader.flag() else 1,
    )


def _skip_window(reader: BitReader) -> None:
    for _ in range(4 if reader.flag() else 0):
        reader.unsigned()


def _read_fine_offsets(reader: BitReader, sub_layers: int) -> bool:
    """high_precision_offsets_enabled_flag, from strong_intra_smoothing_enabled_flag on."""
    reader.bits(1)
    if reader.flag():
        _skip_video_usability(reader, sub_layers)
    if not reader.flag() or not reader.flag():  # no extension, no range extension
        return False
    reader.bits(7 + 6)
    return reader.flag()


def _skip_video_usability(reader: BitReader, sub_layers: int) -> None:
    """vui_parameters (E.2.1)."""
    if reader.flag() and reader.bits(8) == 255:  # shape of pixels
        reader.bits(32)
    if reader.flag():  # overscan
        reader.bits(1)
    if reader.flag():  # video signal
        reader.bits(4)
        if reader.flag():
            reader.bits(24)
    if reader.flag():  # places of chroma samples
        reader.unsigned(), reader.unsigned()
    reader.bits(3)
    _skip_window(reader)
    if reader.flag():  # timing
        reader.bits(64)
        if reader.flag():
            reader.unsigned()
        if reader.flag():
            _skip_buffer_model(reader, sub_layers)
    if reader.flag():  # restrictions
        reader.bits(3)
        for _ in range(5):
            reader.unsigned()


def _skip_buffer_model(reader: BitReader, sub_layers: int) -> None:
    """hrd_parameters (E.2.2)."""
    kinds = reader.bits(1) + reader.bits(1)
    has_sub_pictures = kinds > 0 and reader.flag()
    if kinds:
        reader.bits((19 if has_sub_pictures else 0) + 8 + (4 if has_sub_pictures else 0) + 15)
    for _ in range(sub_layers):
        has_fixed_rate, is_low_delay = reader.flag() or reader.flag(), False
        if has_fixed_rate:
            reader.unsigned()
        else:
            is_low_delay = reader.flag()
        buffers = 1 if is_low_delay else 1 + reader.unsigned(31, "number of buffers, less 1,")
        for _ in range(kinds * buffers):
            for _ in range(4 if has_sub_pictures else 2):
                reader.unsigned()
            reader.bits(1)
