"""Videos of every decoder and container that the reader meets, each drawn, encoded and muxed on first use.

zoo = Zoo(folder)
zoo["h264-bframes.mp4"]        # the path; made once
Zoo.names()                    # all of them
"""

import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from clips import moving_scene, write_clip

FRAMES = 36
H264 = {"codec": "libx264", "options": {"preset": "veryfast"}}
# Each is what `write_clip` is called with. GOPs are short, so that long-gap seeks have somewhere to go.
ENCODED: dict[str, dict] = {
    "h264-baseline.mp4": {
        "codec": "libx264",
        "options": {"preset": "veryfast", "profile": "baseline"},
        "bframes": 0,
    },
    "h264-bframes.mp4": H264 | {"bframes": 3},
    "h264-bframes.mov": H264 | {"bframes": 2},
    "h264-bframes.mkv": H264 | {"bframes": 2},
    "h264-bframes.avi": H264 | {"bframes": 2},
    "h264-bframes.ts": H264 | {"bframes": 2},
    "h264-10-bit.mkv": H264 | {"pix_fmt": "yuv420p10le"},
    "h264-422.mp4": H264 | {"pix_fmt": "yuv422p"},
    "h264-444-odd.mp4": H264 | {"pix_fmt": "yuv444p", "size": (51, 77)},
    "h264-open-gop.mp4": {"codec": "libx264", "options": {"preset": "veryfast", "x264-params": "open-gop=1"}},
    "h264-open-gop.ts": {"codec": "libx264", "options": {"preset": "veryfast", "x264-params": "open-gop=1"}},
    "h264-gradual-refresh.mp4": {
        "codec": "libx264",
        "options": {"preset": "veryfast", "x264-params": "intra-refresh=1"},
        "bframes": 0,
    },
    "h264-interlaced.mkv": {"codec": "libx264", "options": {"preset": "veryfast", "x264-params": "tff=1"}},
    "h264-wide-pixels.mp4": H264 | {"sample_aspect_ratio": Fraction(4, 3)},
    "hevc-bframes.mp4": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "ctu=16"}},
    "hevc-no-bframes.mkv": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "ctu=16"},
        "bframes": 0,
    },
    "hevc-10-bit.ts": {
        "codec": "libx265",
        "options": {"preset": "ultrafast", "x265-params": "ctu=16"},
        "pix_fmt": "yuv420p10le",
    },
    # Alternate references: pictures that are decoded and never shown.
    "vp8-hidden.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8", "b": "200k"},
    },
    "vp8.mkv": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8", "b": "200k"}},
    "vp9-hidden.webm": {
        "codec": "libvpx-vp9",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8", "deadline": "good"},
    },
    "vp9.mp4": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.mp4": {"codec": "mpeg4", "bframes": 2},
    "mpeg4.avi": {"codec": "mpeg4", "bframes": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "bframes": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "bframes": 2},
    "mpeg2-interlaced.mkv": {
        "codec": "mpeg2video",
        "bframes": 2,
        "options": {"flags": "+ildct+ilme", "top": "1"},
    },
    "h263.avi": {"codec": "h263", "size": (96, 128)},
    "flv1.flv": {"codec": "flv"},
    "msmpeg4v3.avi": {"codec": "msmpeg4"},
    "wmv2.asf": {"codec": "wmv2"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg-422.mov": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
}
# Made from one of the above without encoding again.
REMUXED: dict[str, Callable[["Zoo", Path], None]] = {
    "variable-rate.mp4": lambda zoo, path: remux(zoo["h264-bframes.mp4"], path, times=_uneven),
    "variable-rate.mkv": lambda zoo, path: remux(zoo["h264-bframes.mp4"], path, times=_uneven),
    "late-start.mp4": lambda zoo, path: remux(zoo["h264-bframes.mp4"], path, times=lambda t: t + 5),
    "edit-list.mp4": lambda zoo, path: patch_edit_list(zoo["h264-bframes.mp4"], path, first=17, count=15),
    "turned-90.mp4": lambda zoo, path: turn_clip(zoo["h264-bframes.mp4"], path, (0, -1, 1, 0)),
    "turned-180.mov": lambda zoo, path: turn_clip(zoo["h264-bframes.mov"], path, (-1, 0, 0, -1)),
    "fragmented.mp4": lambda zoo, path: remux(
        zoo["h264-bframes.mp4"], path, options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "cut.ts": lambda zoo, path: remux(zoo["h264-bframes.ts"], path, skip=5),
    "cut-open-gop.ts": lambda zoo, path: remux(zoo["h264-open-gop.ts"], path, skip=5),
    "cut-hevc.ts": lambda zoo, path: remux(zoo["hevc-10-bit.ts"], path, skip=5),
    "cut-mpeg2.ts": lambda zoo, path: remux(zoo["mpeg2.ts"], path, skip=5),
    "sound.mp4": lambda zoo, path: remux(zoo["h264-bframes.mp4"], path, sound=True),
    "two-streams.mkv": lambda zoo, path: two_streams(zoo["mpeg4.mp4"], zoo["h264-444-odd.mp4"], path),
}


class Zoo:
    """Files by name, made in `folder` when they are first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    @staticmethod
    def names() -> list[str]:
        return [*ENCODED, *REMUXED]

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            if name in ENCODED:
                settings = dict(ENCODED[name])
                height, width = settings.pop("size", (64, 96))
                write_clip(path, moving_scene(FRAMES, height, width, seed=1), **settings)
            else:
                REMUXED[name](self, path)
        return path


def _uneven(seconds: float) -> float:
    """Time that runs at an uneven pace, still forwards."""
    return seconds + 0.4 * (seconds // 0.3)


def remux(
    source: Path,
    path: Path,
    *,
    times: Callable[[float], float] | None = None,
    skip: int = 0,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> None:
    """Copy the packets of a video: with other times, without the first `skip`, with a sound track."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        if sound:
            tone = new.add_stream("aac", rate=16000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            sounds = [*tone.encode(silence), *tone.encode(None)]
        for number, packet in enumerate(old.demux(video=0)):
            if number < skip or packet.dts is None:
                continue
            if times is not None:
                base = float(packet.time_base)
                packet.pts = round(times(packet.pts * base) / base)
                packet.dts = round(times(packet.dts * base) / base)
            packet.stream = stream
            new.mux(packet)
            if sound and sounds:
                new.mux(sounds.pop(0))


def two_streams(second: Path, first: Path, path: Path) -> None:
    """Two video streams in one file."""
    with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(path), "w") as new:
        inputs = [a, b]
        streams = [new.add_stream_from_template(c.streams.video[0]) for c in inputs]
        for container, stream in zip(inputs, streams, strict=True):
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)


def with_cover(path: Path, picture: np.ndarray) -> Path:
    """An audio file with a picture of its cover."""
    with av.open(str(path), "w") as container:
        tone = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = picture.shape[1], picture.shape[0], "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(cover.encode(None))
        container.mux(tone.encode(silence))
        container.mux(tone.encode(None))
    return path


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterable[tuple[str, int, int]]:
    """(name, first byte of the content, end) of the boxes of an mp4 in data[start:end]."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", data[start : start + 8])
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", data[start + 8 : start + 16])
            head = 16
        yield name.decode("latin1"), start + head, start + size
        start += max(size, 8)


def find_box(data: bytes, *names: str) -> tuple[int, int]:
    """(first byte, end) of the content of a nested box: find_box(data, "moov", "trak")."""
    start, end = 0, len(data)
    for name in names:
        start, end = next((s, e) for found, s, e in boxes(data, start, end) if found == name)
    return start, end


def with_box(data: bytes, names: tuple[str, ...], content: bytes) -> bytes:
    """An mp4 whose index comes last, with other content in one box of the index."""
    start, end = find_box(data, *names)
    result = bytearray(data)
    for depth in range(1, len(names) + 1):
        at = find_box(data, *names[:depth])[0] - 8
        (size,) = struct.unpack(">I", data[at : at + 4])
        struct.pack_into(">I", result, at, size + len(content) - (end - start))
    result[start:end] = content
    return bytes(result)


def turn_clip(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Have the header of an mp4 say that the picture is to be turned (a, b, c, d of the display matrix)."""
    data = bytearray(source.read_bytes())
    track, _ = find_box(data, "moov", "trak", "tkhd")
    for place, value in zip((40, 44, 52, 56), matrix, strict=True):
        struct.pack_into(">i", data, track + place, value << 16)
    path.write_bytes(data)


def patch_edit_list(source: Path, path: Path, *, first: int, count: int) -> None:
    """Have the edit list of an mp4 of 25 frames a second show `count` frames from frame `first` on."""
    data = bytearray(source.read_bytes())
    movie, _ = find_box(data, "moov", "mvhd")
    media, _ = find_box(data, "moov", "trak", "mdia", "mdhd")
    edits, _ = find_box(data, "moov", "trak", "edts", "elst")
    movie_scale, media_scale = (struct.unpack(">I", data[at + 12 : at + 16])[0] for at in (movie, media))
    old_start = struct.unpack(">I", data[edits + 12 : edits + 16])[0]
    struct.pack_into(">I", data, edits + 8, count * movie_scale // 25)
    struct.pack_into(">I", data, edits + 12, old_start + first * media_scale // 25)
    path.write_bytes(data)
