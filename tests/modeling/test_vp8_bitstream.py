"""Revealed VP8: each picture comes out right behind its step with the pixels of a plain decode, and the
headers say rightly what it refers to and what stays."""

from functools import cache

import pytest
from clips import moving_scene
from hypothesis import given
from hypothesis import strategies as st
from vpx_streams import are_equal, decode_plain, decode_revealed, decode_with_noise, encode_packets, steps_of

from onevision_hf.modeling.coded_picture import BitstreamError, Reference
from onevision_hf.modeling.vp8_bitstream import RevealedVP8, slots_after

QUICK = {"deadline": "realtime", "cpu-used": "8", "b": "100k"}
LAYERS = (
    "ts_number_layers=3:ts_target_bitrate=40,80,200:ts_rate_decimator=4,2,1:ts_periodicity=4"
    ":ts_layer_id=0,2,1,2:ts_layering_mode=3"
)
# Name -> options, (frames, height, width).
STREAMS: dict[str, tuple[dict[str, str], tuple[int, int, int]]] = {
    "realtime": (QUICK, (30, 64, 96)),
    "good": ({"deadline": "good", "cpu-used": "4", "b": "100k", "auto-alt-ref": "1"}, (30, 64, 96)),
    "partitions": (QUICK | {"slices": "4", "error-resilient": "partitions"}, (12, 64, 96)),
    "error resilient": (QUICK | {"error-resilient": "default"}, (12, 51, 77)),
    "temporal layers": (QUICK | {"ts-parameters": LAYERS}, (20, 64, 96)),
    "noise": (QUICK | {"noise-sensitivity": "4", "b": "30k"}, (30, 64, 96)),
}


@cache
def packets_of(name: str) -> list[bytes]:
    options, shape = STREAMS[name]
    return encode_packets("libvpx", moving_scene(*shape, seed=1), options)


def hidden(packet: bytes) -> bytes:
    """The same picture, not to be shown. libvpx hides pictures in its second pass only."""
    return bytes([packet[0] & ~16]) + packet[1:]


def numbers(references: tuple[Reference, ...] | None) -> set[int]:
    return {reference.number for reference in references or ()}


@pytest.mark.parametrize("name", STREAMS)
def test_every_picture_comes_out_behind_its_step_with_the_pixels_of_a_plain_decode(name):
    """Every third is hidden."""
    packets = packets_of(name)
    steps = steps_of(RevealedVP8(), [p if k % 3 else hidden(p) for k, p in enumerate(packets)])
    assert [step.is_shown for step in steps] == [bool(k % 3) for k in range(len(packets))]
    pictures = [decoded.planes for decoded in decode_revealed("vp8", steps)]
    assert all(map(are_equal, pictures, decode_plain("vp8", packets)))
    assert len(pictures) == len(packets)


def test_what_is_shown_equals_the_plain_decode_with_hidden_pictures():
    packets = [p if k % 3 else hidden(p) for k, p in enumerate(packets_of("realtime"))]
    decoded = decode_revealed("vp8", steps_of(RevealedVP8(), packets))
    shown = [picture.planes for picture in decoded if picture.step.is_shown]
    plain = decode_plain("vp8", packets)
    assert len(shown) == len(plain) == 20 and all(map(are_equal, shown, plain))


@pytest.mark.parametrize("name", STREAMS)
def test_a_picture_uses_nothing_but_its_references(name):
    """Noise in all other pictures changes no pixel."""
    packets = packets_of(name)
    noisy = decode_with_noise("vp8", steps_of(RevealedVP8(), packets))
    assert all(map(are_equal, noisy, decode_plain("vp8", packets)))


@pytest.mark.parametrize("name", STREAMS)
def test_references_are_what_was_kept(name):
    kept: frozenset[int] = frozenset()
    for place, step in enumerate(steps_of(RevealedVP8(), packets_of(name))):
        assert (step.number, step.is_key, step.is_coded, step.order) == (place, place == 0, True, None)
        assert numbers(step.references) == kept and len(step.kept) <= 3
        kept = step.kept


def test_the_streams_refer_to_several_pictures_and_drop_some_at_once():
    steps = {name: steps_of(RevealedVP8(), packets_of(name)) for name in STREAMS}
    assert max(len(step.references) for step in steps["good"]) >= 2
    assert any(step.number not in step.kept for step in steps["temporal layers"])


class BoolEncoder:
    """Section 7.3: the opposite of the decoder, for bits of even odds."""

    def __init__(self) -> None:
        self.low, self.range, self.shifts = 0, 255, 0

    def flag(self, bit: int) -> None:
        split = 1 + (self.range - 1 >> 1)
        self.low += split if bit else 0
        self.range = self.range - split if bit else split
        while self.range < 128:
            self.range <<= 1
            self.low <<= 1
            self.shifts += 1

    def bits(self, value: int, count: int) -> None:
        for k in reversed(range(count)):
            self.flag(value >> k & 1)

    def to_bytes(self) -> bytes:
        """8 bits of `low` lie above the shifts."""
        size = -(-(self.shifts + 8) // 8)
        return (self.low << 8 * size - self.shifts - 8).to_bytes(size, "big")


@st.composite
def headers(draw) -> tuple[bytes, tuple[int, int, int]]:
    """The first partition of an inter picture, number 9, and what it leaves of the slots (1, 2, 3)."""
    encoder = BoolEncoder()

    def flag() -> int:
        bit = draw(st.integers(0, 1))
        encoder.flag(bit)
        return bit

    def number(count: int) -> int:
        value = draw(st.integers(0, (1 << count) - 1))
        encoder.bits(value, count)
        return value

    def optional(count: int) -> None:
        if flag():
            number(count)

    if flag():  # segmentation_enabled
        update_map, update_data = flag(), flag()
        if update_data:
            flag()
            for count in [7] * 4 + [6] * 4:
                optional(count + 1)
        if update_map:
            for _ in range(3):
                optional(8)
    flag(), number(6), number(3)
    if flag() and flag():  # loop_filter_adj_enable, mode_ref_lf_delta_update
        for _ in range(8):
            optional(7)
    number(2), number(7)
    for _ in range(5):
        optional(5)
    refresh_golden, refresh_alternate = flag(), flag()
    copy_golden = 0 if refresh_golden else number(2)
    copy_alternate = 0 if refresh_alternate else number(2)
    flag(), flag(), flag()
    refresh_last = flag()
    golden = 9 if refresh_golden else {0: 2, 1: 1, 2: 3, 3: 2}[copy_golden]
    alternate = 9 if refresh_alternate else {0: 3, 1: 1, 2: 2, 3: 3}[copy_alternate]
    return encoder.to_bytes(), (9 if refresh_last else 1, golden, alternate)


@given(headers())
def test_slots_after_any_header(header):
    partition, expected = header
    assert slots_after(partition, (1, 2, 3), 9) == expected


def test_an_entry_forgets_all_pictures():
    key, inter, *_ = packets_of("realtime")
    stream = RevealedVP8(b"header")
    steps_of(stream, [key, inter])
    stream.enter()
    assert stream.split(inter)[0].references == ()
    [first] = stream.split(key)
    assert first.kept == {first.number} == {3} and stream.extradata == b"header"


def test_a_packet_without_a_byte_is_no_picture():
    assert RevealedVP8().split(b"") == []


@pytest.mark.parametrize(
    "packet, message",
    [
        (b"\x11\x00", "a VP8 picture of 2 bytes ends within its header"),
        (b"\x31\x00\x00", "a VP8 picture of 3 bytes says that its first partition has 1"),
        (b"\x91\x00\x00abc", "says that its first partition has 4"),
        (b"\x11\x00\x00abc", "says that its first partition has 0"),
        (b"\x30\x00\x00\x9d\x01\x2bwwhhp", "no start code"),
        (b"\x30\x00\x00\x9d\x01\x2awwhh", "says that its first partition has 1"),
    ],
)
def test_damage_is_named_and_changes_nothing(packet, message):
    stream = RevealedVP8()
    key, inter, *_ = packets_of("realtime")
    stream.split(key)
    with pytest.raises(BitstreamError, match=message):
        stream.split(packet)
    assert stream.split(inter)[0].number == 1


@given(st.data())
def test_any_bytes_are_read_or_refused(data):
    """Random, and those of a stream with bytes changed and the end cut off."""
    good = data.draw(st.sampled_from(packets_of("good")[:8]))
    place = data.draw(st.integers(0, len(good) - 1) | st.integers(0, 12))
    changed = good[:place] + data.draw(st.binary(min_size=1, max_size=3)) + good[place + 1 :]
    packet = data.draw(st.one_of(st.binary(max_size=64), st.just(changed), st.just(good[:place])))
    stream = RevealedVP8()
    try:
        steps = stream.split(packet)
    except BitstreamError:
        return
    assert [step.data[1:] for step in steps] == ([packet[1:]] if packet else [])
    assert all(step.kept <= {0} for step in steps)
