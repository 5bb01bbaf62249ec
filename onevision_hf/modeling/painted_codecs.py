"""Whose references can be painted (see `painted_decoder`), told without reading any bitstream.

What reads the bitstream of a single codec is imported when a video of that codec is met.
"""

from .coded_picture import RevealedStream
from .video_reader import VideoReader

REVEALED = ("hevc", "vvc", "vp8", "vp9", "av1")  # whose streams are rewritten, see `reveal`
# The MPEG family, whose B pictures nothing refers to.
NO_B_REFERENCES = (
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "h263",
    "flv1",
    "msmpeg4v2",
    "msmpeg4v3",
    "wmv1",
    "wmv2",
)
PAINTED_CODECS = (*REVEALED, *NO_B_REFERENCES, "h264")


class PaintingError(ValueError):
    """This stream cannot be painted; the message names what stands in the way."""


def reveal(codec: str, extradata: bytes) -> RevealedStream:
    """A stream of one of the `REVEALED` codecs.

    Raises:
        BitstreamError: the header cannot be read.
    """
    if codec == "hevc":
        from .hevc_bitstream import RevealedHEVC

        return RevealedHEVC(extradata)
    if codec == "vvc":
        from .vvc_bitstream import RevealedVVC

        return RevealedVVC(extradata)
    if codec == "vp8":
        from .vp8_bitstream import RevealedVP8

        return RevealedVP8(extradata)
    # The loop filters of the other two only blur the paint.
    if codec == "vp9":
        from .vp9_bitstream import RevealedVP9

        return RevealedVP9(extradata, loop_filter=False)
    from .av1_bitstream import RevealedAV1

    return RevealedAV1(extradata, loop_filter=False)


def can_be_painted(reader: VideoReader) -> bool:
    """Whether it is known how to paint its references; FFmpeg's decoder of H.264 drops B pictures then."""
    dropped = reader.codec == "h264" and reader.has_b_pictures
    return reader.codec in PAINTED_CODECS and not dropped and not reader.is_packed


def has_painted_vectors(reader: VideoReader) -> bool:
    """Whether motion vectors of this video are read by painted references: where its decoder exports none, or
    exports zero for many (direct blocks of MPEG-4)."""
    is_direct = reader.codec == "mpeg4" and reader.has_b_pictures and can_be_painted(reader)
    return reader.codec in REVEALED or is_direct
