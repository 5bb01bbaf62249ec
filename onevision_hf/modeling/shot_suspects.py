"""Where a new shot may begin, by the sizes and the order of a video's packets: nothing is decoded for it.

A picture that shows something new costs its encoder about as much as a keyframe, whatever its kind. So
suspects are the references whose packet is larger than those of their neighbours on one side, and the
keyframes that did not come because it was time.
"""

from typing import NamedTuple

import numpy as np

from .video_demuxer import PacketIndex

NEIGHBOURS = 8  # references to each side
# Lengths of groups of pictures that encoders are set to are multiples of one of these.
USUAL = (10, 12, 15, 16, 25)


class Suspect(NamedTuple):
    """A picture in which a new shot may be seen first by the decoder.

    Attributes:
        frame_id: of the picture, a reference.
        since: the first frame that may be of the new shot: what is shown between the reference before and
            this one is decoded after it.
        times: how many times larger than its neighbours' its packet is.
        is_keyframe: whether it is one.
    """

    frame_id: int
    since: int
    times: float
    is_keyframe: bool


def find_suspects(index: PacketIndex, first: int, last: int, larger: float) -> list[Suspect]:
    """The suspects for a cut in the frames after `first` up to `last`, the likeliest first.

    Args:
        index: of the video.
        first: number of a frame.
        last: number of a frame.
        larger: how many times larger than all of its neighbours but one a suspicious packet is.
    """
    decoded = np.argsort(index.rank)
    references = np.unique(np.maximum.accumulate(decoded))
    sizes, keyframe = index.size[references].astype(np.float64), index.keyframe[references]
    times = np.zeros(len(sizes))
    counted = np.flatnonzero(~keyframe)
    times[counted] = sizes[counted] / _usual_sizes(sizes[counted])
    is_placed = np.isin(references, _placed(np.flatnonzero(index.keyframe), len(decoded)))
    begin = max(1, int(np.searchsorted(references, first, side="right")))
    end = min(int(np.searchsorted(references, last)) + 1, len(references))
    found = []
    for place in np.flatnonzero((times >= larger) | is_placed):
        if begin <= place < end:
            since = max(int(references[place - 1]), first) + 1
            found.append(Suspect(int(references[place]), since, float(times[place]), bool(is_placed[place])))
    return sorted(found, key=lambda suspect: (not suspect.is_keyframe, -suspect.times))


def _usual_sizes(sizes: np.ndarray) -> np.ndarray:
    """(n,) bytes, at least 1: for each picture the second largest size of those before it, or of those behind
    it, whichever is smaller.

    Args:
        sizes: (n,) float64 bytes.
    """
    framed = np.pad(sizes, NEIGHBOURS, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(framed, NEIGHBOURS)
    second = np.partition(windows, -2)[:, -2]
    second[np.isinf(second)] = np.inf  # fewer than two are known
    return np.maximum(1.0, np.minimum(second[: len(sizes)], second[NEIGHBOURS + 1 :]))


def _placed(keys: np.ndarray, count: int) -> np.ndarray:
    """The keyframes but the first that did not come because it was time, by the distance from the one
    before."""
    distances = np.diff(keys)
    if not len(distances):
        return keys[:0]
    latest = int(distances.max())
    late = distances == latest
    late[-1] |= keys[-1] == count - 1  # a last picture may be one early
    is_usual = late.sum() > 1 or any(latest % length == 0 for length in USUAL)
    return keys[1:][~late] if is_usual else keys[1:]
