"""Times of hidden pictures are those of the frames that show them; only they wait, and never for long."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from clips import moving_scene
from vpx_streams import decode_revealed, encode_packets, steps_of

from onevision_hf.modeling.coded_picture import CodedPicture
from onevision_hf.modeling.display_order import MAX_AHEAD, with_times
from onevision_hf.modeling.vp9_bitstream import RevealedVP9


class Pictures:
    """A made-up stream. Each call adds a picture, which gets the next number, or shows one."""

    def __init__(self, first_rank: int = 0) -> None:
        self.steps: list[tuple[int, CodedPicture]] = []
        self.rank, self.count = first_rank, 0

    def add(self, kept: set[int], shown: bool = True, **fields: object) -> "Pictures":
        picture = CodedPicture(b"", self.count, is_shown=shown, kept=frozenset(kept), **fields)
        self.steps.append((self.rank if shown else -1, picture))
        self.rank, self.count = self.rank + shown, self.count + 1
        return self

    def show(self, number: int, **fields: object) -> "Pictures":
        kept = self.steps[-1][1].kept
        self.steps.append((self.rank, CodedPicture(b"", number, is_coded=False, kept=kept, **fields)))
        self.rank += 1
        return self

    def times(self) -> list[float]:
        timed = list(with_times(self.steps))
        assert [(t.rank, t.picture) for t in timed] == self.steps
        return [t.time for t in timed]


def test_shown_pictures_have_the_rank_of_their_packet_at_once():
    """Also those that show a picture decoded earlier, and B pictures of codecs that hide none."""
    taken = 0

    def pictures() -> Iterator[tuple[int, CodedPicture]]:
        nonlocal taken
        for number, rank in enumerate((7, 11, 9, 8, 10)):
            taken += 1
            yield rank, CodedPicture(b"", number, order=rank - 7)

    for place, timed in enumerate(with_times(pictures())):
        assert timed.time == (7, 11, 9, 8, 10)[place] and taken == place + 1


def test_av1_headers_tell_the_time_from_the_last_shown_keyframe_on():
    stream = Pictures(first_rank=40)
    stream.add({0}, is_key=True, order=0).add({0, 1}, shown=False, order=8).add({0, 2}, shown=False, order=4)
    stream.add({2}, order=1).add({4}, is_key=True, order=0).add({4, 5}, shown=False, order=3)
    assert stream.times() == [40, 48, 44, 41, 42, 45]


def test_a_keyframe_shown_from_its_slot_starts_the_count_of_av1_anew():
    stream = Pictures(first_rank=40)
    stream.add({0}, is_key=True, order=0).add({0, 1}, shown=False, order=2).add({0, 1, 2}, order=1)
    stream.show(1, is_key=True, order=0).add({1, 3}, shown=False, order=4)
    assert stream.times() == [40, 42, 41, 42, 46]


def test_av1_pictures_do_not_wait():
    steps = Pictures().add({0}, is_key=True, order=0).add({0, 1}, shown=False, order=8).steps
    source = iter(steps)
    timed = with_times(source)
    next(timed)
    assert next(timed).time == 8 and next(source, None) is None


def test_a_picture_shown_from_its_slot_has_the_time_of_that_also_behind_other_hidden_ones():
    """A pyramid: 1 is shown third, behind 2, which comes later."""
    stream = Pictures().add({0}, is_key=True).add({0, 1}, shown=False).add({0, 1, 2}, shown=False)
    stream.add({0, 1, 2, 3}).show(2).add({0, 1, 5}).show(1)
    assert stream.times() == [0, 4, 2, 1, 2, 3, 4]


def test_an_overlay_replaces_the_hidden_picture_and_has_its_time():
    stream = Pictures().add({0}, is_key=True).add({0, 1}, shown=False).add({1, 2}).add({1, 3}).add({3, 4})
    assert stream.add({3, 5}).times() == [0, 3, 1, 2, 3, 4]


def test_a_picture_that_the_next_hidden_one_replaces_was_shown_before_it():
    stream = Pictures().add({0}, is_key=True).add({0, 1}, shown=False).add({1, 2}).add({1, 3})
    assert stream.add({3, 4}, shown=False).add({5}).times() == [0, 2, 1, 2, 3, 3]


def test_a_picture_that_goes_into_no_slot_has_the_time_of_the_frame_before():
    assert Pictures().add({0}, is_key=True).add({0}, shown=False).add({2}).times() == [0, 0, 1]


def test_a_stream_that_ends_early_ends_with_its_hidden_picture():
    assert Pictures().add({0}, is_key=True).add({0, 1}, shown=False).add({1, 2}).times() == [0, 1, 1]


def test_a_stream_may_begin_with_hidden_pictures():
    assert Pictures().add({0}, shown=False, is_key=True).add({1}).times() == [0, 0]
    assert Pictures().add({0}, shown=False, is_key=True).times() == [0]
    assert list(with_times([])) == []


def test_a_shown_picture_without_a_rank_has_the_time_of_the_frame_before():
    steps = Pictures(first_rank=5).add({0}, is_key=True).steps
    assert [t.time for t in with_times([*steps, (math.nan, CodedPicture(b"", 1))])] == [5, 5]


def test_a_step_without_a_picture_does_not_wait():
    nothing = CodedPicture(b"", -1, is_coded=False, is_shown=False)
    source = iter(
        [*Pictures(first_rank=5).add({0}, is_key=True).steps, (-1, nothing), (6, CodedPicture(b"", 1))]
    )
    timed = with_times(source)
    assert [next(timed).time, next(timed).time] == [5, 5] and next(source)[0] == 6


def test_a_picture_that_stays_for_ever_holds_back_no_more_than_it_may():
    taken = 0

    def pictures() -> Iterator[tuple[int, CodedPicture]]:
        nonlocal taken
        stream = Pictures().add({0}, is_key=True).add({0, 1}, shown=False)
        for _ in range(300):
            stream.add({1, stream.count})
        for step in stream.steps:
            taken += 1
            yield step

    times = {}
    for place, timed in enumerate(with_times(pictures())):
        assert taken - place - 1 <= MAX_AHEAD
        times[timed.picture.number] = timed.time
    assert times[1] == MAX_AHEAD and times[300] == 299


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_hidden_pictures_of_libvpx_look_like_the_frame_of_their_time(pix_fmt):
    options = {"deadline": "realtime", "cpu-used": "6", "b": "100k", "lag-in-frames": "25"}
    packets = encode_packets("libvpx-vp9", moving_scene(60, 64, 96, seed=2), options, pix_fmt)
    decoded = list(decode_revealed("vp9", steps_of(RevealedVP9(), packets)))
    shown = np.array([d.planes[0] for d in decoded if d.step.is_shown], np.float32)
    ranks = iter(range(len(shown)))
    pictures = [(next(ranks) if d.step.is_shown else -1, d.step) for d in decoded]
    found = [
        (timed.time, np.abs(shown - picture.planes[0]).mean((1, 2)).argmin())
        for timed, picture in zip(with_times(pictures), decoded, strict=True)
        if not timed.picture.is_shown
    ]
    # The last one's frame lies behind the end.
    assert len(found) >= 3 and all(time == nearest for time, nearest in found[:-1])
