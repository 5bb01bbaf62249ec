"""What of a clip an encoder sees, and what the interventions change of it.

Run: python -m pytest tests/eval/test_probe_inputs.py
"""

from types import SimpleNamespace

import numpy as np
import pytest
from probe_clips import FRAMES, PATCH, SIDE, draw

from onevision_hf import OneVisionVideoProcessor
from onevision_hf.eval.probes.clip_transform import (
    ClipTransform,
    InputSettings,
    frames_of_spans,
    middle_square,
)
from onevision_hf.eval.probes.color_jitter import jitter
from onevision_hf.training.config import ConfigError
from onevision_hf.training.transforms import with_overrides

GRID = (SIDE // PATCH) ** 2
PROCESSOR = OneVisionVideoProcessor(
    **middle_square(SIDE), patch_size=PATCH, num_frames=8, num_patches=40, image_mean=[0.5, 0.4, 0.3],
    image_std=[0.2, 0.3, 0.4],
)  # fmt: skip


class Clips(list):
    """Rows with labels, as a view takes them."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    paths = [draw(folder / f"{n}.mp4", n % 2, n) for n in range(3)]
    return Clips(
        SimpleNamespace(key=f"clip {n}", media=str(path), labels=np.array([n % 2]))
        for n, path in enumerate(paths)
    )


def show(clips, number=0, rng=None, kind="codec", augment=False, intervene=None, **overrides):
    view = ClipTransform(
        InputSettings(kind, with_overrides(PROCESSOR.patchify_config(), overrides)), augment, intervene, clips
    )  # fmt: skip
    sample = view(clips[number], rng, number)
    return sample["pixel_values_videos"], sample["patch_positions"]


def test_codec_input_is_what_the_processor_gives_to_the_bit(clips):
    patches, positions = show(clips)
    expected = PROCESSOR(clips[0].media, return_tensors="np")
    assert np.array_equal(positions, expected["patch_positions"][0])
    assert np.array_equal(patches, expected["pixel_values_videos"][0])


def test_frames_are_whole_and_stand_where_they_are_in_the_clip(clips):
    patches, positions = show(clips, kind="frames", num_patches=2 * GRID + 5)
    assert patches.shape == (2 * GRID, 3 * PATCH**2)
    frames = frames_of_spans(FRAMES, 2, None)
    assert frames.tolist() == [2, 6]  # int(4.5 * (i + 0.5))
    expected = np.rint(frames / (FRAMES - 1) * 63)
    assert np.unique(positions[:, 0]).tolist() == expected.tolist()
    dense, everywhere = show(clips, kind="dense")
    assert len(dense) == 8 * GRID and len(np.unique(everywhere, axis=0)) == 8 * GRID
    assert np.unique(everywhere[:, 0]).tolist() == np.linspace(0, 63, 8).astype(int).tolist()


def test_a_short_clip_gives_all_it_has(clips, tmp_path):
    path = draw(tmp_path / "s.mp4", 0, 0, frames=2)
    short = Clips([SimpleNamespace(key="s", media=str(path), labels=np.zeros(1))])
    assert len(show(short)[0]) == 2 * GRID
    assert len(show(short, kind="frames", num_patches=4 * GRID)[0]) == 2 * GRID


def test_budgets_that_no_clip_can_have_are_errors():
    with pytest.raises(ConfigError, match=rf"num_patches is 200, but 8 frames .* have {8 * GRID} patches"):
        show([], num_patches=200)
    with pytest.raises(ConfigError, match=f"less than the {GRID} of one whole frame"):
        show([], num_patches=GRID - 1)
    with pytest.raises(ConfigError, match=r"60 x 60 is no multiple of the patch size 14"):
        show([], **middle_square(60))
    with pytest.raises(ConfigError, match=r"no setting 'num_patch' \(did you mean num_patches\?\)"):
        show([], num_patch=40)
    with pytest.raises(ConfigError, match="patch_size is 14 in the encoder's weights, it cannot be 8"):
        show([], patch_size=8)
    with pytest.raises(ConfigError, match="cannot be used so: unknown preset 'publish'"):
        show([], preset="publish")


def test_a_clip_that_the_settings_do_not_fit_is_named(clips):
    """Every frame of a clip as an anchor leaves no clip a budget of 40."""
    with pytest.raises(ConfigError, match=r"clip 0: num_patches=40 is below the 128 patches of 8 anchor"):
        show(clips, anchors=1)


@pytest.mark.parametrize("kind", ["codec", "frames"])
def test_the_budget_of_every_input_is_the_processors(clips, kind):
    """A quarter of the patches of eight frames: 32 of 128, two whole frames."""
    assert len(show(clips, kind=kind, keep_ratio=0.25)[0]) == 2 * GRID
    assert (
        InputSettings(kind, with_overrides(PROCESSOR.patchify_config(), {"keep_ratio": 0.25})).num_patches
        == 2 * GRID
    )
    assert len(show(clips, kind="dense", keep_ratio=0.25)[0]) == 8 * GRID


def test_a_share_of_the_energy_is_a_budget_of_clips_and_no_number(clips):
    def settings(kind):
        return InputSettings(
            kind, with_overrides(PROCESSOR.patchify_config(), {"keep_energy": 0.5, "keep_ratio": 0.5})
        )

    counts = [len(positions) for _, positions in [show(clips, keep_energy=0.5, keep_ratio=0.5)]]
    assert all(GRID <= count < 4 * GRID for count in counts)
    assert settings("codec").num_patches is None
    assert settings("codec").budget() == "50 % of the energy, at most 50 % of the patches"
    assert settings("frames").budget() == f"{4 * GRID} patches", "whole frames spend all of it"


def test_training_clips_vary_with_their_generator_alone(clips):
    def drawn(seed):
        rng = np.random.default_rng(seed)
        return show(clips, kind="frames", num_patches=2 * GRID, augment=True, rng=rng)

    (first, at), (again, at_again), (other, at_other) = drawn(0), drawn(0), drawn(1)
    assert np.array_equal(first, again) and np.array_equal(at, at_again)
    assert not np.array_equal(first, other) and not np.array_equal(at, at_other)
    plain = show(clips, kind="frames", num_patches=2 * GRID, augment=True, rng=None)[0]
    assert np.array_equal(plain, show(clips, kind="frames", num_patches=2 * GRID)[0])


def test_colours_change_together_and_stay_colours():
    pixels = np.random.default_rng(0).random((5, 3, 16), np.float32)
    changed = [jitter(pixels, np.random.default_rng(seed)) for seed in range(40)]
    assert all(c.dtype == np.float32 and c.min() >= 0 and c.max() <= 1 for c in changed)
    assert len({c.mean().round(3) for c in changed}) > 20
    # Grey has no colour to change: the three channels stay equal.
    grey = np.repeat(pixels[:, :1], 3, axis=1)
    for seed in range(10):
        found = jitter(grey, np.random.default_rng(seed))
        assert np.ptp(found, axis=1).max() < 5e-3


def test_replace_shows_half_of_the_motion_patches_at_rest_and_keeps_all_positions(clips):
    plain, positions = show(clips)
    changed, same = show(clips, intervene="replace")
    assert np.array_equal(positions, same)
    differ = np.abs(plain - changed).max(1) > 0
    moving = positions[:, 0] > 0
    assert not differ[~moving].any() and 0 < differ.sum() <= moving.sum() // 2
    dense, everywhere = show(clips, kind="dense")
    of_place = {}
    for place, patch in zip(everywhere.tolist(), dense, strict=True):
        of_place.setdefault(tuple(place[1:]), []).append(patch)
    for place, patch in zip(positions[differ].tolist(), changed[differ], strict=True):
        assert min(np.abs(patch - other).max() for other in of_place[tuple(place[1:])]) < 1e-5


def test_foreign_takes_motion_of_another_clip_and_shuffle_moves_positions_alone(clips):
    plain, positions = show(clips)
    foreign, same = show(clips, intervene="foreign")
    assert np.array_equal(positions, same)
    differ = np.abs(plain - foreign).max(1) > 0
    moving = positions[:, 0] > 0
    assert differ.sum() == moving.sum() // 2 and not differ[~moving].any()
    others = [show(clips, number=n)[0] for n in (1, 2)]
    found = [sum(np.abs(o - patch).max(1).min() < 1e-5 for patch in foreign[differ]) for o in others]
    assert max(found) == differ.sum()
    pixels, shuffled = show(clips, intervene="shuffle")
    assert np.array_equal(pixels, plain) and not np.array_equal(shuffled, positions)
    assert np.array_equal(np.unique(shuffled, axis=0), np.unique(positions, axis=0))
    for name in ("replace", "foreign", "shuffle"):  # a function of the clip's number
        once, twice = (show(clips, intervene=name) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(once, twice, strict=True))
