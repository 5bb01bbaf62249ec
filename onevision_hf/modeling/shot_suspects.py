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
TIMED = 2  # frames by which distances of timed keyframes differ
# Lengths of groups of pictures that encoders are set to are multiples of one of these.
USUAL = (10, 12, 15, 16, 25)


class Suspect(NamedTuple):
    """A picture in which a new shot may be seen first by the decoder.

    Attributes:
        frame_id: of the picture, a reference.
        since: the first frame that may be of the new shot: what is shown between the reference before and
            this one is decoded after it.
        times: how many times larger than its neighbours' its packet is.
        keyframe: "" for none; "timed" where this one came when it was time, else "placed".
    """

    frame_id: int
    since: int
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
    sizes = index.size[references].astype(np.float64)
    keyframe = index.keyframe[references]
    intra_only = bool(keyframe.mean() > 0.5)
    kinds = {} if intra_only else _kinds(np.flatnonzero(index.keyframe))
    counted = np.flatnonzero(~keyframe | intra_only)
    times = sizes / _usual_sizes(sizes, counted)
    is_large = times >= (A_LITTLE_LARGER if codec in STEADY else LARGER)
    begin = max(1, int(np.searchsorted(references, first, side="right")))
    end = min(int(np.searchsorted(references, last)) + 1, len(references))
    found = []
    for place in np.flatnonzero(is_large | np.isin(references, list(kinds))):
        if begin <= place < end:
            frame_id = int(references[place])
            since = max(int(references[place - 1]), first) + 1
            found.append(Suspect(frame_id, since, float(times[place]), kinds.get(frame_id, "")))
    return sorted(found, key=lambda suspect: (suspect.keyframe != "placed", -suspect.times))


def _usual_sizes(sizes: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(n,) bytes, at least 1: for each picture the median of the counted ones before it, or of those behind
    it, whichever is smaller.

    Args:
        sizes: (n,) float64 bytes.
        counted: places of those that count, sorted.
    """
    framed = np.pad(sizes[counted], NEIGHBOURS, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(framed, NEIGHBOURS)
    medians = np.full(len(windows), np.inf)
    known = ~np.isnan(windows).all(1)
    medians[known] = np.nanmedian(windows[known], 1)
    places = np.arange(len(sizes))
    before = np.searchsorted(counted, places)
    after = np.searchsorted(counted, places, side="right")
    return np.maximum(1.0, np.minimum(medians[before], medians[after + NEIGHBOURS]))


def _kinds(keys: np.ndarray) -> dict[int, str]:
    """For each keyframe but the first how it came about, by its distance from the one before."""
    if len(keys) < 2:
        return {}
    distances = np.diff(keys)
    latest = int(distances.max())
    late = distances >= latest - TIMED
    is_usual = late.sum() > 1 or any(latest % length == 0 for length in USUAL)
    kind = "timed" if is_usual else "placed"
    return {int(key): kind if is_late else "placed" for key, is_late in zip(keys[1:], late, strict=True)}
