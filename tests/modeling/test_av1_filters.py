"""AV1 without deblocking and CDEF: what FFmpeg reads of headers before and after, and what dav1d decodes."""

import re
from dataclasses import replace
from random import Random

import pytest
from av1_streams import (
    OTHERS,
    SVT,
    UNUSUAL,
    Stream,
    draw_damage,
    hidden_key_stream,
    payload,
    revealed_decode,
    split_stream,
    stream_of,
    unit,
    with_separate_headers,
)
from hypothesis import given
from hypothesis import strategies as st
from traced_headers import Field, traced_fields

from onevision_hf.modeling.av1_bitstream import RevealedAV1
from onevision_hf.modeling.av1_headers import (
    FRAME,
    FRAME_HEADER,
    SEQUENCE_HEADER,
    TEMPORAL_DELIMITER,
    split_obus,
)
from onevision_hf.modeling.bitstream import BitWriter
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture

ENCODER = "libsvtav1"
KEY, INTER, INTRA_ONLY, SWITCH = range(4)
MADE = {
    "separate headers": lambda: with_separate_headers(stream_of("low delay")),
    "hidden key picture": lambda: hidden_key_stream(stream_of("low delay"), 16),
}


def is_off_field(name: str) -> bool:
    return name in ("loop_filter_level[0]", "loop_filter_level[1]") or bool(
        re.match(r"cdef_\w+_strength\[", name)
    )


def is_free_field(name: str) -> bool:
    """What means nothing while the filters are off, and the size."""
    free = r"obu_size|loop_filter_level\[[23]\]|loop_filter_delta_\w+|update_(ref|mode)_delta\[.*"
    return bool(re.fullmatch(free + r"|loop_filter_(ref|mode)_deltas\[.*", name))


def check_off(before: list[Field], after: list[Field]) -> None:
    kept = [field for field in before if not is_free_field(field.name)]
    assert [(name, value) for name, value, _ in after if not is_free_field(name)] == [
        (name, 0 if is_off_field(name) else value) for name, value, _ in kept
    ]


def split_bare(stream: Stream) -> list[CodedPicture]:
    revealed = RevealedAV1(stream.extradata, loop_filter=False)
    return [step for packet in stream.packets for step in revealed.split(packet)]


@pytest.fixture(params=[*SVT, *UNUSUAL, *OTHERS, *MADE])
def stream(request) -> Stream:
    return MADE[request.param]() if request.param in MADE else stream_of(request.param)


def test_the_filters_are_off_and_nothing_else_is_changed(stream):
    plain, bare = split_stream(stream), split_bare(stream)
    assert [replace(step, data=b"") for step in bare] == [replace(step, data=b"") for step in plain]
    before, after = (traced_fields([step.data for step in steps], ENCODER) for steps in (plain, bare))
    for one, other, old, new in zip(plain, bare, before, after, strict=True):
        assert len(other.data) - len(one.data) in range(-1, 9)
        check_off(old, new)


def test_every_picture_is_decoded_as_before(stream):
    plain, bare = revealed_decode(stream), revealed_decode(stream, split_bare(stream))
    assert [[len(pixels) for pixels in found] for _, found in bare] == [
        [len(pixels) for pixels in found] for _, found in plain
    ]


@pytest.mark.parametrize("name", ["lossless", "no filters"])
def test_headers_without_filters_stay_as_they_are(name):
    stream = stream_of(name)
    assert split_bare(stream) == split_stream(stream)


def test_the_streams_have_what_they_are_named_for():
    def values(name: str) -> set[tuple[str, int]]:
        return {field[:2] for fields in traced_fields(stream_of(name).packets, ENCODER) for field in fields}

    assert {("use_superres", 1), ("loop_filter_level[0]", 3)} <= values("superres")
    assert {("found_ref[0]", 1), ("found_ref[6]", 0)} <= values("other sizes")
    assert {("segmentation_enabled", 1), ("cdef_bits", 1)} <= values("segments")
    assert ("using_qmatrix", 1) in values("quantizer matrices")
    assert ("base_q_idx", 0) in values("lossless") and ("allow_intrabc", 1) in values("block copies")
    assert ("tile_cols_log2", 1) in values("tiles")


def drawn_bits(random: Random, share: float, count: int = 800) -> str:
    return "".join("01"[random.random() < share] for _ in range(count))


def drawn_packets(seed: int, share: float) -> list[bytes]:
    """A sequence header and frame headers that are drawn but for their beginnings.

    Args:
        seed: of all that is drawn.
        share: of ones among the bits.
    """
    random = Random(seed)
    width_bits, size = random.choice([(8, 200), (13, 5000)])
    sequence = BitWriter().bits(random.randrange(3), 3).bits(0, 3 + 1 + 5 + 12).bits(8, 5).bits(0, 1)
    sequence.bits(width_bits - 1, 4).bits(width_bits - 1, 4)
    sequence.bits(size, width_bits).bits(size // 2, width_bits).raw(drawn_bits(random, share, 80))
    drawn = unit(SEQUENCE_HEADER, sequence.to_bytes())
    *_, last = traced_fields([drawn], ENCODER)[0]
    if last.name != "trailing_one_bit":  # what was drawn is not allowed
        return []
    bits = "".join(format(byte, "08b") for byte in drawn)[8 * (len(drawn) - len(payload(drawn))) : last.at]
    packets = [unit(SEQUENCE_HEADER, BitWriter().raw(bits + "1").to_bytes())]
    for kind in [KEY, *random.choices([INTER, INTER, INTRA_ONLY, SWITCH], k=2)]:
        header = BitWriter().bits(0, 1).bits(kind, 2).bits(1, 1).raw(drawn_bits(random, share))
        packets.append(unit(TEMPORAL_DELIMITER, b"") + unit(FRAME_HEADER, header.to_bytes()))
    return packets


def check_drawn(seed: int, share: float) -> int:
    """How many headers FFmpeg read to their end, or to where they break its rules."""
    packets = drawn_packets(seed, share)
    plain, bare = RevealedAV1(), RevealedAV1(loop_filter=False)
    steps: list[list[bytes]] = [[], []]
    for packet in packets:
        try:
            for kept, revealed in zip(steps, (plain, bare), strict=True):
                kept += [step.data for step in revealed.split(packet)]
        except BitstreamError:
            break
    before, after = (traced_fields(packets, ENCODER) for packets in steps)
    num_read = 0
    for old, new in zip(before, after, strict=True):
        names = [field.name for field in old]
        if "reduced_tx_set" not in names:
            break
        check_off(old, new)
        num_read += 1
        if "trailing_one_bit" not in names:
            break
    return num_read


@given(st.integers(0, 1 << 32), st.sampled_from([0.1, 0.3, 0.5]))
def test_drawn_headers_are_read_as_ffmpeg_reads_them(seed, share):
    check_drawn(seed, share)


def split_or_refuse(revealed: RevealedAV1, packet: bytes) -> list[CodedPicture] | str:
    try:
        return [replace(step, data=b"") for step in revealed.split(packet)]
    except BitstreamError as error:
        return str(error)


@given(st.data())
def test_damaged_packets_are_read_or_refused_as_with_filters(data):
    stream = stream_of("other sizes")
    plain, bare = RevealedAV1(stream.extradata), RevealedAV1(stream.extradata, loop_filter=False)
    for packet in stream.packets[: data.draw(st.integers(1, 6))]:
        damaged = draw_damage(data, packet)
        assert split_or_refuse(bare, damaged) == split_or_refuse(plain, damaged)


def test_a_picture_whose_header_ends_early_stays_as_it_is():
    stream = stream_of("preset 10")
    revealed = RevealedAV1(stream.extradata, loop_filter=False)
    plain = RevealedAV1(stream.extradata)
    units = list(split_obus(stream.packets[0]))
    cut = units[-1]._replace(data=unit(FRAME, payload(units[-1].data)[:6]))
    packet = b"".join(obu.data for obu in [*units[:-1], cut])
    assert revealed.split(packet) == plain.split(packet)
    assert revealed.split(stream.packets[1])[0].data != plain.split(stream.packets[1])[0].data
