"""AV1 streams of which a decoder hands out every picture, with what each may be predicted from.

A temporal unit holds any number of pictures, of which one is shown. It is cut behind each coded picture, and
behind a hidden one goes a frame header of two or three bytes that shows the slot which it was put into
(show_existing_frame). That changes nothing in the decoder unless the picture is a key frame: see `_reveal`.

The decoder is dav1d as FFmpeg opens it: the first operating point, the highest spatial layer, no strict
compliance. Sections are those of the AV1 bitstream and decoding process specification.
"""

from dataclasses import dataclass, field, replace

from .av1_filters import Filters, find_filters, without_filters
from .av1_headers import (
    ALTREF,
    ALTREF2,
    BWDREF,
    FRAME,
    FRAME_HEADER,
    GOLDEN,
    KEY_FRAME,
    LAST,
    LAST2,
    LAST3,
    NUM_SLOTS,
    REDUNDANT_FRAME_HEADER,
    SEQUENCE_HEADER,
    TILE_GROUP,
    FrameHeader,
    Inherited,
    Obu,
    SequenceHeader,
    Slot,
    parse_frame_header,
    parse_sequence_header,
    split_obus,
)
from .bitstream import BitWriter
from .coded_picture import BitstreamError, CodedPicture, Reference

# Which two references a block may average: one of the past with one of the future, or these of one side.
COMPOUND_PAIRS = [(a, b) for a in (LAST, LAST2, LAST3, GOLDEN) for b in (BWDREF, ALTREF2, ALTREF)]
COMPOUND_PAIRS += [(LAST, LAST2), (LAST, LAST3), (LAST, GOLDEN), (BWDREF, ALTREF)]


def distance_weight(first: int, second: int) -> float:
    """The weight of the first of two references by their distances in pictures (section 7.11.3.15).

    The nearer one has the larger weight, the second where both are as near.
    """
    first, second = min(first, 31), min(second, 31)
    near, far = sorted((first, second))
    step = sum(2 * far >= limit * near for limit in (3, 5, 7))
    nearer = (9, 11, 12, 13)[step]
    return (16 - nearer if second <= first else nearer) / 16


@dataclass(frozen=True)
class _State:
    """All that is known between two packets; a packet that cannot be read leaves it as it was.

    Attributes:
        num_pictures: that were coded so far.
        slots: what the decoder holds.
        key_hint: order hint of the last key picture that was shown; None before the first.
        shown_order: order of the last picture that was shown.
        carried: a sequence header behind the last picture of a packet: it goes before the next one's.
    """

    sequence: SequenceHeader | None = None
    num_pictures: int = 0
    slots: tuple[Slot | None, ...] = (None,) * NUM_SLOTS
    key_hint: int | None = None
    shown_order: int = 0
    carried: tuple[Obu, ...] = ()


@dataclass
class _Step:
    picture: CodedPicture
    units: list[Obu] = field(default_factory=list)
    filters: Filters | None = None  # that are to be turned off


class RevealedAV1:
    """A `RevealedStream` of AV1.

    A hidden key frame is not handed out (`reveal` is empty and `is_shown` False): to show it would have the
    decoder forget all other pictures. The step that shows it later has its number and `is_key`. Neither is
    a hidden picture that is put into no slot, as nothing could show it.

    Args:
        extradata: an av1C record, or its units alone, or b"".
        loop_filter: False turns deblocking and CDEF off in all pictures whose headers can be read that far;
            they have other pixels then.

    Raises:
        BitstreamError: the record or the sequence header in it cannot be read.
    """

    def __init__(self, extradata: bytes = b"", *, loop_filter: bool = True):
        self.extradata, self._loop_filter = extradata, loop_filter
        self._state = _State()
        try:
            if extradata[:1] >= b"\x80":
                if extradata[0] != 0x81 or len(extradata) < 4:
                    raise ValueError("no av1C record of version 1")
                extradata = extradata[4:]
            for obu in split_obus(extradata):
                if obu.kind == SEQUENCE_HEADER:
                    self._state = _State(parse_sequence_header(obu.header))
        except ValueError as error:
            raise BitstreamError(f"AV1 extradata: {error}") from error

    def enter(self) -> None:
        state = self._state
        self._state = _State(state.sequence, state.num_pictures, carried=state.carried)

    def split(self, packet: bytes) -> list[CodedPicture]:
        before = self._state
        try:
            steps = self._steps(packet)
        except ValueError as error:
            self._state = before
            raise BitstreamError(f"AV1 packet: {error}") from error
        return [replace(step.picture, data=b"".join(obu.data for obu in step.units)) for step in steps]

    def _steps(self, packet: bytes) -> list[_Step]:
        steps: list[_Step] = []
        waiting = list(self._state.carried)  # units that belong to the next picture
        for obu in split_obus(packet):
            sequence = self._state.sequence
            if obu.kind == SEQUENCE_HEADER:
                self._state = replace(self._state, sequence=parse_sequence_header(obu.header))
            elif sequence is not None and obu.is_dropped(sequence.operating_points[0][0]):
                pass
            elif obu.kind in (TILE_GROUP, REDUNDANT_FRAME_HEADER):
                if not steps:
                    raise ValueError("tiles come before the header of their frame")
                filters = steps[-1].filters
                if filters is not None and obu.kind == REDUNDANT_FRAME_HEADER:
                    obu = without_filters(obu, filters)
                steps[-1].units += [*waiting, obu]
                waiting = []
                continue
            elif obu.kind in (FRAME, FRAME_HEADER):
                if sequence is None:
                    raise ValueError("a picture comes before the first sequence header")
                steps.append(self._step(obu, sequence, waiting))
                waiting = []
                continue
            waiting.append(obu)
        carried = [obu for obu in waiting if obu.kind == SEQUENCE_HEADER][-1:]
        self._state = replace(self._state, carried=tuple(carried))
        return steps

    def _step(self, obu: Obu, sequence: SequenceHeader, waiting: list[Obu]) -> _Step:
        """Of the unit that begins a picture, and of those that came before it."""
        slots = self._state.slots
        header = parse_frame_header(obu, sequence, slots)
        if header.shows is not None:
            return _Step(self._show(header.shows), [*waiting, obu])
        filters = None if self._loop_filter else find_filters(obu, header, sequence, slots)
        picture = self._code(header, filters.inherited if filters else None)
        return _Step(picture, [*waiting, without_filters(obu, filters) if filters else obu], filters)

    def _code(self, header: FrameHeader, inherited: Inherited | None) -> CodedPicture:
        """A picture that is decoded now."""
        state, sequence = self._state, self._state.sequence
        assert sequence is not None
        opens = header.is_shown and header.frame_type == KEY_FRAME
        order = 0 if opens and sequence.order_hint_bits else self._order_of(header.order_hint)
        sources = [self._slot(slot) for slot in header.references]
        new = Slot(state.num_pictures, order, header.order_hint, header.frame_type == KEY_FRAME, inherited)
        slots = [new if header.refreshes >> i & 1 else slot for i, slot in enumerate(state.slots)]
        self._state = replace(
            state,
            num_pictures=state.num_pictures + 1,
            slots=tuple(slots),
            key_hint=header.order_hint if opens else state.key_hint,
            shown_order=order if header.is_shown and order is not None else state.shown_order,
        )
        return CodedPicture(
            b"",
            new.number,
            reveal=_reveal(header, sequence),
            is_shown=header.is_shown,
            is_key=opens,
            references=tuple(Reference(number) for number in dict.fromkeys(slot.number for slot in sources)),
            kept=self._kept(),
            order=order,
            pair_weights=_pair_weights(header, sequence, sources),
        )

    def _show(self, place: int) -> CodedPicture:
        """A picture that was decoded before is shown; a key frame goes into all slots then (section 7.21)."""
        slot = self._slot(place)
        if slot.is_key:
            slot = replace(slot, order=None if slot.order is None else 0)
            self._state = replace(self._state, slots=(slot,) * NUM_SLOTS, key_hint=slot.order_hint)
        if slot.order is not None:
            self._state = replace(self._state, shown_order=slot.order)
        return CodedPicture(
            b"",
            slot.number,
            is_coded=False,
            is_key=slot.is_key,
            references=(),
            kept=self._kept(),
            order=slot.order,
        )

    def _slot(self, place: int) -> Slot:
        slot = self._state.slots[place]
        if slot is None:
            raise ValueError(f"slot {place} is used, which holds no picture since the stream was entered")
        return slot

    def _kept(self) -> frozenset[int]:
        return frozenset(slot.number for slot in self._state.slots if slot is not None)

    def _order_of(self, hint: int) -> int | None:
        """Order hints wrap: of the places that one may stand for, the nearest to what was shown last."""
        state, sequence = self._state, self._state.sequence
        if not (sequence and sequence.order_hint_bits) or state.key_hint is None:
            return None
        return state.shown_order + sequence.distance(hint, state.key_hint + state.shown_order)


def _reveal(header: FrameHeader, sequence: SequenceHeader) -> bytes:
    """A frame header that shows the slot of a hidden picture; b"" where there is none that does no harm.

    Shown, a key frame would replace all other references. `showable_frame` is not asked: without it the
    stream does not conform, but dav1d shows the picture unless strict compliance was asked for.
    """
    if header.is_shown or not header.refreshes or header.frame_type == KEY_FRAME:
        return b""
    slot = (header.refreshes & -header.refreshes).bit_length() - 1
    writer = BitWriter().bits(0b1000 | slot, 4)  # show_existing_frame, frame_to_show_map_idx
    writer.bits(0, sequence.presentation_time_bits).bits(header.frame_id, sequence.frame_id_bits)
    payload = writer.bits(1, 1).to_bytes()  # with the trailing bit
    return bytes([FRAME_HEADER << 3 | 2, len(payload)]) + payload


def _pair_weights(
    header: FrameHeader, sequence: SequenceHeader, sources: list[Slot]
) -> dict[tuple[int, int], float]:
    if not (sequence.has_distance_weights and sources):
        return {}
    gaps = [abs(sequence.distance(slot.order_hint, header.order_hint)) for slot in sources]
    return {
        (sources[a].number, sources[b].number): distance_weight(gaps[a], gaps[b]) for a, b in COMPOUND_PAIRS
    }
