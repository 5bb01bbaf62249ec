"""AV1 headers written by hand: what an encoder at hand does not make, and numbers that can be counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.av1_bitstream import RevealedAV1, distance_weight
from onevision_hf.modeling.av1_headers import find_references, split_obus
from onevision_hf.modeling.bitstream import BitWriter
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture

KEY, INTER, INTRA_ONLY, SWITCH = range(4)
DELTA_ID_BITS, ID_BITS, REMOVAL_BITS, PRESENTATION_BITS = 9, 13, 11, 17


def unit(kind: int, writer: BitWriter) -> bytes:
    payload = writer.bits(1, 1).to_bytes()  # the trailing bit
    return bytes([kind << 3 | 2, len(payload)]) + payload


class Writer:
    """Units of a stream whose sequence header says this.

    Args:
        hint_bits: order_hint_bits, 0 for none.
        jnt_comp: enable_jnt_comp.
        ids: frames are numbered.
        model: there are timing info and a decoder model.
        points: operating_point_idc of each.
    """

    def __init__(self, hint_bits=7, jnt_comp=False, ids=False, model=False, points=(0,)):
        self.hint_bits, self.jnt_comp, self.ids, self.model, self.points = (
            hint_bits,
            jnt_comp,
            ids,
            model,
            points,
        )

    def sequence(self) -> bytes:
        writer = BitWriter().bits(0, 5).bits(self.model, 1)
        if self.model:
            writer.bits(1, 32).bits(25, 32).bits(0, 1).bits(1, 1)
            writer.bits(9, 5).bits(1, 32).bits(REMOVAL_BITS - 1, 5).bits(PRESENTATION_BITS - 1, 5)
        writer.bits(1, 1).bits(len(self.points) - 1, 5)  # with display delays
        for layers in self.points:
            writer.bits(layers, 12).bits(8, 5).bits(0, 1)
            if self.model:
                writer.bits(1, 1).bits(0, 2 * 10 + 1)
            writer.bits(1, 1).bits(9, 4)
        writer.bits(7, 4).bits(6, 4).bits(191, 8).bits(107, 7).bits(self.ids, 1)
        if self.ids:
            writer.bits(DELTA_ID_BITS - 2, 4).bits(ID_BITS - DELTA_ID_BITS - 1, 3)
        writer.bits(0, 7).bits(bool(self.hint_bits), 1)
        if self.hint_bits:
            writer.bits(self.jnt_comp, 1).bits(0, 1)
        writer.bits(0, 1).bits(1, 1).bits(1, 1)  # screen content tools everywhere, integer vectors by picture
        if self.hint_bits:
            writer.bits(self.hint_bits - 1, 3)
        writer.bits(0, 3).bits(0, 8)  # neither superres nor filters; 8 bit, 4:2:0, no film grain
        return unit(1, writer)

    def frame(
        self, hint=0, kind=INTER, shown=True, puts=0, refs=(0,) * 7, short=None, number=0, resilient=False
    ) -> bytes:
        writer = BitWriter().bits(0, 1).bits(kind, 2).bits(shown, 1)
        if shown and self.model:
            writer.bits(0, PRESENTATION_BITS)
        if not shown:
            writer.bits(1, 1)
        opens = (kind == KEY and shown) or kind == SWITCH
        if not opens:
            writer.bits(resilient, 1)
        writer.bits(0, 1).bits(0, 1)
        if self.ids:
            writer.bits(number, ID_BITS)
        if kind != SWITCH:
            writer.bits(0, 1)
        if self.hint_bits:
            writer.bits(hint, self.hint_bits)
        if kind in (INTER, SWITCH) and not (resilient or opens):
            writer.bits(7, 3)
        if self.model:
            writer.bits(1, 1)
            for _ in self.points:
                writer.bits(0, REMOVAL_BITS)
        if not opens:
            writer.bits(puts, 8)
        if (resilient or opens) and (kind in (INTER, SWITCH) or not opens) and self.hint_bits:
            writer.bits(0, 8 * self.hint_bits)
        if kind in (INTER, SWITCH):
            if self.hint_bits:
                writer.bits(short is not None, 1)
            if short is not None:
                writer.bits(short[0], 3).bits(short[1], 3)
            for slot in refs:
                if short is None:
                    writer.bits(slot, 3)
                if self.ids:
                    writer.bits(0, DELTA_ID_BITS)
        return unit(6, writer.bits(0, 40))


def show(slot: int) -> bytes:
    return unit(3, BitWriter().bits(0b1000 | slot, 4))


def steps_of(writer: Writer, *frames: bytes) -> list[CodedPicture]:
    revealed = RevealedAV1()
    packets = [writer.sequence() + frames[0], *frames[1:]]
    return [step for packet in packets for step in revealed.split(packet)]


def numbers(step: CodedPicture) -> list[int]:
    assert step.references is not None
    return [reference.number for reference in step.references]


def bits_of(reveal: bytes) -> str:
    (obu,) = split_obus(reveal)
    assert obu.kind == 3
    return "".join(format(byte, "08b") for byte in obu.header)


def test_a_reveal_shows_the_lowest_slot_that_the_picture_was_put_into():
    w = Writer()
    _, hidden = steps_of(w, w.frame(kind=KEY), w.frame(4, shown=False, puts=0b00101000))
    assert hidden.reveal == bytes([0x1A, 1, 0b1_011_1_000])


def test_a_reveal_tells_the_number_of_the_frame_and_a_time_where_headers_have_them():
    w = Writer(ids=True, model=True)
    _, hidden = steps_of(w, w.frame(kind=KEY, number=77), w.frame(4, shown=False, puts=2, number=0x155))
    expected = "1" + "001" + "0" * PRESENTATION_BITS + format(0x155, f"0{ID_BITS}b") + "1"
    assert bits_of(hidden.reveal) == expected.ljust(-(-len(expected) // 8) * 8, "0")


def test_what_is_put_into_no_slot_cannot_be_revealed():
    w = Writer()
    _, hidden = steps_of(w, w.frame(kind=KEY), w.frame(4, shown=False, puts=0))
    assert hidden.reveal == b"" and not hidden.is_shown and hidden.kept == {0}


@pytest.mark.parametrize("options", [{}, {"ids": True}, {"model": True, "points": (0x101, 0x103)}])
@pytest.mark.parametrize("resilient", [False, True])
def test_references_are_found_behind_all_that_a_header_may_have(options, resilient):
    w = Writer(**options)
    first = [w.frame(n, puts=1 << n, refs=(n - 1,) * 7, resilient=resilient) for n in range(1, 8)]
    last_frame = w.frame(8, refs=(7, 5, 5, 2, 7, 1, 2), resilient=resilient)
    *_, last = steps_of(w, w.frame(kind=KEY), *first, last_frame)
    assert numbers(last) == [7, 5, 2, 1]
    assert last.kept == set(range(8)) and last.order == 8


def test_a_switch_frame_is_predicted_and_fills_all_slots():
    w = Writer()
    switch_frame = w.frame(2, SWITCH, refs=(0, 1, 0, 0, 0, 0, 0))
    *_, switch = steps_of(w, w.frame(kind=KEY), w.frame(1, puts=2), switch_frame)
    assert numbers(switch) == [0, 1] and switch.kept == {2} and not switch.is_key


def test_an_intra_only_picture_has_no_references_and_is_no_key():
    w = Writer()
    _, intra, after = steps_of(
        w, w.frame(kind=KEY), w.frame(1, INTRA_ONLY, puts=2), w.frame(2, refs=(0, 1, 0, 0, 0, 0, 0))
    )
    assert intra.references == () and not intra.is_key and intra.order == 1
    assert numbers(after) == [0, 1]


@given(bits=st.integers(4, 8), start=st.integers(0, 255), ahead=st.integers(0, 5))
def test_orders_go_on_where_order_hints_wrap(bits, start, ahead):
    w = Writer(hint_bits=bits)
    hints = [(start + n) % (1 << bits) for n in range(80)]
    shown = [w.frame(hint, puts=2) for hint in hints[1:60]]
    hidden = [w.frame(hints[60 + ahead], shown=False, puts=4), show(2)]
    steps = steps_of(w, w.frame(hints[0], KEY), *shown, *hidden)
    assert [step.order for step in steps] == [*range(60), 60 + ahead, 60 + ahead]
    assert steps[-1].number == steps[-2].number and not steps[-1].is_coded


def test_orders_start_anew_at_a_key_picture_whose_hint_goes_on():
    w = Writer(hint_bits=3)
    steps = steps_of(w, w.frame(6, KEY), w.frame(7), w.frame(0), w.frame(1, KEY), w.frame(2), w.frame(3))
    assert [step.order for step in steps] == [0, 1, 2, 0, 1, 2]
    assert [step.is_key for step in steps] == [True, False, False, True, False, False]


def test_orders_are_unknown_without_hints():
    w = Writer(hint_bits=0)
    assert [step.order for step in steps_of(w, w.frame(kind=KEY), w.frame(), w.frame())] == [None] * 3


def test_a_reduced_still_picture_is_a_key():
    sequence = BitWriter().bits(0b000_1_1, 5).bits(8, 5).bits(5, 4).bits(5, 4).bits(63, 6).bits(63, 6)
    (step,) = RevealedAV1().split(unit(1, sequence.bits(0, 40)) + unit(6, BitWriter().bits(0, 60)))
    assert step.is_key and step.is_shown and step.kept == {0} and step.reveal == b""


@pytest.mark.parametrize(
    ("first", "second", "sixteenths"),
    [
        *[(1, 1, 7), (3, 3, 7), (1, 2, 11), (2, 1, 5), (2, 3, 11), (3, 2, 5), (3, 4, 9), (4, 3, 7)],
        *[(1, 3, 12), (3, 1, 4), (2, 5, 12), (1, 4, 13), (4, 1, 3), (2, 7, 13)],
        *[(0, 5, 13), (5, 0, 3), (0, 0, 3), (40, 62, 7), (62, 9, 4)],
    ],
)
def test_the_nearer_of_two_references_weighs_more(first, second, sixteenths):
    assert distance_weight(first, second) == sixteenths / 16


def pairs_of(jnt_comp: bool) -> dict[tuple[int, int], float]:
    """Of a picture at 5 whose references are at 4 (the past), and 6 and 8 (the future)."""
    w = Writer(jnt_comp=jnt_comp)
    hidden = [w.frame(8, shown=False, puts=2), w.frame(6, shown=False, puts=4)]
    shown = [w.frame(4, puts=8)]
    *_, last = steps_of(w, w.frame(kind=KEY), *hidden, *shown, w.frame(5, refs=(3, 3, 3, 3, 2, 1, 1)))
    assert numbers(last) == [3, 2, 1]
    return last.pair_weights


def test_pairs_of_references_have_the_weight_of_their_distances():
    """Two blocks of one picture may be averaged too; of (2, 1) as BWDREF and ALTREF, never of (1, 2)."""
    assert pairs_of(True) == {(3, 2): 7 / 16, (3, 1): 12 / 16, (3, 3): 7 / 16, (2, 1): 12 / 16}
    assert pairs_of(False) == {}


def test_two_named_references_give_all_seven():
    """Counted by hand. Pictures before the present one at -8 -4 -2 -1, after it at 1 2 4 8."""
    distances = [-8, -4, -2, -1, 8, 4, 2, 1]
    assert find_references(3, 0, distances) == (3, 2, 1, 0, 7, 6, 4)
    assert find_references(3, 2, distances) == (3, 1, 0, 2, 7, 6, 4)


def test_named_references_that_run_out_are_the_earliest():
    assert find_references(0, 1, [-1, -2, -9, -9, 3, 3, -1, -1]) == (0, 7, 6, 1, 4, 3, 5)
    assert find_references(0, 0, [-1] * 8) == (0, 7, 6, 0, 5, 4, 3)
    assert find_references(2, 5, [6, 6, -3, 6, 6, -4, 6, 6]) == (2, 5, 5, 5, 0, 1, 7)


def test_a_header_may_name_two_references():
    w = Writer(ids=True)
    first = [w.frame(n, puts=1 << n, refs=(n - 1,) * 7) for n in range(1, 4)]
    *_, last = steps_of(w, w.frame(kind=KEY), *first, w.frame(4, short=(3, 2)))
    assert numbers(last) == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x00", "does not end"),
        (b"\x12\x80", "does not end"),
        (b"\x12\x05\x00", "4 bytes beyond"),
        (b"\x92\x00", "forbidden bit"),
        (b"\x16", "ends early"),
        (b"\x32\x01\x10", "before the first sequence header"),
        (b"\x22\x01\x00", "before the header of their frame"),
        (b"\x0a\x02\x00\x00", "ends early"),
    ],
)
def test_damage_is_named(data, message):
    with pytest.raises(BitstreamError, match=message):
        RevealedAV1().split(data)


@pytest.mark.parametrize("extradata", [b"\x81\x00\x0c", b"\x82\x00\x0c\x00", b"\x81\x00\x0c\x00\x0a\x09\x00"])
def test_extradata_that_is_damaged_is_named(extradata):
    with pytest.raises(BitstreamError, match="AV1 extradata"):
        RevealedAV1(extradata)


def test_references_of_slots_that_were_never_filled_are_refused():
    w = Writer()
    with pytest.raises(BitstreamError, match="slot 0"):
        steps_of(w, w.frame(1))
    with pytest.raises(BitstreamError, match="slot 5"):
        steps_of(w, show(5))
