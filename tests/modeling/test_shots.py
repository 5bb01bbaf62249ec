"""Cuts are found where they were drawn; the first frame of each shot is kept whole, as the budget allows."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import _texture, moving_scene, write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf import OneVisionVideoProcessor, VideoReader, select_patches
from onevision_hf.assets import bundled_clip
from onevision_hf.modeling import shot_cuts
from onevision_hf.modeling.patch_selection import BudgetSettings, reselect
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.modeling.shot_changes import cuts_among, distance, thumbnail
from onevision_hf.modeling.shot_cuts import Shots
from onevision_hf.modeling.shot_suspects import find_suspects

REAL = (1.17, 3.13, 5.77, 7.70, 9.43, 11.73, 15.93)  # seconds, of beach.mp4
FPS, LENGTHS = 25, (20, 17, 23)
CUTS = [20 / FPS, 37 / FPS]
# Encoder, its options, B pictures, pixel format, suffix.
STREAMS = {
    "H.264": ("libx264", {"crf": "24"}, 2, "yuv420p", "mp4"),
    "H.264 without scene cuts": ("libx264", {"crf": "24", "x264-params": "scenecut=0"}, 2, "yuv420p", "mp4"),
    "HEVC": ("libx265", {"x265-params": "log-level=error:pools=none:bframes=0"}, 0, "yuv420p", "mp4"),
    "HEVC, B": ("libx265", {"x265-params": "log-level=error:pools=none:bframes=3"}, 0, "yuv420p", "mp4"),
    "HEVC 10-bit": ("libx265", {"x265-params": "log-level=error:pools=none"}, 0, "yuv420p10le", "mkv"),
    "VP8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "b": "400k"}, 0, "yuv420p", "webm"),
    "VP9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "32"}, 0, "yuv420p", "webm"),
    "AV1": ("libsvtav1", {"preset": "10", "crf": "36"}, 0, "yuv420p", "mkv"),
    "MPEG-4, B": ("mpeg4", {"b": "600k"}, 2, "yuv420p", "avi"),
    "MPEG-2, B": ("mpeg2video", {"b": "900k"}, 2, "yuv420p", "ts"),
    "MJPEG": ("mjpeg", {"q:v": "4"}, 0, "yuvj420p", "avi"),
}


def draw_shots(lengths=LENGTHS, height=96, width=128) -> np.ndarray:
    """A panned, a resting and another panned scene, each with a square that moves by itself."""
    shots = [moving_scene(length, height, width, seed=10 + k) for k, length in enumerate(lengths)]
    return np.concatenate(shots)


def encode(path: Path, frames: np.ndarray, stream: str, **more: str) -> Path:
    codec, options, b_frames, pix_fmt, suffix = STREAMS[stream]
    path = path.with_suffix(f".{suffix}")
    with av.open(str(path), "w") as container:
        out = container.add_stream(codec, rate=FPS, options=options | more)
        context = out.codec_context
        context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        context.thread_count = 1
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            context.max_b_frames = b_frames
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, FPS)
            container.mux(out.encode(frame))
        container.mux(out.encode(None))
    return path


@pytest.fixture(scope="module")
def three_shots(tmp_path_factory) -> Path:
    return encode(tmp_path_factory.mktemp("shots") / "three", draw_shots(), "H.264")


def select(path, **settings):
    return select_patches(path, **{"size": 64, "patch_size": 16, "num_frames": 20, **settings})


def whole_frames(selection) -> list[int]:
    counts = np.bincount(selection.positions[:, 0], minlength=len(selection.frame_ids))
    return np.flatnonzero(counts == selection.geometry.patches_per_frame).tolist()


@pytest.mark.parametrize("stream", STREAMS)
def test_cuts_are_found_at_the_picture_in_every_codec(stream, tmp_path):
    selection = select(encode(tmp_path / "clip", draw_shots(), stream))
    np.testing.assert_allclose(selection.shots, [0.0, *CUTS], atol=0.5 / FPS)
    assert selection.shots[0] == 0.0


@pytest.mark.parametrize("stream", STREAMS)
def test_cuts_of_long_clips_are_found_without_decoding_them_besides(stream, tmp_path, monkeypatch):
    path = encode(tmp_path / "clip", draw_shots(), stream)
    monkeypatch.setattr(shot_cuts, "SHORT", 0)
    # Its B pictures behind the last sampled picture of a group would tell, and are not read.
    pictures = 2.5 if stream == "MPEG-4, B" else 0.5
    np.testing.assert_allclose(select(path).shots, [0.0, *CUTS], atol=pictures / FPS)


def test_shots_are_the_default_of_auto_and_their_first_sampled_frames_are_whole(three_shots):
    selection = select(three_shots, keep_ratio=0.4)
    first_seen = [0, *np.searchsorted(selection.timestamps, np.array(CUTS) - 1e-6)]
    assert set(first_seen) <= set(whole_frames(selection))
    assert "3 shots, of 3 a frame is kept whole" in selection.signal
    assert len(selection) == len(select(three_shots, keep_ratio=0.4, anchors="first"))


def test_anchors_take_no_more_than_half_of_the_budget(three_shots):
    per_frame = select(three_shots).geometry.patches_per_frame
    for budget, anchors in ((5 * per_frame, 2), (4 * per_frame, 2), (3 * per_frame, 1), (per_frame, 1)):
        selection = select(three_shots, num_patches=budget)
        assert len(selection) == budget
        assert f"3 shots, of {anchors} a frame is kept whole" in selection.signal
        assert len(selection.shots) == 3


def test_a_budget_that_follows_the_content_has_the_anchors_of_the_shots(three_shots):
    little = select(three_shots, keep_energy=0.001, keep_ratio=0.4)
    assert len(little) == 3 * little.geometry.patches_per_frame
    assert whole_frames(little) == [0, *np.searchsorted(little.timestamps, np.array(CUTS) - 1e-6)]
    tight = select(three_shots, keep_energy=1.0, num_patches=4 * little.geometry.patches_per_frame)
    assert "3 shots, of 2 a frame is kept whole" in tight.signal and len(tight) <= 4 * len(little) // 3


def test_another_budget_keeps_the_anchors_of_the_shots(three_shots):
    clip = select(three_shots, keep_ratio=1.0)
    for budget in (BudgetSettings(keep_ratio=0.4, anchors="shots"), BudgetSettings(keep_ratio=0.4)):
        other = reselect(clip, budget)
        read = select(three_shots, keep_ratio=0.4, anchors=budget.anchors)
        np.testing.assert_array_equal(other.positions, read.positions)
        assert other.signal == read.signal
    assert (
        reselect(other, BudgetSettings(keep_ratio=0.4, anchors="shots")).signal
        == select(three_shots, keep_ratio=0.4).signal
    )


def test_the_range_that_is_sampled_is_searched(three_shots):
    np.testing.assert_allclose(select(three_shots, start=1.0).shots, [0.0, CUTS[1]], atol=0.5 / FPS)
    assert select(three_shots, start=1.0, end=1.3).shots.tolist() == [0.0]


def test_a_clip_without_a_cut_is_as_before_to_the_bit(monkeypatch):
    for short in (shot_cuts.SHORT, 0):
        monkeypatch.setattr(shot_cuts, "SHORT", short)
        ours, before = (select_patches(bundled_clip(), anchors=anchors) for anchors in ("shots", "first"))
        assert ours.shots.tolist() == [0.0] and ours.signal == before.signal
        for name in ("positions", "energy", "absolute", "scores"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(before, name))


@pytest.mark.parametrize("stream", ["HEVC, B", "VP9", "AV1", "MPEG-2, B", "H.264"])
def test_suspects_change_nothing_in_the_energy_of_the_sampled_frames(stream, tmp_path, monkeypatch):
    path = encode(tmp_path / "clip", draw_shots(), stream)
    monkeypatch.setattr(shot_cuts, "SHORT", 0)
    with_search, without = (select(path, anchors=anchors) for anchors in ("shots", "first"))
    np.testing.assert_array_equal(with_search.energy, without.energy)
    np.testing.assert_array_equal(with_search.absolute, without.absolute)


def test_published_keeps_its_single_anchor(three_shots):
    assert select(three_shots, preset="published").shots.tolist() == [0.0]
    assert OneVisionVideoProcessor(preset="published").anchors == "first"
    config = OneVisionVideoProcessor().patchify_config(preset="published")
    assert config.budget.anchors == "first"
    assert PatchifyConfig().replace(preset="published").budget.anchors == "first"
    assert PatchifyConfig().replace(preset="published", anchors="shots").budget.anchors == "shots"


def test_defaults_are_those_of_the_preset():
    assert PatchifyConfig().budget.anchors == OneVisionVideoProcessor().anchors == "shots"
    assert PatchifyConfig.from_dict({"preset": "bits"}).budget.anchors == "first"
    assert PatchifyConfig.from_dict(PatchifyConfig().to_dict()) == PatchifyConfig()


def test_saved_processors_keep_what_they_say(tmp_path):
    path = tmp_path / "video_preprocessor_config.json"
    OneVisionVideoProcessor().save_pretrained(tmp_path)
    assert OneVisionVideoProcessor.from_pretrained(tmp_path).anchors == "shots"
    assert PatchifyConfig.from_pretrained(tmp_path).budget.anchors == "shots"
    settings = json.loads(path.read_text(encoding="utf-8"))
    del settings["anchors"]  # as it was saved before
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert OneVisionVideoProcessor.from_pretrained(tmp_path).anchors == "first"
    assert PatchifyConfig.from_pretrained(tmp_path).budget.anchors == "first"
    assert OneVisionVideoProcessor.from_pretrained(tmp_path, anchors="shots").anchors == "shots"


def test_decoded_frames_have_shots_too():
    frames = draw_shots()
    selection = select(frames, video_metadata={"fps": FPS})
    np.testing.assert_allclose(selection.shots, [0.0, *CUTS])
    unknown = select(frames)
    assert unknown.shots[0] == 0.0 and np.isnan(unknown.shots[1:]).all() and len(unknown.shots) == 3


def test_flashes_flicker_and_keyframes_are_no_cuts(tmp_path):
    frames = moving_scene(60, 96, 128, seed=3).astype(np.int16)
    frames[20:22] += 90  # a flash
    frames[40:] = frames[40:] * 7 // 10  # the light goes down
    path = encode(tmp_path / "clip", np.clip(frames, 0, 255).astype(np.uint8), "H.264", g="7")
    assert select(path).shots.tolist() == [0.0]


def keyframes_among_suspects(path) -> list[int]:
    with VideoReader(path) as reader:
        suspects = find_suspects(reader.index, 0, len(reader) - 1, 1.5)
    return sorted(one.frame_id for one in suspects if one.is_keyframe)


def test_keyframes_at_equal_distances_are_timed_others_placed(tmp_path):
    path = write_clip(tmp_path / "timed.mp4", moving_scene(60, 96, 128), gop=20)
    assert not keyframes_among_suspects(path)
    path = encode(tmp_path / "placed", draw_shots((31, 27, 10)), "H.264", g="250")
    assert keyframes_among_suspects(path) == [31, 58]


@given(
    seen=st.lists(st.integers(0, 70), max_size=40).map(sorted),
    frames=st.integers(1, 64),
    most=st.integers(0, 20),
)
def test_anchors_are_thinned_evenly(seen, frames, most):
    anchors = Shots(np.zeros(len(seen)), np.array(seen, np.int64)).anchors(frames, most)
    starts = sorted({0, *(t for t in seen if t < frames)})
    assert anchors[0] == 0 and set(anchors) <= set(starts)
    assert len(anchors) == len(set(anchors)) == min(len(starts), max(1, most))
    if len(anchors) > 1:
        places = np.diff([starts.index(t) for t in anchors])
        assert places.max() - places.min() <= 1
        assert anchors[-1] == starts[-1]


def test_pictures_of_one_scene_are_near_and_of_others_far():
    rng = np.random.default_rng(0)
    here, there = (thumbnail(_texture(rng, 90, 160, 40, 220)[..., 0].astype(np.uint8)) for _ in range(2))
    assert distance(here, here) == 0 and distance(here, there) > 0.8
    assert distance(here[:, :-3], here[:, 3:]) < 0.1  # the camera went on
    assert cuts_among(dict(enumerate([here] * 4 + [there] * 4))) == [4]


def test_a_real_clip_s_cuts_are_found(real_clips):
    shots = select_patches(real_clips / "beach.mp4").shots
    for cut in (3.13, 5.77, 7.70, 11.73, 15.93):
        assert np.abs(shots - cut).min() < 0.02
    made_up = [shot for shot in shots[1:] if shot < 15.9 and np.abs(shot - np.array(REAL)).min() > 0.05]
    assert len(made_up) <= 1
