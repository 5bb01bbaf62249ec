"""Files of each codec: every frame, the settings that were asked for, the same bytes every time."""

import io

import av
import numpy as np
import pytest

from onevision_hf import VideoReader
from onevision_hf.synthetic import CODECS, ClipSettings, EncodingSettings, draw_clip, encode
from onevision_hf.synthetic.encoding import to_yuv420

CLIP = draw_clip(0, 1, settings=ClipSettings(num_frames=32))


@pytest.mark.parametrize(
    ("codec", "bframes"),
    [("h264", 0), ("h264", 2), ("hevc", 2), ("hevc10", 2), ("vp9", 0), ("av1", 0), ("mpeg4", 2)],
)
def test_a_file_holds_every_frame_with_its_gop_and_b_pictures(codec, bframes, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode(CLIP.frames, EncodingSettings(codec, gop=8, bframes=bframes, fps=20)))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == 20
    assert len(frames) == 32
    drawn = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)
    assert np.abs(drawn - CLIP.frames).mean() < 6
    keys = [index for index, frame in enumerate(frames) if frame.key_frame]
    assert len(keys) >= 3 and max(np.diff(keys)) <= 8 + bframes
    kinds = "".join(av.video.frame.PictureType(frame.pict_type).name for frame in frames)
    assert ("B" in kinds) == bool(bframes) and "BBB" not in kinds
    with VideoReader(path) as reader:
        assert len(reader) == 32


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_frames_give_the_same_file_twenty_times(codec):
    settings = EncodingSettings(codec, bframes=2 if CODECS[codec].has_bframes else 0)
    few = CLIP.frames[:16]
    assert len({encode(few, settings) for _ in range(20)}) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_a_better_quality_is_a_larger_file(codec):
    sizes = [
        len(encode(CLIP.frames, EncodingSettings(codec, quality=q))) for q in (4, 20, CODECS[codec].worst)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.3 * sizes[2]


def test_colours_are_those_that_a_decoder_expects():
    frames = np.repeat(np.repeat(CLIP.frames[:1], 2, axis=1), 2, axis=2)  # no chroma is lost
    picture = av.VideoFrame.from_ndarray(to_yuv420(frames)[0], format="yuv420p")
    assert np.abs(picture.to_ndarray(format="rgb24").astype(int) - frames[0]).mean() < 2


def test_an_encoder_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(ValueError, match="cannot encode hevc: it has no libx265"):
        encode(CLIP.frames, EncodingSettings("hevc"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codec": "h263"}, "'h263'.*h264, hevc, hevc10, vp9, av1, mpeg4"),
        ({"gop": 0}, "gop=0"),
        ({"fps": 0}, "fps=0"),
        ({"bframes": 5}, "0 to 4 B-pictures here, found bframes=5"),
        ({"codec": "vp9", "bframes": 1}, "vp9 takes 0 B-pictures"),
        ({"quality": 0}, "1 to 51, found 0"),
        ({"codec": "mpeg4", "quality": 32}, "1 to 31, found 32"),
    ],
)
def test_encoding_settings_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        EncodingSettings(**options)


def test_a_file_in_memory_is_an_mp4():
    with av.open(io.BytesIO(encode(CLIP.frames[:4]))) as container:
        assert "mp4" in container.format.name
