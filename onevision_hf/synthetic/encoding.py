"""Frames to files, through PyAV: codecs with named settings, one thread, the same bytes every time.

Colours become 4:2:0 here, in whole numbers, so that only the encoder itself can make another file of the same
pixels. x264's macroblock tree is off: with AVX-512 it is not reproducible. (Without it a crf means about five
less of a quantizer, so 25 here is what 20 is elsewhere.)
"""

import io
import os
from dataclasses import dataclass

import av
import numpy as np


@dataclass(frozen=True)
class Codec:
    """An encoder of PyAV's and its scale of quality."""

    encoder: str
    quality: int
    worst: int
    has_bframes: bool
    pix_fmt: str = "yuv420p"


CODECS = {
    "h264": Codec("libx264", 25, 51, True),
    "hevc": Codec("libx265", 24, 51, True),
    "hevc10": Codec("libx265", 24, 51, True, "yuv420p10le"),
    "vp9": Codec("libvpx-vp9", 32, 63, False),
    "av1": Codec("libsvtav1", 36, 63, False),
    "mpeg4": Codec("mpeg4", 6, 31, True),
}


@dataclass(frozen=True)
class EncodingSettings:
    """How clips are encoded.

    Attributes:
        codec: a name of `CODECS`.
        gop: frames from one keyframe to the next.
        bframes: B-pictures between references: H.264, HEVC and MPEG-4 have them.
        quality: the codec's own scale, 1 is best; None is its usual value (crf 25 for H.264).
        fps: frames a second.

    Raises:
        ValueError: an unknown codec, a value out of range, B-pictures where there are none.
    """

    codec: str = "h264"
    gop: int = 32
    bframes: int = 0
    quality: int | None = None
    fps: int = 16

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"no codec is called {self.codec!r}; choose one of {', '.join(CODECS)}")
        codec = CODECS[self.codec]
        if self.gop < 1 or self.fps < 1:
            raise ValueError(f"gop and fps are at least 1, found gop={self.gop}, fps={self.fps}")
        if not 0 <= self.bframes <= 4 or (self.bframes and not codec.has_bframes):
            allowed = "0 to 4" if codec.has_bframes else "0"
            raise ValueError(f"{self.codec} takes {allowed} B-pictures here, found bframes={self.bframes}")
        if self.quality is not None and not 1 <= self.quality <= codec.worst:
            raise ValueError(f"quality of {self.codec} goes from 1 to {codec.worst}, found {self.quality}")


def encoder_version() -> str:
    """Which build encodes: bytes are the same under the same one."""
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"PyAV {av.__version__}, libavcodec {libavcodec}"


def encode(frames: np.ndarray, settings: EncodingSettings = EncodingSettings()) -> bytes:
    """An mp4 file of RGB `frames` (T, H, W, 3) uint8, H and W even.

    Raises:
        ValueError: PyAV was built without the encoder.
    """
    codec = CODECS[settings.codec]
    if codec.encoder not in av.codecs_available:
        raise ValueError(
            f"this PyAV ({av.__version__}) cannot encode {settings.codec}: it has no {codec.encoder}"
        )
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 tells its settings on standard error otherwise
    options = _options(settings, codec)
    planes = to_yuv420(frames)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec.encoder, rate=settings.fps, options=options)
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], codec.pix_fmt
        context.gop_size, context.thread_count = settings.gop, 1
        if codec.has_bframes:
            context.max_b_frames = settings.bframes
        for t, plane in enumerate(planes):
            if codec.pix_fmt == "yuv420p10le":
                plane = plane.astype(np.uint16) << 2
            frame = av.VideoFrame.from_ndarray(plane, format=codec.pix_fmt)
            frame.pts = t
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def to_yuv420(frames: np.ndarray) -> np.ndarray:
    """RGB (T, H, W, 3) uint8 to the planes of BT.601, limited range: (T, H * 3 / 2, W) uint8."""
    count, height, width = frames.shape[:3]
    planes = np.empty((count, height * 3 // 2, width), np.uint8)
    r, g, b = (np.ascontiguousarray(frames[..., c]).astype(np.uint16) for c in range(3))
    planes[:, :height] = ((66 * r + 129 * g + 25 * b + 128) >> 8) + 16
    # The mean of two by two pixels; weights of +-112 keep it within sixteen bits.
    small = [
        ((c[:, ::2, ::2] + c[:, 1::2, ::2] + c[:, ::2, 1::2] + c[:, 1::2, 1::2] + 2) >> 2).astype(np.int16)
        for c in (r, g, b)
    ]
    chroma = planes.reshape(count, -1)[:, height * width :].reshape(count, 2, height // 2, width // 2)
    for index, (red, green, blue) in enumerate(((-38, -74, 112), (112, -94, -18))):
        chroma[:, index] = ((red * small[0] + green * small[1] + blue * small[2] + 128) >> 8) + 128
    return planes


def _options(settings: EncodingSettings, codec: Codec) -> dict[str, str]:
    quality = str(codec.quality if settings.quality is None else settings.quality)
    gop, bframes = settings.gop, settings.bframes
    if settings.codec == "h264":
        fixed = "mbtree=0:scenecut=0:ref=1:b-adapt=0:threads=1:lookahead-threads=1"
        return {"preset": "veryfast", "crf": quality, "x264-params": fixed}
    if codec.encoder == "libx265":
        # With blocks of 64 x 64 a picture that is one block gives another file each time.
        fixed = f"log-level=error:pools=none:frame-threads=1:wpp=0:ctu=32:cutree=0:scenecut=0:keyint={gop}"
        return {
            "preset": "veryfast",
            "crf": quality,
            "x265-params": f"{fixed}:min-keyint={gop}:bframes={bframes}:b-adapt=0",
        }
    if settings.codec == "vp9":
        return {"crf": quality, "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "0"}
    if settings.codec == "av1":
        return {"preset": "12", "crf": quality, "svtav1-params": "lp=1:scd=0"}
    return {"qmin": quality, "qmax": quality, "b": "1000000"}
