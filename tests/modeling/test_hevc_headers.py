"""HEVC's headers, written bit by bit here, are read as they were meant: references, lists, weights."""

import hevc_units as made_up
import pytest
from hevc_units import CRA, IDR, TRAIL, B, Bits, I, P, picture_unit, sequence_unit, slice_unit
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.bitstream import join_units, prevent_emulation
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture, Reference
from onevision_hf.modeling.hevc_bitstream import RevealedHEVC
from onevision_hf.modeling.hevc_sequence import read_sequence_parameters, without_reordering

NO_WEIGHTS = str(Bits().unsigned(6).raw("1" + "00"))  # of one entry; with chroma
NO_WEIGHTS_OF_2 = NO_WEIGHTS + "00"
# vui_parameters with all that there is, and a buffer model of two kinds whose rate is not fixed.
USABILITY = str(
    Bits().raw("1" + "1").bits(255, 8).bits(3, 16).bits(2, 16).raw("11" + "1").bits(7, 4).raw("1")
    .bits(77, 24).raw("1").unsigned(2).unsigned(3).raw("010" + "1").unsigned(0).unsigned(9).unsigned(0)
    .unsigned(4).raw("1").bits(1001, 32).bits(24000, 32).raw("1").unsigned(5).raw("1")
    .raw("11" + "1").bits(9, 19).bits(5, 8).bits(3, 4).bits(700, 15)
    .raw("0" + "0" + "0").unsigned(1).raw(("00100" * 4 + "1") * 4)
    .raw("1" + "110").unsigned(1).unsigned(2).unsigned(3).unsigned(15).unsigned(15)
)  # fmt: skip
LEADING = 8  # type of NAL units of pictures that are skipped after an entry


def read(sets: list[bytes], pictures: list[list[bytes]]) -> list[CodedPicture]:
    revealed = RevealedHEVC(join_units(sets, 0))
    return [picture for units in pictures for picture in revealed.split(join_units(units, 0))]


def numbers(picture: CodedPicture) -> list[int]:
    return [reference.number for reference in picture.references]


@given(
    reorder=st.integers(1, 7).flatmap(
        lambda layers: st.tuples(
            st.just(layers), st.lists(st.integers(0, 5), min_size=layers, max_size=layers), st.booleans()
        )
    ),
    chroma_format=st.integers(0, 3),
    depth=st.integers(8, 16),
    size=st.tuples(st.integers(1, 8192), st.integers(1, 8192)),
    window=st.sampled_from([(), (0, 1, 0, 700)]),
    scaling=st.booleans(),
    fine_offsets=st.booleans(),
)
def test_a_parameter_set_becomes_the_one_that_was_written_without_reordering(
    reorder, chroma_format, depth, size, window, scaling, fine_offsets
):
    layers, counts, has_all = reorder
    counts = counts if has_all else counts[:1]
    others = {"sub_layers": layers, "chroma_format": chroma_format, "depth": depth, "size": size}
    others |= {"window": window, "scaling": scaling, "fine_offsets": fine_offsets, "profile": 4}
    unit = made_up.sequence_unit(reorder=counts, **others)
    assert without_reordering(unit) == made_up.sequence_unit(reorder=[0] * len(counts), **others)
    found = read_sequence_parameters(unit)
    assert found.bit_depths == (depth, depth) and found.has_chroma == (chroma_format > 0)
    assert found.num_blocks == -(-size[0] // 16) * -(-size[1] // 16)
    assert found.has_fine_offsets == fine_offsets and found.has_temporal_vectors


@given(
    earlier=st.lists(st.integers(-20, 20).filter(bool), unique=True, max_size=8),
    shift=st.integers(-15, 15).filter(bool),
    flags=st.lists(st.sampled_from(["1", "01", "00"]), min_size=9, max_size=9),
)
def test_a_reference_set_may_be_told_by_an_earlier_one(earlier, shift, flags):
    """As the standard derives it, (7-61) and (7-62)."""
    before = [d for d in sorted(earlier, reverse=True) if d < 0]
    after = [d for d in sorted(earlier) if d > 0]
    known = [(d, True) for d in (*before, *after)]
    flags = flags[: len(known) + 1]
    writer = Bits()
    writer.unsigned(2)
    made_up.write_set(writer, known)
    writer.raw("1").bits(shift < 0, 1).unsigned(abs(shift) - 1).raw("".join(flags))
    found = read_sequence_parameters(sequence_unit(set_bits=str(writer))).short_term_sets

    kept = [flag != "00" for flag in flags]
    used = [flag == "1" for flag in flags]
    expected = []
    for sign, mirrored, straight in ((-1, after, before), (1, before, after)):
        mirrored_at = 0 if sign > 0 else len(before)
        straight_at = len(before) - mirrored_at
        for place in reversed(range(len(mirrored))):
            difference = mirrored[place] + shift
            if difference * sign > 0 and kept[mirrored_at + place]:
                expected.append((difference, used[mirrored_at + place]))
        if shift * sign > 0 and kept[len(known)]:
            expected.append((shift, used[len(known)]))
        for place, source in enumerate(straight):
            difference = source + shift
            if difference * sign > 0 and kept[straight_at + place]:
                expected.append((difference, used[straight_at + place]))
    assert found == (tuple(known), tuple(expected))


def test_long_term_references_are_found_by_low_bits_and_by_cycles():
    """The first picture stays for long; counts turn over at 16."""
    sets = [sequence_unit(long_term=()), picture_unit(sizes=(2, 1))]
    pictures = [[slice_unit(IDR, 0, slice_type=I)]]
    for poc in range(1, 40):
        near = [(-1, True)] if poc > 1 else []
        far = Bits().unsigned(1).bits(0, 4).bits(1, 1)
        far.raw("0") if poc < 16 else far.raw("1").unsigned(poc // 16)
        pictures.append([slice_unit(TRAIL, poc % 16, near, str(far), weights="1")])
    found = read(sets, pictures)
    assert [picture.order for picture in found] == list(range(40))
    assert [numbers(picture) for picture in found[1:3]] == [[0], [1, 0]]
    assert all(numbers(picture) == [picture.number - 1, 0] for picture in found[2:])
    assert all(picture.kept == {0, picture.number - 1, picture.number} for picture in found[1:])


def test_long_term_references_can_be_chosen_from_the_sequence_and_need_not_be_used():
    """Picture 4 keeps 0 by the list of the sequence, and 1 by its own; their cycles are counted apart."""
    sets = [sequence_unit(long_term=((3, True), (0, False), (0, True))), picture_unit()]
    pictures = [[slice_unit(IDR, 0, slice_type=I)]]
    for poc in (1, 2, 3):
        none = str(Bits().unsigned(0).unsigned(0))
        near = [(-1 - n, n == 0) for n in range(poc)]
        pictures.append([slice_unit(TRAIL, poc, near, none)])
    far = Bits().unsigned(1).unsigned(1).bits(1, 2).raw("1").unsigned(0)  # candidate 1: 0, unused
    far.bits(1, 4).bits(1, 1).raw("1").unsigned(0)
    pictures.append([slice_unit(TRAIL, 4, [(-1, True), (-2, False)], str(far))])
    found = read(sets, pictures)
    assert numbers(found[4]) == [3] and found[4].kept == {0, 1, 2, 3, 4}
    pictures[4] = [slice_unit(TRAIL, 4, (), str(far))]
    found = read(sets, pictures)
    assert numbers(found[4]) == [1] and found[4].kept == {0, 1, 4}


def test_lists_are_ordered_by_side_and_can_be_changed():
    """Of picture 5: 4 2 0 come before it, 6 8 after it. Decoded are 0 8 4 2 6."""
    differences = [(-1, True), (-3, True), (-5, True), (1, True), (3, True)]
    sets = [sequence_unit(poc_bits=5), picture_unit(sizes=(2, 1), changes_lists=True)]
    begin = [[slice_unit(IDR, 0, slice_type=I)]]
    alive = [0]
    for poc in (8, 4, 2, 6):
        near = sorted(((other - poc, True) for other in alive), key=lambda pair: abs(pair[0]))
        lists = "00" if len(near) > 1 else "0"
        begin.append([slice_unit(TRAIL, poc, near, poc_bits=5, lists=lists, weights="1")])
        alive.append(poc)
    number = {0: 0, 8: 1, 4: 2, 2: 3, 6: 4}

    def uses(slice_type: int, lists: str) -> list[int]:
        own = {"slice_type": slice_type, "lists": lists, "weights": "11"}
        unit = slice_unit(TRAIL, 5, differences, poc_bits=5, **own)
        return numbers(read(sets, [*begin, [unit]])[-1])

    assert uses(P, "00") == [number[4], number[2]]
    assert uses(B, "000") == [number[4], number[2], number[6]]
    assert uses(B, "1" + sizes_bits(5, 4) + "00") == [number[poc] for poc in (4, 2, 0, 6, 8)]
    assert uses(P, "01" + "011" + "000") == [number[6], number[4]]
    assert uses(B, "1" + sizes_bits(1, 2) + "01" + "010" + "001") == [number[4], number[8]]
    with pytest.raises(BitstreamError, match="names reference 5 of 5"):
        uses(P, "01" + "101" + "000")


def sizes_bits(*sizes: int) -> str:
    writer = Bits()
    for size in sizes:
        writer.unsigned(size - 1)
    return str(writer)


def weight_bits(denominator: int, *parts: str | int) -> str:
    """pred_weight_table: bits as they are, numbers signed."""
    writer = Bits()
    writer.unsigned(denominator)
    for part in parts:
        if isinstance(part, str):
            writer.raw(part)
        else:
            writer.signed(part)
    return str(writer)


@pytest.mark.parametrize(("fine", "scale"), [(False, 1), (True, 4)])
def test_weights_are_parts_of_one_and_offsets_levels_of_8_bits(fine, scale):
    """10 bit; denominators 64 and 32. An offset of chroma is told less what leaves grey as it is."""
    sequence = sequence_unit(depth=10, profile=4, fine_offsets=fine, usability=USABILITY)
    sets = [sequence, picture_unit(sizes=(2, 1), weights=(True, False))]
    second = slice_unit(TRAIL, 1, [(-1, True)], weights="1" + NO_WEIGHTS_OF_2)
    begin = [[slice_unit(IDR, 0, slice_type=I)], [second]]
    # 48/64 of the nearest one's Y; 40/32 and 24/32 of the other's U and V.
    table = weight_bits(6, -1, "10" + "01", -16, 20 * scale, 8, 0, -8, 30 * scale)
    near = [(-1, True), (-2, True)]
    third = slice_unit(TRAIL, 2, near, weights="1" + table)
    found = read(sets, [*begin, [third]])
    assert found[1].references == (Reference(0),)
    nearest, other = found[2].references
    assert nearest == Reference(1, (0.75, 1, 1), (20, 0, 0))
    assert other == Reference(0, (1, 1.25, 0.75), (0, 128 - 160, 30 + 128 - 96))


def test_without_chroma_a_weight_is_of_luma_alone():
    sets = [sequence_unit(chroma_format=0), picture_unit(weights=(True, False))]
    table = weight_bits(0, "1", 1, -128)
    inter = slice_unit(TRAIL, 1, [(-1, True)], offsets="1", weights=table)
    found = read(sets, [[slice_unit(IDR, 0, slice_type=I)], [inter]])[1]
    assert found.references == (Reference(0, (2, 1, 1), (-128, 0, 0)),)


def test_each_slice_adds_its_references_and_segments_that_depend_on_it_none():
    sets = [sequence_unit(), picture_unit(dependent=True, weights=(True, False))]
    begin = [[slice_unit(IDR, 0, slice_type=I)], [slice_unit(TRAIL, 1, [(-1, True)], weights=NO_WEIGHTS)]]
    near = [(-1, True), (-2, True)]
    table = weight_bits(6, 0, "1" + "0", -32, 7)
    two = "1" + sizes_bits(2)
    picture = [
        slice_unit(TRAIL, 2, near, weights=table),
        slice_unit(TRAIL, 2, at=5, depends="1"),
        slice_unit(TRAIL, 2, near, at=9, depends="0", slice_type=I),
        slice_unit(TRAIL, 2, near, at=14, depends="0", lists=two, weights="1" + NO_WEIGHTS_OF_2),
    ]
    found = read(sets, [*begin, picture])[-1]
    assert found.references == (Reference(1, (0.5, 1, 1), (7, 0, 0)), Reference(1), Reference(0))


def test_an_intra_picture_in_the_midst_has_no_references_and_keeps_some():
    """A CRA picture is a key only at an entry; then pictures that lead it are passed over."""
    sets = [sequence_unit(), picture_unit()]
    pictures = [[slice_unit(IDR, 0, slice_type=I)], [slice_unit(TRAIL, 4, [(-4, True)])]]
    pictures += [[slice_unit(CRA, 8, [(-4, False)], slice_type=I)]]
    pictures += [[slice_unit(LEADING, 6, [(-2, True), (2, True)])]]
    pictures += [[slice_unit(TRAIL, 9, [(-1, True)])]]
    found = read(sets, pictures)
    assert [picture.is_key for picture in found] == [True, False, False, False, False]
    assert [picture.order for picture in found] == [0, 4, 8, 6, 9]
    assert found[2].references == () and found[2].kept == {1, 2}
    assert numbers(found[3]) == [1] and found[4].kept == {2, 4}
    found = read(sets, pictures[2:])
    assert [(picture.number, picture.is_coded, picture.order) for picture in found] == [
        (0, True, 0), (-1, False, None), (1, True, 1),
    ]  # fmt: skip
    assert found[0].is_key and numbers(found[2]) == [0] and found[2].kept == {0, 1}


def test_references_that_did_not_come_are_left_out():
    sets = [sequence_unit(), picture_unit(sizes=(2, 1))]
    pictures = [
        [slice_unit(IDR, 0, slice_type=I)],
        [slice_unit(TRAIL, 3, [(-2, True), (-3, True)], weights="1")],
    ]
    found = read(sets, pictures)[1]
    assert numbers(found) == [0] and found.kept == {0, 1}
    alone = read(sets, pictures[1:])[0]
    assert alone.references == () and alone.kept == {0} and alone.order is None and not alone.is_key


def test_a_packet_without_a_picture_is_still_given_to_the_decoder():
    revealed = RevealedHEVC(b"")
    packet = join_units([sequence_unit(reorder=(3,)), picture_unit()], 0)
    (step,) = revealed.split(packet)
    assert (step.number, step.is_coded, step.is_shown) == (-1, False, False)
    assert step.data == join_units([sequence_unit(), picture_unit()], 0)
    (step,) = revealed.split(join_units([slice_unit(IDR, 0, slice_type=I)], 0))
    assert (step.number, step.is_key) == (0, True)


SETS = [sequence_unit(), picture_unit()]
FIRST = slice_unit(IDR, 0, slice_type=I)
INTER = slice_unit(TRAIL, 1, [(-1, True)])


@pytest.mark.parametrize(
    ("sets", "units", "says"),
    [
        (SETS, [slice_unit(IDR, 0, slice_type=I, number=3)], "picture parameter set 3"),
        (SETS[1:], [FIRST], "sequence parameter set 0"),
        (SETS, [slice_unit(TRAIL, 1, "1")], "short-term reference set 0 of 0"),
        (SETS, [slice_unit(TRAIL, 1, "0" + "1" + "1")], "names none"),
        (SETS, [slice_unit(TRAIL, 1, "0" + str(Bits().unsigned(17)))], "before or after of 17"),
        (SETS, [slice_unit(TRAIL, 1, [(-1, True)], at=3)], "in the midst of a picture"),
        (SETS, [INTER[:3]], "ends early"),
        (SETS, [slice_unit(TRAIL, 1, [(-1, True)], lists="1" + sizes_bits(16))], "size of a reference list"),
        (SETS, [slice_unit(TRAIL, 1, [(-1, True)], slice_type=7)], "slice type of 7"),
        (SETS, [made_up.header(TRAIL) + prevent_emulation(b"\xd0" + bytes(9) + b"\x80")], "Exp-Golomb"),
        (SETS, [SETS[0][:20]], "ends early"),
        (SETS, [sequence_unit(size=(0, 16))], "0 x 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(sets, units, says):
    revealed = RevealedHEVC(join_units(sets, 0))
    if sets == SETS:
        revealed.split(join_units([FIRST], 0))
    with pytest.raises(BitstreamError, match=says):
        revealed.split(join_units(units, 0))
    if sets == SETS:  # and the next packet may be tried
        (picture,) = revealed.split(join_units([INTER], 0))
        assert numbers(picture) == [0] and picture.number == 1


def test_headers_that_end_early_are_refused():
    record = bytearray(23)
    record[0], record[21], record[22] = 1, 3, 1
    unit = SETS[0]
    whole = bytes(record) + bytes([33, 0, 1]) + len(unit).to_bytes(2, "big") + unit
    assert RevealedHEVC(whole).extradata == whole  # it has no reordering already
    for end in range(23, len(whole)):
        with pytest.raises(BitstreamError, match="ends early"):
            RevealedHEVC(whole[:end])
    with pytest.raises(BitstreamError, match="has no units"):
        RevealedHEVC(whole[:22])
    with pytest.raises(BitstreamError, match="cut short"):
        RevealedHEVC(whole).split((100).to_bytes(4, "big") + FIRST)
