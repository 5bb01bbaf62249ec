"""Revealed HEVC: every picture comes out behind its packet with the pixels of a plain decode, and the headers
say rightly which pictures it is predicted from, which stay, and with which weights."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import av
import hevc_units as made_up
import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.bitstream import join_units, split_annex_b, split_length_prefixed
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture
from onevision_hf.modeling.hevc_bitstream import RevealedHEVC
from onevision_hf.modeling.hevc_sequence import read_sequence_parameters, without_reordering
from onevision_hf.modeling.parameter_sets import HEVC_PPS, HEVC_SPS, parse_hevc_extradata

COUNT = 20
PYRAMID = "b-pyramid=1:b-adapt=0"
# Name -> suffix, and what `write_clip` is called with.
STREAMS: dict[str, tuple[str, dict]] = {
    "no B": (".mp4", {"bframes": 0, "x265": "ref=4"}),
    "B": (".mp4", {"bframes": 3}),
    "pyramid": (".mkv", {"bframes": 4, "x265": PYRAMID + ":ref=4"}),
    "start codes": (".ts", {"bframes": 4, "x265": PYRAMID}),
    "open GOP": (".mp4", {"bframes": 3, "x265": "open-gop=1"}),
    "leading pictures of IDR": (".mp4", {"bframes": 3, "x265": "open-gop=0:radl=2"}),
    "10 bit": (".mkv", {"bframes": 3, "pix_fmt": "yuv420p10le"}),
    "12 bit": (".mkv", {"bframes": 3, "pix_fmt": "yuv420p12le"}),
    "4:2:2": (".mkv", {"bframes": 3, "pix_fmt": "yuv422p"}),
    "4:4:4, 10 bit, odd size": (".mkv", {"bframes": 3, "pix_fmt": "yuv444p10le", "size": (61, 87)}),
    "grey": (".mkv", {"bframes": 3, "pix_fmt": "gray"}),
    "window": (".mp4", {"bframes": 3, "size": (90, 122)}),
    "weights": (".mp4", {"bframes": 0, "x265": "weightp=1", "fade": True}),
    "weights of B": (".mp4", {"bframes": 3, "x265": "weightp=1:weightb=1", "fade": True}),
    "weights, 10 bit": (".mkv", {"bframes": 0, "x265": "weightp=1", "fade": True, "pix_fmt": "yuv420p10le"}),
    "temporal layers": (".mkv", {"bframes": 4, "x265": PYRAMID + ":temporal-layers=3"}),
    "sets in packets": (".mkv", {"bframes": 3, "x265": "repeat-headers=1"}),
    "buffer model": (".mkv", {"pix_fmt": "yuv444p", "x265": "hrd=1:vbv-bufsize=500:vbv-maxrate=500:aud=1"}),
    "intra": (".mp4", {"bframes": 0, "gop": 1}),
    "refresh": (".mp4", {"bframes": 0, "gop": 8, "x265": "intra-refresh=1"}),
}  # fmt: skip
FADES = [name for name in STREAMS if "weights" in name]


@dataclass(frozen=True)
class Stream:
    extradata: bytes
    packets: tuple[bytes, ...]
    times: tuple[int, ...]  # of display

    def units(self, packet: bytes) -> list[bytes]:
        size = parse_hevc_extradata(self.extradata)[1]
        return list(split_length_prefixed(packet, size)) if size else split_annex_b(packet)


def kind_of(unit: bytes) -> int:
    return unit[0] >> 1 & 63


def kinds(stream: Stream, packet: bytes) -> list[int]:
    return list(map(kind_of, stream.units(packet)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name of a stream -> the stream, encoded once."""
    folder = tmp_path_factory.mktemp("hevc")

    @cache
    def make(name: str) -> Stream:
        suffix, settings = STREAMS[name]
        settings = dict(settings)
        scene = moving_scene(COUNT, *settings.pop("size", (64, 96)), seed=3)
        if settings.pop("fade", False):
            scene = (scene * np.linspace(1, 0.3, COUNT)[:, None, None, None]).astype(np.uint8)
        params = ":".join(filter(None, ["ctu=16:min-cu-size=8", settings.pop("x265", "")]))
        settings["options"] = {"preset": "fast", "crf": "28", "x265-params": params}
        path = folder / f"{name.replace('/', '')}{suffix}"
        return read_stream(write_clip(path, scene, codec="libx265", **{"gop": 10} | settings))

    return make


def read_stream(path: Path) -> Stream:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        return Stream(
            bytes(stream.codec_context.extradata or b""),
            tuple(bytes(packet) for packet in packets),
            tuple(packet.pts for packet in packets),
        )


def open_decoder(extradata: bytes) -> av.VideoCodecContext:
    context = av.CodecContext.create("hevc", "r")
    context.thread_type, context.thread_count = "SLICE", 1
    if extradata:
        context.extradata = extradata
    context.open()
    return context


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Without the padding of their rows."""
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def pixels(frame: av.VideoFrame) -> bytes:
    return b"".join(plane.tobytes() for plane in planes(frame))


def decode_plainly(stream: Stream) -> list[bytes]:
    """In the order of display."""
    context = open_decoder(stream.extradata)
    frames = [frame for data in stream.packets for frame in context.decode(av.Packet(data))]
    return [pixels(frame) for frame in (*frames, *context.decode(None))]


def reveal(stream: Stream) -> list[CodedPicture]:
    revealed = RevealedHEVC(stream.extradata)
    return [picture for packet in stream.packets for picture in revealed.split(packet)]


def decode_each(extradata: bytes, pictures: list[CodedPicture]) -> list[list[bytes]]:
    """The frames that come out right behind each step."""
    context = open_decoder(extradata)
    return [[pixels(frame) for frame in context.decode(av.Packet(picture.data))] for picture in pictures]


def in_order_of_display(pictures: list[CodedPicture]) -> list[int]:
    """Places of the pictures, by key pictures and orders alone; leading ones come before a key."""
    periods = np.cumsum([picture.is_key for picture in pictures])
    return sorted(range(len(pictures)), key=lambda place: (periods[place], pictures[place].order))


@pytest.mark.parametrize("name", STREAMS)
def test_each_picture_comes_out_behind_its_packet_with_the_pixels_of_a_plain_decode(name, made):
    stream = made(name)
    pictures, expected = reveal(stream), decode_plainly(stream)
    found = decode_each(RevealedHEVC(stream.extradata).extradata, pictures)
    assert [len(frames) for frames in found] == [1] * COUNT
    shown = sorted(range(COUNT), key=lambda place: stream.times[place])
    assert [found[place][0] for place in shown] == expected
    assert [picture.number for picture in pictures] == list(range(COUNT))
    assert all(picture.is_coded and picture.is_shown and not picture.reveal for picture in pictures)


@pytest.mark.parametrize("name", STREAMS)
def test_the_order_is_that_of_display(name, made):
    stream = made(name)
    pictures = reveal(stream)
    assert in_order_of_display(pictures) == sorted(range(COUNT), key=lambda place: stream.times[place])
    assert all(picture.order == 0 for picture in pictures if picture.is_key)
    assert pictures[0].is_key


@pytest.mark.parametrize("name", STREAMS)
def test_references_are_among_what_stays_and_pictures_that_nobody_names_can_be_left_out(name, made):
    """What is left decodes to the same pixels: no reference was overlooked."""
    stream = made(name)
    pictures, revealed = reveal(stream), RevealedHEVC(stream.extradata)
    alive: frozenset[int] = frozenset()
    for picture in pictures:
        assert {reference.number for reference in picture.references} <= alive
        assert picture.kept - {picture.number} <= (frozenset() if picture.is_key else alive)
        alive = picture.kept
    named = {reference.number for picture in pictures for reference in picture.references}
    every = decode_each(revealed.extradata, pictures)
    needed = [picture for picture in pictures if picture.number in named or picture.is_key]
    found = decode_each(revealed.extradata, needed)
    assert found == [every[picture.number] for picture in needed]
    if "pyramid" in name:
        assert 0.3 * COUNT < len(needed) < 0.7 * COUNT


@pytest.mark.parametrize("name", FADES)
def test_weights_and_offsets_lead_from_the_means_of_a_reference_to_those_of_the_picture(name, made):
    """In a fade, in levels of 8 bits whatever the depth, of luma and chroma."""
    stream = made(name)
    pictures, context = reveal(stream), open_decoder(RevealedHEVC(stream.extradata).extradata)
    means = []
    for picture in pictures:
        (frame,) = context.decode(av.Packet(picture.data))
        scale = 1 << frame.format.components[0].bits - 8
        means.append(np.array([plane.mean() / scale for plane in planes(frame)]))
    weighted = [0, 0]
    for picture in pictures:
        for reference in picture.references:
            predicted = means[reference.number] * reference.weights + reference.offsets
            if (reference.weights[0], reference.offsets[0]) != (1, 0):
                weighted[0] += 1
                assert abs(predicted - means[picture.number])[0] < 2.5  # of 3.5 to 15 between the pictures
            if (reference.weights[1], reference.offsets[1]) != (1, 0):
                weighted[1] += 1
                assert abs(predicted - means[picture.number])[1:].max() < 1  # a wrong offset is off by 10
    assert weighted[0] >= 15 and weighted[1] >= (0 if "10 bit" in name else 3)


@pytest.mark.parametrize("name", ["open GOP", "start codes"])
@pytest.mark.parametrize("how", ["enter", "a unit that ends the sequence"])
def test_leading_pictures_of_an_entry_are_passed_over_as_by_the_decoder(name, how, made):
    stream = made(name)
    revealed = RevealedHEVC(stream.extradata)
    place = next(n for n, packet in enumerate(stream.packets) if n and 21 in kinds(stream, packet))
    ending = made_up.header(made_up.END)
    size = parse_hevc_extradata(stream.extradata)[1]
    for packet in stream.packets[: place - 1]:
        revealed.split(packet)
    last = stream.packets[place - 1] + (join_units([ending], size) if how != "enter" else b"")
    revealed.split(last)
    if how == "enter":
        revealed.enter()
    rest = replace(stream, packets=stream.packets[place:])
    pictures = [picture for packet in rest.packets for picture in revealed.split(packet)]
    found = decode_each(revealed.extradata, pictures)
    assert [len(frames) for frames in found] == [int(picture.is_coded) for picture in pictures]
    assert pictures[0].is_key and pictures[0].order == 0 and pictures[0].number == place
    passed = [picture for picture in pictures if not picture.is_coded]
    assert passed and not any(picture.is_shown or picture.number >= 0 for picture in passed)
    coded = [picture for picture in pictures if picture.is_coded]
    frames = {picture.order: frame for picture, (frame,) in zip(coded, filter(None, found), strict=True)}
    assert [frames[order] for order in sorted(frames)] == decode_plainly(rest)


def test_a_picture_that_slices_hide_comes_out_too(made):
    """The same stream as before, but a third of its pictures are not for display."""
    stream = made("start codes")
    hidden = [place % 3 == 1 for place in range(COUNT)]

    def change(data: bytes, hides: bool = False) -> bytes:
        units = split_annex_b(data)
        for place, unit in enumerate(units):
            if kind_of(unit) < 32:
                units[place] = made_up.hide_picture(unit, hides)
            elif kind_of(unit) == HEVC_PPS:
                units[place] = made_up.allow_hiding(unit)
        return join_units(units, 0)

    packets = tuple(map(change, stream.packets, hidden))
    changed = Stream(change(stream.extradata), packets, stream.times)
    expected, pictures = decode_plainly(stream), reveal(changed)
    order = np.argsort(stream.times)
    assert decode_plainly(changed) == [
        frame for frame, place in zip(expected, order, strict=True) if not hidden[place]
    ]
    found = decode_each(RevealedHEVC(changed.extradata).extradata, pictures)
    assert [found[place] for place in order] == [[frame] for frame in expected]
    assert [picture.is_shown for picture in pictures] == [not hides for hides in hidden]


@pytest.mark.parametrize("name", STREAMS)
def test_only_the_reordering_of_parameter_sets_changes(name, made):
    stream = made(name)
    revealed = RevealedHEVC(stream.extradata)
    parts = [(stream.extradata, revealed.extradata)]
    parts += [(packet, revealed.split(packet)[0].data) for packet in stream.packets]
    for number, (before, after) in enumerate(parts):
        if not before:
            continue
        old, new = (
            (parse_hevc_extradata(data)[0] if number == 0 else stream.units(data)) for data in (before, after)
        )
        assert [unit for unit in new if kind_of(unit) != HEVC_SPS] == [
            unit for unit in old if kind_of(unit) != HEVC_SPS
        ]
        for one, other in zip(old, new, strict=True):
            if kind_of(one) == HEVC_SPS:
                assert read_sequence_parameters(other) == read_sequence_parameters(one)
                assert without_reordering(other) == other
        if not any(kind_of(unit) == HEVC_SPS for unit in old):
            assert after == before
    if name == "sets in packets":
        assert sum(HEVC_SPS in kinds(stream, packet) for packet in stream.packets) == 2


def test_units_of_other_layers_are_left_as_they_are(made):
    stream = made("start codes")
    packet, (unit, *_) = (
        stream.packets[0],
        [unit for unit in stream.units(stream.packets[0]) if kind_of(unit) == HEVC_SPS],
    )
    other = bytes([unit[0], unit[1] | 8]) + unit[2:]
    assert without_reordering(unit) != unit
    found = RevealedHEVC(stream.extradata).split(packet + join_units([other], 0))[0].data
    assert stream.units(found)[-1] == other and without_reordering(unit) in stream.units(found)


@given(data=st.data())
def test_damaged_streams_are_read_or_refused(data, made):
    """Nothing else happens; what was read refers to pictures that were read."""
    stream = made(data.draw(st.sampled_from(["B", "start codes", "weights of B", "buffer model"])))

    def damage(whole: bytes, reach: int) -> bytes:
        changed = bytearray(whole)
        for _ in range(data.draw(st.integers(0, 4))):
            changed[data.draw(st.integers(0, min(len(whole), reach) - 1))] = data.draw(st.integers(0, 255))
        return bytes(changed[: data.draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))])

    try:
        revealed = RevealedHEVC(
            damage(stream.extradata, 200) if data.draw(st.booleans()) else stream.extradata
        )
    except BitstreamError:
        return
    numbers: set[int] = set()
    for packet in stream.packets[:5]:
        try:
            pictures = revealed.split(damage(packet, 60))
        except BitstreamError:
            continue
        for picture in pictures:
            assert {reference.number for reference in picture.references or ()} <= numbers
            numbers.add(picture.number)


@given(extradata=st.binary(max_size=80), packet=st.binary(max_size=80))
def test_garbage_is_read_or_refused(extradata, packet):
    with suppress(BitstreamError):
        RevealedHEVC(extradata).split(packet)
