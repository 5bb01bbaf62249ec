"""What stands in for the signals of intra pictures: the difference to the keyframe before.

An intra picture has neither motion nor residual. Keyframes can be decoded alone, so what changed between two
of them is known without decoding anything else, and in the same pass as all other packets.
"""

import threading
from collections.abc import Iterable, Mapping

import numpy as np

from .codec_signals import read_standalone_pictures
from .picture_difference import difference
from .video_reader import PacketIndex, VideoReader


class PictureDifferences:
    """Differences between pictures that come in any order, from any thread: each is held until those that it
    is compared with are there.

    Args:
        earlier: for each picture the one that it is compared with, None where there is none.
    """

    def __init__(self, earlier: Mapping[int, int | None]):
        self.found: dict[int, np.ndarray] = {}
        self.earlier = dict(earlier)
        self._later: dict[int, list[int]] = {}
        for frame_id, before in earlier.items():
            if before is not None:
                self._later.setdefault(before, []).append(frame_id)
        self._held: dict[int, np.ndarray] = {}
        self._begun: set[int] = set()
        self._lock = threading.Lock()

    def add(self, frame_id: int, luma: np.ndarray) -> None:
        """A picture (H, W) uint8; one that is compared with nothing is passed over."""
        if frame_id not in self.earlier and frame_id not in self._later:
            return
        ready = []
        with self._lock:
            self._held[frame_id] = luma
            later_frames = self._later.get(frame_id, ())
            for later in (frame_id, *later_frames):
                before = self.earlier.get(later)
                if later not in self.earlier or later in self._begun or later not in self._held:
                    continue
                if before is None or before in self._held:
                    self._begun.add(later)
                    ready.append((later, self._held[later], None if before is None else self._held[before]))
            for held in (frame_id, self.earlier.get(frame_id), *later_frames):
                needed = {held, *self._later.get(held, ())} & self.earlier.keys()
                if needed <= self._begun:
                    self._held.pop(held, None)
        for later, picture, earlier in ready:  # while the other threads go on
            self.found[later] = difference(picture, earlier)


def keyframes_before(index: PacketIndex, frame_ids: Iterable[int]) -> dict[int, int | None]:
    """For each keyframe among `frame_ids` the one before it."""
    return keyframe_before(index, [frame_id for frame_id in frame_ids if index.keyframe[frame_id]])


def read_differences(reader: VideoReader, frame_ids: Iterable[int]) -> dict[int, np.ndarray]:
    """The same for I pictures that the container calls no keyframes, of which few streams have some.

    Returns:
        By frame (ceil(H / 4), ceil(W / 4)) float32, as `difference` gives it.
    """
    earlier = keyframe_before(reader.index, frame_ids)
    if not earlier:
        return {}
    changes = PictureDifferences(earlier)
    wanted = sorted({*earlier, *(key for key in earlier.values() if key is not None)})
    read_standalone_pictures(
        reader,
        wanted,
        vectors_of=(),
        block_qp=False,
        then=lambda picture, frame_id: changes.add(frame_id, picture.luma),
    )
    return changes.found


def keyframe_before(index: PacketIndex, frame_ids: Iterable[int]) -> dict[int, int | None]:
    """For each frame the keyframe before it, None where there is none."""
    keys = np.flatnonzero(index.keyframe)
    places = {int(frame_id): int(np.searchsorted(keys, frame_id)) for frame_id in frame_ids}
    return {frame_id: int(keys[place - 1]) if place else None for frame_id, place in places.items()}
