"""What lies behind a packet's end, where FFmpeg's decoders read: zeros in memory of FFmpeg's own."""

import ast
import ctypes
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onevision_hf
from onevision_hf.modeling.video_demuxer import padded_packet

PADDING = 64  # AV_INPUT_BUFFER_PADDING_SIZE
PACKAGE = Path(onevision_hf.__file__).parent


def behind(packet: av.Packet) -> bytes:
    return ctypes.string_at(packet.buffer_ptr + packet.size, PADDING)


@given(st.binary(min_size=1, max_size=200))
def test_zeros_lie_behind_a_packet_that_is_made_of_bytes(data):
    source = bytearray(data)
    packet = padded_packet(source)
    source[:] = b"\xff" * len(source)
    assert bytes(packet) == data and behind(packet) == bytes(PADDING)


@pytest.mark.parametrize("name", ["h264-bframes.mp4", "h264-bframes.mkv", "mpeg4.avi", "vp9-hidden.webm"])
def test_zeros_lie_behind_a_packet_of_a_container(zoo, name):
    with av.open(str(zoo[name])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert packets and all(behind(packet) == bytes(PADDING) for packet in packets)


def test_no_packet_is_made_in_another_way():
    """`av.Packet(data)` would leave a decoder what Python has behind the bytes."""
    made = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("av.Packet", "Packet"):
                made.append((path.name, ast.unparse(node)))
    assert made == [("video_demuxer.py", "av.Packet(len(data))")]
