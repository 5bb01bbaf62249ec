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
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.bitstream import split_annex_b, split_length_prefixed
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture
from onevision_hf.modeling.video_demuxer import padded_packet
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
    frames = [frame for data in packets for frame in context.decode(padded_packet(data))]
    return [frame.to_ndarray() for frame in (*frames, *context.decode(None))]


def decode_each(extradata: bytes, pictures: list[CodedPicture]) -> list[list[np.ndarray]]:
    """The frames that come out right behind each step."""
    context = open_decoder(extradata, low_delay=True)
    packets = [padded_packet(picture.data) for picture in pictures]
    return [[frame.to_ndarray() for frame in context.decode(packet)] for packet in packets]


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


@pytest.mark.parametrize("name", NAMES)
def test_references_are_among_what_stays_and_pictures_that_nobody_names_can_be_left_out(name):
    """What is left decodes to the same pixels: no reference was overlooked."""
    stream = stream_of(name)
    revealed = RevealedVVC(stream.extradata)
    pictures = [picture for packet in stream.packets for picture in revealed.split(packet)]
    alive: frozenset[int] = frozenset()
    for picture in pictures:
        assert {reference.number for reference in picture.references} <= alive
        assert picture.kept - {picture.number} <= (frozenset() if picture.is_key else alive)
        alive = picture.kept
    named = {reference.number for picture in pictures for reference in picture.references}
    every = decode_each(revealed.extradata, pictures)
    needed = [picture for picture in pictures if picture.number in named or picture.is_key]
    found = decode_each(revealed.extradata, needed)
    assert len(needed) == COUNT // 2
    for picture, frames in zip(needed, found, strict=True):
        assert np.array_equal(frames, every[picture.number])


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


@given(extradata=st.binary(max_size=60), packet=st.binary(max_size=60))
def test_garbage_is_read_or_refused(extradata, packet):
    with suppress(BitstreamError):
        RevealedVVC(extradata).split(packet)
