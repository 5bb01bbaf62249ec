"""Pictures of AV1 without deblocking and without the directional filter (CDEF): their headers say so.

FFmpeg's wrapper of dav1d has no option for it. A header is read as far as the strengths of the filters. What
is behind them goes on at the same bit of a byte, so that it need not be read: where two levels are no more
coded, deltas of levels are put in, which nothing uses while all levels are 0.

Loop restoration goes on: its coefficients are among the coded blocks. So does the syntax of CDEF. Sections
are those of the AV1 bitstream and decoding process specification.
"""

from functools import lru_cache
from typing import NamedTuple

from .av1_headers import (
    FrameHeader,
    Inherited,
    Obu,
    SequenceHeader,
    Slot,
    leb128,
    read_leb128,
)
from .bitstream import BitReader
from .coded_picture import BitstreamError

NUM_SEGMENTS = 8
# Bits of what a segment may change, with the sign where it has one (section 5.9.14): the quantizer, four
# levels of the loop filter, the reference, and two that have no value.
SEGMENT_FEATURE_BITS = (9, 7, 7, 7, 7, 3, 0, 0)
NO_SEGMENTS = (0,) * NUM_SEGMENTS
LEVEL_BITS, SHARPNESS_BITS, DELTA_BITS = 6, 3, 7
NUM_REFERENCE_DELTAS, NUM_MODE_DELTAS = 8, 2
STRENGTH_BITS = 6  # of luma, and of chroma where there is any
# More than what is read may have; most of it are the sizes of 128 tiles, and the features of all segments.
MAX_BYTES = 256
MAX_TILE_WIDTH, MAX_TILE_AREA, MAX_TILES_ACROSS = 4096, 4096 * 2304, 64


class Filters(NamedTuple):
    """Where a frame header has its filters, in bits.

    Attributes:
        inherited: what later headers may take from the picture.
        are_on: whether there is a level or a strength above 0.
        levels_at: where the levels of the loop filter begin.
        has_chroma_levels: two more are coded behind the first two.
        deltas_at: the bit behind its sharpness.
        cdef_at: the bit behind its deltas.
        strengths_at: where the strengths of CDEF begin.
        end: the bit behind them.
    """

    inherited: Inherited
    are_on: bool = False
    levels_at: int = 0
    has_chroma_levels: bool = False
    deltas_at: int = 0
    cdef_at: int = 0
    strengths_at: int = 0
    end: int = 0


def find_filters(
    obu: Obu, header: FrameHeader, sequence: SequenceHeader, slots: tuple[Slot | None, ...]
) -> Filters | None:
    """Where a coded picture's header has its filters.

    Args:
        obu: its unit.
        header: what was read of it.
        sequence: of the stream.
        slots: before the picture goes into any.

    Returns:
        None where that cannot be known: the header ends early or has the short form of still pictures, or a
        picture which it takes something from was not read.
    """
    if sequence.is_reduced:
        return None
    try:
        return _find_filters(obu, header, sequence, [slots[k] for k in header.references])
    except BitstreamError:
        return None


def without_filters(obu: Obu, filters: Filters) -> Obu:
    """The unit of this frame header with all levels and strengths at 0."""
    if not filters.are_on:
        return obu
    _, start = read_leb128(obu.data, 1 + obu.has_extension)
    payload = obu.data[start:]
    first, last = filters.levels_at // 8, -(-filters.end // 8)
    bits = format(int.from_bytes(payload[first:last], "big"), f"0{8 * (last - first)}b")

    def cut(begin: int, end: int) -> str:
        return bits[begin - 8 * first : end - 8 * first]

    sharpness = cut(filters.deltas_at - SHARPNESS_BITS, filters.deltas_at)
    deltas = cut(filters.deltas_at, filters.cdef_at)
    if filters.has_chroma_levels:
        deltas = _other_deltas(len(deltas) + 2 * LEVEL_BITS)
    changed = (
        cut(8 * first, filters.levels_at)
        + "0" * 2 * LEVEL_BITS
        + sharpness
        + deltas
        + cut(filters.cdef_at, filters.strengths_at)
        + "0" * (filters.end - filters.strengths_at)
        + cut(filters.end, 8 * last)
    )
    middle = int(changed, 2).to_bytes(len(changed) // 8, "big")
    payload = payload[:first] + middle + payload[last:]
    return obu._replace(data=obu.data[: 1 + obu.has_extension] + leb128(len(payload)) + payload)


def _other_deltas(size: int) -> str:
    """Deltas of levels in so many bits, or in whole bytes more or less."""
    without_values = 2 + NUM_REFERENCE_DELTAS + NUM_MODE_DELTAS
    num_values = (without_values - size) % 8  # a value of 7 bits is a byte that lacks one
    flags = "1" + "0" * DELTA_BITS
    return "11" + flags * num_values + "0" * (NUM_REFERENCE_DELTAS - num_values + NUM_MODE_DELTAS)


def _find_filters(
    obu: Obu, header: FrameHeader, sequence: SequenceHeader, references: list[Slot | None]
) -> Filters:
    """Section 5.9.2 from the size of the picture on."""
    first = header.rest_at // 8
    reader = BitReader(obu.header[first : first + MAX_BYTES])
    total = reader.left + 8 * first
    reader.bits(header.rest_at - 8 * first)
    inherited = [slot.inherited if slot else None for slot in references]
    size, width = _read_size(reader, header, sequence, inherited)
    has_block_copies = False
    if not references:
        has_block_copies = header.has_screen_tools and width == size[0] and reader.flag()
    else:
        if not header.has_integer_mv:
            reader.bits(1)  # allow_high_precision_mv
        if not reader.flag():
            reader.bits(2)  # interpolation_filter
        reader.bits(1)  # is_motion_mode_switchable
        if sequence.has_motion_fields and not header.is_error_resilient:
            reader.bits(1)  # use_ref_frame_mvs
    if header.adapts:
        reader.bits(1)  # disable_frame_end_update_cdf
    _skip_tiles(reader, width, size[1], sequence.has_large_superblocks)
    base, has_one_quantizer = _read_quantizers(reader, sequence)
    quantizers = _read_segments(reader, header, inherited)
    if base and reader.flag():  # delta_q_present
        reader.bits(2)
        if not has_block_copies and reader.flag():  # delta_lf_present
            reader.bits(3)
    kept = Inherited(size, quantizers)
    is_lossless = has_one_quantizer and base + max(quantizers) <= 0
    if is_lossless or has_block_copies:
        return Filters(kept)
    levels_at = total - reader.left
    are_on = reader.bits(2 * LEVEL_BITS) > 0
    has_chroma_levels = are_on and not sequence.is_monochrome
    if has_chroma_levels:
        reader.bits(2 * LEVEL_BITS)
    reader.bits(SHARPNESS_BITS)
    deltas_at = total - reader.left
    if reader.flag() and reader.flag():  # loop_filter_delta_enabled, loop_filter_delta_update
        for _ in range(NUM_REFERENCE_DELTAS + NUM_MODE_DELTAS):
            if reader.flag():
                reader.bits(DELTA_BITS)
    cdef_at = strengths_at = total - reader.left
    if sequence.has_cdef:
        reader.bits(2)  # damping
        size_of_one = STRENGTH_BITS if sequence.is_monochrome else 2 * STRENGTH_BITS
        num_strengths = 1 << reader.bits(2)
        strengths_at = total - reader.left
        are_on |= reader.bits(size_of_one * num_strengths) > 0
    end = total - reader.left
    return Filters(kept, are_on, levels_at, has_chroma_levels, deltas_at, cdef_at, strengths_at, end)


def _read_size(
    reader: BitReader, header: FrameHeader, sequence: SequenceHeader, inherited: list[Inherited | None]
) -> tuple[tuple[int, int], int]:
    """(width and height, the width that is coded); sections 5.9.5 to 5.9.8."""
    size = sequence.size
    is_of_reference = False
    if inherited and header.has_size and not header.is_error_resilient:
        for source in inherited:
            if reader.flag():  # found_ref
                is_of_reference, size = True, _known(source).size
                break
    if not is_of_reference and header.has_size:
        size = reader.bits(sequence.size_bits[0]) + 1, reader.bits(sequence.size_bits[1]) + 1
    width = size[0]
    if sequence.has_superres and reader.flag():
        denominator = reader.bits(3) + 9
        width = (width * 8 + denominator // 2) // denominator
    if not is_of_reference and reader.flag():  # render_and_frame_size_different
        reader.bits(32)
    return size, width


def _known(source: Inherited | None) -> Inherited:
    if source is None:
        raise BitstreamError("a header takes from a picture whose header was not read")
    return source


@lru_cache(maxsize=16)
def _tile_limits(width: int, height: int, is_large: bool) -> tuple[int, int, int, int, int, int, int]:
    """Superblocks across, down, and across a tile at most; log2 of the fewest and the most tiles across, of
    the most down, of the fewest in all."""
    log2_size = 7 if is_large else 6
    across, down = (-(-pixels // (1 << log2_size)) for pixels in (width, height))
    widest = MAX_TILE_WIDTH >> log2_size
    fewest_across = _log2_above(-(-across // widest))
    fewest = max(fewest_across, _log2_above(-(-across * down // (MAX_TILE_AREA >> 2 * log2_size))))
    most_across, most_down = (_log2_above(min(count, MAX_TILES_ACROSS)) for count in (across, down))
    return across, down, widest, fewest_across, most_across, most_down, fewest


def _log2_above(value: int) -> int:
    return (value - 1).bit_length()


def _skip_tiles(reader: BitReader, width: int, height: int, is_large: bool) -> None:
    """Section 5.9.15."""
    across, down, widest, log2_across, most_across, most_down, fewest = _tile_limits(width, height, is_large)
    if reader.flag():  # uniform_tile_spacing_flag
        while log2_across < most_across and reader.flag():
            log2_across += 1
        log2_down = max(fewest - log2_across, 0)
        while log2_down < most_down and reader.flag():
            log2_down += 1
    else:
        widths = _read_extents(reader, across, widest)
        largest_area = across * down >> (fewest + 1 if fewest else 0)
        heights = _read_extents(reader, down, max(largest_area // max(widths), 1))
        log2_across, log2_down = _log2_above(len(widths)), _log2_above(len(heights))
    if log2_across or log2_down:
        reader.bits(log2_across + log2_down + 2)  # context_update_tile_id, tile_size_bytes_minus_1


def _read_extents(reader: BitReader, total: int, largest: int) -> list[int]:
    """Of tiles, in superblocks, until they fill so many."""
    extents = []
    while total:
        most = min(total, largest)
        size = most.bit_length()  # section 4.10.7, ns(n)
        short = (1 << size) - most
        value = reader.bits(size - 1)
        if value >= short:
            value = 2 * value - short + reader.bits(1)
        extents.append(value + 1)
        total -= value + 1
    return extents


def _read_quantizers(reader: BitReader, sequence: SequenceHeader) -> tuple[int, bool]:
    """(base_q_idx, whether no plane and no DC has another); section 5.9.12."""
    base, deltas = reader.bits(8), _read_delta(reader)
    if not sequence.is_monochrome:
        for _ in range(2 if sequence.has_separate_chroma and reader.flag() else 1):
            deltas |= _read_delta(reader) | _read_delta(reader)
    if reader.flag():  # using_qmatrix
        reader.bits(12 if sequence.has_separate_chroma else 8)
    return base, not deltas


def _read_delta(reader: BitReader) -> int:
    return reader.bits(7) if reader.flag() else 0


def _read_segments(
    reader: BitReader, header: FrameHeader, inherited: list[Inherited | None]
) -> tuple[int, ...]:
    """What each segment adds to base_q_idx; section 5.9.14."""
    if not reader.flag():
        return NO_SEGMENTS
    if header.primary is not None:
        if reader.flag():  # segmentation_update_map
            reader.bits(1)
        if not reader.flag():  # segmentation_update_data
            return _known(inherited[header.primary]).quantizers
    quantizers = []
    for _ in range(NUM_SEGMENTS):
        values = [reader.bits(size) if reader.flag() else 0 for size in SEGMENT_FEATURE_BITS]
        sign = 1 << SEGMENT_FEATURE_BITS[0] - 1
        quantizers.append((values[0] ^ sign) - sign)
    return tuple(quantizers)
