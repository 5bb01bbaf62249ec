"""VP8 and VP9 streams made in memory, and what FFmpeg's decoder makes of them, plain and revealed."""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from onevision_hf.modeling.coded_picture import CodedPicture, RevealedStream
from onevision_hf.modeling.video_demuxer import padded_packet

Planes = list[np.ndarray]

# VP9 that changes its size without a keyframe, which PyAV's encoder cannot: two pictures each of 96 x 64,
# 48 x 32 and 96 x 64 pixels. The first of each size is predicted from pictures of the other. What they show,
# a smooth texture, moves left by 2 and up by 1 pixel of the large size a picture. libvpx's own interface made
# it.
RESIZED_VP9 = [
    base64.b64decode(text)
    for text in (
        "gkmDQgAF8AP2EDgkHBigAAAwYAAAHN/mwcI+kCt9fdhS9BKW6nMuLvjIZB+xHBGCIU7C1PsIgLft01060w//UG3DIn7R"
        "By1yi6rj05T2DPqka+TtsmSDjayETbsNjclOuGFg90/o1///+1yClbdOPqVoGuVgRsN+G0klU9e5SNX1JC3SH+NJ/Cou"
        "8y1FqAn1pj///8hGJGxZ9ffe+6KIFaPeToCLHWmK9lVARuzs6Qoadcnx44rSboZpiybtVnhExc3YfynWyxMn0xn/uNmD"
        "nltxr+lalKTtSe26//x5V2VdqJ1Iv5gXKgj34QudEj+8Fu4k7cq7hJeXlk+3+rhBrsoLHXkylbadX/p6+I2os1vr6cII"
        "HOwwAA==",
        "hgBAkowgVuAAAyAAAGHuzcAA",
        "hgBAkAAXgA+jBBYAAADAIAAAVKd8RA==",
        "hgBAkoxAV+AAA2AAAFUVE7OVVAA=",
        "hgBAkVYkK9AAAYBgAABpQKn99NAX7RxyuKoZUxl4jI1yAIvNAsAA",
        "hgBAkqwYVsAAAyAAAGkmmSdXK8AA",
    )
]


@dataclass(frozen=True)
class Decoded:
    """A step of a revealed stream and the picture that the decoder handed out right behind it."""

    step: CodedPicture
    planes: Planes


def encode_packets(
    codec: str, scene: np.ndarray, options: dict[str, str], pix_fmt: str = "yuv420p", gop: int = 100
) -> list[bytes]:
    """The packets of RGB frames (T, H, W, 3) uint8."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = scene.shape[2], scene.shape[1], pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.gop_size, context.thread_count, context.options = gop, 1, options
    packets = []
    for t, picture in enumerate(scene):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = t, Fraction(1, 25)
        packets += context.encode(frame)
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]


def new_decoder(codec: str) -> av.CodecContext:
    context = av.CodecContext.create(codec, "r")
    context.thread_type, context.thread_count = "SLICE", 1
    return context


def copied_planes(frame: av.VideoFrame) -> Planes:
    return [plane.copy() for plane in shared_planes(frame)]


def shared_planes(frame: av.VideoFrame) -> Planes:
    """The planes in the decoder's own memory."""
    kinds = [np.uint8 if part.bits == 8 else np.uint16 for part in frame.format.components]
    rows = [np.frombuffer(plane, kind) for plane, kind in zip(frame.planes, kinds, strict=True)]
    return [row.reshape(p.height, -1)[:, : p.width] for row, p in zip(rows, frame.planes, strict=True)]


def decode_plain(codec: str, packets: Sequence[bytes]) -> list[Planes]:
    context = new_decoder(codec)
    frames = [frame for packet in packets for frame in context.decode(padded_packet(packet))]
    return [copied_planes(frame) for frame in [*frames, *context.decode(None)]]


def steps_of(stream: RevealedStream, packets: Sequence[bytes]) -> list[CodedPicture]:
    return [step for packet in packets for step in stream.split(packet)]


def decode_revealed(
    codec: str,
    steps: Sequence[CodedPicture],
    before: Callable[[CodedPicture, dict[int, Planes]], None] | None = None,
) -> Iterator[Decoded]:
    """Steps with the pictures that come out; each has to come out behind its step, and none besides.

    Args:
        codec: FFmpeg's name of the decoder.
        steps: of a stream from its first packet on.
        before: is called before each step with it and the pictures so far, in the decoder's own memory.
    """
    context = new_decoder(codec)
    pictures: dict[int, Planes] = {}
    frames = []  # as long as they live their memory is not used for another picture
    for step in steps:
        if before is not None:
            before(step, pictures)
        found = context.decode(padded_packet(step.data))
        if step.reveal:
            assert not found, "a hidden picture came out by itself"
            found = context.decode(padded_packet(step.reveal))
        assert len(found) == 1, f"{len(found)} pictures came out behind picture {step.number}"
        frames.append(found[0])
        if step.is_coded:
            pictures[step.number] = shared_planes(found[0])
        yield Decoded(step, copied_planes(found[0]))
    assert not context.decode(None)


def are_equal(some: Planes, others: Planes) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def decode_with_noise(codec: str, steps: Sequence[CodedPicture]) -> list[Planes]:
    """What comes out if, while a step is decoded, all pictures but its references are noise."""
    rng = np.random.default_rng(0)
    whole: dict[int, Planes] = {}  # pictures as they were decoded

    def spoil(step: CodedPicture, pictures: dict[int, Planes]) -> None:
        used = {reference.number for reference in step.references or ()} | {step.number}
        for number, planes in pictures.items():
            for plane, pixels in zip(planes, whole[number], strict=True):
                plane[:] = pixels if number in used else rng.integers(0, 255, plane.shape)

    out = []
    for decoded in decode_revealed(codec, steps, spoil):
        out.append(decoded.planes)
        if decoded.step.is_coded:
            whole[decoded.step.number] = decoded.planes
    return out
