"""Revealed VVC: every picture comes out behind its packet with the pixels of a plain decode.

PyAV has no encoder of VVC, so two short streams are kept: 36 frames of `moving_scene(36, 66, 90, seed=3)`,
encoded by an FFmpeg with libvvenc with

    -pix_fmt yuv420p10le -c:v libvvenc -preset faster -qp 40
    -vvenc-params GOPSize=16:IntraPeriod=16:DecodingRefreshType=cra      # idr for start_codes.vvc
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hevc_units import Bits
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf.modeling.bitstream import join_units, split_annex_b, split_length_prefixed
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture
from onevision_hf.modeling.vvc_bitstream import CRA, RASL, SPS, RevealedVVC, reveal_sequence

FIXTURES = Path(__file__).parents[1] / "fixtures" / "vvc"
NAMES = ["open_gop.mp4", "start_codes.vvc"]
COUNT = 36

pytestmark = pytest.mark.skipif("vvc" not in av.codecs_available, reason="this PyAV has no decoder of VVC")


@dataclass(frozen=True)
class Stream:
    extradata: bytes
    packets: tuple[bytes, ...]
    times: tuple[int | None, ...]

    def units(self, place: int) -> list[bytes]:
        packet = self.packets[place]
        return list(split_length_prefixed(packet, 4)) if self.extradata[0] else split_annex_b(packet)


@cache
def stream_of(name: str) -> Stream:
    with av.open(str(FIXTURES / name)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        times = tuple(packet.pts for packet in packets)
        return Stream(bytes(stream.codec_context.extradata), tuple(map(bytes, packets)), times)


def open_decoder(extradata: bytes, low_delay: bool) -> av.VideoCodecContext:
    context = av.CodecContext.create("vvc", "r")
    context.thread_count = 1
    if low_delay:
        context.flags |= av.codec.context.Flags.low_delay
    context.extradata = extradata
    return context


def decode_plainly(extradata: bytes, packets: tuple[bytes, ...]) -> list[np.ndarray]:
    """In the order of display."""
    context = open_decoder(extradata, low_delay=False)
    frames = [frame for data in packets for frame in context.decode(av.Packet(data))]
    return [frame.to_ndarray() for frame in (*frames, *context.decode(None))]


def decode_each(extradata: bytes, pictures: list[CodedPicture]) -> list[list[np.ndarray]]:
    """The frames that come out right behind each step."""
    context = open_decoder(extradata, low_delay=True)
    return [[frame.to_ndarray() for frame in context.decode(av.Packet(picture.data))] for picture in pictures]


def in_order_of_display(pictures: list[CodedPicture]) -> list[int]:
    periods = np.cumsum([picture.is_key for picture in pictures])
    return sorted(range(len(pictures)), key=lambda place: (periods[place], pictures[place].order))


def kind_of(unit: bytes) -> int:
    return unit[1] >> 3


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_comes_out_behind_its_packet_with_the_pixels_of_a_plain_decode(name):
    stream = stream_of(name)
    revealed = RevealedVVC(stream.extradata)
    pictures = [picture for packet in stream.packets for picture in revealed.split(packet)]
    found = decode_each(revealed.extradata, pictures)
    assert [len(frames) for frames in found] == [1] * COUNT
    shown = in_order_of_display(pictures)
    assert all(map(np.array_equal, (found[place][0] for place in shown), plain_frames(name)))
    if stream.times[0] is not None:
        assert shown == sorted(range(COUNT), key=lambda place: stream.times[place])
    assert [picture.number for picture in pictures] == list(range(COUNT))
    keys = [picture for picture in pictures if picture.is_key]
    assert len(keys) == (1 if name == "open_gop.mp4" else 2)
    assert all((key.order, key.references, key.kept) == (0, (), {key.number}) for key in keys)
    assert sum(picture.references == () for picture in pictures) == 2  # intra
    assert all(picture.references is None for picture in pictures if picture.references != ())


@cache
def plain_frames(name: str) -> list[np.ndarray]:
    stream = stream_of(name)
    frames = decode_plainly(stream.extradata, stream.packets)
    assert len(frames) == COUNT
    return frames


def test_leading_pictures_of_an_entry_are_passed_over_as_by_the_decoder():
    stream = stream_of("open_gop.mp4")
    kinds = [{kind_of(unit) for unit in stream.units(place)} for place in range(COUNT)]
    place = next(place for place in range(1, COUNT) if CRA in kinds[place])
    assert any(RASL in kind for kind in kinds[place:])
    revealed = RevealedVVC(stream.extradata)
    for packet in stream.packets[:place]:
        revealed.split(packet)
    revealed.enter()
    pictures = [picture for packet in stream.packets[place:] for picture in revealed.split(packet)]
    found = decode_each(revealed.extradata, pictures)
    assert [len(frames) for frames in found] == [int(picture.is_coded) for picture in pictures]
    assert pictures[0].is_key and (pictures[0].number, pictures[0].order) == (place, 0)
    frames = {
        picture.order: shown for picture, shown in zip(pictures, found, strict=True) if picture.is_coded
    }
    expected = decode_plainly(stream.extradata, stream.packets[place:])
    assert len(frames) == len(expected) < COUNT - place
    assert all(map(np.array_equal, (frames[order][0] for order in sorted(frames)), expected))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_reordering_of_sequence_parameter_sets_changes(name):
    stream = stream_of(name)
    revealed = RevealedVVC(stream.extradata)
    changed = 0
    for place, packet in enumerate(stream.packets):
        before, data = stream.units(place), revealed.split(packet)[0].data
        if any(kind_of(unit) == SPS for unit in before):
            after = Stream(stream.extradata, (data,), ()).units(0)
            for one, other in zip(before, after, strict=True):
                assert one == other or (
                    kind_of(one) == SPS and reveal_sequence(one) == reveal_sequence(other)
                )
            changed += 1
        else:
            assert data == packet
    assert changed == 2
    assert RevealedVVC(revealed.extradata).extradata == revealed.extradata != stream.extradata


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
    return writer.raw("1011000111").nal_unit(bytes([0, SPS << 3 | 1]))


# Two subpictures of two by one blocks of 64, which depend on others, with numbers of three bits.
SUBPICTURES = "1" + str(Bits().unsigned(1)) + "00" + "0" + "10" + "1" + "11" + str(Bits().unsigned(2))
SUBPICTURES += "11" + "001" + "010"


@settings(deadline=None, max_examples=60)
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
    assert sequence.extra_bits == (3 if len(others["extra"]) > 2 else 0)


def test_higher_bits_of_the_order_count_can_be_told():
    """Behind reserved bits; and headers of pictures may stand alone, as those of several slices do."""
    sets = [sequence_unit(reorder=[2], cycle_bits=3, extra="01" + "11000000")]
    sets.append(bytes([0, 16 << 3 | 1, 5 << 2, 2 << 6 | 63]))  # picture parameter set 5 of sequence 2

    def picture(kind: int, flags: str, lsb: int, cycles: str) -> bytes:
        writer = Bits()
        writer.raw(("" if kind == 19 else "1") + flags).unsigned(5).bits(lsb, 8).raw("10" + cycles)
        return writer.nal_unit(bytes([0, kind << 3 | 1]))

    units = [
        picture(8, "1000", 5, "1" + "010"),
        picture(0, "0011", 7, "0"),
        picture(0, "0010", 6, "1" + "011"),
    ]
    revealed = RevealedVVC(join_units(sets, 0))
    found = [revealed.split(join_units([unit], 0))[0] for unit in units]
    assert [one.order for one in found] == [0, 2, 257]
    assert [one.references for one in found] == [(), None, None]


def test_what_cannot_be_read_is_named():
    stream = stream_of("start_codes.vvc")
    picture = stream.units(1)
    sets = [unit for unit in stream.units(0) if kind_of(unit) in (15, 16)]

    def says(message: str, extradata: bytes, units: list[bytes] | None = None) -> None:
        with pytest.raises(BitstreamError, match=message):
            revealed = RevealedVVC(extradata)
            revealed.split(join_units(units or [], 0))

    says("picture parameter set 0", b"", picture)
    says("sequence parameter set 0", join_units(sets[1:], 0), picture)
    says("does not tell", join_units([sequence_unit(reorder=[1], told=False)], 0))
    says("no VVC units", join_units(sets, 0))
    says("no units", b"\x00garbage")
    record = stream_of("open_gop.mp4").extradata
    for end in range(1, len(record) - 1):
        says("ends early", record[:end])
    with pytest.raises(BitstreamError, match="cut short"):
        RevealedVVC(record).split(stream_of("open_gop.mp4").packets[1][:-5])


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_damaged_streams_are_read_or_refused(data):
    stream = stream_of(data.draw(st.sampled_from(NAMES)))

    def damage(whole: bytes) -> bytes:
        changed = bytearray(whole)
        for _ in range(data.draw(st.integers(0, 4))):
            changed[data.draw(st.integers(0, min(len(whole), 150) - 1))] = data.draw(st.integers(0, 255))
        return bytes(changed[: data.draw(st.just(len(changed)) | st.integers(0, len(changed)))])

    extradata = stream.extradata
    if data.draw(st.booleans()):
        extradata = damage(extradata)
    with suppress(BitstreamError):
        revealed = RevealedVVC(extradata)
        for packet in stream.packets[:4]:
            with suppress(BitstreamError):
                assert revealed.split(damage(packet))[0].data


@settings(deadline=None, max_examples=100)
@given(extradata=st.binary(max_size=60), packet=st.binary(max_size=60))
def test_garbage_is_read_or_refused(extradata, packet):
    with suppress(BitstreamError):
        RevealedVVC(extradata).split(packet)
