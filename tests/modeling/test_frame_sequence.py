"""Frames that were decoded elsewhere read like a video: arrays, tensors and pictures give the same."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from onevision_hf import OneVisionVideoProcessor, OneVisionVLVideoProcessor, VideoReader
from onevision_hf.modeling.frame_sequence import FrameSequence, is_encoded, open_video


def shown(reader) -> np.ndarray:
    return np.stack([f.rgb(reader.width, reader.height) for f in reader.frames(range(len(reader)))])


def test_every_form_of_a_clip_gives_the_same_frames(scene):
    clip = scene[:3]
    forms = [
        clip,
        clip.transpose(0, 3, 1, 2),
        torch.from_numpy(clip),
        torch.from_numpy(clip).permute(0, 3, 1, 2),
        list(clip),
        [torch.from_numpy(frame) for frame in clip],
        [frame.transpose(2, 0, 1) for frame in clip],
        tuple(Image.fromarray(frame) for frame in clip),
        [Image.fromarray(frame).convert("RGBA") for frame in clip],
    ]
    for form in forms:
        reader = FrameSequence(form)
        assert (len(reader), reader.height, reader.width) == (3, 144, 192)
        assert np.array_equal(shown(reader), clip)


def test_one_channel_is_grey(scene):
    grey = scene[:2, :, :, :1]
    for form in (grey, grey.transpose(0, 3, 1, 2), [Image.fromarray(frame[..., 0]) for frame in grey]):
        assert np.array_equal(shown(FrameSequence(form)), grey.repeat(3, axis=-1))


def test_only_the_frames_asked_for_come_each_once_in_order(scene):
    frames = list(FrameSequence(scene).frames([5, 2, 5], motion_vectors=True, references=True))
    assert [frame.frame_id for frame in frames] == [2, 5]
    assert all(frame.motion_vectors is None and frame.picture_type == "?" for frame in frames)
    assert np.isnan(FrameSequence(scene).timestamps).all()
    with pytest.raises(ValueError, match="frame 48 asked for, but the clip's frames are 0 to 47"):
        list(FrameSequence(scene).frames([48]))
    with pytest.raises(ValueError, match="frame -1"):
        list(FrameSequence(scene).frames([-1]))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.full((2, 8, 8, 3), -1.5, np.float32), "floats in 0..1, found float32 from -1.5 to -1.5"),
        (torch.full((2, 3, 8, 8), 1.5), "floats in 0..1, found float32 from 1.5 to 1.5"),
        (np.full((2, 8, 8, 3), np.nan, np.float32), "found NaN or infinite pixels in frame 0"),
        (np.zeros((3, 8, 8), np.uint8), "unless that could be a picture with channels"),
        ([["a.png", "b.png"]], "found text .*one clip with frames=True"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.int64)], "found int64"),
        (np.zeros((8, 8, 3), np.uint8), r"4 dimensions \(T, H, W, C\), found shape \(8, 8, 3\)"),
        (np.zeros((2, 8, 8, 5), np.uint8), r"found shape \(8, 8, 5\)"),
        (np.zeros((2, 0, 8, 3), np.uint8), "must have pixels"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one frame, found none"),
        ([], "at least one frame, found none"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "must have one size"),
    ],
)
def test_frames_that_are_none_say_what_was_found(frames, message):
    with pytest.raises(ValueError, match=message):
        FrameSequence(frames)


def test_files_and_frames_are_told_apart(clip, scene):
    data = clip.read_bytes()
    assert all(is_encoded(video) for video in (clip, str(clip), data, bytearray(data), io.BytesIO(data)))
    assert not any(is_encoded(video) for video in (scene, torch.from_numpy(scene), list(scene)))
    with open_video(clip) as file, open_video(scene) as frames:
        assert isinstance(file, VideoReader) and isinstance(frames, FrameSequence)
        assert is_encoded(file) and not is_encoded(frames)
        with open_video(file) as again:
            assert again is file  # taken as it is, and not closed


def known(scene):
    """Five frames in each form that people have, beside the uint8 RGB frames that show the same."""
    plain = scene[:5]  # four rows of grey could be a picture with channels
    grey = plain[..., 1]
    clear = np.concatenate([plain, np.full_like(plain[..., :1], 255)], axis=-1)
    clear[:, :40, :, 3] = 0  # nothing there: white
    clear[:, 40:80] = (0, 0, 0, 128)  # half of black over white
    on_white = plain.copy()
    on_white[:, :40], on_white[:, 40:80] = 255, 127
    unit = plain / np.float32(255)
    return {
        "floats": (unit, plain),
        "floats64": (unit.astype(np.float64), plain),
        "float tensors": (torch.from_numpy(unit).permute(0, 3, 1, 2), plain),
        "bfloat16": (torch.from_numpy(unit).round().bfloat16(), (unit >= 0.5).astype(np.uint8) * 255),
        "a list of floats": (list(unit), plain),
        "levels as floats": (plain.astype(np.float32), plain),
        "grey": (grey, grey[..., None].repeat(3, axis=-1)),
        "grey floats": (grey / np.float32(255), grey[..., None].repeat(3, axis=-1)),
        "RGBA": (clear, on_white),
        "RGBA floats": (clear / np.float32(255), on_white),
        "RGBA pictures": ([Image.fromarray(frame) for frame in clear], on_white),
    }


@pytest.mark.parametrize("form", list(known(np.zeros((5, 144, 192, 3), np.uint8))))
def test_processors_make_of_every_form_what_they_make_of_the_same_frames_in_uint8(scene, form):
    frames, same = known(scene)[form]
    for processor in (OneVisionVideoProcessor(size=112), OneVisionVLVideoProcessor(size=112)):
        found, wanted = (
            processor(clip, keep_ratio=1.0, return_tensors="pt")
            for clip in (frames, np.ascontiguousarray(same))
        )
        assert found.keys() == wanted.keys() and found["pixel_values_videos"].numel() > 10_000
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_decoder_of_torchcodec_is_the_frames_that_it_decodes_with_their_seconds(clip):
    """`pip install torchcodec`, which no extra brings; with it, FFmpeg's libraries."""
    decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed")
    processor = OneVisionVideoProcessor(size=112, num_frames=8)
    with VideoReader(clip) as reader:
        frames, times = shown(reader), reader.timestamps
    found, wanted = (
        processor(video, start=0.5, return_tensors="pt", return_metadata=True)
        for video in (decoders.VideoDecoder(str(clip)), (frames, {"timestamps": times.tolist()}))
    )
    (one,), (other,) = found["selections"], wanted["selections"]
    assert np.allclose(one.timestamps, other.timestamps) and one.timestamps[0] == pytest.approx(0.52)
    assert torch.equal(found["patch_positions"], wanted["patch_positions"])
    difference = (found["pixel_values_videos"] - wanted["pixel_values_videos"]).abs().mean()
    assert difference < 0.02  # of levels normalised to about 1: its colours are converted by other flags
