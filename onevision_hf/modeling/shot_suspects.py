"""Where a new shot may begin, by the sizes and the order of a video's packets: nothing is decoded for it.

A picture that shows something new costs its encoder about as much as a keyframe, whatever its kind. So
suspects are the references whose packet is larger than that of their neighbours on one side, and keyframes.
Keyframes alone tell little: an encoder puts them where something new begins, but also when it is time.
"""

from typing import NamedTuple

import numpy as np

from .video_demuxer import PacketIndex

LARGER = 2.2  # than the median of its neighbours
# Where rates are steady; the pictures of these are decoded anyway, so that one more suspect costs nothing.
A_LITTLE_LARGER = 1.3
STEADY = ("mpeg1video", "mpeg2video", "mpeg4")
NEIGHBOURS = 5  # references to each side
# Packets of these codecs hold pictures that are shown later, of as many frames.
HIDES = {"vp9": 16, "av1": 16}
TIMED = 2  # frames by which distances of timed keyframes differ
# Lengths of groups of pictures that encoders are set to are multiples of one of these.
USUAL = (10, 12, 15, 16, 25)


class Suspect(NamedTuple):
    """A picture in which a new shot may be seen first by the decoder.

    Attributes:
        frame_id: of the picture, a reference.
        since: the first frame that may be of the new shot: what is shown between the reference before and
            this one is decoded after it.
        until: the last such frame: packets may hold pictures that are shown later.
        times: how many times larger than its neighbours' its packet is.
        keyframe: "" for none; "timed" where this one came when it was time, "placed" where it came earlier;
            "unclear" where none came later, and it after an odd time.
    """

    frame_id: int
    since: int
    until: int
    times: float
    keyframe: str


def find_suspects(index: PacketIndex, first: int, last: int, codec: str) -> list[Suspect]:
    """The suspects for a cut in the frames after `first` up to `last`, the likeliest first.

    Args:
        index: of the video.
        first: number of a frame.
        last: number of a frame.
        codec: FFmpeg's name.
    """
    decoded = np.argsort(index.rank)
    references = np.unique(np.maximum.accumulate(decoded))
    if codec in HIDES:
        references = references[_are_largest(index, references, HIDES[codec] // 2)]
    sizes = index.size[references].astype(np.float64)
    keyframe = index.keyframe[references]
    intra_only = bool(keyframe.mean() > 0.5)
    kinds = {} if intra_only else _kinds(np.flatnonzero(index.keyframe))
    counted = np.flatnonzero(~keyframe | intra_only)
    begin = np.searchsorted(references, first, side="right")
    end = min(np.searchsorted(references, last) + 1, len(references))
    larger = A_LITTLE_LARGER if codec in STEADY else LARGER
    found = []
    for place in range(max(1, int(begin)), int(end)):
        frame_id, size = int(references[place]), sizes[place]
        middle = np.searchsorted(counted, place)
        after = middle + (middle < len(counted) and counted[middle] == place)
        sides = counted[max(0, middle - NEIGHBOURS) : middle], counted[after : after + NEIGHBOURS]
        times = max(
            (size / max(1.0, float(np.median(sizes[side]))) for side in sides if len(side)), default=0.0
        )
        follows = (
            not intra_only and codec not in HIDES and bool(keyframe[place - 1])
        )  # what a keyframe lacks is made good behind it
        if (times >= larger and not follows) or frame_id in kinds:
            since = frame_id if codec in HIDES else int(references[place - 1]) + 1
            until = min(frame_id + HIDES.get(codec, 0), last)
            found.append(Suspect(frame_id, max(since, first + 1), until, times, kinds.get(frame_id, "")))
    return sorted(found, key=lambda suspect: (suspect.keyframe != "placed", -suspect.times))


def _are_largest(index: PacketIndex, references: np.ndarray, around: int) -> np.ndarray:
    """(n,) bool: whose packets no other outdoes within so many frames, and keyframes: where packets hold
    several pictures, the smaller ones hold one that is hardly coded."""
    sizes = np.where(index.keyframe, 0, index.size)[references]
    framed = np.pad(sizes, around)
    largest = np.lib.stride_tricks.sliding_window_view(framed, 2 * around + 1).max(1)
    return (sizes == largest) | index.keyframe[references]


def _kinds(keys: np.ndarray) -> dict[int, str]:
    """For each keyframe but the first how it came about, by its distance from the one before."""
    if len(keys) < 2:
        return {}
    distances = np.diff(keys)
    latest = int(distances.max())
    late = distances >= latest - TIMED
    is_usual = late.sum() > 1 or any(latest % length == 0 for length in USUAL)
    kind = "timed" if is_usual else "unclear"
    return {int(key): kind if is_late else "placed" for key, is_late in zip(keys[1:], late, strict=True)}
