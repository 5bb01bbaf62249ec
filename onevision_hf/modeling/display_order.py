"""When each picture of a revealed stream is displayed, hidden ones too: ages of references follow from it.

    for timed in with_times(pictures): timed.picture.number, timed.time

AV1 tells the time of a hidden picture in its header. VP8 and VP9 do not: there a hidden picture is a future
one, decoded early, and its time comes up when it is shown from its slot, or when an all but empty picture is
predicted from it alone (an overlay), which then replaces it.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .coded_picture import CodedPicture

# So many pictures wait for the time of the first of them. libvpx decodes at most 25 frames ahead.
MAX_AHEAD = 64


@dataclass(frozen=True)
class TimedPicture:
    """A step of a decoder, and the time of its picture.

    Attributes:
        picture: the step.
        rank: in the order of display, of the frame that its packet shows, or -1.
        time: of the picture, in frames of the order of display.
    """

    picture: CodedPicture
    rank: float
    time: float


@dataclass
class _Waiting:
    picture: CodedPicture
    rank: float
    time: float | None  # None: not known yet

    def timed(self, otherwise: float) -> TimedPicture:
        return TimedPicture(self.picture, self.rank, otherwise if self.time is None else self.time)


def with_times(pictures: Iterable[tuple[float, CodedPicture]]) -> Iterator[TimedPicture]:
    """The steps of a stream with their times, in the same order.

    A hidden picture whose header does not tell its time has that of the frame which shows it or replaces it
    in its last slot; where a hidden picture does that, where the stream ends, and where `MAX_AHEAD` pictures
    came since, the time of the last frame before. Nothing else waits.

    Args:
        pictures: (rank of the frame that the picture's packet shows, picture). Before an edit list ranks are
            negative; NaN is none.
    """
    waiting: deque[_Waiting] = deque()
    last: float | None = None  # the rank of the last frame shown
    key: float | None = None  # and of the last keyframe
    for rank, picture in pictures:
        if last is None or key is None:
            last = key = rank if picture.is_shown and not math.isnan(rank) else 0.0
        if picture.is_shown and not math.isnan(rank):
            last = rank
            key = rank if picture.is_key else key
        time: float | None = None
        if picture.is_shown or not picture.is_coded:
            time = last
        elif picture.order is not None:
            time = key + picture.order
        waiting.append(_Waiting(picture, rank, time))
        for earlier in waiting:
            if earlier.time is None and _has_come(earlier.picture.number, picture):
                earlier.time = last
        while waiting and (waiting[0].time is not None or len(waiting) > MAX_AHEAD):
            yield waiting.popleft().timed(otherwise=last)
    for left in waiting:
        yield left.timed(otherwise=last or 0.0)


def _has_come(number: int, picture: CodedPicture) -> bool:
    """Whether a step shows the hidden picture of that number, or is the one after which it is gone."""
    is_gone = picture.kept is not None and number not in picture.kept
    return is_gone or (not picture.is_coded and picture.number == number)
