"""AV1 streams of which a decoder hands out every picture: pixels, times and references of real streams."""

from contextlib import suppress
from dataclasses import replace

import pytest
from av1_streams import (
    OTHERS,
    SVT,
    Stream,
    draw_damage,
    encode,
    hidden_key_stream,
    payload,
    payload_length,
    plain_decode,
    revealed_decode,
    shown_pixels,
    split_stream,
    stream_of,
    unit,
    with_separate_headers,
)
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.av1_bitstream import RevealedAV1
from onevision_hf.modeling.av1_headers import (
    FRAME,
    SEQUENCE_HEADER,
    TEMPORAL_DELIMITER,
    TILE_GROUP,
    parse_sequence_header,
    split_obus,
)
from onevision_hf.modeling.bitstream import BitWriter
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture


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


@pytest.fixture(scope="module")
def streams():
    return stream_of


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
    start = len(last.data) - payload_length(last.data)
    return b"".join(obu.data for obu in units) + bytes([last.data[0] & ~2]) + last.data[start:]


def test_the_last_unit_needs_no_size(streams):
    stream = streams("preset 10")
    shorter = [without_last_size(packet) for packet in stream.packets]
    assert all(len(a) < len(b) for a, b in zip(shorter, stream.packets, strict=True))
    assert split_stream(Stream(stream.extradata, shorter)) == split_stream(stream)


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


def test_a_picture_may_be_a_frame_header_and_tile_groups(streams):
    """With a redundant header and padding between them, which belong to the picture too."""
    stream = streams("low delay")
    cut = with_separate_headers(stream)
    assert cut != stream
    assert bare(split_stream(cut)) == bare(split_stream(stream))
    check_pictures(cut)


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
            start = len(obu.data) - payload_length(obu.data)
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
        damaged = draw_damage(data, packet)
        given += len(damaged) + 8  # a last unit without a size gets one
        with suppress(BitstreamError):
            taken += sum(len(step.data) for step in revealed.split(damaged))
        assert taken <= given


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_any_bytes_are_read_or_refused(extradata, packets):
    with suppress(BitstreamError):
        revealed = RevealedAV1(extradata)
        for packet in packets:
            revealed.split(packet)
