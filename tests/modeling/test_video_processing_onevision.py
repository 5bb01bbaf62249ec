"""Patches come out as a naive pipeline cuts them, ready for the model, the same every time."""

import dataclasses
import io

import av
import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoVideoProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from onevision_hf import (
    OneVisionConfig,
    OneVisionModel,
    OneVisionVideoProcessor,
    VideoReader,
    VideoReadError,
    select_patches,
)

KEYS = ("pixel_values_videos", "patch_positions", "pixel_attention_mask")
SMALL = {"num_frames": 6, "size": 56}  # 4 x 5 patches of 14 pixels from 144 x 192


@pytest.fixture(scope="session")
def processor():
    return OneVisionVideoProcessor()


def same(a, b) -> bool:
    return all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in KEYS)


def naive_frame(frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
    """(3, height, width): the whole frame resized, rescaled, normalised."""
    planes = frame.reformat(width=width, height=height, format="gbrp", interpolation="BICUBIC").to_ndarray()
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (planes.transpose(2, 0, 1) / 255.0 - mean) / std


def decode(path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


# -- what comes out --


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "mpeg4"])
def test_patches_are_those_that_a_naive_pipeline_cuts(codec, processor, scene, tmp_path):
    path = write_clip(tmp_path / "clip.mkv", scene[:20], codec=codec)
    found = processor(path, **SMALL, keep_ratio=0.4, rope_temporal_size=None, return_metadata=True)
    frames, ids = decode(path), found["selections"][0].frame_ids
    whole = {int(i): naive_frame(frames[i], 56, 70) for i in ids}
    for pixels, (t, h, w) in zip(found["pixel_values_videos"][0], found["patch_positions"][0], strict=True):
        patch = whole[int(ids[t])][:, 14 * h : 14 * h + 14, 14 * w : 14 * w + 14]
        assert np.allclose(pixels, patch.reshape(-1), atol=1e-5)


def test_a_centre_crop_cuts_the_middle(processor, clip):
    arguments = {"do_center_crop": True, "crop_size": 28, "keep_ratio": 1.0, "rope_temporal_size": None}
    found = processor(clip, **SMALL, **arguments)
    frames = decode(clip)
    ids = np.linspace(0, 47, 6).astype(int)
    assert found["patch_positions"].shape == (1, 6 * 4, 3)
    # 56 x 75 pixels, of which rows 14..41 and columns 24..51 are kept: (28 - 75) // 2 = -24.
    middle = np.stack([naive_frame(frames[i], 56, 75)[:, 14:42, 24:52] for i in ids])
    patches = middle.reshape(6, 3, 2, 14, 2, 14).transpose(0, 2, 4, 1, 3, 5).reshape(24, -1)
    assert np.allclose(found["pixel_values_videos"][0], patches, atol=1e-5)


def test_the_published_layout_pads_with_black(processor, clip):
    found = processor(
        clip, num_frames=4, size=128, patch_size=16, preset="published", num_patches=64, do_normalize=False
    )
    pixels = found["pixel_values_videos"][0].reshape(8, 8, 3, 16, 16)
    assert not pixels[[0, 7]].any() and (pixels[1:7] > 0).mean() > 0.9


def test_values_are_left_as_they_are_on_request(processor, clip):
    found = processor(clip, **SMALL, do_rescale=False, do_normalize=False)["pixel_values_videos"]
    assert found.min() >= 0 and found.max() > 100 and np.array_equal(found, found.round())
    unit = processor(clip, **SMALL, do_normalize=False)["pixel_values_videos"]
    assert np.allclose(unit * 255, found, atol=1e-3)


def test_the_output_goes_straight_into_the_model(processor, clip):
    model = OneVisionModel(OneVisionConfig.tiny(patch_size=14)).eval()
    inputs = processor([clip, clip.read_bytes()], **SMALL, return_tensors="pt")
    assert tuple(inputs) == KEYS
    assert [inputs[key].dtype for key in KEYS] == [torch.float32, torch.int64, torch.bool]
    assert [tuple(inputs[key].shape) for key in KEYS] == [(2, 20, 588), (2, 20, 3), (2, 20)]
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.last_hidden_state.shape[:2] == (2, 20)
    torch.testing.assert_close(outputs.pooler_output[0], outputs.pooler_output[1])


@pytest.mark.parametrize(
    ("num_frames", "temporal_size", "expected"),
    [
        (8, 64, [0, 9, 18, 27, 36, 45, 54, 63]),
        (8, 8, list(range(8))),
        (8, None, list(range(8))),
        (100, 64, np.floor(np.linspace(0, 63, 48)).astype(int).tolist()),
        (1, 64, [0]),
    ],
)
def test_time_is_spread_over_the_grid_of_the_model(num_frames, temporal_size, expected, processor, clip):
    found = processor(clip, num_frames=num_frames, size=14, keep_ratio=1.0, rope_temporal_size=temporal_size)
    assert np.unique(found["patch_positions"][0, :, 0]).tolist() == sorted(set(expected))


@pytest.mark.parametrize("count", [1, 5])
def test_a_clip_with_fewer_frames_than_asked_gives_what_it_has(count, processor, tmp_path):
    path = write_clip(tmp_path / "short.mp4", moving_scene(count, 48, 64), bframes=0)
    found = processor(path, size=28, keep_ratio=1.0, return_metadata=True)
    assert found["selections"][0].frame_ids.tolist() == list(range(count))
    assert found["video_metadata"][0].total_num_frames == count


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ratio=st.floats(0.01, 1),
    num_frames=st.integers(1, 12),
    size=st.integers(14, 70),
    patch=st.integers(7, 20),
)
def test_the_budget_is_spent_to_the_patch(ratio, num_frames, size, patch, processor, scene):
    found = processor(scene[:10], num_frames=num_frames, size=size, patch_size=patch, keep_ratio=ratio)
    frames, grid = min(num_frames, 10), (max(1, round(size / patch)), max(1, round(size * 4 / 3 / patch)))
    count = max(round(ratio * frames * grid[0] * grid[1]), grid[0] * grid[1])
    positions = found["patch_positions"][0]
    flat = np.ravel_multi_index(positions.T, (64, *grid))
    assert found["pixel_values_videos"].shape == (1, count, 3 * patch * patch)
    assert (np.diff(flat) > 0).all() and found["pixel_attention_mask"].all()


# -- the same every time, whatever it comes from --


def test_runs_and_sources_give_the_same_bits(processor, clip):
    data = clip.read_bytes()
    sources = [clip, clip, str(clip), data, bytearray(data), io.BytesIO(data)]
    with clip.open("rb") as file:
        results = [processor(source, **SMALL) for source in (*sources, file)]
    assert all(same(result, results[0]) for result in results)


def test_without_sampling_every_frame_is_taken_as_it_is(processor, clip, scene):
    size = {"size": 56}
    everything = processor(clip, num_frames=len(scene), **size)
    assert same(processor(clip, do_sample_frames=False, **size), everything)
    assert same(OneVisionVideoProcessor(do_sample_frames=False, **size)(clip), everything)
    with pytest.raises(AssertionError):  # 48 frames, of which the processor takes 6
        assert same(processor(clip, do_sample_frames=True, **SMALL), everything)
    decoded = processor(scene, do_sample_frames=False, **size)
    assert same(decoded, processor(scene, num_frames=len(scene), **size))
    sampled = processor(scene, do_sample_frames=True, num_frames=6, **size)
    chosen = np.linspace(0, len(scene) - 1, 6).astype(int)
    assert same(sampled, processor(scene[chosen], do_sample_frames=False, **size))
    # What a processor has stored on sampling is of no use then; a stretch of time still is.
    stored = OneVisionVideoProcessor(num_frames=3, fps=2.0, **size)
    assert same(stored(scene, do_sample_frames=False), decoded)
    stretch = processor(clip, do_sample_frames=False, start=0.4, end=0.76, return_metadata=True, **size)
    assert stretch["video_metadata"][0].frames_indices == list(range(10, 20))


def test_a_processor_that_does_not_sample_comes_back_as_one(clip, tmp_path):
    OneVisionVideoProcessor(do_sample_frames=False, size=56).save_pretrained(tmp_path)
    again = OneVisionVideoProcessor.from_pretrained(tmp_path)
    assert again(clip, return_metadata=True)["video_metadata"][0].frames_indices == list(range(48))
    frames = again(clip, do_sample_frames=True, num_frames=6, return_metadata=True)["video_metadata"][0]
    assert len(frames.frames_indices) == 6


@pytest.mark.parametrize(
    "asked", [{"num_frames": 6}, {"fps": 2.0}, {"timestamps": [0.5]}, {"sampling": "uniform"}]
)
def test_sampling_and_no_sampling_at_once_are_an_error(asked, processor, clip):
    with pytest.raises(
        ValueError, match=f"do_sample_frames=False takes every frame, so {next(iter(asked))} does"
    ):
        processor(clip, do_sample_frames=False, **asked)


def test_decoded_frames_are_taken_in_every_form(processor, scene):
    frames = scene[:8]
    forms = [
        frames,
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        list(frames),
        [Image.fromarray(frame) for frame in frames],
    ]
    results = [processor(form, **SMALL, return_metadata=True) for form in forms]
    assert all(same(result, results[0]) for result in results)
    assert results[0]["selections"][0].signal == "difference"
    batch = processor([frames, frames], **SMALL)
    assert batch["pixel_values_videos"].shape[0] == 2 and same(
        processor(np.stack([frames] * 2), **SMALL), batch
    )


def test_a_batch_of_unequal_videos_is_padded(processor, clip, scene, tmp_path):
    short = write_clip(tmp_path / "short.mp4", scene[:4])
    wide = write_clip(tmp_path / "wide.mp4", moving_scene(9, 64, 160))
    batch = processor([clip, short, wide], **SMALL, keep_ratio=0.5, return_tensors="pt")
    lengths = batch["pixel_attention_mask"].sum(1).tolist()
    assert lengths == [60, 40, 120] and batch["pixel_values_videos"].shape == (3, 120, 588)
    for row, (video, length) in enumerate(zip((clip, short, wide), lengths, strict=True)):
        alone = processor(video, **SMALL, keep_ratio=0.5, return_tensors="pt")
        assert torch.equal(batch["pixel_values_videos"][row, :length], alone["pixel_values_videos"][0])
        assert torch.equal(batch["patch_positions"][row, :length], alone["patch_positions"][0])
        assert not batch["pixel_values_videos"][row, length:].any()
        assert not batch["pixel_attention_mask"][row, length:].any()


# -- selections --


def test_a_selection_is_cut_as_the_processor_would(processor, clip):
    own = processor(clip, **SMALL, return_metadata=True)
    given_back = processor(clip, **SMALL, selection=own["selections"][0])
    elsewhere = processor(clip, selection=select_patches(clip, **SMALL))
    assert same(own, given_back) and same(own, elsewhere)
    assert same(
        processor([clip, clip], **SMALL, selection=own["selections"] * 2), processor([clip] * 2, **SMALL)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.array([[0, 4, 0]])}, r"position \[0, 4, 0\] is out of .*\[6, 4, 5\]"),
        ({"positions": np.array([[0, 0, 0], [6, 0, 0]])}, r"position \[6, 0, 0\] is out of"),
        ({"positions": np.array([[0, -1, 0]])}, r"position \[0, -1, 0\] is out of"),
        ({"positions": np.array([[0.0, 0.0, 0.0]])}, r"must be \(K, 3\) integers, found float64"),
        ({"positions": np.array([0, 0, 0])}, r"must be \(K, 3\) integers, found int64 of shape \(3,\)"),
        ({"frame_ids": np.array([0, 1, 2, 3, 4, 48])}, "names frame 48, this video has frames 0 to 47"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(change, message, processor, clip):
    selection = dataclasses.replace(select_patches(clip, **SMALL), **change)
    with pytest.raises(ValueError, match=message):
        processor(clip, **SMALL, selection=selection)


def test_a_selection_of_another_video_is_refused(processor, clip, scene):
    selection = select_patches(clip, **SMALL)
    with pytest.raises(ValueError, match="made for frames of 144 x 192 pixels, this video has 72 x 96"):
        processor(scene[:, ::2, ::2], selection=selection)
    with pytest.raises(ValueError, match="patches of 14 pixels, the processor of 16"):
        processor(clip, patch_size=16, selection=selection)
    with pytest.raises(ValueError, match="2 videos but 1 selections"):
        processor([clip, clip], selection=[selection])


# -- settings --


def test_a_budget_replaces_the_stored_one_of_either_kind(clip, tmp_path):
    def count(processor, **arguments):
        return processor(clip, **SMALL, **arguments)["patch_positions"].shape[1]

    plain = OneVisionVideoProcessor()
    assert count(plain) == 20 and count(plain, keep_ratio=0.5) == 60 and count(plain, num_patches=33) == 33
    by_number = OneVisionVideoProcessor(num_patches=50)
    assert count(by_number) == 50 and count(by_number, keep_ratio=0.5) == 60 and count(by_number) == 50
    by_ratio = OneVisionVideoProcessor(keep_ratio=0.25)
    assert count(by_ratio) == 30 and count(by_ratio, num_patches=33) == 33
    by_number.save_pretrained(tmp_path)
    load = OneVisionVideoProcessor.from_pretrained
    assert count(load(tmp_path)) == 50
    assert count(load(tmp_path, keep_ratio=0.5)) == 60 and count(load(tmp_path, num_patches=41)) == 41


def test_both_budgets_at_once_are_an_error_everywhere(processor, clip, tmp_path):
    both = {"num_patches": 40, "keep_ratio": 0.5}
    processor.save_pretrained(tmp_path)
    for call in (
        lambda: processor(clip, **SMALL, **both),
        lambda: OneVisionVideoProcessor(**both),
        lambda: OneVisionVideoProcessor.from_pretrained(tmp_path, **both),
    ):
        with pytest.raises(ValueError, match=r"num_patches=40 and keep_ratio=0\.5 are both given"):
            call()


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"num_patches": 400},
        {"keep_ratio": 0.5, "num_frames": 6, "size": 56},
        {"size": {"height": 56, "width": 70}, "rope_temporal_size": None, "preset": "bits"},
        {"patch_size": 16, "do_center_crop": True, "crop_size": 48, "size": 64, "image_mean": [0.5] * 3},
    ],
)
def test_saved_settings_come_back(stored, clip, tmp_path):
    processor = OneVisionVideoProcessor(**stored)
    processor.save_pretrained(tmp_path)
    loaded = OneVisionVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert same(processor(clip, num_frames=6), loaded(clip, num_frames=6))
    OneVisionConfig(patch_size=stored.get("patch_size", 14)).save_pretrained(tmp_path)
    automatic = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(automatic).__name__ == "OneVisionVideoProcessor"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_patches": 121}, "num_patches=121, .*6 frames of 20 patches.* 120"),
        ({"num_patches": 19}, "num_patches=19 is below the 20 patches"),
        ({"num_patches": -3}, "num_patches must be a positive integer, not -3"),
        ({"keep_ratio": -0.5}, "keep_ratio must be in"),
        ({"num_frames": -1}, "num_frames must be a positive integer, not -1"),
        ({"do_sample_frames": "no"}, "do_sample_frames must be True or False, not 'no'"),
        ({"size": 0}, "size must be a positive integer, not 0"),
        ({"size": {"height": 56}}, "size must be an integer, shortest_edge, or height and width"),
        ({"size": {"height": 50, "width": 70}}, "50 x 70 pixels are no multiple of the patch size 14"),
        ({"do_resize": False}, "144 x 192 pixels are no multiple of the patch size 14"),
        ({"do_center_crop": True, "crop_size": 30}, "crop_size 30 x 30 is no multiple of the patch size 14"),
        ({"patch_size": 0}, "patch_size must be a positive integer, not 0"),
        ({"preset": "best"}, "unknown preset 'best'"),
        ({"errors": "ignore"}, 'errors must be "raise", "skip" or "partial"'),
    ],
)
def test_arguments_out_of_range_are_refused_with_their_numbers(arguments, message, processor, clip):
    with pytest.raises(ValueError, match=message):
        processor(clip, **{**SMALL, **arguments})


def test_an_argument_that_does_not_exist_is_refused_by_name(processor, clip, tmp_path):
    """At the call, in the constructor and in `from_pretrained`, with the one that was meant."""
    message = r"unknown arguments \['num_frame'\]: did you mean num_frames\?"
    processor.save_pretrained(tmp_path)
    for ask in (
        lambda: processor(clip, num_frame=8),
        lambda: processor.patchify_config(num_frame=8),
        lambda: OneVisionVideoProcessor(num_frame=8),
        lambda: OneVisionVideoProcessor.from_pretrained(tmp_path, num_frame=8),
        lambda: AutoVideoProcessor.from_pretrained(tmp_path, num_frame=8),
    ):
        with pytest.raises(TypeError, match=message):
            ask()


def test_what_transformers_hands_over_besides_settings_is_no_mistake(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for cls in (OneVisionVideoProcessor, AutoVideoProcessor):
        again = cls.from_pretrained(tmp_path, trust_remote_code=False, local_files_only=True, num_frames=9)
        assert again.patchify_config() == processor.patchify_config(num_frames=9)
    again, unused = OneVisionVideoProcessor.from_pretrained(tmp_path, return_unused_kwargs=True, other=1)
    assert unused["other"] == 1 and again.patchify_config() == processor.patchify_config()


# -- bad videos --


@pytest.mark.parametrize(
    ("videos", "error", "message"),
    [
        ([], ValueError, "an empty list of videos"),
        (
            np.full((4, 32, 32, 3), 9.5, np.float32),
            ValueError,
            "floats in 0..1, found float32 from 9.5 to 9.5",
        ),
        (np.zeros((32, 32, 3), np.uint8), ValueError, r"4 dimensions \(T, H, W, C\), found shape"),
        (np.array(["a.mp4", "b.mp4"]), ValueError, "an array of <U5, whose elements are no pixels"),
        (["a.png", "b.png"], ValueError, "2 pictures were given as videos: frames=True makes one clip"),
        (7, TypeError, "videos must be paths"),
        ("none.mp4", VideoReadError, "none.mp4: no such file"),
        (b"text" * 1000, VideoReadError, "<bytes>: "),
    ],
)
def test_what_is_no_video_is_refused(videos, error, message, processor):
    with pytest.raises(error, match=message):
        processor(videos, **SMALL)


def test_videos_that_cannot_be_read_are_skipped_on_request(processor, clip, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(VideoReadError, match=r"broken.mp4"):
        processor([clip, broken], **SMALL)
    found = processor([broken, clip, tmp_path / "none.mp4", clip], **SMALL, errors="skip")
    assert [index for index, _ in found["skipped"]] == [0, 2]
    assert "broken.mp4: " in found["skipped"][0][1] and "no such file" in found["skipped"][1][1]
    assert same(found, processor([clip, clip], **SMALL))
    with pytest.raises(VideoReadError, match=r"broken\.mp4"):
        processor([broken], **SMALL, errors="skip")
    # An argument out of range is no fault of the video.
    with pytest.raises(ValueError, match="num_patches"):
        processor([clip], **SMALL, num_patches=10**6, errors="skip")


def test_metadata_tell_what_was_read(processor, clip):
    found = processor(clip, **SMALL, return_metadata=True)["video_metadata"][0]
    reader = VideoReader(clip)
    assert (found.total_num_frames, found.fps, found.width, found.height) == (48, reader.fps, 192, 144)
    assert found.frames_indices == [0, 9, 18, 28, 37, 47] and found.duration == pytest.approx(48 / 25)
