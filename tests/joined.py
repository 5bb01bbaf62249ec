"""Clips joined without encoding them again, as tools make them: PyAV only, no binary file.

Parts are written as transport streams, whose keyframes carry their parameter sets.

    join(tmp_path / "joined.mp4", [first_ts, second_ts])        # ffmpeg -f concat -c copy
    join_headers(tmp_path / "two.mp4", first_mp4, second_mp4)   # MP4Box -cat: a header for each half
"""

import struct
from pathlib import Path

import av
from clip_zoo import find_box, with_box


def join(path: Path, parts: list[Path]) -> Path:
    """The packets of all parts, one part after the other in time, under the header of the first."""
    with av.open(str(path), "w") as new:
        stream, begin = None, 0.0
        for part in parts:
            with av.open(str(part)) as old:
                source = old.streams.video[0]
                opaque = source.codec_context.name == "libdav1d"  # which cannot encode
                stream = stream or new.add_stream_from_template(source, opaque=opaque)
                packets = [packet for packet in old.demux(source) if packet.size]
                first = min(packet.pts for packet in packets)
                step, base = 1 / float(source.average_rate), float(source.time_base)
                shift = round(begin / base) - first
                begin += (max(packet.pts for packet in packets) - first) * base + step
                for packet in packets:
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    new.mux(packet)
    return path


def join_headers(path: Path, first: Path, second: Path) -> Path:
    """Two mp4 of a GOP structure in one: each half has its own header (sample description) and no sets in its
    packets."""
    join(path, [first, second])
    data, media = path.read_bytes(), ("moov", "trak", "mdia", "minf", "stbl")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    with av.open(str(first)) as container:
        count = sum(bool(packet.size) for packet in container.demux(video=0))
    headers = []
    for part in (first, second):
        content = part.read_bytes()
        begin, end = find_box(content, *media, "stsd")
        headers.append(content[begin + 8 : end])
    # One chunk a half; each names its header.
    in_chunks = struct.pack(">IIIIIIII", 0, 2, 1, count, 1, 2, len(places) - count, 2)
    for name, box in (
        ("stsd", struct.pack(">II", 0, 2) + b"".join(headers)),
        ("stsc", in_chunks),
        ("stco", struct.pack(">IIII", 0, 2, places[0], places[count])),
    ):
        data = with_box(data, (*media, name), box)
    path.write_bytes(data)
    return path
