"""The same seed, the same pixels: on every machine, whatever is asked beside it; and the truth fits them."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf.synthetic import ClipSettings, draw_clip, draw_image
from onevision_hf.synthetic.families import COLOURS, TEXTURES
from onevision_hf.synthetic.lettering import WORDS, lettered
from onevision_hf.synthetic.rng import TURN, StableRNG, cosine, sine


def digest(arrays):
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def test_pixels_are_those_that_were_recorded_elsewhere():
    """Raise `DRAWING` in folder.py when these have to change: folders that were begun are then refused."""
    assert digest(draw_clip(0, index).frames for index in range(24)) == "dc5f911f55342dc2"
    assert digest(draw_image(0, index).pixels for index in range(8)) == "2f97a377ce03b1e8"


def test_another_seed_index_family_or_size_is_another_clip():
    clips = [
        draw_clip(0, 0),
        draw_clip(1, 0),
        draw_clip(0, 1),
        draw_clip(0, 0, "direction"),
        draw_clip(0, 0, settings=ClipSettings(background="shake")),
    ]
    assert len({digest([clip.frames]) for clip in clips}) == 5
    large = draw_clip(0, 0, settings=ClipSettings(height=96, width=128, num_frames=40))
    assert large.frames.shape == (40, 96, 128, 3) and large.frames.dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**63) | st.text(max_size=4), min_size=1, max_size=3), st.integers(1, 1000))
def test_dice_depend_on_their_key_alone_and_stay_in_range(key, sides):
    one, two = StableRNG(*key), StableRNG(*key)
    rolls = [one.below(sides) for _ in range(20)]
    assert rolls == [two.below(sides) for _ in range(20)] and 0 <= min(rolls) <= max(rolls) < sides
    assert sorted(one.shuffled(range(6))) == list(range(6))
    assert (one.below_all(sides, (3, 5)) < sides).all()
    assert StableRNG(*key, 0).bytes(16).tolist() != StableRNG(*key).bytes(16).tolist()


def test_grain_is_noise_of_mean_0_and_standard_deviation_1_4():
    grain = StableRNG(0).grain((100, 100))
    assert abs(grain.mean()) < 0.05 and abs(grain.std() - math.sqrt(2)) < 0.05


def test_sines_in_whole_numbers_are_sines():
    angles = np.arange(-TURN, 2 * TURN)
    radians = angles * (2 * math.pi / TURN)
    assert np.abs(sine(angles) - 1024 * np.sin(radians)).max() <= 2.2
    assert np.abs(cosine(angles) - 1024 * np.cos(radians)).max() <= 2.2


def test_masks_hold_the_colour_of_their_sprite():
    for index in range(8):
        clip = draw_clip(0, index, "mover_colour", ClipSettings(background="static"))
        mover = clip.truth.events[0].sprite
        sprite, mask = clip.truth.sprites[mover], clip.truth.masks[mover, 20]
        pixels = clip.frames[20][mask].astype(float)
        wanted = np.array(COLOURS[sprite["colour"]], dtype=float)
        bright = pixels[pixels.sum(axis=1) > 0.7 * wanted.sum()]
        assert np.abs(np.median(bright, axis=0) - wanted).max() < 12
        if sprite["texture"] != "plain":
            assert np.median(pixels[pixels.sum(axis=1) < 0.6 * wanted.sum()], axis=0) @ wanted > 0
    assert sprite["texture"] in TEXTURES


@pytest.mark.parametrize(("background", "sweeps"), [("static", 1), ("pan", 1), ("pan", 4), ("shake", 1)])
def test_velocity_carries_a_mask_from_frame_to_frame(background, sweeps):
    clip = draw_clip(7, 4, "brief_direction", ClipSettings(background=background, sweeps=sweeps))
    (event,) = clip.truth.events
    middle = (clip.truth.boxes[event.sprite, :, :2] + clip.truth.boxes[event.sprite, :, 2:]) / 2
    drawn = np.diff(middle[event.start : event.end], axis=0)
    said = clip.truth.velocity[event.sprite, event.start + 1 : event.end]
    assert len(drawn) >= 4 and np.abs(said).max() > 2
    assert np.abs(drawn - said).max() <= 1, "boxes are whole pixels, velocity is exact"
    assert np.abs(np.cumsum(drawn - said, axis=0)).max() <= 1


def test_the_camera_says_where_the_ground_went():
    clip = draw_clip(0, 0, "orbit", ClipSettings(background="shake"))
    ground = ~clip.truth.masks.any(axis=(0, 1))
    first, shifts = clip.frames[0].astype(int), np.diff(clip.truth.camera[:, 1:], axis=0).astype(int)
    total = np.cumsum(shifts, axis=0)
    for t in (5, 20, 41):
        x, y = total[t - 1]
        moved = np.roll(first, (y, x), axis=(0, 1))
        inside = ground & np.roll(ground, (y, x), axis=(0, 1))
        inside[:3] = inside[-3:] = False
        inside[:, :3] = inside[:, -3:] = False
        assert np.abs(clip.frames[t].astype(int) - moved)[inside].mean() < 3, "noise alone is left"


def test_a_camera_of_several_sweeps_goes_the_same_way_there_and_back():
    once, often = (
        draw_clip(0, 0, "orbit", ClipSettings(background="pan", sweeps=sweeps)).truth.camera[:, 1:]
        for sweeps in (1, 3)
    )
    assert np.array_equal(often[[0, -1]], once[[0, -1]]) and np.array_equal(often[21], once[-1])
    assert np.array_equal(often[42], once[0])
    steps = np.linalg.norm(np.diff(often, axis=0), axis=1)
    assert np.allclose(steps, 3 * 16 / 63, atol=0.1), "as fast all the time"


def test_a_zoom_makes_things_larger_by_its_factor():
    clip = draw_clip(0, 0, "drift_direction", ClipSettings(background="zoom"))
    zoom = clip.truth.camera[:, 0]
    assert {zoom.min(), zoom.max()} == {1.0, 1.25}
    area = clip.truth.masks.sum(axis=(2, 3)).astype(float)
    small, large = area[:, zoom.argmin()], area[:, zoom.argmax()]
    assert np.median(large / small) == pytest.approx(1.25**2, rel=0.15)


def test_flicker_changes_the_light_and_nothing_else():
    clip = draw_clip(0, 0, "orbit", ClipSettings(background="flicker"))
    light = clip.frames.mean(axis=(1, 2, 3))
    assert light.max() / light.min() > 1.15 and not clip.truth.camera[:, 1:].any()


def test_words_are_told_apart_and_only_letters_and_digits_are_lettered():
    drawn = {lettered(word).tobytes() for word in WORDS}
    alphabet = {lettered(sign).tobytes() for sign in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"}
    assert len(drawn) == len(WORDS) and len(alphabet) == 36
    assert lettered("AB", 2).shape == (14, 22)
    with pytest.raises(ValueError, match="'é'"):
        lettered("CAFé")
    with pytest.raises(ValueError, match="nothing"):
        lettered("")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_frames": 31}, "num_frames=31"),
        ({"height": 31}, "31 x 64"),
        ({"width": 30}, "64 x 30"),
        ({"width": 4096}, "64 x 4096"),
        ({"sweeps": 17}, "1 to 16 sweeps in 64 frames"),
        ({"background": "fog"}, "'fog'.*static"),
    ],
)
def test_settings_out_of_range_are_refused_with_what_was_found(options, said):
    with pytest.raises(ValueError, match=said):
        ClipSettings(**options)


def test_unknown_families_and_negative_seeds_are_refused():
    with pytest.raises(ValueError, match=r"'colour'.*direction"):
        draw_clip(0, 0, "colour")
    with pytest.raises(ValueError, match="seed=-1"):
        draw_clip(-1, 0)
    with pytest.raises(ValueError, match="index=-2"):
        draw_image(0, -2)
