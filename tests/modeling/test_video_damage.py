"""Files that cannot be read say why, harm nothing, and are never taken for shorter ones."""

import io
import re
import struct

import av
import numpy as np
import pytest
from clip_zoo import FRAMES, find_box, remux, with_box, with_cover
from clips import write_audio, write_clip
from damaged_files import DAMAGES, damaged
from fuzz_codec import GOOD, read_in_child

from onevision_hf import VideoReader, VideoReadError
from onevision_hf.modeling.decoded_frame import DecodedFrame, in_order

DAMAGED = ("h264-bframes.ts", "hevc-bframes.mp4", "vp9-hidden.webm")
BOUNDED = ("h264-bframes.mp4", "h264-bframes.mkv", "h264-bframes.avi", "vp9-hidden.webm", "mjpeg-422.mov")


def refused(source, match: str, **options) -> VideoReadError:
    with pytest.raises(VideoReadError, match=match) as caught:
        reader = VideoReader(source, **options)
        list(reader.frames(range(len(reader))))
    assert caught.value.reason and str(caught.value) == f"{caught.value.path}: {caught.value.reason}"
    return caught.value


def test_sources_without_a_video_say_why(tmp_path, scene):
    missing = refused(tmp_path / "none.mp4", "no such file")
    assert missing.path == str(tmp_path / "none.mp4")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", r"is empty \(0 bytes\)")
    refused(b"", "<bytes>: is empty")
    refused(io.BytesIO(), "<file object>: is empty")
    refused("a\0b.mp4", "null byte")
    refused("a" * 5000 + ".mp4", "too long")
    refused(write_audio(tmp_path / "sound.m4a"), r"no video stream \(found: audio\)")
    refused(with_cover(tmp_path / "song.mp4", scene[0]), r"found: audio, cover art")


@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".nfo", ".mkv", ".avi"])
def test_text_is_no_video_whatever_it_is_called(suffix, tmp_path):
    path = tmp_path / f"notes{suffix}"
    path.write_text("Not a video, but a text of some length.\n" * 200)
    refused(path, "is text, not a video|Invalid data")


def test_a_playlist_opens_no_other_file(zoo, tmp_path):
    lines = [
        "#EXTM3U",
        "#EXT-X-TARGETDURATION:9",
        "#EXTINF:9,",
        str(zoo["h264-bframes.ts"]),
        "#EXT-X-ENDLIST",
    ]
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    refused(tmp_path / "list.m3u8", "is an HLS playlist")
    refused((tmp_path / "list.m3u8").read_bytes(), "is an HLS playlist")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile {zoo['h264-bframes.ts']}\n")
    refused(tmp_path / "list.txt", "is an ffconcat script")


def test_a_stream_of_no_length_is_refused(tmp_path):
    path = tmp_path / "none.mp4"
    with av.open(str(path), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 64
        container.start_encoding()
    refused(path, "no frames|no video stream")


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("left", [0.2, 0.5, 0.8, 0.999])
def test_a_truncated_file_is_refused_where_the_container_knows_its_length(name, left, zoo):
    data = zoo[name].read_bytes()
    refused(data[: int(left * len(data))], "is truncated|Invalid data")


@pytest.mark.parametrize("left", [0.3, 0.7, 0.95])
def test_a_truncated_file_with_its_index_in_front_is_refused(left, zoo, tmp_path):
    remux(zoo["h264-bframes.mp4"], tmp_path / "front.mp4", options={"movflags": "faststart"})
    data = (tmp_path / "front.mp4").read_bytes()
    assert len(VideoReader(data)) == FRAMES
    found = refused(data[: int(left * len(data))], "is truncated")
    assert re.search(rf"promises {len(data)} bytes, {int(left * len(data))} are there", found.reason)


def test_a_frame_that_is_lost_is_named_and_the_others_are_read(zoo):
    reader = VideoReader(zoo["mjpeg-422.mov"])
    data = bytearray(zoo["mjpeg-422.mov"].read_bytes())
    start, size = reader.index.start[20], reader.index.size[20]
    data[start : start + size] = bytes(int(size))
    with pytest.raises(VideoReadError, match=r"frame 20 \(0.800 s\) cannot be decoded"):
        list(VideoReader(bytes(data)).frames([3, 20, 30]))
    assert len(list(VideoReader(bytes(data)).frames([3, 30]))) == 2


@pytest.mark.parametrize(("sent", "given"), [
    ([0, 1, 3, 2, 5], [0, 1, 2, 3, 5]),
    ([3, 0, 9, 1, 1, 2], [0, 1, 2, 3]),  # one that nobody wants, one that comes again
    ([5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]),
    ([*range(1, 20), 0, 20], [*range(1, 21)]),  # the first is too late
    ([7, 8], [7, 8]),
])  # fmt: skip
def test_frames_that_a_decoder_gives_in_another_order_wait_for_those_before_them(sent, given):
    wanted = [number for number in range(21) if number != 9]
    given = [number for number in given if number != 9]
    frames = (DecodedFrame(None, number, 0) for number in sent)
    assert [frame.frame_id for frame in in_order(frames, wanted)] == given


def test_an_index_that_goes_in_circles_is_refused(zoo):
    data, media = zoo["mjpeg-422.mov"].read_bytes(), ("moov", "trak", "mdia", "minf", "stbl")
    samples = struct.pack(">III", 0, 500, 36 * 200)  # of 500 bytes each
    in_chunks = struct.pack(">IIIII", 0, 1, 1, 36, 1)  # 36 in every chunk
    chunks = struct.pack(">II", 0, 200) + data[slice(*find_box(data, *media, "stco"))][8:12] * 200  # all one
    times = struct.pack(">IIII", 0, 1, 36 * 200, 512)
    for name, content in (("stsz", samples), ("stsc", in_chunks), ("stco", chunks), ("stts", times)):
        data = with_box(data, (*media, name), content)
    edits = struct.pack(">IIIII", 0, 1, 1 << 30, 0, 1 << 16)  # and all of it is shown
    data = with_box(data, ("moov", "trak", "edts", "elst"), edits)
    refused(data, "its index goes in circles: it names over")


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", ".mp4"),
        ("libx265", ".mp4"),
        ("libvpx", ".webm"),
        ("libvpx-vp9", ".webm"),
        ("libsvtav1", ".mp4"),
        ("mpeg4", ".mp4"),
        ("mpeg2video", ".ts"),
    ],
)
def test_pictures_larger_than_the_container_admits_are_refused(codec, suffix, tmp_path):
    black = np.zeros((4, 480, 640, 3), np.uint8)
    path = write_clip(tmp_path / f"large{suffix}", black, codec=codec)
    refused(path, "frames of 640 x 480 pixels are over max_pixels=20000", max_pixels=20000)
    data = bytearray(path.read_bytes())
    for entry in (b"avc1", b"hev1", b"hvc1", b"mp4v", b"av01"):
        if (at := data.find(entry, data.find(b"stsd"))) > 0:
            struct.pack_into(">HH", data, at + 28, 64, 48)
    small = bytes(data).replace(b"\xb0\x82\x02\x80\xba\x82\x01\xe0", b"\xb0\x82\x00\x40\xba\x82\x00\x30")
    refused(small, "frames of 640 x 480 pixels are over max_pixels=20000", max_pixels=20000)


def test_a_stream_that_grows_is_refused_where_it_is_too_large(tmp_path, zoo):
    large = write_clip(tmp_path / "large.ts", np.zeros((4, 480, 640, 3), np.uint8))
    data = zoo["h264-bframes.ts"].read_bytes() + large.read_bytes()
    refused(data, "frames of 640 x 480 pixels are over max_pixels=20000", max_pixels=20000)
    assert len(VideoReader(data)) > FRAMES


@pytest.mark.parametrize("source", [5, None, 3.5, ["a.mp4"], np.zeros(3)])
def test_what_is_no_source_is_a_type_error(source):
    with pytest.raises(TypeError, match="a video is a path, bytes or a binary file object"):
        VideoReader(source)


def test_a_text_file_object_is_a_type_error():
    with pytest.raises(TypeError, match="binary mode"):
        VideoReader(io.StringIO("abc"))


def test_a_file_object_that_fails_says_so(zoo):
    class Burning(io.BytesIO):
        def read(self, count=-1):
            raise OSError("disk on fire")

    refused(Burning(zoo["mpeg4.mp4"].read_bytes()), "disk on fire")


def test_damaged_files_are_read_or_refused_and_do_no_harm(zoo, tmp_path):
    """Two dozen such as those of `make fuzz`, each in a process with limits."""
    sound = {name: zoo[name] for name in DAMAGED}
    for number in range(len(DAMAGED) * len(DAMAGES)):
        name, damage, data = damaged(sound, number)
        path = tmp_path / f"{number}-{damage}-{name}"
        path.write_bytes(data)
        verdict, _, _ = read_in_child(path)
        assert verdict in GOOD.values(), f"file {number} ({damage}, {name}): {verdict}"


def test_a_damaged_file_can_be_made_again(zoo):
    sound = {name: zoo[name] for name in DAMAGED}
    made = [damaged(sound, number, seed) for number, seed in ((5, 1), (5, 1), (5, 2), (6, 1))]
    assert made[0] == made[1] and len({data for _, _, data in made}) == 3
