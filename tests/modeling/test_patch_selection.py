"""The budget is spent to the patch, on whole anchor frames and on what moves."""

import numpy as np
import pytest
from clips import moving_scene, write_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf import select_patches
from onevision_hf.modeling.frame_sampling import sample_frame_ids
from onevision_hf.modeling.patch_selection import resolve_budget, top_patches

SMALL = {"num_frames": 8, "size": 56, "patch_size": 14}  # 8 frames of 4 x 5 patches from 144 x 192 pixels


# -- the budget --


@given(
    ratio=st.floats(0.001, 1),
    frames=st.integers(1, 64),
    per_frame=st.integers(1, 300),
    anchors=st.integers(1, 3),
)
def test_a_ratio_buys_its_share_rounded_and_at_least_the_anchors(ratio, frames, per_frame, anchors):
    anchors = min(anchors, frames)
    budget = resolve_budget(None, ratio, frames, per_frame, anchors)
    assert budget == max(round(ratio * frames * per_frame), anchors * per_frame)
    assert resolve_budget(budget, None, frames, per_frame, anchors) == budget


def test_an_eighth_is_kept_when_nothing_is_said(clip):
    assert resolve_budget(None, None, 64, 256) == 2048
    assert len(select_patches(clip, num_frames=32, size=56)) == 32 * 4 * 5 // 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_patches": 161}, r"num_patches=161, .*8 frames of 20 patches.* 160"),
        ({"num_patches": 19}, r"num_patches=19 is below the 20 patches of 1 anchor"),
        ({"num_patches": 40, "keep_ratio": 0.5}, "num_patches=40 and keep_ratio=0.5 are both given"),
        ({"num_patches": -1}, "num_patches must be a positive integer, not -1"),
        ({"num_patches": 2.5}, "num_patches must be a positive integer, not 2.5"),
        ({"num_patches": True}, "num_patches must be a positive integer, not True"),
        ({"keep_ratio": 0.0}, r"keep_ratio must be in \(0, 1\], not 0.0"),
        ({"keep_ratio": -0.1}, r"keep_ratio must be in \(0, 1\]"),
        ({"keep_ratio": 1.01}, r"keep_ratio must be in \(0, 1\]"),
        ({"keep_ratio": float("nan")}, r"keep_ratio must be in \(0, 1\]"),
        ({"num_frames": 0}, "num_frames must be a positive integer, not 0"),
        ({"size": -56}, "size must be a positive integer, not -56"),
        ({"patch_size": 0}, "patch_size must be a positive integer, not 0"),
        ({"preset": "best"}, "unknown preset 'best': choose one of auto, published"),
        ({"anchors": "last"}, "anchors must be first, keyframes, shots or a positive integer"),
        ({"signals": ("colour",)}, "signals must be some of vectors"),
        ({"signals": ("vectors",), "weights": (1.0, 2.0)}, "weights must be 1 numbers"),
        ({"normalize": "all"}, "unknown normalize 'all'"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_numbers(arguments, message, clip):
    with pytest.raises(ValueError, match=message):
        select_patches(clip, **{**SMALL, **arguments})


# -- the best patches --


@settings(deadline=None)
@given(data=st.data())
def test_the_best_patches_are_those_of_a_sort_with_ties_by_index(data):
    frames, rows, columns = (data.draw(st.integers(1, 5)) for _ in range(3))
    shape, per_frame = (frames, rows, columns), rows * columns
    # Few levels, so that there are many ties.
    levels = data.draw(st.lists(st.integers(0, 3), min_size=frames * per_frame, max_size=frames * per_frame))
    energy = np.array(levels, np.float32).reshape(shape)
    anchors = data.draw(st.sets(st.integers(0, frames - 1), min_size=1))
    outside = np.array(data.draw(st.lists(st.booleans(), min_size=per_frame, max_size=per_frame)))
    count = data.draw(st.integers(len(anchors) * per_frame, frames * per_frame))
    # Anchors first, the padding last.
    rank = np.where(outside, 1.0, -energy.reshape(frames, -1))
    rank[sorted(anchors)] = -9
    flat = [(rank[t, place], t, place) for t in range(frames) for place in range(per_frame)]
    expected = sorted((t, place // columns, place % columns) for _, t, place in sorted(flat)[:count])
    positions = top_patches(energy, count, sorted(anchors), ~outside.reshape(rows, columns))
    assert positions.dtype == np.int64 and [tuple(row) for row in positions.tolist()] == expected


@given(available=st.integers(1, 2000), asked=st.integers(1, 80))
def test_frames_are_sampled_evenly_from_first_to_last_without_repeats(available, asked):
    ids = sample_frame_ids(available, asked)
    assert len(ids) == min(available, asked) and ids[0] == 0 and (np.diff(ids) > 0).all()
    if available > asked:
        assert np.array_equal(ids, np.floor(np.linspace(0, available - 1, asked)))
        assert asked == 1 or ids[-1] == available - 1


# -- of a video --


def test_a_selection_is_whole_in_its_anchor_sorted_and_scored(clip):
    selection = select_patches(clip, **SMALL, keep_ratio=0.3)
    t, h, w = selection.positions.T
    flat = (t * 4 + h) * 5 + w
    assert len(selection) == round(0.3 * 8 * 20) and selection.keep_ratio == pytest.approx(0.3)
    assert (np.diff(flat) > 0).all() and (t == 0).sum() == 20
    assert selection.energy.shape == (8, 4, 5) and selection.energy.dtype == np.float32
    assert (selection.energy >= 0).all() and np.isfinite(selection.energy).all()
    assert np.array_equal(selection.scores, selection.energy[t, h, w])
    kept = np.zeros((8, 4, 5), bool)
    kept[t, h, w] = True
    assert selection.energy[1:][kept[1:]].min() >= selection.energy[1:][~kept[1:]].max()
    assert selection.frame_ids.tolist() == np.floor(np.linspace(0, 47, 8)).tolist()
    assert np.allclose(selection.timestamps, selection.frame_ids / 25)
    assert selection.picture_types[0] == "I" and set(selection.picture_types) <= {"I", "P", "B"}


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "mpeg2video", "libvpx-vp9", "libsvtav1"])
def test_what_moves_is_kept_with_every_codec(codec, tmp_path):
    """A square that crosses a still ground: what is kept lies on it, the ground stays out."""
    frames = np.repeat(moving_scene(1, 112, 168, seed=5), 24, axis=0)
    square = moving_scene(1, 112, 168, seed=9)[0, :28, :28]
    for t, frame in enumerate(frames):
        frame[42:70, 4 * t : 4 * t + 28] = square
    path = write_clip(tmp_path / "clip.mkv", frames, codec=codec, gop=30)
    selection = select_patches(path, num_frames=12, size=112, num_patches=96 + 60)
    later = selection.positions[selection.positions[:, 0] > 0]
    x = later[:, 2] * 14 + 7 - 4 * selection.frame_ids[later[:, 0]]
    on_square = (later[:, 1] >= 2) & (later[:, 1] <= 5) & (x >= -14) & (x <= 42)
    assert on_square.mean() > 0.8


def test_a_still_clip_gets_whole_frames_evenly_and_says_so(tmp_path, scene):
    still = np.repeat(scene[:1], 24, axis=0)
    for clip in (still, write_clip(tmp_path / "still.avi", still, codec="mpeg4", gop=30)):
        selection = select_patches(clip, **SMALL, num_patches=40)
        assert "nothing moves" in selection.signal
        assert np.unique(selection.positions[:, 0]).tolist() == [0, 7]


@pytest.mark.parametrize("num_frames", [1, 48, 49, 1000])
def test_a_clip_gives_no_more_frames_than_it_has(num_frames, clip):
    selection = select_patches(clip, num_frames=num_frames, size=56)
    assert len(selection.frame_ids) == min(num_frames, 48) == len(np.unique(selection.frame_ids))


@pytest.mark.parametrize(("height", "width"), [(33, 47), (200, 30), (64, 64)])
def test_odd_sizes_keep_their_shape(height, width, tmp_path):
    path = write_clip(tmp_path / "odd.mp4", moving_scene(5, height, width), pix_fmt="yuv444p")
    selection = select_patches(path, num_frames=4, size=42)
    scale = 42 / min(height, width) / 14
    assert selection.energy.shape[1:] == (round(height * scale), round(width * scale))


def test_the_same_file_gives_the_same_selection_every_time(clip):
    first, *others = [
        select_patches(source, **SMALL) for source in (clip, clip, str(clip), clip.read_bytes())
    ]
    for other in others:
        assert np.array_equal(first.positions, other.positions)
        assert first.energy.tobytes() == other.energy.tobytes()


def test_signals_are_named_after_what_the_codec_gives(clip, scene, tmp_path):
    vp9 = write_clip(tmp_path / "clip.webm", scene[:12], codec="libvpx-vp9")
    assert select_patches(vp9, **SMALL).signal == "vectors+residual (painted references)"
    assert select_patches(scene, **SMALL).signal == "difference"
    assert select_patches(clip, **SMALL).signal == "vectors+residual"
    assert select_patches(clip, **SMALL, preset="bits").signal.startswith("bits")
    assert select_patches(clip, **SMALL, signals=("vectors",)).signal == "vectors"
    with pytest.raises(ValueError, match="vp9 gives no bits: choose of difference, vectors, residual"):
        select_patches(vp9, **SMALL, signals=("bits",))


def test_anchors_are_kept_whole(clip):
    every_third = select_patches(clip, **SMALL, anchors=3, num_patches=100)
    counts = np.bincount(every_third.positions[:, 0], minlength=8)
    assert (counts[[0, 3, 6]] == 20).all() and counts.sum() == 100
    keyframes = select_patches(clip, num_frames=48, size=56, anchors="keyframes", keep_ratio=0.25)
    counts = np.bincount(keyframes.positions[:, 0], minlength=48)
    assert (counts[[0, 12, 24, 36]] == 20).all() and counts.sum() == 240
    with pytest.raises(ValueError, match="below the 60 patches of 3 anchor"):
        select_patches(clip, **SMALL, anchors=3, num_patches=50)


def test_merge_blocks_stay_together(clip):
    selection = select_patches(clip, **SMALL, merge_size=2, num_patches=80)
    blocks = selection.positions.reshape(-1, 4, 3)
    assert len(np.unique(selection.positions, axis=0)) == 80
    assert (blocks[:, 0, 1:] % 2 == 0).all()
    assert (blocks - blocks[:, :1] == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]).all()


def test_time_buckets_share_the_budget(clip):
    selection = select_patches(clip, num_frames=9, size=56, time_buckets=4, num_patches=20 + 40)
    later = selection.positions[selection.positions[:, 0] > 0]
    assert [np.isin(later[:, 0], frames).sum() for frames in ([1, 2], [3, 4], [5, 6], [7, 8])] == [10] * 4


def test_the_published_layout_is_a_square_with_black_sides(clip):
    selection = select_patches(
        clip, num_frames=8, size=112, patch_size=16, preset="published", num_patches=98
    )
    inside = selection.geometry.inside
    assert inside.shape == (7, 7) and not inside[0].any() and not inside[-1].any()
    later = selection.positions[selection.positions[:, 0] > 0]
    assert (selection.positions[:, 0] == 0).sum() == 49 and inside[later[:, 1], later[:, 2]].all()


def test_the_published_selection_is_recalled_on_a_real_clip(real_clips):
    published = np.load(real_clips / "beach.selection.npz")
    selection = select_patches(
        real_clips / "beach.mp4", size=576, patch_size=16, num_patches=10368, preset="published"
    )
    assert np.array_equal(selection.frame_ids, published["frame_ids"])
    ours = {tuple(row) for row in selection.positions.tolist()}
    assert len(ours) == len(selection.positions) == 10368
    theirs = [tuple(row) for row in published["positions_thw"].tolist() if row[0] > 0]
    assert len(theirs) == 9072
    assert sum(row in ours for row in theirs) / len(theirs) >= 0.82
