"""AV1 pictures that nothing refers to and nobody asks for are not decoded; all others are the same."""

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip

from onevision_hf import VideoReader
from onevision_hf.modeling.run_decoder import UnusedPictures
from onevision_hf.modeling.video_demuxer import Demuxer


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("av1") / "clip.mkv"
    options = {"preset": "10", "crf": "40"}
    return write_clip(path, moving_scene(48, 96, 128, seed=2), codec="libsvtav1", gop=48, options=options)


@pytest.fixture
def given(monkeypatch):
    """Packets that decoders were given."""
    packets, decode = [], Demuxer.decode

    def noted(self, packet):
        packets.extend([packet] if packet is not None else [])
        return decode(self, packet)

    monkeypatch.setattr(Demuxer, "decode", noted)
    return packets


def test_frames_are_those_of_a_whole_decode_and_fewer_packets_are_decoded(clip, given):
    with av.open(str(clip)) as container:
        plain = [frame.to_ndarray() for frame in container.decode(video=0)]
    for wanted, fewer in ((range(0, 48, 8), 6), ([5, 47], 6), (range(48), 0)):
        with VideoReader(clip) as reader:
            given.clear()
            for frame in reader.frames(wanted):
                assert np.array_equal(frame.av_frame.to_ndarray(), plain[frame.frame_id])
            assert len(given) <= 48 - fewer


def test_a_damaged_packet_leaves_all_that_follows_to_the_decoder(clip):
    with av.open(str(clip)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    whole, damaged = UnusedPictures(b""), UnusedPictures(b"")
    assert any([whole.is_one(packet) for packet in packets])
    broken = [packets[0], b"\xff" * 20, *packets[2:]]
    assert not any([damaged.is_one(packet) for packet in broken])
