"""Revealed VP9: each picture comes out right behind its step with the pixels of a plain decode, and the
headers say rightly what it refers to and what stays."""

from dataclasses import replace
from functools import cache

import pytest
from clips import moving_scene
from hypothesis import given
from hypothesis import strategies as st
from traced_headers import traced_fields
from vpx_streams import (
    RESIZED_VP9,
    are_equal,
    decode_plain,
    decode_revealed,
    decode_with_noise,
    encode_packets,
    steps_of,
)

from onevision_hf.modeling.coded_picture import BitstreamError, Reference
from onevision_hf.modeling.vp9_bitstream import (
    FrameHeader,
    RevealedVP9,
    read_header,
    reveal,
    split_superframe,
    without_loop_filter,
)

QUICK = {"deadline": "realtime", "cpu-used": "8", "b": "100k"}
# With a lag and a bit rate libvpx codes future pictures ahead, also in one pass.
HIDDEN = QUICK | {"auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "6"}
LAYERS = (
    "ts_number_layers=3:ts_target_bitrate=40,80,200:ts_rate_decimator=4,2,1:ts_periodicity=4"
    ":ts_layer_id=0,2,1,2:ts_layering_mode=3"
)
# Name -> options, pixel format, (frames, height, width).
STREAMS: dict[str, tuple[dict[str, str], str, tuple[int, int, int]]] = {
    "realtime": (QUICK, "yuv420p", (16, 64, 96)),
    "hidden": (HIDDEN, "yuv420p", (50, 64, 96)),
    "hidden, 4:4:4, odd size": (HIDDEN, "yuv444p", (40, 51, 77)),
    "good": ({"deadline": "good", "cpu-used": "5", "crf": "34", "b": "0"}, "yuv420p", (16, 64, 96)),
    "error resilient": (QUICK | {"error-resilience": "default"}, "yuv420p", (12, 51, 77)),
    "temporal layers": (QUICK | {"ts-parameters": LAYERS}, "yuv420p", (16, 64, 96)),
    "lossless": (QUICK | {"lossless": "1"}, "yuv420p", (6, 64, 96)),
    "4:4:0": (QUICK, "yuv440p", (6, 64, 96)),
    "RGB": (QUICK, "gbrp", (6, 64, 96)),
    "alpha": (QUICK | {"auto-alt-ref": "0"}, "yuva420p", (6, 64, 96)),
}
# A grey-blue keyframe of 16 x 16: profile 2 (10 bit) and profile 3 (10 bit, 4:4:4).
HIGH_PROFILES = {
    2: "92498342000078007b001c120e0c7b00001860000010bfffe051eef2ffbffff7eae8ac224d4ffff4dbbb0c3dfb00",
    3: "b124c1a10000078007b001c120e0c7b000018060000010bfffe051eef2ffbffffeaff71c1d3dc615cbbffffdbb16372ebd87"
    "9d20",
}


NAMES = [*STREAMS, "resized"]


@cache
def packets_of(name: str) -> list[bytes]:
    if name == "resized":
        return RESIZED_VP9
    options, pix_fmt, shape = STREAMS[name]
    return encode_packets("libvpx-vp9", moving_scene(*shape, seed=1), options, pix_fmt)


def join(*frames: bytes, width: int = 2) -> bytes:
    """A superframe."""
    mark = bytes([0xC0 | width - 1 << 3 | len(frames) - 1])
    return b"".join([*frames, mark, *(len(frame).to_bytes(width, "little") for frame in frames), mark])


def hidden(key: bytes) -> bytes:
    """A keyframe of profile 0 to 2 that is not shown."""
    return bytes([key[0] & ~2]) + key[1:]


def numbers(references: tuple[Reference, ...] | None) -> set[int]:
    return {reference.number for reference in references or ()}


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_comes_out_behind_its_step_with_the_pixels_of_a_plain_decode(name):
    packets = packets_of(name)
    decoded = list(decode_revealed("vp9", steps_of(RevealedVP9(), packets)))
    shown = [picture.planes for picture in decoded if picture.step.is_shown]
    plain = decode_plain("vp9", packets)
    assert len(shown) == len(plain) == len(packets)
    assert all(map(are_equal, shown, plain))
    assert any(not picture.step.is_shown for picture in decoded) == name.startswith("hidden")


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_uses_nothing_but_its_references(name):
    """Noise in all other pictures changes no pixel."""
    packets = packets_of(name)
    steps = steps_of(RevealedVP9(), packets)
    noisy = decode_with_noise("vp9", steps)
    shown = [planes for step, planes in zip(steps, noisy, strict=True) if step.is_shown]
    assert all(map(are_equal, shown, decode_plain("vp9", packets)))


@pytest.mark.parametrize("name", NAMES)
def test_references_are_among_what_was_kept(name):
    kept: frozenset[int] = frozenset()
    for place, step in enumerate(steps_of(RevealedVP9(), packets_of(name))):
        assert (step.number, step.is_key, step.order) == (place, place == 0, None)
        assert step.is_key or 1 <= len(numbers(step.references)) <= 3
        assert numbers(step.references) <= kept
        kept = step.kept


def test_a_hidden_keyframe_is_revealed_and_shown_later_from_its_slot():
    """Slot 7 holds it to the end: libvpx uses the first three."""
    key, *others = packets_of("error resilient")
    packets = [join(hidden(key), others[0]), *others[1:], b"\x8f"]
    decoded = list(decode_revealed("vp9", steps_of(RevealedVP9(), packets)))
    first, last = decoded[0], decoded[-1]
    assert first.step.is_key and not first.step.is_shown and first.step.reveal
    assert (last.step.is_coded, last.step.is_shown, last.step.number) == (False, True, first.step.number)
    assert last.step.references is None and first.step.number in last.step.kept
    assert are_equal(first.planes, last.planes)
    shown = [picture.planes for picture in decoded if picture.step.is_shown]
    assert all(map(are_equal, shown, decode_plain("vp9", packets)))


@pytest.mark.parametrize("profile", HIGH_PROFILES)
def test_a_hidden_picture_of_the_high_profiles_is_revealed(profile):
    key = bytes.fromhex(HIGH_PROFILES[profile])
    packet = bytes([key[0] & ~(1 if profile == 3 else 2)]) + key[1:]
    [decoded] = decode_revealed("vp9", RevealedVP9().split(packet))
    assert not decoded.step.is_shown and len(decoded.step.reveal) == (2 if profile == 3 else 1)
    assert are_equal(decoded.planes, decode_plain("vp9", [key])[0])


@pytest.mark.parametrize("profile", range(4))
def test_what_reveals_a_picture_shows_one_of_its_slots(profile):
    assert reveal(FrameHeader(profile, is_shown=False, refreshes=0)) == b""
    for refreshes in range(1, 256):
        frame = reveal(FrameHeader(profile, is_shown=False, refreshes=refreshes))
        header = read_header(frame)
        assert header.profile == profile and refreshes >> header.shows_slot & 1
        assert frame[-1] & 0xE0 != 0xC0, "a decoder looks for an index there"


def traced_levels(packets: list[bytes]) -> list[tuple[int, int]]:
    """(bit at which it begins, level of the loop filter) of each coded picture, as FFmpeg reads it."""
    fields = [field for header in traced_fields(packets, "libvpx-vp9") for field in header]
    return [(field.at, field.value) for field in fields if field.name == "loop_filter_level"]


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_filter_is_turned_off_and_nothing_else_is_changed(name):
    packets = packets_of(name)
    plain, bare = steps_of(RevealedVP9(), packets), steps_of(RevealedVP9(loop_filter=False), packets)
    coded = [(one, other) for one, other in zip(plain, bare, strict=True) if one.is_coded]
    before = traced_levels([one.data for one, _ in coded])
    after = traced_levels([other.data for _, other in coded])
    assert [at for at, _ in before] == [read_header(one.data).level_at for one, _ in coded]
    assert after == [(at, 0) for at, _ in before]
    for (one, other), (at, _) in zip(coded, before, strict=True):
        changed = int.from_bytes(one.data, "big") ^ int.from_bytes(other.data, "big")
        assert changed & ~(0b111111 << 8 * len(one.data) - at - 6) == 0
        assert replace(one, data=b"") == replace(other, data=b"")
    assert any(level for _, level in before) == (name != "lossless")


def intra_only_frame(profile: int, color: str, refreshes: int, resilient: bool) -> bytes:
    low, high = profile & 1, profile >> 1
    bits = f"10{low}{high}{'0' * (profile == 3)}010{resilient:d}1{'' if resilient else '11'}"
    bits += f"{0x498342:024b}{color}{refreshes:08b}{15:016b}{15:016b}0{'' if resilient else '10'}00111111"
    return int(bits.ljust(-(-len(bits) // 8) * 8, "1"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize("resilient", [True, False])
@pytest.mark.parametrize(
    "profile, color", [(0, ""), (1, "0100000"), (1, "1110"), (2, "10010"), (3, "00101110"), (3, "11110")]
)
def test_intra_only_pictures_refer_to_nothing_and_are_no_keyframes(profile, color, resilient):
    stream = RevealedVP9()
    stream.split(packets_of("realtime")[0])
    [step] = stream.split(intra_only_frame(profile, color, 0b00100100, resilient))
    assert (step.is_key, step.is_shown, step.references) == (False, False, ())
    assert step.kept == {0, 1} and read_header(step.reveal).shows_slot == 2
    bare = without_loop_filter(step.data, read_header(step.data))
    level = read_header(step.data).level_at
    assert f"{int.from_bytes(bare, 'big'):0{8 * len(bare)}b}"[level:].rstrip("1") == "000000"
    [unkept] = stream.split(intra_only_frame(profile, color, 0, resilient))
    assert unkept.kept == {0, 1} and unkept.reveal == b""


def test_an_entry_forgets_all_pictures():
    key, inter, *_ = packets_of("realtime")
    stream = RevealedVP9(b"header")
    steps_of(stream, [key, inter])
    stream.enter()
    [shows] = stream.split(b"\x88")
    assert (shows.number, shows.is_coded, shows.kept) == (-1, False, frozenset())
    [first] = stream.split(key)
    assert first.kept == {first.number} == {2} and stream.extradata == b"header"


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_superframe_is_cut_and_frames_without_a_byte_are_left_out(width):
    frames = [b"\x82one", b"", b"\x86three"]
    assert split_superframe(join(*frames, width=width)) == [frames[0], frames[2]]
    assert split_superframe(join(b"", width=width)) == split_superframe(b"") == []


def test_what_ends_like_an_index_by_chance_is_one_frame():
    for packet in (b"\xc0", b"\x82\x00\xc9", b"\x82" + bytes(30) + b"\xdf"):
        assert split_superframe(packet) == [packet]


@pytest.mark.parametrize(
    "packet, message",
    [
        (b"\x82abc" + b"\xc1\x02\x03\xc1", "a VP9 superframe of 4 bytes says that frame 1 ends at 5"),
        (b"\x42abc", "marker"),
        (b"\xb8abc", "profile is above 3"),
        (b"\x82abcdef", "sync code is 616263"),
        (b"\x82\x49", "a VP9 frame of 2 bytes: a header ends early"),
        (b"\x86\x01", "ends early"),
        (intra_only_frame(0, "", 1, True)[:3] + b"abc", "sync code"),
        (intra_only_frame(2, "1111", 1, True), "RGB, which profile 2 does not have"),
    ],
)
def test_damage_is_named_and_changes_nothing(packet, message):
    stream = RevealedVP9()
    key, inter, *_ = packets_of("realtime")
    stream.split(key)
    with pytest.raises(BitstreamError, match=message):
        stream.split(join(inter, packet) if not message.startswith("a VP9 superframe") else packet)
    [step] = stream.split(inter)
    assert step.number == 1 and numbers(step.references) == {0}


@given(st.data())
def test_any_bytes_are_read_or_refused(data):
    """Random, and those of a stream with bytes changed and the end cut off."""
    good = data.draw(st.sampled_from(packets_of("hidden")[:16]))
    place = data.draw(st.integers(0, len(good) - 1) | st.integers(0, 12) | st.just(len(good) - 1))
    changed = good[:place] + data.draw(st.binary(min_size=1, max_size=3)) + good[place + 1 :]
    packet = data.draw(st.one_of(st.binary(max_size=64), st.just(changed), st.just(good[:place])))
    stream = RevealedVP9()
    try:
        steps = stream.split(packet)
    except BitstreamError:
        return
    assert sum(len(step.data) for step in steps) <= len(packet)
    assert all(step.data and step.data in packet for step in steps)
    assert [step.number for step in steps if step.is_coded] == list(range(sum(s.is_coded for s in steps)))


def test_the_streams_have_what_they_are_named_for():
    steps = steps_of(RevealedVP9(), packets_of("hidden"))
    assert 2 <= sum(not step.is_shown for step in steps) < len(steps) / 4
    assert any(len(numbers(step.references)) == 3 for step in steps)
    profiles = {name: read_header(packets_of(name)[0]).profile for name in STREAMS}
    assert {name for name, profile in profiles.items() if profile} == {
        "hidden, 4:4:4, odd size",
        "4:4:0",
        "RGB",
    }
    sizes = [planes[0].shape for planes in decode_plain("vp9", RESIZED_VP9)]
    assert sizes == [(64, 96), (64, 96), (32, 48), (32, 48), (64, 96), (64, 96)]
    assert all(steps_of(RevealedVP9(), RESIZED_VP9)[place].references for place in (2, 4))
