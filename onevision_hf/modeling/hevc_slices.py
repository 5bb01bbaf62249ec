"""HEVC's picture parameter sets and slice headers (ITU-T H.265, 7.3.2.3 and 7.3.6): which pictures a picture
is predicted from, which stay, and with which weights.

All counts are bounded by the standard's maxima, so that damaged headers end with a `BitstreamError` and soon.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from .bitstream import BitReader, payload_of
from .coded_picture import BitstreamError
from .hevc_sequence import MAX_PICTURES, SequenceParameters, ShortTerm, read_short_term, skip_scaling_lists

IDR, IRAP = range(19, 21), range(16, 24)  # types of NAL units (table 7-1)
B_SLICE, P_SLICE, I_SLICE = 0, 1, 2
Parameters = TypeVar("Parameters")
# More than a slice header can have up to its weights: 64 long-term references, 30 weights.
HEADER_BYTES = 2048


@dataclass(frozen=True)
class PictureParameters:
    """What slices need of a picture parameter set.

    Attributes:
        extra_bits: of slice headers, reserved.
        list_sizes: entries of the two reference lists where a slice does not say it.
        has_weights: for P and for B slices.
        changes_lists: whether slices may change the order of references.
    """

    number: int
    sequence_number: int
    has_dependent_slices: bool
    has_output_flag: bool
    extra_bits: int
    has_cabac_flag: bool
    list_sizes: tuple[int, int]
    has_weights: tuple[bool, bool]
    changes_lists: bool


@dataclass(frozen=True)
class LongTerm:
    """A long-term reference.

    Attributes:
        lsb: low bits of its picture order count.
        cycles: how often these turned over since; None where the low bits are all that is said.
        is_used: by the current picture.
    """

    lsb: int
    cycles: int | None
    is_used: bool


@dataclass(frozen=True)
class Use:
    """An entry of a reference list.

    Attributes:
        index: among the pictures that the current one uses: short-term ones before it, after it, long-term.
        weights: of Y, U and V.
        offsets: likewise, in grey levels of 8 bits.
    """

    index: int
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class SliceHeader:
    """The header of a slice segment that does not depend on the one before.

    Attributes:
        is_first: of its picture.
        poc_lsb: low bits of the picture order count.
        hidden_at: which bit of the unit's payload says that the picture is not for display; None if it is.
        uses: the entries of its reference lists.
    """

    sequence: SequenceParameters
    is_first: bool
    poc_lsb: int
    short_term: ShortTerm
    long_term: tuple[LongTerm, ...]
    hidden_at: int | None
    uses: tuple[Use, ...]


def read_picture_parameters(unit: bytes) -> PictureParameters:
    """Of a NAL unit."""
    reader = BitReader(payload_of(unit[2:]))
    number = reader.unsigned(63, "picture parameter set")
    sequence_number = reader.unsigned(15, "sequence parameter set")
    has_dependent_slices, has_output_flag = reader.flag(), reader.flag()
    extra_bits = reader.bits(3)
    reader.bits(1)
    has_cabac_flag = reader.flag()
    list_sizes = _list_size(reader), _list_size(reader)
    reader.signed(), reader.bits(2)
    if reader.flag():  # quantizers change inside pictures
        reader.unsigned()
    reader.signed(), reader.signed(), reader.bits(1)
    has_weights = reader.flag(), reader.flag()
    reader.bits(1)
    has_tiles = reader.flag()
    reader.bits(1)
    if has_tiles:
        borders = reader.unsigned(19, "number of tile columns, less 1,")  # as table A.8 has them at most
        borders += reader.unsigned(21, "number of tile rows, less 1,")
        for _ in range(0 if reader.flag() else borders):
            reader.unsigned()
        reader.bits(1)
    reader.bits(1)
    if reader.flag():  # deblocking
        reader.bits(1)
        if not reader.flag():
            reader.signed(), reader.signed()
    if reader.flag():
        skip_scaling_lists(reader)
    return PictureParameters(
        number=number,
        sequence_number=sequence_number,
        has_dependent_slices=has_dependent_slices,
        has_output_flag=has_output_flag,
        extra_bits=extra_bits,
        has_cabac_flag=has_cabac_flag,
        list_sizes=list_sizes,
        has_weights=has_weights,
        changes_lists=reader.flag(),
    )


def read_slice_header(
    unit: bytes, sequences: dict[int, SequenceParameters], pictures: dict[int, PictureParameters]
) -> SliceHeader | None:
    """The header of a slice segment, up to its weights.

    Args:
        unit: its NAL unit.
        sequences: sequence parameter sets by number.
        pictures: picture parameter sets by number.

    Returns:
        None for a segment that depends on the one before.

    Raises:
        BitstreamError: it is damaged, or a parameter set that it names did not come.
    """
    kind = unit[0] >> 1 & 63
    payload = payload_of(unit[2 : 2 + HEADER_BYTES])
    reader = BitReader(payload)
    is_first = reader.flag()
    if kind in IRAP:
        reader.bits(1)
    picture = known_set(pictures, reader.unsigned(63, "picture parameter set"), "picture")
    sequence = known_set(sequences, picture.sequence_number, "sequence")
    if not is_first:
        is_dependent = picture.has_dependent_slices and reader.flag()
        reader.bits((sequence.num_blocks - 1).bit_length())
        if is_dependent:
            return None
    reader.bits(picture.extra_bits)
    slice_type = reader.unsigned(I_SLICE, "slice type")
    hidden_at = None
    if picture.has_output_flag and not reader.flag():
        hidden_at = len(payload) * 8 - reader.left - 1
    if sequence.has_separate_planes:
        reader.bits(2)
    poc_lsb, has_temporal_vectors = 0, False
    short_term: ShortTerm = ()
    long_term: tuple[LongTerm, ...] = ()
    if kind not in IDR:
        poc_lsb = reader.bits(sequence.poc_lsb_bits)
        short_term = _read_short_term(reader, sequence)
        if sequence.has_long_term:
            long_term = _read_long_term(reader, sequence)
        has_temporal_vectors = sequence.has_temporal_vectors and reader.flag()
    if sequence.has_sample_offsets:
        reader.bits(2 if sequence.has_chroma else 1)
    uses: tuple[Use, ...] = ()
    if slice_type != I_SLICE:
        lists = _read_lists(reader, picture, slice_type, short_term, long_term)
        reader.bits((slice_type == B_SLICE) + picture.has_cabac_flag)
        if has_temporal_vectors:
            second = slice_type == B_SLICE and not reader.flag()
            if len(lists[second]) > 1:
                reader.unsigned()
        if picture.has_weights[slice_type == B_SLICE]:
            halves = (128, 128)
            if sequence.has_fine_offsets:
                halves = (1 << sequence.bit_depths[0] - 1, 1 << sequence.bit_depths[1] - 1)
            uses = read_weights(reader, lists, sequence.has_chroma, halves)
        else:
            uses = tuple(Use(index) for entries in lists for index in entries)
    return SliceHeader(sequence, is_first, poc_lsb, short_term, long_term, hidden_at, uses)


def picture_order_count(lsb: int, bits: int, anchor: int) -> int:
    """The picture order count (8.3.1): of those with these low bits the one next to the anchor.

    Args:
        lsb: its low bits.
        bits: how many these are.
        anchor: the count of the last picture of sub-layer 0 that others refer to and that does not lead one.
    """
    size = 1 << bits
    poc = anchor - anchor % size + lsb
    if poc - anchor >= size // 2:
        return poc - size
    return poc + size if anchor - poc > size // 2 else poc


def long_term_count(far: LongTerm, poc: int, lsb_bits: int, known: Iterable[int]) -> int | None:
    """The picture order count of a long-term reference (8.3.2), None if there is no such picture.

    Args:
        far: the reference.
        poc: of the current picture.
        lsb_bits: low bits of picture order counts.
        known: those of pictures that may be referred to.
    """
    size = 1 << lsb_bits
    if far.cycles is not None:
        return poc - poc % size + far.lsb - far.cycles * size
    return next((count for count in known if count % size == far.lsb), None)


def known_set(sets: dict[int, Parameters], number: int, name: str) -> Parameters:
    """A parameter set, which must have come."""
    if number not in sets:
        raise BitstreamError(f"a slice needs {name} parameter set {number}, which did not come")
    return sets[number]


def _list_size(reader: BitReader) -> int:
    return 1 + reader.unsigned(MAX_PICTURES - 2, "size of a reference list, less 1,")


def _choose(reader: BitReader, count: int, name: str) -> int:
    """An index below `count`, in as many bits as it takes."""
    index = reader.bits((count - 1).bit_length()) if count else 0
    if index >= count:
        raise BitstreamError(f"a slice names {name} {index} of {count}")
    return index


def _read_short_term(reader: BitReader, sequence: SequenceParameters) -> ShortTerm:
    sets = sequence.short_term_sets
    if not reader.flag():
        return read_short_term(reader, list(sets), in_slice=True)
    return sets[_choose(reader, len(sets), "short-term reference set")]


def _read_long_term(reader: BitReader, sequence: SequenceParameters) -> tuple[LongTerm, ...]:
    known = sequence.long_term_lsbs
    named = reader.unsigned(len(known), "number of long-term references") if known else 0
    count = named + reader.unsigned(32, "number of long-term references")
    found: list[LongTerm] = []
    cycles = 0
    for place in range(count):
        if place < named:
            lsb, is_used = known[_choose(reader, len(known), "long-term reference")]
        else:
            lsb, is_used = reader.bits(sequence.poc_lsb_bits), reader.flag()
        has_cycles = reader.flag()
        # Counted on from the entry before (7-52); those that are named and those that are not begin anew.
        cycles = (0 if place in (0, named) else cycles) + (reader.unsigned() if has_cycles else 0)
        found.append(LongTerm(lsb, cycles if has_cycles else None, is_used))
    return tuple(found)


def _read_lists(
    reader: BitReader,
    picture: PictureParameters,
    slice_type: int,
    short_term: ShortTerm,
    long_term: tuple[LongTerm, ...],
) -> list[list[int]]:
    """The reference lists (8.3.4): one of P slices, two of B slices.

    Args:
        reader: in front of num_ref_idx_active_override_flag.
        picture: the slice's parameters.
        slice_type: `B_SLICE` or `P_SLICE`.
        short_term: references.
        long_term: references.

    Returns:
        Indices as those of `Use`.
    """
    before = [difference < 0 for difference, is_used in short_term if is_used]
    count = len(before) + sum(far.is_used for far in long_term)
    if not count:
        raise BitstreamError("a slice is predicted from other pictures and names none")
    lists = 2 if slice_type == B_SLICE else 1
    sizes = picture.list_sizes
    if reader.flag():
        sizes = (_list_size(reader), _list_size(reader) if lists == 2 else 0)
    middle, end = sum(before), len(before)
    first = list(range(count))
    second = first[middle:end] + first[:middle] + first[end:]  # begins with those after the picture
    found = []
    for order, size in [(first, sizes[0]), (second, sizes[1])][:lists]:
        if picture.changes_lists and count > 1 and reader.flag():
            places = [_choose(reader, count, "reference") for _ in range(size)]
        else:
            places = [place % count for place in range(size)]
        found.append([order[place] for place in places])
    return found


def read_weights(
    reader: BitReader, lists: list[list[int]], has_chroma: bool, halves: tuple[int, int]
) -> tuple[Use, ...]:
    """pred_weight_table (7.3.6.3).

    Args:
        reader: in front of it.
        lists: indices of the entries of each reference list.
        has_chroma: whether there are weights of chroma.
        halves: of the range of offsets, of luma and chroma: 128 where they are levels of 8 bits.

    Raises:
        BitstreamError: it is damaged.
    """
    luma_bits = reader.unsigned(7, "weight denominator, log2,")
    chroma_bits = luma_bits + reader.signed() if has_chroma else 0
    if not 0 <= chroma_bits <= 7:
        raise BitstreamError(f"a slice has a chroma weight denominator of 2^{chroma_bits}")
    uses = []
    for entries in lists:
        in_luma = [reader.flag() for _ in entries]
        in_chroma = [has_chroma and reader.flag() for _ in entries]
        for index, luma, chroma in zip(entries, in_luma, in_chroma, strict=True):
            planes = [(1.0, 0.0)] * 3
            if luma:
                weight, offset = _read_weight(reader, luma_bits), _signed(reader, halves[0], "offset")
                planes[0] = weight / (1 << luma_bits), offset * 128 / halves[0]
            for plane in (1, 2) if chroma else ():
                half, weight = halves[1], _read_weight(reader, chroma_bits)
                # Told as the difference from what leaves grey as it is (7-56).
                offset = half + _signed(reader, 4 * half, "chroma offset") - (half * weight >> chroma_bits)
                offset = max(-half, min(half - 1, offset))
                planes[plane] = weight / (1 << chroma_bits), offset * 128 / half
            (y, u, v), (y_offset, u_offset, v_offset) = zip(*planes, strict=True)
            uses.append(Use(index, (y, u, v), (y_offset, u_offset, v_offset)))
    return tuple(uses)


def _read_weight(reader: BitReader, bits: int) -> int:
    return (1 << bits) + _signed(reader, 128, "weight")


def _signed(reader: BitReader, half: int, name: str) -> int:
    value = reader.signed()
    if not -half <= value < half:
        raise BitstreamError(f"a slice has a {name} of {value}; the standard allows {-half} to {half - 1}")
    return value
