"""Streams with B-pictures whose container tells wrong times are read in the order in which they are shown.

Run: python -m pytest tests/modeling/test_wrong_times.py
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import write_clip

from onevision_hf import VideoReader, select_patches
from onevision_hf.modeling.bitstream import split_length_prefixed

NOT_CODED = b"\x00\x00\x01\xb6\x50\x60\x7f"  # stands in for a picture that was packed into an earlier packet


def rewrite(source: Path, target: Path, change) -> Path:
    """`source` with other packets: `change` makes a list of bytes out of one, a packet each 1/25 s."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for rank, data in enumerate(change([bytes(p) for p in old.demux(video=0) if p.size])):
            packet = av.Packet(data)
            packet.pts = packet.dts = rank
            packet.time_base, packet.stream = Fraction(1, 25), stream
            packet.is_keyframe = rank == 0
            new.mux(packet)
    return target


def picture_type(data: bytes) -> str:
    return "IPBS"[data[data.index(b"\x00\x00\x01\xb6") + 4] >> 6]


def packed(packets: list[bytes]) -> list[bytes]:
    """As DivX packs P B B: P with the first B, the second B, a picture that is not coded."""
    name = b"\x00\x00\x01\xb2DivX503b1393p"
    packets = [packets[0].replace(b"\x00\x00\x01\xb6", name + b"\x00\x00\x01\xb6", 1), *packets[1:]]
    out: list[bytes] = []
    rank = 0
    while rank < len(packets):
        following = rank + 1
        while following < len(packets) and picture_type(packets[following]) == "B":
            following += 1
        behind = packets[rank + 1 : following]
        out += [packets[rank] + behind[0], *behind[1:], NOT_CODED] if behind else [packets[rank]]
        rank = following
    return out


@pytest.fixture(params=["order of decoding.mp4", "order of decoding.mkv", "packed.avi"])
def wrong(request, scene, tmp_path):
    """(a clip with wrong times, its frames as a decoder shows them)."""
    target = tmp_path / request.param
    if target.suffix == ".avi":
        source = write_clip(tmp_path / "plain.avi", scene, codec="mpeg4", gop=100)
        rewrite(source, target, packed)
    else:
        source = write_clip(tmp_path / "plain.mp4", scene, gop=100)
        rewrite(source, target, lambda packets: packets)
    with av.open(str(source)) as container:
        container.streams.video[0].thread_type = "NONE"
        return target, [frame.to_ndarray() for frame in container.decode(video=0)]


def test_frames_are_in_the_order_of_display_whichever_are_asked_for(wrong):
    path, plain = wrong
    with VideoReader(path) as reader:
        assert len(reader) == len(plain)
        assert np.allclose(reader.timestamps, np.arange(len(plain)) / 25, atol=1e-3)
        for ids in (range(len(plain)), [0, 5, 6, 13, 20, 34, 47], [17], [46, 3]):
            got = {frame.frame_id: frame.av_frame.to_ndarray() for frame in reader.frames(ids)}
            assert sorted(got) == sorted(ids)
            assert all(np.array_equal(pixels, plain[number]) for number, pixels in got.items())


def test_patches_are_selected_of_them(wrong):
    path, plain = wrong
    found = select_patches(path, num_frames=8)
    assert found.frame_ids.tolist() == np.linspace(0, len(plain) - 1, 8).astype(int).tolist()
    assert "vectors+" in found.signal and "B" in found.picture_types


def test_a_stream_that_could_have_b_pictures_and_has_none_is_not_decoded_to_be_opened(
    scene, tmp_path, monkeypatch
):
    """Its sets of parameters promise another order, its rising times are right."""
    source = write_clip(tmp_path / "plain.mp4", scene, gop=100, options={"x264-params": "b-pyramid=none"})

    def references(packets):
        kept = [
            data
            for data in packets
            if any(unit[0] & 0x60 and unit[0] & 31 in (1, 5) for unit in split_length_prefixed(data, 4))
        ]
        assert len(kept) < len(packets)
        return kept

    path = rewrite(source, tmp_path / "references.mp4", references)
    monkeypatch.setattr(VideoReader, "_index_by_decoding", None)
    with VideoReader(path) as reader, av.open(str(path)) as container:
        plain = [frame.to_ndarray() for frame in container.decode(video=0)]
        got = [frame.av_frame.to_ndarray() for frame in reader.frames(range(len(reader)))]
        assert container.streams.video[0].codec_context.has_b_frames
    assert len(plain) == len(got) and all(map(np.array_equal, got, plain))
