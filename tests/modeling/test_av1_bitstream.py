"""AV1 streams of which a decoder hands out every picture: pixels, times and references of real streams."""

import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.av1_bitstream import RevealedAV1
from onevision_hf.modeling.av1_headers import (
    FRAME,
    FRAME_HEADER,
    REDUNDANT_FRAME_HEADER,
    SEQUENCE_HEADER,
    TEMPORAL_DELIMITER,
    TILE_GROUP,
    parse_sequence_header,
    split_obus,
)
from onevision_hf.modeling.bitstream import BitWriter
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture
from onevision_hf.modeling.video_demuxer import padded_packet

# SVT-AV1: what is encoded, and with what; `size` is height and width.
SVT = {
    "preset 8": {"options": {"preset": "8", "crf": "36"}},
    "preset 10": {"options": {"preset": "10", "crf": "45"}},
    "preset 12": {"options": {"preset": "12"}},
    "low delay": {"options": {"svtav1-params": "pred-struct=1"}},
    "10 bit": {"pix_fmt": "yuv420p10le"},
    "odd sizes": {"size": (67, 101)},
    "film grain": {"options": {"svtav1-params": "film-grain=20"}},
    "overlays": {"gop": 200, "options": {"preset": "10", "svtav1-params": "enable-overlays=1:lookahead=40"}},
    "open GOP": {"options": {"svtav1-params": "irefresh-type=1"}},
    "deep": {"gop": 200, "options": {"preset": "10", "svtav1-params": "hierarchical-levels=5"}},
}
# Other encoders: options of the ffmpeg that the package imageio-ffmpeg carries.
AOM = "-c:v libaom-av1 -cpu-used 8 -crf 40 -lag-in-frames 19 -g 16 "
OTHERS = {
    "libaom": AOM,
    "libaom, frame numbers": AOM + "-aom-params error-resilient=1",
    "libaom, decoder model": AOM + "-aom-params timing-info=model",
    "libaom, tile groups": AOM + "-tiles 2x2 -aom-params num-tile-groups=2 -s 256x192",
    "libaom, other sizes": AOM + "-aom-params resize-mode=2",
    "libaom, 4:4:4 12 bit": AOM + "-pix_fmt yuv444p12le",
    "libaom, low delay": "-c:v libaom-av1 -cpu-used 8 -usage realtime -crf 40 -g 16",
    "rav1e": "-c:v librav1e -speed 10 -qp 140 -g 16",
}


class Stream(NamedTuple):
    extradata: bytes
    packets: list[bytes]


class Decoded(NamedTuple):
    """A step, and the pixels that the decoder handed out behind it."""

    step: CodedPicture
    pixels: list[bytes]


def read_stream(path: Path) -> Stream:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        extradata = video.codec_context.extradata or b""
        return Stream(extradata, [bytes(packet) for packet in container.demux(video) if packet.size])


class Decoder:
    """dav1d as painting opens it. Of damaged data it gives no picture."""

    def __init__(self, extradata: bytes, threads: int = 1):
        self.context = av.CodecContext.create("libdav1d", "r")
        self.context.extradata = extradata or None
        self.context.thread_type, self.context.thread_count = "SLICE", threads
        self.context.options = {"filmgrain": "0", "max_frame_delay": "1"}

    def __call__(self, data: bytes) -> list[bytes]:
        try:
            return [pixels_of(frame) for frame in self.context.decode(padded_packet(data))]
        except av.FFmpegError:
            return []


def pixels_of(frame: av.VideoFrame) -> bytes:
    """Without the padding of lines, which is not defined."""
    size = (frame.format.components[0].bits + 7) // 8
    planes = [(plane, np.frombuffer(memoryview(plane), np.uint8)) for plane in frame.planes]
    return b"".join(
        values.reshape(plane.height, -1)[:, : plane.width * size].tobytes() for plane, values in planes
    )


def plain_decode(stream: Stream) -> list[bytes]:
    decode = Decoder(stream.extradata)
    return [picture for packet in stream.packets for picture in decode(packet)]


def split_stream(stream: Stream) -> list[CodedPicture]:
    revealed = RevealedAV1(stream.extradata)
    return [step for packet in stream.packets for step in revealed.split(packet)]


def revealed_decode(
    stream: Stream, steps: list[CodedPicture] | None = None, threads: int = 1
) -> list[Decoded]:
    decode = Decoder(RevealedAV1(stream.extradata).extradata, threads)
    return [
        Decoded(step, decode(step.data) + (decode(step.reveal) if step.reveal else []))
        for step in steps or split_stream(stream)
    ]


def shown_pixels(decoded: list[Decoded]) -> list[bytes]:
    return [picture for step, pixels in decoded if step.is_shown for picture in pixels]


def frame_numbers(steps: list[CodedPicture]) -> list[int | None]:
    """At which frame, counted from 0, each step's picture is by its `order`; None where that is unknown."""
    numbers: list[int | None] = []
    num_shown = first = 0
    for step in steps:
        if step.is_key:
            first = num_shown
        numbers.append(None if step.order is None else first + step.order)
        num_shown += step.is_shown
    return numbers


def encode(folder: Path, name: str, suffix: str = ".mkv", length: int = 40) -> Stream:
    settings = {"gop": 16, "size": (64, 96), "options": {}} | SVT[name]
    frames = moving_scene(length, *settings.pop("size"), seed=3)
    settings["options"] = {"preset": "10"} | settings["options"]
    return read_stream(write_clip(folder / f"{name}{suffix}", frames, codec="libsvtav1", **settings))


def encode_otherwise(folder: Path, name: str, length: int = 28) -> Stream:
    program = pytest.importorskip(
        "imageio_ffmpeg", reason="libaom and rav1e: PyAV has none, pip install imageio-ffmpeg"
    )
    frames = moving_scene(length, 64, 96, seed=3)
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64", "-r", "25", "-i", "-"]
    path = folder / f"{name}.mkv"
    command = [program.get_ffmpeg_exe(), "-v", "error", *given, "-pix_fmt", "yuv420p", "-threads", "1"]
    subprocess.run([*command, *OTHERS[name].split(), str(path)], input=frames.tobytes(), check=True)
    return read_stream(path)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("av1"), {}

    def get(name: str) -> Stream:
        if name not in made:
            made[name] = encode(folder, name) if name in SVT else encode_otherwise(folder, name)
        return made[name]

    return get


@pytest.fixture(params=[*SVT, *OTHERS])
def stream(request, streams) -> Stream:
    return streams(request.param)


def check_pictures(stream: Stream, threads: int = 1) -> None:
    """Each picture comes out right behind its data, and what is shown is what a plain decode shows."""
    decoded = revealed_decode(stream, threads=threads)
    assert [len(pixels) for _, pixels in decoded] == [
        1 if step.is_shown or step.reveal else 0 for step, _ in decoded
    ]
    assert shown_pixels(decoded) == plain_decode(stream)
    coded = {step.number: pixels for step, pixels in decoded if step.is_coded}
    assert list(coded) == list(range(len(coded)))
    for step, pixels in decoded:
        assert step.is_coded or pixels == (coded[step.number] or pixels)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_picture_comes_out_right_behind_its_data_and_no_pixel_changes(stream, threads):
    check_pictures(stream, threads)


def check_times(stream: Stream) -> None:
    steps = split_stream(stream)
    numbers = frame_numbers(steps)
    shown = [number for step, number in zip(steps, numbers, strict=True) if step.is_shown]
    assert shown == list(range(len(shown)))
    promised = {step.number: at for step, at in zip(steps, numbers, strict=True) if step.is_coded}
    for step, at in zip(steps, numbers, strict=True):
        if not step.is_coded and not step.is_key:
            assert promised[step.number] == at


def test_a_hidden_picture_tells_at_which_frame_it_will_be_shown(stream):
    check_times(stream)


def check_references(stream: Stream) -> None:
    kept: frozenset[int] = frozenset()
    for step in split_stream(stream):
        assert step.references is not None and step.kept is not None
        numbers = [reference.number for reference in step.references]
        assert len(numbers) == len(set(numbers)) and set(numbers) <= kept
        assert step.kept <= kept | {step.number}
        if step.is_key:
            assert not numbers and step.kept == {step.number} and step.order == 0
        kept = step.kept


def test_references_are_pictures_that_were_kept(stream):
    check_references(stream)


def test_what_nobody_refers_to_can_be_left_out(stream):
    whole = revealed_decode(stream)
    needed = {number for step, _ in whole for number in step.kept}
    steps = [step for step, _ in whole if step.number in needed]
    kept = [decoded for decoded in whole if decoded.step.number in needed]
    assert revealed_decode(stream, steps) == kept


def test_pyramids_have_hidden_pictures_and_low_delay_has_none(streams):
    def count(name: str) -> int:
        return sum(bool(step.reveal) for step in split_stream(streams(name)))

    assert min(count("preset 8"), count("10 bit"), count("deep")) >= 12
    assert count("low delay") == 0


def test_other_encoders_write_what_svt_does_not(streams):
    """Otherwise the tests above would not show that it is read."""

    def sequence_and_steps(name: str):
        stream = streams(name)
        first = next(obu for obu in split_obus(stream.packets[0]) if obu.kind == SEQUENCE_HEADER)
        return parse_sequence_header(first.header), split_stream(stream)

    sequence, steps = sequence_and_steps("libaom, frame numbers")
    assert sequence.frame_id_bits and any(len(step.reveal) > 3 for step in steps)
    sequence, steps = sequence_and_steps("libaom, decoder model")
    assert sequence.has_decoder_model and any(step.reveal for step in steps)
    kinds = [obu.kind for packet in streams("libaom, tile groups").packets for obu in split_obus(packet)]
    assert TILE_GROUP in kinds
    assert len({len(pixels) for pixels in plain_decode(streams("libaom, other sizes"))}) > 1


def bare(steps: list[CodedPicture]) -> list[CodedPicture]:
    """Without the data, which has temporal delimiters in some containers."""
    return [replace(step, data=b"") for step in steps]


@pytest.mark.parametrize("suffix", [".webm", ".mp4", ".ivf", ".obu"])
def test_containers_give_the_same_steps(tmp_path, streams, suffix):
    stream = encode(tmp_path, "preset 10", suffix)
    assert bare(split_stream(stream)) == bare(split_stream(streams("preset 10")))
    assert shown_pixels(revealed_decode(stream)) == plain_decode(streams("preset 10"))


def test_sequence_headers_are_found_in_band(streams):
    stream = streams("preset 10")
    assert split_stream(Stream(b"", stream.packets)) == split_stream(stream)


def test_extradata_may_be_units_without_a_record(streams):
    stream = streams("preset 10")
    first = RevealedAV1(stream.extradata[4:])
    assert first.extradata == stream.extradata[4:]
    assert first.split(stream.packets[0]) == RevealedAV1(stream.extradata).split(stream.packets[0])


def test_a_new_sequence_header_in_band_takes_over(streams):
    first, second = streams("preset 10"), streams("odd sizes")
    packets = [*first.packets, *second.packets]
    assert any(obu.kind == SEQUENCE_HEADER for obu in split_obus(second.packets[0]))
    check_pictures(Stream(first.extradata, packets))


def test_a_sequence_header_in_a_packet_of_its_own_goes_before_the_next_picture(streams):
    first, second = streams("preset 10"), streams("odd sizes")
    units = list(split_obus(second.packets[0]))
    header = b"".join(obu.data for obu in units if obu.kind == SEQUENCE_HEADER)
    rest = b"".join(obu.data for obu in units if obu.kind != SEQUENCE_HEADER)
    check_pictures(Stream(first.extradata, [*first.packets, header, rest, *second.packets[1:]]))


def without_last_size(packet: bytes) -> bytes:
    *units, last = split_obus(packet)
    start = len(last.data) - _payload_length(last.data)
    return b"".join(obu.data for obu in units) + bytes([last.data[0] & ~2]) + last.data[start:]


def _payload_length(data: bytes) -> int:
    size = shift = 0
    for byte in data[2 if data[0] & 4 else 1 :]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return size


def test_the_last_unit_needs_no_size(streams):
    stream = streams("preset 10")
    shorter = [without_last_size(packet) for packet in stream.packets]
    assert all(len(a) < len(b) for a, b in zip(shorter, stream.packets, strict=True))
    assert split_stream(Stream(stream.extradata, shorter)) == split_stream(stream)


def unit(kind: int, payload: bytes) -> bytes:
    return bytes([kind << 3 | 2]) + _leb128(len(payload)) + payload


def _leb128(size: int) -> bytes:
    return bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])  # longer than need be, as is allowed


def payload(data: bytes) -> bytes:
    return data[len(data) - _payload_length(data) :]


def test_units_that_are_no_pictures_change_nothing(streams):
    """Temporal delimiters, metadata, padding, and units of reserved kinds, between any two others."""
    stream = streams("preset 10")
    others = unit(5, b"\x01\x03\xe8\x01\x90\x80") + unit(15, bytes(9)) + unit(9, b"\x80")
    packets = [
        unit(TEMPORAL_DELIMITER, b"") + others + b"".join(obu.data + others for obu in split_obus(packet))
        for packet in stream.packets
    ]
    assert bare(split_stream(Stream(stream.extradata, packets))) == bare(split_stream(stream))
    assert shown_pixels(revealed_decode(Stream(stream.extradata, packets))) == plain_decode(stream)


def with_layers(data: bytes, layers: int) -> bytes:
    """A unit with an extension header."""
    return bytes([data[0] | 4, layers]) + data[1:]


def with_operating_point(sequence: bytes, layers: int) -> bytes:
    """A sequence header unit without timing info: the first operating point follows after 12 bits."""
    bits = "".join(format(byte, "08b") for byte in payload(sequence))
    assert bits[3:12] == "000000000", "neither reduced, nor timed, nor with several points"
    return unit(SEQUENCE_HEADER, BitWriter().raw(bits[:12] + format(layers, "012b") + bits[24:]).to_bytes())


def layered(stream: Stream, layer_of, operating_point: int) -> Stream:
    """The stream with extension headers at all pictures."""
    packets = []
    for rank, packet in enumerate(stream.packets):
        units = [
            with_operating_point(obu.data, operating_point)
            if obu.kind == SEQUENCE_HEADER
            else with_layers(obu.data, layer_of(rank))
            for obu in split_obus(packet)
        ]
        packets.append(b"".join(units))
    return Stream(b"", packets)


def test_pictures_have_extension_headers_where_there_are_layers_in_time(streams):
    stream = streams("preset 10")
    extended = layered(stream, lambda rank: 0, operating_point=0x101)
    assert bare(split_stream(extended)) == bare(split_stream(stream))
    check_pictures(extended)


def test_pictures_outside_the_operating_point_are_no_steps(streams):
    """The last picture has a layer in time of its own, which the first operating point leaves out."""
    stream = streams("low delay")
    last = len(stream.packets) - 1
    extended = layered(stream, lambda rank: 0x20 if rank == last else 0, operating_point=0x101)
    assert bare(split_stream(extended)) == bare(split_stream(stream))[:-1]
    check_pictures(extended)


def test_spatial_layers_are_refused(streams):
    extended = layered(streams("preset 10"), lambda rank: 0, operating_point=0x301)
    with pytest.raises(BitstreamError, match="spatial layers"):
        RevealedAV1().split(extended.packets[0])


def cut_frame(before: list[bytes], packet: bytes) -> tuple[bytes, bytes, bytes]:
    """(units before the picture, frame header, tiles) of a packet with one OBU_FRAME.

    Where the header ends is found by cutting it where it still decodes to the same.
    """

    def decode(data: bytes) -> list[bytes]:
        decoder = Decoder(b"")
        return [decoder(part) for part in [*before, data]][-1]

    *others, frame = split_obus(packet)
    start = b"".join(obu.data for obu in others)
    whole, expected = payload(frame.data), decode(packet)
    for length in range(3, 80):
        header, tiles = whole[:length], whole[length:]
        if decode(start + unit(FRAME_HEADER, header + b"\x80") + unit(TILE_GROUP, tiles)) == expected != []:
            return start, header, tiles
    raise AssertionError("no place to cut the frame header was found")


def test_a_picture_may_be_a_frame_header_and_tile_groups(streams):
    """With a redundant header and padding between them, which belong to the picture too."""
    stream = streams("low delay")
    packets = list(stream.packets)
    for rank in (0, 3):
        start, header, tiles = cut_frame(packets[:rank], packets[rank])
        packets[rank] = start + unit(FRAME_HEADER, header + b"\x80") + unit(15, bytes(3))
        packets[rank] += unit(REDUNDANT_FRAME_HEADER, header + b"\x80") + unit(TILE_GROUP, tiles)
    cut = Stream(stream.extradata, packets)
    assert bare(split_stream(cut)) == bare(split_stream(stream))
    check_pictures(cut)


def hidden_key_stream(stream: Stream, rank: int) -> Stream:
    """The shown key picture of packet `rank` is hidden in slot 7, and shown by a header of its own."""
    start, header, tiles = cut_frame([], stream.packets[rank])
    bits = "".join(format(byte, "08b") for byte in header)
    assert bits[:4] == "0001", "a key frame that is shown"
    sequence = parse_sequence_header(next(split_obus(start)).header)
    before_refreshes = 4 + 3 + int(bits[5]) + sequence.order_hint_bits
    hidden = "0000" + "10" + bits[4:before_refreshes] + "10000000" + bits[before_refreshes:]
    coded = unit(FRAME_HEADER, BitWriter().raw(hidden + "1").to_bytes()) + unit(TILE_GROUP, tiles)
    shows = unit(FRAME_HEADER, BitWriter().bits(0b1111, 4).bits(1, 1).to_bytes())
    packets = [*stream.packets[:rank], start + coded + shows, *stream.packets[rank + 1 :]]
    return Stream(stream.extradata, packets)


def test_a_hidden_key_picture_is_not_revealed_and_opens_the_stream_anew_when_it_is_shown(streams):
    stream = streams("low delay")
    second = [rank for rank, step in enumerate(split_stream(stream)) if step.is_key][1]
    hidden = hidden_key_stream(stream, second)
    steps = split_stream(hidden)
    coded, shows = steps[second : second + 2]
    assert not coded.is_shown and not coded.is_key and coded.reveal == b""
    assert coded.kept is not None and coded.kept > {coded.number}
    assert (shows.is_coded, shows.is_shown, shows.is_key) == (False, True, True)
    assert (shows.number, shows.order, shows.kept) == (coded.number, 0, {coded.number})
    assert plain_decode(hidden) == plain_decode(stream)
    check_pictures(hidden)
    check_times(hidden)
    check_references(hidden)


def test_pictures_that_may_not_be_shown_are_revealed_all_the_same(streams):
    """The decoder does not insist on showable_frame."""
    stream = streams("preset 10")
    packets = []
    for packet in stream.packets:
        units = []
        for obu in split_obus(packet):
            start = len(obu.data) - _payload_length(obu.data)
            is_hidden = obu.kind == FRAME and not obu.data[start] & 0x90 and obu.data[start] & 0x08
            flipped = bytes([obu.data[start] & ~0x08]) if is_hidden else b""
            units.append(obu.data[:start] + flipped + obu.data[start + len(flipped) :])
        packets.append(b"".join(units))
    changed = Stream(stream.extradata, packets)
    assert changed.packets != stream.packets
    assert bare(split_stream(changed)) == bare(split_stream(stream))
    for (_, pixels), (_, expected) in zip(revealed_decode(changed), revealed_decode(stream), strict=True):
        assert pixels == expected


def test_a_packet_that_cannot_be_read_leaves_no_trace(streams):
    stream = streams("preset 10")
    revealed = RevealedAV1(stream.extradata)
    steps = []
    for packet in stream.packets:
        for damaged in (packet[: len(packet) - 1], packet + b"\x92", packet + unit(FRAME, b"")):
            with pytest.raises(BitstreamError, match="AV1 packet"):
                revealed.split(damaged)
        steps += revealed.split(packet)
    assert steps == split_stream(stream)


def test_a_stream_is_entered_at_any_key_picture(streams):
    stream = streams("preset 10")
    revealed = RevealedAV1(stream.extradata)
    whole = [revealed.split(packet) for packet in stream.packets]
    second = [rank for rank, steps in enumerate(whole) if steps[0].is_key][1]
    revealed.enter()
    again = [step for packet in stream.packets[second:] for step in revealed.split(packet)]
    expected = [step for steps in whole[second:] for step in steps]
    assert [step.data for step in again] == [step.data for step in expected]
    assert [step.order for step in again] == [step.order for step in expected]
    assert again[0].number == 1 + max(step.number for steps in whole for step in steps), "numbers go on"
    first = again[0].number - expected[0].number
    assert [{n - first for n in step.kept} for step in again] == [step.kept for step in expected]
    revealed.enter()
    with pytest.raises(BitstreamError, match="holds no picture"):
        revealed.split(stream.packets[second + 1])


@given(data=st.data())
def test_damaged_packets_are_read_or_refused(streams, data):
    stream = streams("preset 10")
    revealed = RevealedAV1(stream.extradata)
    given = taken = 0
    for packet in stream.packets[: data.draw(st.integers(1, 6))]:
        damaged = bytearray(packet)
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.integers(0, min(len(damaged), 64) - 1))
            damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        if data.draw(st.booleans()):
            del damaged[data.draw(st.integers(0, len(damaged))) :]
        given += len(damaged) + 8  # a last unit without a size gets one
        with suppress(BitstreamError):
            taken += sum(len(step.data) for step in revealed.split(bytes(damaged)))
        assert taken <= given


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_any_bytes_are_read_or_refused(extradata, packets):
    with suppress(BitstreamError):
        revealed = RevealedAV1(extradata)
        for packet in packets:
            revealed.split(packet)
