"""The container formats that are read: those that are whole in themselves.

FFmpeg knows formats that only name other files (playlists, scripts, numbered pictures, manifests, session
descriptions), and opens what they name. So formats are allowed by name, and all others are refused before
FFmpeg opens anything but the file.
"""

import codecs
import re

CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,live_flv,asf,ogg,mxf,gxf,nut,ivf,obu,dv,rm,wtv,dhav"
# One codec's data, one packet after another.
STREAMS = "h264,hevc,vvc,evc,av1,mpegvideo,m4v,h263,h261,mjpeg,mpjpeg,vc1,dirac,cavsvideo,avs2,avs3"
PICTURES = (
    "yuv4mpegpipe,apng,gif,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,j2k_pipe,jpegxl_pipe,jpegxl_anim"
)
# Without pictures: named, so that the error says what was found in them.
SOUNDS = "wav,w64,mp3,aac,ac3,eac3,flac,aiff,caf,amr,ape,au,dts,truehd,wv"
FORMATS = ",".join((CONTAINERS, STREAMS, PICTURES, SOUNDS))

# Bytes at the beginning of a file that tell what it is, where it is no video.
HEAD_BYTES = 4096
# How files begin that name others -> what they are.
NAMES_OTHERS = (
    (rb"#EXTM3U", "an HLS playlist (m3u8)"),
    (rb"ffconcat version", "an ffconcat script"),
    (rb"v=0\r?\n", "a session description (sdp)"),
    (rb"(?s)(<\?xml.*?|<!--.*?)?<(\w+:)?MPD\b", "a DASH manifest (mpd)"),
    (rb"(?s)(<\?xml.*?|<!--.*?)?<(\w+:)?CompositionPlaylist\b", "an IMF playlist"),
)


def options_for(protocols: str, formats: str = "") -> dict[str, str]:
    """FFmpeg's options for opening something: its protocols, and formats besides those of files."""
    return {"protocol_whitelist": protocols, "format_whitelist": ",".join(filter(None, (FORMATS, formats)))}


def explain_refusal(head: bytes) -> str | None:
    """Why a file that begins so is no video, and what to do; None where that cannot be told."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, what in NAMES_OTHERS:
        if re.match(pattern, text):
            return (
                f"is {what}, which names other files, and those are never opened: give the video itself "
                "(`ffmpeg -i LIST -c copy clip.mp4` makes one file of what a trusted list names)"
            )
    return "is text, not a video" if is_text(head) else None


def explain_silence(head: bytes) -> str | None:
    """Why no picture comes out of a file that begins so and is sound; None where that cannot be told."""
    animated = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)
    if not animated:
        return None
    return (
        "is an animated WebP, for which this FFmpeg has no decoder (the file is sound): convert it to mp4, "
        "or read its frames with Pillow and hand those over"
    )


def is_text(head: bytes) -> bool:
    """Whether the beginning of a file is printable, in UTF-8 (whose last letter may be cut off)."""
    try:
        letters = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(letters) and all(letter.isprintable() or letter.isspace() for letter in letters)
