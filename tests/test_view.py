"""The pictures show what was kept, and are what their file names say."""

import av
import numpy as np
import pytest
from PIL import Image

from onevision_hf.view import ClipView, check_suffix, colour_map, draw_moments, draw_sheet, save


@pytest.fixture
def view() -> ClipView:
    """Six frames of 3 x 4 patches of 8 pixels; frame 0 whole, then one patch a frame."""
    rng = np.random.default_rng(0)
    frames = rng.integers(60, 255, (6, 24, 32, 3), dtype=np.uint8)
    energy = rng.random((6, 3, 4)).astype(np.float32)
    whole = [[0, h, w] for h in range(3) for w in range(4)]
    single = [[t, 1, t % 4] for t in range(1, 6)]
    return ClipView(frames, energy, np.array(whole + single), np.arange(6) / 2, list("IBBPBP"), title="a.mp4")


def test_kept_patches_keep_their_pixels_and_the_rest_is_dark_grey(view):
    picture = view.dimmed(2)
    assert np.array_equal(picture[8:16, 16:24], view.frames[2, 8:16, 16:24])
    rest = picture[:8]
    assert np.all(rest.max(axis=-1) == rest.min(axis=-1)) and rest.max() < 80
    assert np.array_equal(view.dimmed(0), view.frames[0])


def test_uniform_sampling_gets_the_same_budget_in_whole_frames(view):
    assert view.seen.tolist() == [0]  # 17 patches buy one frame of 12
    everything = np.argwhere(np.ones((6, 3, 4), bool))
    richer = ClipView(view.frames, view.energy, everything[:36], view.timestamps)
    assert richer.seen.tolist() == [0, 2, 5]


def test_lighter_means_more_in_even_steps():
    colours = colour_map(np.linspace(0, 1, 64)).astype(float)
    brightness = colours @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(brightness) > 0) and brightness[0] < 20 and brightness[-1] > 225
    assert np.array_equal(colour_map(np.array([-1.0, 2.0])), colour_map(np.array([0.0, 1.0])))


def test_heat_is_one_colour_a_patch(view):
    heat = view.heat(3)
    assert heat.shape == view.frames[3].shape
    patches = heat.reshape(3, 8, 4, 8, 3)
    assert np.all(patches == patches[:, :1, :, :1])


def test_a_sheet_shows_the_frames_it_says(view):
    sheet = np.asarray(draw_sheet(view))
    assert sheet.shape[1] == 2000 and sheet.std() > 20


def test_moments_are_one_picture_a_frame_with_even_sides(view):
    pictures = list(draw_moments(view, panel_width=101))
    assert len(pictures) == 6 and len({picture.size for picture in pictures}) == 1
    assert all(side % 2 == 0 for side in pictures[0].size)
    assert np.any(np.asarray(pictures[0]) != np.asarray(pictures[1]))


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4", ".PNG"])
def test_the_suffix_names_the_kind(view, tmp_path, suffix):
    path = tmp_path / "new" / f"picture{suffix}"
    seen = []
    save(view, path, lambda pictures, total: (seen.append(total), pictures)[1])
    if suffix == ".mp4":
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        assert len(frames) == 6 and frames[-1].time == pytest.approx(2.5, abs=0.05)
    else:
        with Image.open(path) as image:
            assert image.format == suffix[1:].upper()
            assert getattr(image, "n_frames", 1) == (6 if suffix == ".gif" else 1)
    assert seen == ([] if suffix.lower() == ".png" else [6])


@pytest.mark.parametrize("name", ["picture.bmp", "picture"])
def test_other_suffixes_are_refused_by_name(name):
    with pytest.raises(ValueError, match=r"\.png, \.gif or \.mp4, found"):
        check_suffix(name)


def test_a_clip_of_one_frame_and_a_portrait_clip_can_be_drawn(view, tmp_path):
    one = ClipView(view.frames[:1], view.energy[:1], view.positions[:12], view.timestamps[:1])
    for suffix in (".png", ".gif", ".mp4"):
        save(one, tmp_path / f"one{suffix}")
    tall = ClipView(
        view.frames.swapaxes(1, 2), view.energy.swapaxes(1, 2), view.positions[:1], view.timestamps
    )
    assert draw_sheet(tall).width == 2000


def test_arrays_that_do_not_fit_are_refused(view):
    with pytest.raises(ValueError, match="do not fit"):
        ClipView(view.frames[:5], view.energy, view.positions, view.timestamps)
    with pytest.raises(ValueError, match=r"position \[6, 0, 0\] lies outside the grid of 6 x 3 x 4"):
        ClipView(view.frames, view.energy, np.array([[6, 0, 0]]), view.timestamps)
    with pytest.raises(ValueError, match="2 picture types"):
        ClipView(view.frames, view.energy, view.positions, view.timestamps, ["I", "P"])
