"""What an observer of a few whole frames can know, as a probability of each label, worked out from the truth.

The observer knows how clips are made, sees its frames without noise, knows how the camera moved and where
every sprite rests. Its posterior over the labels of a brief event is exact, given which of its frames show
the event and where; of what lasts it is taken to know all that one frame shows any of. So this bounds from
above what can be made of those frames. The best answers are right as often as the mean of the largest
probabilities.
"""

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np

from ...synthetic.clips import Clip
from ...synthetic.families import CLIP_FAMILIES, DIRECTIONS, SPEEDS
from ...synthetic.scenes import Event

LENGTHS = (4, 6, 10)  # frames of a nudge, equally likely
FIRST, MARGIN = 3, 3  # an event starts at this frame at the earliest, and ends so many before the last
FLY_FRAMES = dict(zip(SPEEDS, (10, 6, 4), strict=True))
FLY_WAY, FLY_BOX = 24.0, 11.5  # units that it crosses; its middle is within this of the picture's


def posterior(family: str, clip: Clip, seen: Sequence[int]) -> np.ndarray:
    """(labels,) the probability of each label of `family` for who sees the frames `seen` of `clip`.

    Args:
        family: of labels.
        clip: with its truth.
        seen: numbers of the frames that are seen.
    """
    labels, label = CLIP_FAMILIES[family].labels, clip.labels[family]
    events = clip.truth.events
    if family in ("nudge_direction", "nudge_who", "binding"):
        # The displaced sprite shows who and where to; nothing else in these clips tells either.
        return _known(labels, label, displaced(events[0], seen))
    if family == "first":
        chances = _known(labels, label, displaced(events[0], seen))
        if displaced(events[1], seen) and not displaced(events[0], seen):
            chances[labels.index(str(clip.truth.sprites[events[1].sprite]["colour"]))] = 0
        return chances / chances.sum()
    if family == "count":
        count = len(clip.truth.owners)
        return np.array(count_posterior(tuple(seen), count, _slots_seen(events, seen, count)))
    if family == "brief_colour":
        return _known(labels, label, any(events[0].start <= t < events[0].end for t in seen))
    if family in ("brief_direction", "brief_speed"):
        joint = fly_posterior(clip, seen)
        return joint.sum(1 if family == "brief_direction" else 0)
    if family in ("direction", "speed", "mover_colour", "drift_direction"):
        return _known(labels, label, bool(clip.truth.masks[events[0].sprite][list(seen)].any()))
    return _known(labels, label, True)


def _known(labels: Sequence[str], label: str | None, is_known: bool) -> np.ndarray:
    if not is_known:
        return np.full(len(labels), 1 / len(labels))
    return np.array([float(name == label) for name in labels])


def displaced(event: Event, seen: Sequence[int]) -> bool:
    """Whether a nudged sprite is away from its place in one of the frames; in its last frame it is back."""
    return any(event.start <= t < event.end - 1 for t in seen)


def _slot(num_frames: int, place: int) -> tuple[int, int]:
    """Where nudge `place` of a `count` clip lies: the first frame, and the one after the last."""
    length = (num_frames - 5) // 4
    return FIRST + place * length, FIRST + (place + 1) * length


def _slots_seen(events: Sequence[Event], seen: Sequence[int], num_frames: int) -> tuple[bool, ...]:
    bounds = [_slot(num_frames, place) for place in range(4)]
    return tuple(
        any(displaced(e, seen) for e in events if low <= e.start and e.end <= high) for low, high in bounds
    )


@cache
def count_posterior(seen: tuple[int, ...], num_frames: int, slots: tuple[bool, ...]) -> tuple[float, ...]:
    """The probabilities of 1 to 4 nudges, of which those in `slots` were seen.

    Args:
        seen: numbers of the frames that are seen.
        num_frames: of the clip.
        slots: of each of the four places whether its nudge was seen.
    """
    shown = []
    for place in range(4):
        low, high = _slot(num_frames, place)
        lengths = [frames for frames in LENGTHS if frames <= high - low - 1]
        hits = [
            np.mean([any(s <= t < s + frames - 1 for t in seen) for s in range(low, high - frames + 1)])
            for frames in lengths
        ]
        shown.append(float(np.mean(hits)))
    likelihoods = []
    for number in range(1, 5):
        ways = list(itertools.combinations(range(4), number))
        total = 0.0
        for way in ways:
            if all(place in way for place, is_seen in enumerate(slots) if is_seen):
                total += float(np.prod([shown[p] if slots[p] else 1 - shown[p] for p in way]))
        likelihoods.append(total / len(ways))
    return tuple(value / sum(likelihoods) for value in likelihoods)


def fly_posterior(clip: Clip, seen: Sequence[int]) -> np.ndarray:
    """(directions, speeds): sums over the first frames with which the disc would be seen in the same frames,
    and, where it is seen, with its middle where middles lie."""
    event, count = clip.truth.events[0], len(clip.truth.owners)
    visible = [event.start <= t < event.end for t in seen]
    places = _fly_places(clip, event, [t for t, shown in zip(seen, visible, strict=True) if shown])
    times = np.array([t for t, shown in zip(seen, visible, strict=True) if shown], float)
    ways = np.array(list(DIRECTIONS.values())) / 256 * FLY_WAY
    weights = np.zeros((len(DIRECTIONS), len(SPEEDS)))
    for speed, length in enumerate(FLY_FRAMES.values()):
        last = count - MARGIN - (length + 1)
        for start in range(FIRST, last + 1):
            if [start <= t <= start + length for t in seen] != visible:
                continue
            # (directions, frames, 2): where the middle of the way would be
            middles = places - ways[:, None] * ((times - start) / length - 0.5)[:, None]
            inside = (np.abs(middles) <= FLY_BOX + 1e-6).all((1, 2))
            agree = (np.abs(middles - middles[:, :1]) <= 1).all((1, 2))
            weights[:, speed] += (inside & agree) / (last + 1 - FIRST)
    return weights / weights.sum()


def _fly_places(clip: Clip, event: Event, times: Sequence[int]) -> np.ndarray:
    """(times, 2): where the disc is, in units from the middle of the picture and without the camera's motion.
    From the frame that shows most of it."""
    truth = clip.truth
    height, width = truth.owners.shape[1:]
    boxes = truth.boxes[event.sprite].astype(float)
    t = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmax())
    zoom, *shift = truth.camera[t]
    centre = np.array([boxes[t, 0] + boxes[t, 2] - 1, boxes[t, 1] + boxes[t, 3] - 1]) / 2
    screen = centre - np.array([width - 1, height - 1]) / 2
    place = (screen / zoom - np.array(shift)) * 64 / min(height, width)
    way = np.array(DIRECTIONS[str(clip.labels["brief_direction"])]) / 256 * FLY_WAY
    length = FLY_FRAMES[str(clip.labels["brief_speed"])]
    # A box is of whole pixels; its rounding must not push the middle out of where middles lie.
    middle = np.clip(place - way * ((t - event.start) / length - 0.5), -FLY_BOX, FLY_BOX)
    return middle + way * ((np.array(times, float)[:, None] - event.start) / length - 0.5)
