"""The ceilings of whole frames: exact where they can be checked by counting, calibrated where they cannot."""

import numpy as np
import pytest

from onevision_hf.eval.motion.ceilings import count_posterior, displaced, fly_posterior, posterior
from onevision_hf.eval.motion.clips import Drawn, scheduled, uniform_frames
from onevision_hf.eval.motion.settings import FAMILIES, SCHEDULE, ClipSettings
from onevision_hf.synthetic import CLIP_FAMILIES, Clip, Event, draw_clip
from onevision_hf.synthetic import ClipSettings as WorldSettings
from onevision_hf.synthetic.rng import StableRNG
from onevision_hf.synthetic.scenes import SCENES, Stage
from onevision_hf.synthetic.sprites import SUB


def planned(scene: str, index: int) -> Stage:
    """A scene that is planned and not painted."""
    stage = Stage(StableRNG(5, scene, index), 64, 64, 64, SUB)
    SCENES[scene][0](stage)
    return stage


def test_the_posterior_of_a_count_is_what_counting_planned_scenes_gives():
    seen = uniform_frames(64, 4)
    counts_seen: dict[tuple[bool, ...], list[int]] = {}
    for index in range(1500):
        stage = planned("count", index)
        slots = tuple(
            any(displaced(e, seen) for e in stage.events if 3 + 14 * p <= e.start < 3 + 14 * (p + 1))
            for p in range(4)
        )
        counts_seen.setdefault(slots, []).append(int(stage.labels["count"]))
    right = sum(max(np.bincount(counts)) for counts in counts_seen.values()) / 1500
    expected = (
        sum(len(c) * max(count_posterior(tuple(seen), 64, slots)) for slots, c in counts_seen.items()) / 1500
    )
    assert right == pytest.approx(expected, abs=0.04)
    nothing = count_posterior(tuple(seen), 64, (False,) * 4)
    assert nothing == pytest.approx(
        np.bincount(counts_seen[(False,) * 4], minlength=5)[1:] / len(counts_seen[(False,) * 4]), abs=0.06
    )
    assert count_posterior(tuple(seen), 64, (True,) * 4) == pytest.approx((0, 0, 0, 1))


def test_a_nudged_sprite_is_away_from_its_place_in_the_frames_that_count():
    stage = planned("nudge", 0)
    event = stage.events[0]
    ways = stage.sprites[event.sprite].centres
    away = [t for t in range(64) if (ways[t] != ways[0]).any()]
    assert away == [t for t in range(64) if displaced(event, [t])]
    assert not displaced(Event("nudges", 0, 10, 14), [9, 13, 20])


@pytest.fixture(scope="module")
def flights() -> list[Clip]:
    backgrounds = ("static", "pan", "zoom")
    return [
        draw_clip(3, n, "brief_direction", WorldSettings(32, background=backgrounds[n % 3]))
        for n in range(36)
    ]


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_what_is_said_of_a_disc_that_flies_by_is_calibrated(flights, frames):
    """On average the true label has the probability that the observer expects of it: the sum of squares."""
    seen, gave, expected = uniform_frames(32, frames), [], []
    for clip in flights:
        joint = fly_posterior(clip, seen)
        assert joint.sum() == pytest.approx(1) and (joint >= 0).all()
        for family in ("brief_direction", "brief_speed"):
            chances = posterior(family, clip, seen)
            gave.append(chances[CLIP_FAMILIES[family].labels.index(clip.labels[family])])
            expected.append((chances**2).sum())
        event = clip.truth.events[0]
        if not any(event.start <= t < event.end for t in seen):
            assert posterior("brief_direction", clip, seen) == pytest.approx(np.full(8, 1 / 8))
    assert np.mean(gave) == pytest.approx(np.mean(expected), abs=0.06)


def test_who_sees_every_frame_knows_everything():
    for index in range(20):
        family, number, background = scheduled(index, SCHEDULE)
        clip = draw_clip(9, number, family, WorldSettings(background=background))
        for name in FAMILIES:
            if clip.labels[name] is not None:
                assert posterior(name, clip, range(64)).max() == pytest.approx(1), name


def test_of_two_events_the_second_alone_leaves_three_answers():
    clip = draw_clip(2, 0, "first")
    first, second = clip.truth.events
    assert posterior("first", clip, [first.start]).max() == 1
    late = posterior("first", clip, [second.start])
    assert sorted(late) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert posterior("first", clip, [0]) == pytest.approx(np.full(4, 0.25))


def test_clips_take_turns_so_that_labels_and_backgrounds_are_balanced():
    drawn = [scheduled(number, SCHEDULE) for number in range(len(SCHEDULE) * 16)]
    assert len({(family, index) for family, index, _ in drawn}) == len(drawn)
    nudges = [(index % 8, background) for family, index, background in drawn if family == "nudge_direction"]
    moving = [label for label, background in nudges if background != "static"]
    assert np.bincount(moving).tolist() == [len(moving) // 8] * 8
    assert len(moving) / len(nudges) == pytest.approx(0.5, abs=0.1)


def test_train_and_test_clips_are_of_other_worlds_and_only_test_clips_have_ceilings():
    drawn = Drawn(ClipSettings(num_frames=32, schedule=("nudge_direction",)))
    train, test = drawn.item("train", 0), drawn.item("test", 0)
    assert train.file != test.file and np.isnan(train.ceilings).all()
    asked_of = [label >= 0 for label in test.labels]
    assert (~np.isnan(test.ceilings)).all(axis=1).tolist() == asked_of
    assert set(drawn.families) == {"nudge_direction", "nudge_who", "shape", "ground"}
