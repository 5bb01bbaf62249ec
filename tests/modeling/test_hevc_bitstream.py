"""Revealed HEVC: every picture comes out behind its packet with the pixels of a plain decode, and the headers
say rightly which pictures it is predicted from, which stay, and with which weights."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip

from onevision_hf.modeling.bitstream import split_annex_b, split_length_prefixed
from onevision_hf.modeling.coded_picture import CodedPicture
from onevision_hf.modeling.hevc_bitstream import RevealedHEVC
from onevision_hf.modeling.parameter_sets import parse_hevc_extradata

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
    "temporal layers": (".mkv", {"bframes": 4, "x265": PYRAMID + ":temporal-layers=3"}),
    "sets in packets": (".mkv", {"bframes": 3, "x265": "repeat-headers=1"}),
    "buffer model": (".mkv", {"pix_fmt": "yuv444p", "x265": "hrd=1:vbv-bufsize=500:vbv-maxrate=500:aud=1"}),
    "intra": (".mp4", {"bframes": 0, "gop": 1}),
    "refresh": (".mp4", {"bframes": 0, "gop": 8, "x265": "intra-refresh=1"}),
}  # fmt: skip


@dataclass(frozen=True)
class Stream:
    extradata: bytes
    packets: tuple[bytes, ...]
    times: tuple[int, ...]  # of display

    @property
    def length_size(self) -> int:
        return parse_hevc_extradata(self.extradata)[1]

    def units(self, packet: bytes) -> list[bytes]:
        return split_units(packet, self.length_size)


def split_units(packet: bytes, length_size: int) -> list[bytes]:
    return list(split_length_prefixed(packet, length_size)) if length_size else split_annex_b(packet)


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


def pixels(frame: av.VideoFrame) -> bytes:
    """Of all planes, without the padding of their rows."""
    depth = 1 if frame.format.components[0].bits == 8 else 2
    return b"".join(
        np.frombuffer(plane, np.uint8)
        .reshape(plane.height, plane.line_size)[:, : plane.width * depth]
        .tobytes()
        for plane in frame.planes
    )


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
