"""VVC's headers, written bit by bit here, are read as they were meant: order counts, references, weights."""

from pathlib import Path

import av
import pytest
from hevc_units import Bits
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.bitstream import join_units
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture, Reference
from onevision_hf.modeling.vvc_bitstream import PICTURE_HEADER, PPS, SPS, RevealedVVC
from onevision_hf.modeling.vvc_sequence import reveal_sequence

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vvc"
TRAIL, IDR = 0, 8
B, P, I = 0, 1, 2  # types of slices


def numbers_bits(*numbers: int) -> str:
    writer = Bits()
    for number in numbers:
        writer.unsigned(number)
    return str(writer)


# All tools are on that headers depend on.
TABLE = str(Bits().signed(2)) + numbers_bits(0, 3, 4)
BLOCK_TOOLS = (
    numbers_bits(0) + "1" + numbers_bits(1, 2, 0, 0) + "1" + numbers_bits(0, 0) + numbers_bits(1, 0) + "1"
    + "1" + numbers_bits(0) + "1" + "1" + "01" + "1" + "1" + "0" + 3 * TABLE + "1" + "1" + "1" + "1"
)  # fmt: skip
MOTION_TOOLS = (
    "0" + "10" + "1" + "11" + "0" + "11" + "11" + numbers_bits(0) + "0" + "1" + numbers_bits(0) + "11" + "11"
    + "00" + "1" + numbers_bits(0, 0) + "010" + "111" + "0" + numbers_bits(0) + "1" + numbers_bits(1)
    + "1" + "01" + str(Bits().signed(-3)) + 2 * (str(Bits().signed(1)) + numbers_bits(4)) + "1" + "0" + "11"
    + "10"
)  # fmt: skip
# Two subpictures of one block of 64 each, which depend on others, with numbers of three bits.
SUBPICTURES = "1" + numbers_bits(1) + "00" + "0" + "10" + "1" + "11" + numbers_bits(2) + "11" + "001" + "010"


def sequence_unit(
    *,
    reorder: list[int],
    sub_layers: int = 1,
    constraints: int | None = None,
    levels: int = 0,
    profiles: int = 0,
    size: tuple[int, int] = (96, 64),
    window: bool = False,
    subpictures: str = "0",
    poc_bits: int = 8,
    cycle_bits: int = 0,
    extra: str = "00",
    told: bool = True,
    weights: str = "00",
    long_term: bool = False,
    lists: str = "11",
) -> bytes:
    """A sequence parameter set of number 2.

    Args:
        reorder: for each sub-layer, or for all.
        sub_layers: how many there are.
        constraints: additional bits of general_constraints_info; None: it is not there.
        levels: how many sub-layers tell their level.
        profiles: number of sub-profiles.
        size: width and height.
        window: whether it has one of conformance.
        subpictures: bits, their flag first.
        poc_bits: low bits of picture order counts.
        cycle_bits: higher ones that pictures may tell.
        extra: bits that tell of reserved bits in picture headers.
        told: whether profile, buffers and reordering are.
        weights: whether P and B slices may have some.
        long_term: whether there are long-term references.
        lists: of references: numbers of first and second ones, and these.
    """
    writer = Bits()
    writer.bits(2, 4).bits(0, 4).bits(sub_layers - 1, 3).bits(1, 2).bits(1, 2).bits(told, 1)
    writer.bits(1, 7).bits(0, 1).bits(51, 8).raw("00").bits(constraints is not None, 1)
    if constraints is not None:
        writer.raw("10" * 35 + "1").bits(constraints, 8).raw("1" * constraints)
    writer.raw("0" * (-len(str(writer)) % 8))
    writer.raw("1" * levels + "0" * (sub_layers - 1 - levels))
    writer.raw("0" * (-len(str(writer)) % 8) + "01010101" * levels).bits(profiles, 8)
    writer.raw("01" * 16 * profiles + "0" + "11").unsigned(size[0]).unsigned(size[1]).bits(window, 1)
    for edge in (0, 3, 1, 2) if window else ():
        writer.unsigned(edge)
    writer.raw(subpictures).unsigned(2).raw("01").bits(poc_bits - 4, 4).bits(cycle_bits > 0, 1)
    if cycle_bits:
        writer.unsigned(cycle_bits - 1)
    writer.raw(extra + "01" + "10000000")
    if sub_layers > 1:
        writer.bits(len(reorder) > 1, 1)
    for pictures in reorder:
        writer.unsigned(7).unsigned(pictures).unsigned(0)
    writer.raw(BLOCK_TOOLS + weights).bits(long_term, 1).raw("0" + "0" + lists + MOTION_TOOLS)
    return writer.raw("0" + "0" + "0").nal_unit(bytes([0, SPS << 3 | 1]))


def picture_unit(
    *,
    is_whole: bool = True,
    output: bool = False,
    sizes: tuple[int, int] = (1, 1),
    second_index: bool = False,
    weights: str = "00",
    extension: bool = False,
) -> bytes:
    """A picture parameter set of number 5, of sequence 2.

    Args:
        is_whole: whether pictures are one tile and slice.
        output: whether pictures tell that they are not for display.
        sizes: of the reference lists.
        second_index: whether the second list is chosen apart from the first.
        weights: whether P and B slices have some.
        extension: whether picture headers have one.
    """
    writer = Bits()
    writer.bits(5, 6).bits(2, 4).raw("0").unsigned(96).unsigned(64).raw("1" + numbers_bits(0, 1, 0, 1) + "0")
    writer.bits(output, 1).bits(is_whole, 1).raw("0" + "1").unsigned(sizes[0] - 1).unsigned(sizes[1] - 1)
    writer.bits(second_index, 1).raw(weights + "1" + numbers_bits(7)).signed(-4)
    writer.raw("1" + "1").signed(1, -1).raw("1").signed(2).raw("0" + "1" + numbers_bits(1)).signed(*range(6))
    writer.raw("1" + "0" + "0").signed(*range(-3, 3)).bits(extension, 1)
    return writer.raw("0" + "0").nal_unit(bytes([0, PPS << 3 | 1]))


def header_bits(
    flags: str,
    lsb: int,
    cycles: str = "",
    *,
    reserved: str = "",
    output: str = "",
    extension: str = "",
) -> str:
    """picture_header_structure.

    Args:
        flags: its first: random access, not referred to, (gradual refresh,) inter slices, (intra slices).
        lsb: low bits of the picture order count.
        cycles: bits of the higher ones.
        reserved: bits.
        output: bit that says whether it is for display.
        extension: bits.
    """
    writer = Bits()
    writer.raw(flags).unsigned(5).bits(lsb, 8).raw(reserved + cycles)
    writer.raw("1" + "01" + "0" + "1" + "000" + "1" + numbers_bits(1, 4, 0) + output + "1")
    is_inter, allows_intra = flags[-2 if flags[0] == "0" or len(flags) > 4 else -1] == "1", flags[-1] == "1"
    if not is_inter or allows_intra:
        writer.raw(numbers_bits(0, 0) + numbers_bits(0, 1, 2, 3) + numbers_bits(0, 0))
    if is_inter:
        writer.raw(numbers_bits(1, 0) + numbers_bits(0, 1) + "1" + "0" * 5)
    return str(writer.raw("1" + extension))


def slice_unit(kind: int, header: str, slice_type: int = P, lists: str = "", behind: str = "") -> bytes:
    """A slice behind its picture header, or of one that stands alone ("").

    Args:
        kind: of the NAL unit.
        header: bits of the picture header.
        slice_type: `B`, `P` or `I`; only where the header allows inter slices.
        lists: bits of the references.
        behind: bits from the sizes of lists on.
    """
    writer = Bits()
    writer.raw("1" + header if header else "0").raw("1")  # and a reserved bit
    if kind != IDR:
        writer.raw(numbers_bits(slice_type))
    writer.raw("0" if 7 <= kind <= 10 else "").raw("1" + "001" + "010" + "10" + "011" + "1" + "100" + "0")
    writer.raw(("" if header else "11") + lists + behind)
    return writer.bits(0xAB, 64).nal_unit(bytes([0, kind << 3 | 1]))


def entries_bits(*differences: int, weighted: bool = False) -> str:
    """ref_pic_list_struct of short-term references, by differences to the current picture."""
    writer, last = Bits(), 0
    writer.unsigned(len(differences))
    for place, difference in enumerate(differences):
        step, last = difference - last, difference
        writer.unsigned(abs(step) - (0 if weighted and place else 1))
        writer.raw("" if step == 0 else "1" if step < 0 else "0")
    return str(writer)


def read(sets: list[bytes], packets: list[list[bytes]]) -> list[CodedPicture]:
    revealed = RevealedVVC(join_units(sets, 0))
    return [revealed.split(join_units(units, 0))[0] for units in packets]


def numbers(picture: CodedPicture) -> list[int]:
    return [reference.number for reference in picture.references]


FIRST = slice_unit(IDR, header_bits("1000", 0))


@given(data=st.data())
def test_a_parameter_set_becomes_the_one_that_was_written_without_reordering(data):
    layers = data.draw(st.integers(1, 7))
    count = layers if data.draw(st.booleans()) else 1
    others = {
        "sub_layers": layers,
        "constraints": data.draw(st.none() | st.integers(0, 20)),
        "levels": data.draw(st.integers(0, layers - 1)),
        "profiles": data.draw(st.integers(0, 2)),
        "size": (128, 64),
        "window": data.draw(st.booleans()),
        "subpictures": data.draw(st.sampled_from(["0", SUBPICTURES])),
        "poc_bits": data.draw(st.integers(4, 16)),
        "cycle_bits": data.draw(st.integers(0, 8)),
        "extra": data.draw(st.sampled_from(["00", "01" + "01100001"])),
    }
    reorder = data.draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))
    sequence, revealed = reveal_sequence(sequence_unit(reorder=reorder, **others))
    assert revealed == sequence_unit(reorder=[0] * count, **others)
    assert (sequence.number, sequence.poc_lsb_bits) == (2, others["poc_bits"])
    assert sequence.cycle_bits == others["cycle_bits"]
    assert sequence.extra_picture_bits == (3 if len(others["extra"]) > 2 else 0)


def test_higher_bits_of_the_order_count_can_be_told():
    """Behind reserved bits."""
    sets = [sequence_unit(reorder=[2], cycle_bits=3, extra="01" + "11000000"), picture_unit()]
    headers = [header_bits("1000", 5, "1" + "010", reserved="10")]
    headers += [
        header_bits("0011", 7, "0", reserved="01"),
        header_bits("0010", 6, "1" + "011", reserved="00"),
    ]
    lists = ["", entries_bits(-2) * 2, entries_bits(-257) * 2]
    packets = [
        [slice_unit(kind, header, lists=chosen)]
        for kind, header, chosen in zip((IDR, TRAIL, TRAIL), headers, lists, strict=True)
    ]
    found = read(sets, packets)
    assert [one.order for one in found] == [0, 2, 257]
    assert [numbers(one) for one in found] == [[], [0], [0]]
    assert [one.kept for one in found] == [{0}, {0, 1}, {0, 2}]


def test_lists_are_of_the_sequence_or_of_the_picture():
    """Two first lists and one second; pictures choose both, or the second follows the first."""
    known = numbers_bits(2) + entries_bits(-1) + entries_bits(-2, -1) + numbers_bits(2) + entries_bits(-1)
    known += entries_bits(-3, -1)
    pictures = [[FIRST]]
    pictures += [[slice_unit(TRAIL, header_bits("0011", 1), lists="10" + "0" + entries_bits(-1))]]
    pictures += [[slice_unit(TRAIL, header_bits("0011", 2), lists="11" + "10", behind="001")]]
    last = header_bits("0011", 3)

    def uses(slice_type: int, lists: str, behind: str, second_index: bool = True) -> list[int]:
        sets = [
            sequence_unit(reorder=[2], lists=known),
            picture_unit(second_index=second_index, sizes=(2, 1)),
        ]
        begin = pictures if second_index else [[FIRST]]
        return numbers(read(sets, [*begin, [slice_unit(TRAIL, last, slice_type, lists, behind)]])[-1])

    # Behind the lists: whether sizes are told, a flag of CABAC, the co-located picture.
    assert uses(P, "11" + "10", "0" + "0" + "1") == [1, 2]
    assert uses(B, "11" + "11", "0" + "0" + "1" + "1") == [1, 2, 0]
    assert uses(B, "11" + "11", "1" + numbers_bits(0, 1) + "0" + "0" + "1") == [1, 0, 2]
    assert uses(B, "0" + entries_bits(-3, -2) + "0" + entries_bits(-1), "0" + "0" + "11") == [0, 1, 2]
    assert uses(B, "11", "0" + "0" + "0", second_index=False) == [0]
    with pytest.raises(BitstreamError, match="names none"):
        uses(P, "0" + entries_bits() + "10", "")


def test_long_term_references_and_weights():
    """Low bits of the count are told with the list or behind it, cycles of 256 with the picture."""
    known = numbers_bits(1) + numbers_bits(1) + "0" + "0" + "00000000" + numbers_bits(0)
    sets = [sequence_unit(reorder=[0], weights="10", long_term=True, lists=known)]
    sets.append(picture_unit(weights="10", sizes=(2, 1), output=True, extension=True))
    extension = numbers_bits(2) + "01" * 8
    own = {"extension": extension, "output": "1"}
    # Weights of halves of Y and quarters of U and V, of the first entry.
    table = numbers_bits(1) + str(Bits().signed(1)) + "1" + "1" + str(Bits().signed(-1, 9, 2, 0, -1, 5))
    none = numbers_bits(0) + str(Bits().signed(0)) + "00"
    pictures = [[FIRST_OF_ALL]]
    # One entry of the sequence's list: picture 0 by low bits. The second list is empty.
    header = header_bits("0011", 100, **own)
    pictures.append([slice_unit(TRAIL, header, lists="1" + "0" + numbers_bits(0), behind="0" + table)])
    # Two entries of its own: a short-term one, and picture 0 by low bits; then with a cycle.
    for poc, cycles in ((200, "0"), (300, "1" + numbers_bits(1))):
        two = "0" + numbers_bits(2) + "1" + numbers_bits(99) + "1" + "0" + "00000000" + cycles
        header = header_bits("0011", poc % 256, **own)
        two += numbers_bits(0)
        pictures.append([slice_unit(TRAIL, header, lists=two, behind="0" + "0" + "1" + none + "00")])
    hidden = header_bits("0011", 301 - 256, extension=extension, output="0")
    one = "0" + numbers_bits(1) + "1" + numbers_bits(0) + "1" + numbers_bits(0)
    pictures.append([slice_unit(TRAIL, hidden, lists=one, behind="0" + none)])
    found = read(sets, pictures)
    assert [picture.order for picture in found] == [0, 100, 200, 300, 301]
    assert found[1].references == (Reference(0, (0.5, 1.5, 0.75), (9, 128 - 192, 5 + 128 - 96)),)
    assert [numbers(picture) for picture in found[2:]] == [[1, 0], [2, 0], [3]]
    assert [picture.kept for picture in found[1:]] == [{0, 1}, {0, 1, 2}, {0, 2, 3}, {3, 4}]
    assert [picture.is_shown for picture in found] == [True, True, True, True, False]


FIRST_OF_ALL = slice_unit(IDR, header_bits("1000", 0, extension=numbers_bits(0), output="1"))


def test_of_pictures_of_several_slices_only_the_order_is_read():
    """Their header stands alone."""
    sets = [sequence_unit(reorder=[2]), picture_unit(is_whole=False)]
    header = Bits()
    header.raw(header_bits("0011", 3))
    unit = header.nal_unit(bytes([0, PICTURE_HEADER << 3 | 1]))
    slices = [slice_unit(TRAIL, "")] * 2
    found = read(sets, [[FIRST], [unit, *slices]])
    assert [(one.order, one.is_key) for one in found] == [(0, True), (3, False)]
    assert (found[0].references, found[0].kept) == ((), {0})
    assert (found[1].references, found[1].kept) == (None, None)
    whole = read(
        [sets[0], picture_unit()], [[FIRST], [unit, slice_unit(TRAIL, "", lists=2 * entries_bits(-3))]]
    )
    assert numbers(whole[1]) == [0]
    with pytest.raises(BitstreamError, match="slices without a picture header"):
        read(sets, [slices])


def test_what_cannot_be_read_is_named():
    sets, picture = [sequence_unit(reorder=[2]), picture_unit()], [FIRST]

    def says(message: str, extradata: bytes, units: list[bytes] | None = None) -> None:
        with pytest.raises(BitstreamError, match=message):
            revealed = RevealedVVC(extradata)
            revealed.split(join_units(units or [], 0))

    says("picture parameter set 5", b"", picture)
    says("sequence parameter set 2", join_units(sets[1:], 0), picture)
    says("does not tell", join_units([sequence_unit(reorder=[1], told=False)], 0))
    says("no NAL units", join_units(sets, 0))
    says("no units", b"\x00garbage")
    with av.open(str(FIXTURES / "open_gop.mp4")) as container:
        record = bytes(container.streams.video[0].codec_context.extradata)
    for end in range(1, len(record) - 1):
        says("ends early", record[:end])
    with pytest.raises(BitstreamError, match="cut short"):
        RevealedVVC(record).split((9).to_bytes(4, "big") + bytes(8))
