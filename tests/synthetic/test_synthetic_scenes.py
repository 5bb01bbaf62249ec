"""What a scene says happens is what its pixels and its truth show."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onevision_hf.synthetic import CLIP_FAMILIES, ClipSettings, draw_clip
from onevision_hf.synthetic.families import BACKGROUNDS, CAMERA_MOTIONS, COLOURS, DIRECTIONS
from onevision_hf.synthetic.rng import StableRNG
from onevision_hf.synthetic.scenes import SCENES, Stage, scene_of_chance
from onevision_hf.synthetic.sprites import SUB

STILL = ClipSettings(background="static")
SMALL = ClipSettings(num_frames=32, height=32, width=32)


def heading(vector):
    """The name of the nearest of the eight directions."""
    return max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], vector) / math.hypot(*DIRECTIONS[name]))


def moves_of(clip, event):
    """Displacement in each frame of an event, relative to the ground (no zoom)."""
    ground = np.diff(clip.truth.camera[:, 1:], axis=0, prepend=clip.truth.camera[:1, 1:])
    return (clip.truth.velocity[event.sprite] - ground)[event.start : event.end]


def colour_of(clip, event):
    return clip.truth.sprites[event.sprite]["colour"]


@pytest.mark.parametrize("background", ["static", "pan", "shake"])
@pytest.mark.parametrize("family", ["direction", "drift_direction"])
def test_sustained_motion_goes_the_way_of_its_label_over_the_ground(family, background):
    for index in range(8):
        clip = draw_clip(3, index, family, ClipSettings(background=background))
        (event,) = clip.truth.events
        assert event.end - event.start >= 32
        assert heading(moves_of(clip, event).sum(axis=0)) == clip.labels[family]


def test_speeds_of_sustained_motion_are_apart():
    lengths = {"slow": [], "medium": [], "fast": []}
    for index in range(9):
        clip = draw_clip(1, index, "speed", STILL)
        total = moves_of(clip, clip.truth.events[0]).sum(axis=0)
        lengths[clip.labels["speed"]].append(np.hypot(*total) / 63)
    assert [round(np.mean(v), 1) for v in lengths.values()] == [0.3, 0.6, 1.0]
    assert all(np.ptp(v) < 0.05 for v in lengths.values())


def test_what_flies_past_is_there_only_while_it_crosses_24_pixels():
    durations = {"slow": 10, "medium": 6, "fast": 4}
    for index in range(8):
        clip = draw_clip(0, index, "brief_direction", STILL)
        (event,) = clip.truth.events
        seen = np.flatnonzero(clip.truth.masks[event.sprite].any(axis=(1, 2)))
        moves = moves_of(clip, event)[1:]
        assert seen.tolist() == list(range(event.start, event.end))
        assert len(moves) == durations[clip.labels["brief_speed"]]
        assert np.hypot(*moves.sum(axis=0)) == pytest.approx(24, abs=0.2)
        assert heading(moves.sum(axis=0)) == clip.labels["brief_direction"]
        assert colour_of(clip, event) == clip.labels["brief_colour"]


@pytest.mark.parametrize("family", ["nudge_direction", "first", "count", "binding"])
def test_a_nudge_goes_nine_pixels_out_and_leaves_nothing_behind(family):
    for index in range(4):
        clip = draw_clip(5, index, family, STILL)
        for event in clip.truth.events:
            way = np.cumsum(moves_of(clip, event), axis=0)
            assert np.hypot(*way.T).max() == pytest.approx(9, abs=0.2) and not way[-1].any()
        resting = [t for t in range(64) if not any(e.start <= t < e.end - 1 for e in clip.truth.events)]
        assert (clip.truth.owners[resting] == clip.truth.owners[0]).all()


def test_nudges_are_as_many_as_the_label_says_and_never_two_at_once():
    for index in range(8):
        clip = draw_clip(2, index, "count", STILL)
        spans = sorted((event.start, event.end) for event in clip.truth.events)
        assert str(len(spans)) == clip.labels["count"]
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))


def test_the_first_to_move_is_the_label():
    for index in range(8):
        clip = draw_clip(2, index, "first")
        first = min(clip.truth.events, key=lambda event: event.start)
        assert colour_of(clip, first) == clip.labels["first"] and len(clip.truth.events) == 2


def test_two_move_at_once_and_only_the_colour_tells_whose_direction_is_asked():
    for index in range(8):
        clip = draw_clip(4, index, "binding", STILL)
        red, other = sorted(clip.truth.events, key=lambda event: colour_of(clip, event) != "red")
        assert (red.start, red.end) == (other.start, other.end) and colour_of(clip, other) != "red"
        halves = [heading(moves_of(clip, e)[: (e.end - e.start) // 2].sum(axis=0)) for e in (red, other)]
        assert halves[0] == clip.labels["binding"] != halves[1]


def test_of_two_that_cross_the_label_is_seen_where_they_overlap():
    for index in range(4):
        clip = draw_clip(1, index, "crossing", STILL)
        areas = clip.truth.masks.sum(axis=(2, 3))
        front = int(areas.min(axis=1).argmax())
        assert clip.truth.sprites[front]["colour"] == clip.labels["crossing"]
        assert areas[1 - front].min() < 0.7 * areas[1 - front].max()


def test_the_dot_goes_round_in_the_sense_of_its_label():
    for index in range(4):
        clip = draw_clip(1, index, "orbit", STILL)
        steps = moves_of(clip, clip.truth.events[0])
        turn = (steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]).sum()
        assert ("clockwise" if turn > 0 else "counterclockwise") == clip.labels["orbit"]


def test_growth_and_appearance_are_seen_in_the_area_of_who_does_it():
    for index in range(4):
        clip = draw_clip(1, index, "growth", STILL)
        (event,) = clip.truth.events
        area = clip.truth.masks[event.sprite].sum(axis=(1, 2))
        assert colour_of(clip, event) == clip.labels["growth_who"]
        small, large = (area[0], area[-1]) if clip.labels["growth"] == "grows" else (area[-1], area[0])
        assert large > 2 * small

        clip = draw_clip(1, index, "appear", STILL)
        (event,) = clip.truth.events
        seen = clip.truth.masks[event.sprite].any(axis=(1, 2))
        assert colour_of(clip, event) == clip.labels["appear_who"]
        assert (seen == (np.arange(64) >= event.start)).all() == (clip.labels["appear"] == "appears")


def test_a_word_is_dark_and_bright_from_its_first_frame_on():
    clip = draw_clip(1, 3, "word", STILL)
    (event,) = clip.truth.events
    assert clip.truth.sprites[event.sprite]["word"] == clip.labels["word"]
    mask = clip.truth.masks[event.sprite, event.start]
    values = clip.frames[event.start].mean(axis=-1)[mask]
    assert (values > 220).mean() > 0.15 and (values < 50).mean() > 0.4
    assert not clip.truth.masks[event.sprite, : event.start].any()


def test_the_mark_is_absent_at_first_and_fades_in_below_four_levels_a_frame():
    clip = draw_clip(2, 1, "detail", STILL)
    event = next(event for event in clip.truth.events if event.kind == "fades in")
    place = clip.truth.masks[event.sprite, -1]
    luma = clip.frames[:, place].astype(float) @ [0.299, 0.587, 0.114]
    steps = np.abs(np.diff(np.median(luma, axis=1)))
    assert not clip.truth.masks[event.sprite, 0].any()
    assert steps.max() < 4
    others = clip.truth.masks[[e.sprite for e in clip.truth.events if e is not event]]
    assert not (others.any(axis=(0, 1)) & place).any(), "what moves stays away from the mark"
    # Its colour is there to be seen at the end.
    rise = clip.frames[-1][place].mean(axis=0) - clip.frames[0][place].mean(axis=0)
    assert rise @ (np.array(COLOURS[clip.labels["detail"]]) - clip.frames[0][place].mean(axis=0)) > 0


def test_fine_lines_are_under_the_noise_of_a_frame_and_come_out_of_many():
    clips = [draw_clip(0, index, "fine") for index in range(4)]
    x, y = np.arange(64)[None, :], np.arange(64)[:, None]
    places = {"upright": x + 0 * y, "level": y + 0 * x, "rising": x + y, "falling": x - y}
    for clip in clips:
        mean = clip.frames.mean(axis=(0, 3))
        strength = {n: abs((mean * np.exp(0.5j * np.pi * p)).mean()) for n, p in places.items()}
        assert max(strength, key=strength.get) == clip.labels["fine"]
        noise = (clip.frames[1].astype(int) - clip.frames[0])[..., 1].std() / math.sqrt(2)
        assert noise > 5


def test_every_family_gives_each_of_its_labels_in_turn():
    for name, family in CLIP_FAMILIES.items():
        labels = [draw_clip(0, index, name, SMALL).labels[name] for index in range(len(family.labels))]
        assert labels == list(family.labels)


def test_half_of_the_clips_have_camera_motion():
    clips = [draw_clip(0, index, settings=SMALL) for index in range(100)]
    moving = np.mean([clip.labels["background"] in CAMERA_MOTIONS for clip in clips])
    assert 0.4 < moving < 0.6
    assert {clip.labels["background"] for clip in clips} == set(BACKGROUNDS)


def test_scenes_come_as_often_as_they_should():
    drawn = Counter(scene_of_chance(StableRNG(index)) for index in range(4000))
    for name, (_, weight) in SCENES.items():
        assert drawn[name] / 40 == pytest.approx(weight, abs=0.25 * weight)


def test_the_place_of_the_mover_in_one_frame_tells_little_of_its_direction():
    places = []
    for index in range(2000):
        stage = Stage(StableRNG(index), 64, 64, 64, SUB, {"direction": tuple(DIRECTIONS)[index % 8]})
        SCENES["glide"][0](stage)
        x, y = (stage.sprites[-1].centres[0] / SUB + 7) % 78 - 7
        places.append([1, x / 64, y / 64])
    inputs, ways = np.array(places), np.arange(2000) % 8
    readout = np.linalg.lstsq(inputs[:1000], np.eye(8)[ways[:1000]], rcond=None)[0]
    assert ((inputs[1000:] @ readout).argmax(axis=1) == ways[1000:]).mean() < 0.27


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**6), st.sampled_from([None, *CLIP_FAMILIES]))
def test_any_seed_gives_labels_of_the_families_and_boxes_that_bound_the_masks(seed, index, family):
    clip = draw_clip(seed, index, family, SMALL)
    for name, label in clip.labels.items():
        assert label is None or label in CLIP_FAMILIES[name].labels
    truth = clip.truth
    assert truth.masks.sum(axis=0).max() <= 1, "one owner a pixel"
    for boxes, masks in zip(truth.boxes, truth.masks, strict=True):
        for (left, top, right, bottom), mask in zip(boxes, masks, strict=True):
            assert mask.sum() == mask[top:bottom, left:right].sum()
            if mask.any():
                inside = mask[top:bottom, left:right]
                edges = inside[0], inside[-1], inside[:, 0], inside[:, -1]
                assert all(edge.any() for edge in edges)
            else:
                assert left == top == right == bottom == 0
    for event in truth.events:
        assert 0 < event.start < event.end <= len(clip.frames) and event.sprite < len(truth.sprites)
