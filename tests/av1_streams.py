"""AV1 streams of real encoders, and what dav1d makes of them, plain and revealed."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import strategies as st

from onevision_hf.modeling.av1_bitstream import RevealedAV1
from onevision_hf.modeling.av1_headers import (
    FRAME_HEADER,
    REDUNDANT_FRAME_HEADER,
    TILE_GROUP,
    parse_sequence_header,
    split_obus,
)
from onevision_hf.modeling.bitstream import BitWriter
from onevision_hf.modeling.coded_picture import CodedPicture
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
# What no encoder writes by itself: these matter to who reads headers further.
UNUSUAL = {
    "superres": {"options": {"svtav1-params": "superres-mode=1:superres-denom=13:superres-kf-denom=12"}},
    "other sizes": {"options": {"svtav1-params": "resize-mode=2"}},
    "segments": {"options": {"svtav1-params": "aq-mode=1"}},
    "quantizer matrices": {"options": {"svtav1-params": "enable-qm=1:qm-min=0"}},
    "lossless": {"options": {"crf": "0", "svtav1-params": "lossless=1"}},
    "block copies": {"options": {"preset": "4", "svtav1-params": "scm=1"}},
    "no filters": {"options": {"svtav1-params": "enable-dlf=0:enable-cdef=0"}},
    "tiles": {"size": (128, 192), "options": {"svtav1-params": "tile-columns=1:tile-rows=1"}},
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


def encode(folder: Path, name: str, suffix: str = ".mkv", length: int = 40) -> Stream:
    settings = {"gop": 16, "size": (64, 96), "options": {}} | (SVT | UNUSUAL)[name]
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


@cache
def stream_of(name: str) -> Stream:
    with tempfile.TemporaryDirectory() as folder:
        return (encode_otherwise if name in OTHERS else encode)(Path(folder), name)


def draw_damage(data: st.DataObject, packet: bytes) -> bytes:
    """The packet with up to four bits of its headers changed, and perhaps its end cut off."""
    damaged = bytearray(packet)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, min(len(damaged), 64) - 1))
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    return bytes(damaged)


def payload_length(data: bytes) -> int:
    size = shift = 0
    for byte in data[2 if data[0] & 4 else 1 :]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    return size


def unit(kind: int, payload: bytes) -> bytes:
    return bytes([kind << 3 | 2]) + _leb128(len(payload)) + payload


def _leb128(size: int) -> bytes:
    return bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])  # longer than need be, as is allowed


def payload(data: bytes) -> bytes:
    return data[len(data) - payload_length(data) :]


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


def with_separate_headers(stream: Stream) -> Stream:
    """Two pictures of one OBU_FRAME a packet are a header, padding, the header again, and tiles."""
    packets = list(stream.packets)
    for rank in (0, 3):
        start, header, tiles = cut_frame(packets[:rank], packets[rank])
        packets[rank] = start + unit(FRAME_HEADER, header + b"\x80") + unit(15, bytes(3))
        packets[rank] += unit(REDUNDANT_FRAME_HEADER, header + b"\x80") + unit(TILE_GROUP, tiles)
    return Stream(stream.extradata, packets)
