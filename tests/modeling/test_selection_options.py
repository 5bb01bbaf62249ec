"""What a user can ask of the selection: signals, anchors, stretches of time, merge blocks, which frames."""

import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf import OneVisionVideoProcessor, select_patches
from onevision_hf.modeling.frame_sampling import sample_by_size
from onevision_hf.modeling.patch_selection import top_patches
from onevision_hf.modeling.video_reader import VideoReader

SMALL = {"num_frames": 16, "size": 84}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One scene under every codec that has a signal of its own, and one in which nothing moves."""
    folder, frames = tmp_path_factory.mktemp("signals"), moving_scene(24, 96, 128, seed=2)
    still = np.repeat(frames[:1], 24, axis=0)
    return {
        "h264": write_clip(folder / "h264.mp4", frames, gop=10),
        "hevc": write_clip(folder / "hevc.mp4", frames, codec="libx265"),
        "mpeg4": write_clip(folder / "mpeg4.mp4", frames, codec="mpeg4"),
        "plain-mpeg4": write_clip(folder / "plain.mp4", frames, codec="mpeg4", bframes=0),
        "vp9": write_clip(folder / "vp9.webm", frames, codec="libvpx-vp9"),
        "deep": write_clip(folder / "deep.mp4", frames, pix_fmt="yuv420p10le"),
        "still": write_clip(folder / "still.mp4", still, gop=48),
    }


@pytest.mark.parametrize(
    ("codec", "preset", "signal"),
    [
        ("h264", "auto", "vectors+residual"),
        ("hevc", "auto", "vectors+residual (painted references)"),
        ("mpeg4", "auto", "painted_vectors+painted_residual (painted references)"),
        ("plain-mpeg4", "auto", "vectors+compensated"),
        ("vp9", "auto", "vectors+residual (painted references)"),
        ("h264", "bits", "bits"),
        ("hevc", "bits", "bits"),
        ("h264", "published", "vectors+compensated"),
    ],
)
def test_the_result_names_its_signal(clips, codec, preset, signal):
    assert select_patches(clips[codec], **SMALL, preset=preset).signal == signal


def test_what_a_stream_cannot_give_is_named_with_what_served_instead(clips):
    deep = select_patches(clips["deep"], **SMALL).signal
    assert deep.startswith("vectors+compensated") and "10 bits" in deep
    vp9 = select_patches(clips["vp9"], **SMALL, preset="bits").signal
    assert vp9.startswith("difference") and "vp9" in vp9 and "bits" in vp9


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "vp9"])
def test_what_moves_is_kept(clips, codec):
    """The three squares of the scene move otherwise than its ground: their frames have more energy there."""
    selection = select_patches(clips[codec], **SMALL)
    assert selection.energy.shape == (16, 6, 8) and (selection.energy >= 0).all()
    assert selection.energy[1:].max() > 3 * np.median(selection.energy[1:])


def test_signals_of_ones_own_add_up_with_their_weights(clips):
    one = select_patches(clips["h264"], **SMALL, signals=("vectors", "residual"), weights=(1, 0))
    other = select_patches(clips["h264"], **SMALL, signals=("vectors", "residual"), weights=(2, 0))
    inter = np.array([kind != "I" for kind in one.picture_types])
    assert np.allclose(2 * one.energy[inter], other.energy[inter])
    assert one.signal == "vectors+residual"


@pytest.mark.parametrize(
    ("codec", "wrong", "match"),
    [
        ("vp9", {"signals": ("bits",)}, "vp9 gives no bits.*difference"),
        ("vp9", {"signals": ("vectors", "difference")}, "difference cannot be mixed with painted"),
        ("hevc", {"signals": ("compensated",)}, "hevc gives no compensated.*residual"),
        ("h264", {"signals": ("residual", "difference")}, "cannot be mixed"),
        ("h264", {"signals": ("luck",)}, "luck"),
        ("h264", {"signals": ("vectors",), "weights": (1, 2)}, "1 numbers"),
        ("h264", {"weights": (1,)}, "weights go with signals"),
        ("h264", {"preset": "best"}, "unknown preset 'best'.*published"),
        ("h264", {"normalize": "video"}, "unknown normalize"),
        ("h264", {"camera": "dolly"}, "unknown camera"),
        ("h264", {"anchors": "last"}, "anchors"),
        ("h264", {"anchors": 0}, "anchors"),
        ("h264", {"time_buckets": 0}, "time_buckets"),
        ("h264", {"merge_size": 2, "num_patches": 49}, "no multiple of the 4 patches of a merge block"),
        ("h264", {"sampling": "random"}, "unknown sampling"),
        ("h264", {"fps": -1}, "fps"),
        ("h264", {"start": 2, "end": 1}, "start=2 is not before end=1"),
        ("h264", {"start": 50}, "no frame lies"),
        ("h264", {"timestamps": [0, 99]}, "99 s is after the end"),
        ("h264", {"timestamps": [0], "fps": 2}, "do not go"),
        ("deep", {"signals": ("residual",)}, "10 bits"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_what_can(clips, codec, wrong, match):
    with pytest.raises(ValueError, match=match):
        select_patches(clips[codec], **(SMALL | wrong))


def test_over_the_clip_busy_pictures_get_more_than_over_the_picture(clips):
    frame = select_patches(clips["h264"], **SMALL, camera="median", normalize="frame").energy[1:].mean((1, 2))
    clip = select_patches(clips["h264"], **SMALL, camera="median", normalize="clip").energy[1:].mean((1, 2))
    assert clip.std() / clip.mean() > frame.std() / frame.mean()


def test_where_nothing_moves_whole_frames_are_kept(clips):
    selection = select_patches(clips["still"], **SMALL, keep_ratio=0.25)
    assert "nothing moves" in selection.signal and len(selection) == round(0.25 * 16 * 48)
    times, counts = np.unique(selection.positions[:, 0], return_counts=True)
    assert times.tolist() == [0, 5, 10, 15] and (counts == 48).all()


def test_keyframes_and_every_nth_frame_can_be_anchors(clips):
    keys = select_patches(clips["h264"], **SMALL, anchors="keyframes", keep_ratio=0.5)
    anchors = [t for t, kind in enumerate(keys.picture_types) if kind == "I" or t == 0]
    assert len(anchors) > 1
    nth = select_patches(clips["h264"], **SMALL, anchors=5, num_patches=4 * 48)
    for selection, whole in ((keys, anchors), (nth, [0, 5, 10, 15])):
        for t in whole:
            assert (selection.positions[:, 0] == t).sum() == 48
    with pytest.raises(ValueError, match=r"num_patches=191 .* 192 patches of 4 anchor"):
        select_patches(clips["h264"], **SMALL, anchors=5, num_patches=191)


@given(
    frames=st.integers(2, 9),
    buckets=st.integers(1, 12),
    extra=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_stretches_of_time_share_the_budget_evenly(frames, buckets, extra, seed):
    energy = np.random.default_rng(seed).random((frames, 3, 4)).astype(np.float32)
    budget = min(12 + extra, energy.size)
    positions = top_patches(energy, budget, time_buckets=buckets)
    assert len(np.unique(positions, axis=0)) == budget
    stretches = [part for part in np.array_split(np.arange(1, frames), buckets) if len(part)]
    counts = [int(np.isin(positions[:, 0], part).sum()) for part in stretches]
    room = [12 * len(part) for part in stretches]
    for one, space in zip(counts, room, strict=True):
        # None is short of another by more than one, unless it is full.
        assert (
            one == space or one >= max(counts) - 1 or (buckets > 1 and one >= (budget - 12) // len(stretches))
        )


def test_merge_blocks_are_kept_together_in_block_order(clips):
    selection = select_patches(clips["h264"], **SMALL, merge_size=2)
    assert selection.energy.shape[1] % 2 == 0 and selection.energy.shape[2] % 2 == 0
    blocks = selection.positions.reshape(-1, 4, 3)
    assert (blocks[:, 0, 1:] % 2 == 0).all()
    offsets = blocks[:, :, 1:] - blocks[:, :1, 1:]
    assert (offsets == [[0, 0], [0, 1], [1, 0], [1, 1]]).all() and (blocks[:, :, 0] == blocks[:, :1, 0]).all()
    corners = blocks[:, 0].tolist()
    assert corners == sorted(corners)
    inputs = OneVisionVideoProcessor()(clips["h264"], **SMALL, merge_size=2, return_tensors="np")
    assert (inputs["patch_positions"][0, :, 1:] == selection.positions[:, 1:]).all()


def test_frames_by_rate_time_and_stretch(clips):
    with VideoReader(clips["h264"]) as reader:
        times = reader.timestamps
    assert select_patches(clips["h264"], size=84, fps=5).frame_ids.tolist() == [0, 5, 10, 15, 20]
    named = select_patches(clips["h264"], size=84, timestamps=[0.5, 0.0, 0.21])
    assert named.frame_ids.tolist() == [0, 5, 12]  # the frame that is on screen
    part = select_patches(clips["h264"], num_frames=4, size=84, start=0.4, end=0.8)
    assert times[part.frame_ids[0]] == pytest.approx(0.4) and times[part.frame_ids[-1]] == pytest.approx(0.8)
    assert np.allclose(part.timestamps, times[part.frame_ids])


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=60),
    num_frames=st.integers(1, 30),
    gop=st.integers(1, 20),
)
def test_sampling_by_size_gives_each_frame_once(sizes, num_frames, gop):
    sizes = np.array(sizes)
    chosen = sample_by_size(sizes, np.arange(len(sizes)) % gop == 0, num_frames)
    assert len(chosen) == min(len(sizes), num_frames) and chosen[0] == 0
    assert (np.diff(chosen) > 0).all() and chosen[-1] < len(sizes)


def test_sampling_by_size_looks_where_something_happens():
    sizes = np.r_[np.full(100, 10), np.full(20, 1000), np.full(100, 10)]
    chosen = sample_by_size(sizes, np.zeros(220, bool), 20)
    assert ((chosen >= 100) & (chosen < 120)).sum() >= 14


def test_the_processor_takes_the_same_options_stored_or_given(clips, tmp_path):
    options = {"preset": "bits", "anchors": 8, "time_buckets": 3, "normalize": "clip"}
    options["sampling"] = "packet_size"
    stored = OneVisionVideoProcessor(**SMALL, **options)
    stored.save_pretrained(tmp_path)
    loaded = OneVisionVideoProcessor.from_pretrained(tmp_path)
    first = stored(clips["h264"], return_tensors="np")
    second = loaded(clips["h264"], return_tensors="np")
    third = OneVisionVideoProcessor()(clips["h264"], **SMALL, **options, return_tensors="np")
    for other in (second, third):
        assert all((first[name] == other[name]).all() for name in first)


def test_frames_decoded_elsewhere_have_no_times_and_no_packets():
    frames = moving_scene(8, 56, 56)
    for wrong in ({"fps": 2}, {"start": 1}, {"timestamps": [0]}, {"sampling": "packet_size"}):
        with pytest.raises(ValueError, match="decoded elsewhere"):
            select_patches(frames, size=56, **wrong)
