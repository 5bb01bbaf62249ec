"""A video again: as H.264 with a fixed group of pictures, so that every clip has the codec signals of one
encoder; or, of a truncated one, as a whole file of what is there.

The settings are the published preparation's (libx264, preset fast, crf 23, no B-pictures, one reference, no
scene cuts) but for the length of the group: the paper says 32, its released code uses 16.
"""

import io
from fractions import Fraction

import av
from av.video.frame import PictureType

from ..modeling.decoded_frame import DecodedFrame, converted
from ..modeling.video_demuxer import Demuxer
from ..modeling.video_reader import MAX_PIXELS, VideoReader
from ..modeling.video_source import VideoFile
from .items import MediaError

CRF, PRESET = 23, "fast"


def transcode(content: str | bytes, gop: int) -> bytes:
    """The frames of a video as an MP4 of H.264, a keyframe every `gop` pictures; sound is left out.

    Times are kept, and the picture is stored as it is displayed (turned, square pixels, even sides). The same
    input gives the same bytes.

    Raises:
        VideoReadError: the video cannot be read. ValueError: `gop` is below 1.
    """
    if gop < 1:
        raise ValueError(f"gop must be 1 or more, found {gop}")
    out = io.BytesIO()
    with VideoReader(content) as reader:
        width, height = (max(2, side // 2 * 2) for side in (reader.width, reader.height))
        rate = Fraction(reader.fps or 25).limit_denominator(1001)
        with av.open(out, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1  # the same bytes on every machine
            stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
            stream.options = {
                "preset": PRESET,
                "crf": str(CRF),
                "flags": "+bitexact",
                "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:ref=1:open-gop=0",
            }
            for frame in reader.frames(range(len(reader))):
                picture = _displayed(frame, width, height)
                picture.pict_type = (
                    PictureType.NONE
                )  # else every keyframe of the source would be one here too
                picture.pts = round(float(reader.timestamps[frame.frame_id]) * 90_000)
                picture.time_base = Fraction(1, 90_000)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    return out.getvalue()


def complete(content: bytes) -> tuple[bytes, str]:
    """A truncated video as a whole file: its packets that are there, in a container of the same kind, without
    sound. Nothing is encoded again.

    Returns:
        The file and what is missing, as `VideoReader.missing` says it; a whole video as it is, and "".

    Raises:
        VideoReadError: the video cannot be read even in part.
        MediaError: its packets do not make a file of the same frames.
    """
    with VideoReader(content, errors="partial") as reader:
        if not reader.missing:
            return content, ""
        frames, missing = len(reader), reader.missing
    out = io.BytesIO()
    try:
        with Demuxer(VideoFile(content), MAX_PIXELS, partial=True) as old:
            family = old.container.format.name
            name = "matroska" if "matroska" in family else "avi" if family == "avi" else "mp4"
            if content[4:12] == b"ftypqt  ":
                name = "mov"
            with av.open(out, "w", format=name, container_options={"fflags": "+bitexact"}) as new:
                # Opaque: no encoder is looked for. FFmpeg's decoder of AV1 is by a library that has none.
                stream = new.add_stream_from_template(old.stream, opaque=True)
                for _, packet in old:
                    packet.stream = stream
                    new.mux(packet)
        with VideoReader(out.getvalue()) as reader:
            found = len(reader)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{missing}, which {name} does not take: {error}") from error
    if found != frames:
        raise MediaError(f"{missing}, of which {found} came through copying")
    return out.getvalue(), missing


def _displayed(frame: DecodedFrame, width: int, height: int) -> av.VideoFrame:
    """The picture as displayed, yuv420p; one that is stored upright never goes through RGB."""
    if frame.rotation == 0 and not frame.mirrored:
        return converted(frame.av_frame, width=width, height=height, format="yuv420p")
    if frame.rotation % 180:
        width, height = height, width
    stored = converted(frame.av_frame, width=width, height=height, format="rgb24")
    upright = av.VideoFrame.from_ndarray(frame.turned(stored.to_ndarray()), "rgb24")
    return converted(upright, format="yuv420p")
