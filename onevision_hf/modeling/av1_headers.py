"""Units, sequence headers and frame headers of AV1, as far as the references of a picture.

Sections are those of the AV1 bitstream and decoding process specification.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from .bitstream import BitReader

# obu_type (section 6.2.2)
SEQUENCE_HEADER, TEMPORAL_DELIMITER, FRAME_HEADER, TILE_GROUP, FRAME, REDUNDANT_FRAME_HEADER = (
    1,
    2,
    3,
    4,
    6,
    7,
)
# frame_type (section 6.8.2)
KEY_FRAME, INTRA_ONLY_FRAME, SWITCH_FRAME = 0, 2, 3
NUM_SLOTS, NUM_REFERENCES, NO_PRIMARY = 8, 7, 7
ALL_SLOTS = (1 << NUM_SLOTS) - 1
# Places among the references of a picture (section 6.10.24).
LAST, LAST2, LAST3, GOLDEN, BWDREF, ALTREF2, ALTREF = range(NUM_REFERENCES)
# seq_force_screen_content_tools, seq_force_integer_mv: each picture's header tells.
SELECT = 2
# color_primaries, transfer_characteristics, matrix_coefficients of RGB pictures
SRGB = 1 << 16 | 13 << 8
# More than the parts of a sequence header or of a frame header that are read.
MAX_HEADER_BYTES = 512


class Obu(NamedTuple):
    """An open bitstream unit: `data` is all of it, with a size field even where the stream left that out."""

    kind: int
    temporal_id: int
    spatial_id: int
    has_extension: bool
    header: bytes  # the first bytes of its payload
    data: bytes

    def is_dropped(self, operating_point: int) -> bool:
        """Whether a decoder skips it (section 5.3.1, drop_obu)."""
        if self.kind in (SEQUENCE_HEADER, TEMPORAL_DELIMITER) or not (operating_point and self.has_extension):
            return False
        return not (operating_point >> self.temporal_id & operating_point >> self.spatial_id + 8 & 1)


def split_obus(data: bytes) -> Iterator[Obu]:
    """The units of a temporal unit in the low-overhead format, the last one with or without a size.

    Raises:
        ValueError: a size is none, or goes beyond the end.
    """
    place = 0
    while place < len(data):
        start, first = place, data[place]
        if first & 0x80:
            raise ValueError(f"the forbidden bit of the unit at byte {start} is set")
        has_extension = bool(first & 4)
        place += 1 + has_extension
        if place > len(data):
            raise ValueError("the header of the last unit ends early")
        layers = data[start + 1] if has_extension else 0
        if first & 2:
            size, place = read_leb128(data, place)
        else:
            size = len(data) - place
        end = place + size
        if end > len(data):
            raise ValueError(f"the unit at byte {start} ends {end - len(data)} bytes beyond the data")
        whole = data[start:end]
        if not first & 2:
            head = bytes([first | 2]) + data[start + 1 : place]
            whole = head + leb128(size) + data[place:end]
        header = data[place : min(end, place + MAX_HEADER_BYTES)]
        yield Obu(first >> 3 & 15, layers >> 5, layers >> 3 & 3, has_extension, header, whole)
        place = end


def read_leb128(data: bytes, place: int) -> tuple[int, int]:
    """(value, the place behind it); section 4.10.5."""
    value = 0
    for count, byte in enumerate(data[place : place + 8]):
        value |= (byte & 127) << 7 * count
        if not byte & 128:
            return value, place + count + 1
    raise ValueError(f"the size at byte {place} does not end")


def leb128(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@dataclass(frozen=True)
class SequenceHeader:
    """What reading frame headers needs of a sequence header (section 5.5).

    Attributes:
        is_reduced: a still picture whose frame header tells nothing.
        operating_points: of each, which layers it has, and whether pictures tell when it removes them.
        has_decoder_model: buffer_removal_time may be in frame headers.
        removal_time_bits: of that.
        presentation_time_bits: of frame_presentation_time; 0 where frame headers do not have it.
        frame_id_bits: of current_frame_id; 0 where frames are not numbered.
        delta_frame_id_bits: of the differences to it.
        order_hint_bits: 0 where there are none.
        has_distance_weights: blocks may average two references by their distances (enable_jnt_comp).
        screen_content_tools: 0 off, 1 on, or SELECT.
        integer_mv: likewise.
        size_bits: of the width and of the height of a picture that tells its own.
        size: width and height of all others.
        has_large_superblocks: of 128 x 128 pixels.
        has_motion_fields: enable_ref_frame_mvs.
        has_superres: pictures may be coded narrower.
        has_cdef: enable_cdef.
        is_monochrome: there is no chroma.
        has_separate_chroma: U and V may have different quantizers (separate_uv_delta_q).
    """

    is_reduced: bool
    operating_points: tuple[tuple[int, bool], ...] = ((0, False),)
    has_decoder_model: bool = False
    removal_time_bits: int = 0
    presentation_time_bits: int = 0
    frame_id_bits: int = 0
    delta_frame_id_bits: int = 0
    order_hint_bits: int = 0
    has_distance_weights: bool = False
    screen_content_tools: int = SELECT
    integer_mv: int = SELECT
    size_bits: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    has_large_superblocks: bool = False
    has_motion_fields: bool = False
    has_superres: bool = False
    has_cdef: bool = False
    is_monochrome: bool = False
    has_separate_chroma: bool = False

    def distance(self, hint: int, other: int) -> int:
        """How far `hint` is behind `other` in the order of display (section 7.8, get_relative_dist)."""
        half = 1 << self.order_hint_bits >> 1
        return (hint - other + half) % (2 * half) - half if half else 0


def parse_sequence_header(payload: bytes) -> SequenceHeader:
    reader = BitReader(payload)
    profile = reader.bits(3)
    reader.bits(1)  # still_picture
    is_reduced = reader.flag()
    model = removal_time_bits = presentation_time_bits = 0
    points = [(0, False)]
    if is_reduced:
        reader.bits(5)
    else:
        delay_bits = 0
        if reader.flag():  # timing_info_present_flag
            reader.bits(64)
            has_equal_intervals = reader.flag()
            if has_equal_intervals:
                reader.unsigned()  # AV1's uvlc() is coded as H.264's ue(v)
            model = reader.bits(1)
            if model:
                delay_bits = reader.bits(5) + 1
                reader.bits(32)
                removal_time_bits = reader.bits(5) + 1
                presentation_time_bits = reader.bits(5) + 1
                if has_equal_intervals:
                    presentation_time_bits = 0
        has_display_delays = reader.flag()
        points = []
        for _ in range(reader.bits(5) + 1):
            layers = reader.bits(12)
            if reader.bits(5) > 7:  # seq_level_idx
                reader.bits(1)
            has_model = bool(model and reader.flag())
            if has_model:
                reader.bits(2 * delay_bits + 1)
            if has_display_delays and reader.flag():
                reader.bits(4)
            points.append((layers, has_model))
        if points[0][0] >> 9:
            # The decoder holds lower layers back until it sees the highest, so not each comes out at once.
            raise ValueError("spatial layers cannot be revealed")
    width_bits, height_bits = reader.bits(4) + 1, reader.bits(4) + 1
    size = reader.bits(width_bits) + 1, reader.bits(height_bits) + 1
    header = SequenceHeader(is_reduced, tuple(points), bool(model), removal_time_bits, presentation_time_bits)
    if is_reduced:
        return header
    delta_frame_id_bits = frame_id_bits = 0
    if reader.flag():  # frame_id_numbers_present_flag
        delta_frame_id_bits = reader.bits(4) + 2
        frame_id_bits = delta_frame_id_bits + reader.bits(3) + 1
    has_large_superblocks = reader.flag()
    reader.bits(6)  # tools from enable_filter_intra to enable_dual_filter
    has_order_hints = reader.flag()
    has_distance_weights = has_order_hints and reader.flag()
    has_motion_fields = has_order_hints and reader.flag()
    screen_content_tools = SELECT if reader.flag() else reader.bits(1)
    integer_mv = SELECT
    if screen_content_tools:
        integer_mv = SELECT if reader.flag() else reader.bits(1)
    order_hint_bits = reader.bits(3) + 1 if has_order_hints else 0
    has_superres, has_cdef = reader.flag(), reader.flag()
    reader.bits(1)  # enable_restoration
    is_monochrome, has_separate_chroma = _read_colors(reader, profile)
    return replace(
        header,
        frame_id_bits=frame_id_bits,
        delta_frame_id_bits=delta_frame_id_bits,
        order_hint_bits=order_hint_bits,
        has_distance_weights=has_distance_weights,
        screen_content_tools=screen_content_tools,
        integer_mv=integer_mv,
        size_bits=(width_bits, height_bits),
        size=size,
        has_large_superblocks=has_large_superblocks,
        has_motion_fields=has_motion_fields,
        has_superres=has_superres,
        has_cdef=has_cdef,
        is_monochrome=is_monochrome,
        has_separate_chroma=has_separate_chroma,
    )


def _read_colors(reader: BitReader, profile: int) -> tuple[bool, bool]:
    """(mono_chrome, separate_uv_delta_q); section 5.5.2."""
    is_high = reader.flag()
    has_twelve_bits = profile == 2 and is_high and reader.flag()
    is_monochrome = profile != 1 and reader.flag()
    description = reader.bits(24) if reader.flag() else 0
    if is_monochrome:
        return True, False
    if description != SRGB:
        reader.bits(1)  # color_range
        # Profile 1 has 4:4:4, profile 0 has 4:2:0; of profile 2 only 12 bit pictures tell what they have.
        is_halved = reader.flag() if has_twelve_bits else profile != 1
        if is_halved and (reader.flag() if has_twelve_bits else profile == 0):
            reader.bits(2)  # chroma_sample_position
    return False, reader.flag()


class Inherited(NamedTuple):
    """What later frame headers may take from a picture, each by its slot.

    Attributes:
        size: width and height, before it was coded narrower.
        quantizers: what each segment adds to base_q_idx.
    """

    size: tuple[int, int]
    quantizers: tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """A picture that the decoder holds. `order` as in `CodedPicture`; `inherited` may be not known."""

    number: int
    order: int | None = None
    order_hint: int = 0
    is_key: bool = False
    inherited: Inherited | None = None


@dataclass(frozen=True)
class FrameHeader:
    """The first part of a frame header.

    Attributes:
        shows: the slot of which it only shows the picture; nothing else is set then.
        frame_type: KEY_FRAME and so on.
        is_shown: show_frame.
        frame_id: current_frame_id.
        order_hint: the last bits of its place in the order of display.
        refreshes: refresh_frame_flags, a bit for each slot that the picture is put into.
        references: the slots of LAST to ALTREF; none of an intra picture.
        rest_at: the bit behind them, at which the size of the picture begins.
        is_error_resilient: error_resilient_mode.
        adapts: not disable_cdf_update.
        has_screen_tools: allow_screen_content_tools.
        has_integer_mv: force_integer_mv of a picture that is not intra.
        has_size: frame_size_override_flag.
        primary: primary_ref_frame, the place of a reference; None where nothing is taken from one.
    """

    shows: int | None = None
    frame_type: int = KEY_FRAME
    is_shown: bool = True
    frame_id: int = 0
    order_hint: int = 0
    refreshes: int = ALL_SLOTS
    references: tuple[int, ...] = ()
    rest_at: int = 0
    is_error_resilient: bool = True
    adapts: bool = True
    has_screen_tools: bool = False
    has_integer_mv: bool = False
    has_size: bool = False
    primary: int | None = None


def parse_frame_header(obu: Obu, sequence: SequenceHeader, slots: tuple[Slot | None, ...]) -> FrameHeader:
    """Section 5.9.2, up to the references."""
    if sequence.is_reduced:
        return FrameHeader()
    reader = BitReader(obu.header)
    size = reader.left
    if reader.flag():
        return FrameHeader(shows=reader.bits(3))
    frame_type, is_shown = reader.bits(2), reader.flag()
    if is_shown:
        reader.bits(sequence.presentation_time_bits)
    else:
        reader.bits(1)  # showable_frame
    opens = (is_shown and frame_type == KEY_FRAME) or frame_type == SWITCH_FRAME
    is_error_resilient = opens or reader.flag()
    adapts = not reader.flag()
    tools = reader.bits(1) if sequence.screen_content_tools == SELECT else sequence.screen_content_tools
    has_integer_mv = tools and (reader.bits(1) if sequence.integer_mv == SELECT else sequence.integer_mv)
    frame_id = reader.bits(sequence.frame_id_bits)
    has_size = frame_type == SWITCH_FRAME or reader.flag()
    order_hint = reader.bits(sequence.order_hint_bits)
    is_intra = frame_type in (KEY_FRAME, INTRA_ONLY_FRAME)
    primary = NO_PRIMARY if is_intra or is_error_resilient else reader.bits(3)
    if sequence.has_decoder_model and reader.flag():
        for layers, has_model in sequence.operating_points:
            inside = layers >> obu.temporal_id & layers >> obu.spatial_id + 8 & 1
            if has_model and (inside or not layers):
                reader.bits(sequence.removal_time_bits)
    refreshes = ALL_SLOTS if opens else reader.bits(NUM_SLOTS)
    if is_error_resilient and not (is_intra and refreshes == ALL_SLOTS):
        reader.bits(NUM_SLOTS * sequence.order_hint_bits)  # ref_order_hint
    references: tuple[int, ...] = ()
    if not is_intra:
        references = _read_references(reader, sequence, slots, order_hint)
    return FrameHeader(
        None,
        frame_type,
        is_shown,
        frame_id,
        order_hint,
        refreshes,
        references,
        rest_at=size - reader.left,
        is_error_resilient=is_error_resilient,
        adapts=adapts,
        has_screen_tools=bool(tools),
        has_integer_mv=bool(has_integer_mv),
        has_size=has_size,
        primary=None if primary == NO_PRIMARY else primary,
    )


def _read_references(
    reader: BitReader, sequence: SequenceHeader, slots: tuple[Slot | None, ...], order_hint: int
) -> tuple[int, ...]:
    if sequence.order_hint_bits and reader.flag():  # frame_refs_short_signaling
        last, golden = reader.bits(3), reader.bits(3)
        reader.bits(NUM_REFERENCES * sequence.delta_frame_id_bits)
        hints = [slot.order_hint if slot else 0 for slot in slots]
        return find_references(last, golden, [sequence.distance(hint, order_hint) for hint in hints])
    references = []
    for _ in range(NUM_REFERENCES):
        references.append(reader.bits(3))
        reader.bits(sequence.delta_frame_id_bits)
    return tuple(references)


def find_references(last: int, golden: int, distances: list[int]) -> tuple[int, ...]:
    """The slots of LAST to ALTREF where a header names two of them (section 7.8, set_frame_refs).

    Args:
        last: slot of LAST.
        golden: slot of GOLDEN.
        distances: of the picture in each slot, how far it is displayed after the present one.

    Returns:
        Seven slots.
    """
    found = {LAST: last, GOLDEN: golden}
    free = set(range(NUM_SLOTS)) - {last, golden}

    def assign(place: int, candidates: set[int], latest: bool) -> None:
        if place in found or not candidates:
            return
        # Of pictures of the same time the latest is that of the last slot, the earliest that of the first.
        found[place] = (max if latest else min)(candidates, key=lambda slot: (distances[slot], slot))
        free.discard(found[place])

    for place in (ALTREF, BWDREF, ALTREF2):
        assign(place, {slot for slot in free if distances[slot] >= 0}, latest=place == ALTREF)
    for place in (LAST2, LAST3, BWDREF, ALTREF2, ALTREF):
        assign(place, {slot for slot in free if distances[slot] < 0}, latest=True)
    earliest = min(range(NUM_SLOTS), key=lambda slot: distances[slot])
    return tuple(found.get(place, earliest) for place in range(NUM_REFERENCES))
