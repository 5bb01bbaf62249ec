"""The clips that the other tests are built on hold what they promise."""

from collections import Counter
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from clips import moving_scene, write_clip


def decode(path, export_vectors=False):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if export_vectors:
            stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        return list(container.decode(stream))


def test_the_scene_is_the_same_for_the_same_seed_and_moves():
    scene = moving_scene(6, 48, 64, seed=3)
    assert np.array_equal(scene, moving_scene(6, 48, 64, seed=3))
    assert not np.array_equal(scene, moving_scene(6, 48, 64, seed=4))
    assert all(np.any(a != b) for a, b in pairwise(scene))


def test_an_h264_clip_has_every_picture_type_and_motion_vectors(clip, scene):
    frames = decode(clip, export_vectors=True)
    types = Counter(PictureType(frame.pict_type).name for frame in frames)
    assert len(frames) == len(scene) and types["I"] == 4 and types["P"] and types["B"]
    assert all(frame.side_data.get("MOTION_VECTORS") for frame in frames if frame.pict_type != PictureType.I)
    error = np.mean(
        [
            np.abs(f.to_ndarray(format="rgb24") - s.astype(int)).mean()
            for f, s in zip(frames, scene, strict=True)
        ]
    )
    assert error < 8


@pytest.mark.parametrize(
    ("codec", "suffix", "decoder"),
    [
        ("libx265", ".mp4", "hevc"),
        ("libvpx-vp9", ".webm", "vp9"),
        ("libsvtav1", ".mkv", "av1"),
        ("mpeg4", ".avi", "mpeg4"),
        ("mpeg2video", ".ts", "mpeg2video"),
    ],
)
def test_the_other_codecs_and_containers_can_be_written(tmp_path, scene, codec, suffix, decoder):
    path = write_clip(tmp_path / f"clip{suffix}", scene[:12], codec=codec)
    with av.open(str(path)) as container:
        assert decoder in container.streams.video[0].codec_context.codec.canonical_name
    assert len(decode(path)) == 12


def test_the_same_frames_give_the_same_file(tmp_path, scene):
    files = [write_clip(tmp_path / f"{i}.mp4", scene).read_bytes() for i in range(6)]
    assert len(set(files)) == 1
