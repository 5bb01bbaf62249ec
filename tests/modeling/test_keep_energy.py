"""A budget that follows the content: a share of what happens, and no more patches than that takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf.modeling.content_budget import MOST_NOISE, NOISE, STILL, outstanding_energy
from onevision_hf.modeling.frame_geometry import FrameGeometry
from onevision_hf.modeling.patch_selection import BudgetSettings, Selection, select

SIDE = 4
GEOMETRY = FrameGeometry.fit(SIDE * 14, SIDE * 14, SIDE * 14, 14)


def chosen(energy: np.ndarray, absolute: np.ndarray | None = None, **budget) -> Selection:
    frames = np.arange(len(energy))
    return select(
        energy,
        frame_ids=frames,
        timestamps=frames / 25,
        picture_types=["I", *"P" * (len(energy) - 1)],
        signal="drawn",
        geometry=GEOMETRY,
        budget=BudgetSettings(**budget),
        absolute=absolute,
    )


def share(selection: Selection, count: int | None = None) -> float:
    """Of the absolute energy above the noise, what lies in the patches."""
    absolute = selection.absolute.astype(np.float64)
    noise = np.clip(NOISE + 2 * np.median(absolute, axis=(1, 2), keepdims=True), 0, MOST_NOISE)
    above = np.maximum(absolute - noise, 0) * (absolute.max() >= STILL)
    return above[tuple(selection.positions[:count].T)].sum() / above.sum()


def drawn(seed: int, frames: int, is_scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Energies of which some are noise, and what they are in one unit: each picture in its own measure."""
    rng = np.random.default_rng(seed)
    energy = rng.gamma(0.3, 1.0, (frames, SIDE, SIDE)).astype(np.float32)
    scale = rng.gamma(1.0, 3.0, (frames, 1, 1)).astype(np.float32) if is_scaled else np.float32(1)
    return energy, energy * scale


@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(2, 9),
    is_scaled=st.booleans(),
    keep_energy=st.floats(0.01, 1.0),
    keep_ratio=st.floats(0.05, 1.0),
    anchors=st.sampled_from(["first", 3]),
    time_buckets=st.integers(1, 3),
)
def test_the_fewest_patches_that_have_the_share_are_kept_and_never_more_than_the_bound(
    seed, frames, is_scaled, keep_energy, keep_ratio, anchors, time_buckets
):
    energy, absolute = drawn(seed, frames, is_scaled)
    others = {"anchors": anchors, "time_buckets": time_buckets}
    found = chosen(energy, absolute, keep_energy=keep_energy, keep_ratio=keep_ratio, **others)
    whole = len(range(0, frames, 3)) if anchors == 3 else 1
    bound = max(round(keep_ratio * energy.size), whole * SIDE**2)
    assert whole * SIDE**2 <= len(found) <= bound
    assert share(found) >= keep_energy - 1e-9 or len(found) == bound
    if len(found) > whole * SIDE**2:
        fewer = chosen(energy, absolute, num_patches=len(found) - 1, **others)
        assert share(fewer) < keep_energy
    for t in range(0, frames, 3) if anchors == 3 else (0,):
        assert (found.positions[:, 0] == t).sum() == SIDE**2, "an anchor is whole"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shares=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=2))
def test_a_larger_share_keeps_all_that_a_smaller_one_keeps(seed, shares):
    energy, absolute = drawn(seed, 6, True)
    small, large = (chosen(energy, absolute, keep_energy=one, keep_ratio=1.0) for one in sorted(shares))
    assert {*map(tuple, small.positions)} <= {*map(tuple, large.positions)}


def test_the_patches_are_those_of_a_fixed_budget_of_as_many():
    energy, absolute = drawn(1, 8, True)
    found = chosen(energy, absolute, keep_energy=0.7, keep_ratio=1.0)
    fixed = chosen(energy, absolute, num_patches=len(found))
    assert SIDE**2 < len(found) < energy.size / 2
    np.testing.assert_array_equal(found.positions, fixed.positions)


def test_the_share_is_of_what_is_comparable_over_the_clip():
    """In the second picture a patch moves by ten pixels, in the third some by a little: divided by its own
    percentile each picture would have as much to say."""
    energy = np.zeros((3, SIDE, SIDE), np.float32)
    energy[1, 1, 1], energy[2].flat[:7] = 1.0, 0.9
    absolute = energy.copy()
    absolute[1] *= 10
    absolute[2] *= 0.5
    assert len(chosen(energy, energy, keep_energy=0.8, keep_ratio=1.0)) == SIDE**2 + 7
    assert len(chosen(energy, absolute, keep_energy=0.8, keep_ratio=1.0)) == SIDE**2 + 1


def test_noise_is_no_energy():
    energy = np.full((8, SIDE, SIDE), STILL - 0.01, np.float32)
    found = chosen(energy, keep_energy=1.0, keep_ratio=1.0)
    assert len(found) == SIDE**2 and set(found.positions[:, 0]) == {0}
    energy[3, 2, 1] = 1.0
    found = chosen(energy, keep_energy=1.0, keep_ratio=1.0)
    assert found.positions[-1].tolist() == [3, 2, 1] and len(found) == SIDE**2 + 1


def test_what_half_of_a_picture_has_is_noise_up_to_what_moves():
    absolute = np.zeros((3, SIDE, SIDE), np.float32)
    absolute[0, 0, 0] = absolute[2, 0, 0] = 1.0
    absolute[1] = 3.0
    absolute[2, 1:] = 0.05
    found = outstanding_energy(absolute, np.ones((SIDE, SIDE), bool))
    assert found[0].sum() == found[0, 0, 0] == pytest.approx(1 - NOISE)
    assert found[1].min() == pytest.approx(3 - MOST_NOISE), "all of it moves"
    assert found[2, 0, 0] == found[2].sum() == pytest.approx(1 - NOISE - 0.1), (
        "a camera's rest lies everywhere"
    )


def test_energy_of_the_anchors_counts_as_kept():
    energy = np.zeros((3, SIDE, SIDE), np.float32)
    energy[0, 0, 0], energy[1, 0, 0], energy[2, 0, 0] = 8 + NOISE, 1.5 + NOISE, 0.5 + NOISE
    counts = [len(chosen(energy, keep_energy=one, keep_ratio=1.0)) - SIDE**2 for one in (0.75, 0.9, 0.96)]
    assert counts == [0, 1, 2]


def test_merge_blocks_are_kept_whole_and_count_by_their_mean():
    energy = np.zeros((3, SIDE, SIDE), np.float32)
    energy[1, :2, :2], energy[2, 2, 2] = 1.0, 0.3
    found = chosen(energy, keep_energy=1.0, keep_ratio=1.0, merge_size=2)
    assert len(found) == SIDE**2 + 4, "a quarter of a block that moves a little is noise"
    assert set(found.positions[SIDE**2 :, 0]) == {1}


def test_padding_has_no_energy_to_be_kept():
    geometry = FrameGeometry.pad_square(28, 56, 56, 14)
    energy = np.full((3, SIDE, SIDE), 2 * MOST_NOISE, np.float32)
    times, budget = np.arange(3), BudgetSettings(keep_energy=1.0, keep_ratio=1.0)
    found = select(
        energy, frame_ids=times, timestamps=times, picture_types=["I", "P", "P"], signal="drawn",
        geometry=geometry, budget=budget,
    )  # fmt: skip
    assert len(found) == SIDE**2 + 2 * geometry.inside.sum() < energy.size


@pytest.mark.parametrize("keep_energy", [0, -0.1, 1.01, True, "0.9", float("nan")])
def test_shares_that_cannot_be_are_refused(keep_energy):
    with pytest.raises(ValueError, match=r"keep_energy must be in \(0, 1\], not"):
        BudgetSettings(keep_energy=keep_energy)


def test_the_bound_is_a_quarter_unless_a_budget_is_given():
    assert BudgetSettings(keep_energy=0.9).keep_ratio == 0.25
    assert BudgetSettings().keep_ratio == 0.125
    assert BudgetSettings(keep_energy=0.9, keep_ratio=0.125).keep_ratio == 0.125
    given = BudgetSettings(keep_energy=0.9, num_patches=32)
    assert (given.num_patches, given.keep_ratio) == (32, None)
    busy = np.random.default_rng(0).gamma(2.0, 2.0, (8, SIDE, SIDE)).astype(np.float32)
    assert len(chosen(busy, keep_energy=0.9)) == 32
