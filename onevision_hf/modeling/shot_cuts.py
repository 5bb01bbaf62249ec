"""Where the shots of a video begin, from the sizes of its packets and what is decoded for its signals anyway.

Of short clips every picture is looked at (see `shot_changes`). Of longer ones the sizes of the packets name
suspects (see `shot_suspects`), which are read together with the sampled pictures: how much of them their
vectors explain, from which side, and what intra pictures and decoded ones show.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .decoded_frame import DecodedFrame
from .frame_sequence import FrameSequence
from .shot_changes import cuts_among, distance, thumbnail
from .shot_suspects import Suspect, find_suspects
from .video_reader import VideoReader, VideoReadError

# Pixels of a clip of which every picture is decoded for its cuts: a tenth of a second on one core.
SHORT = 1 << 25
MOST_DECODED = 1 << 24  # pixels of longer clips that are decoded where nothing else tells
LOOKED_AROUND = 3  # pictures before and after, which tell what is usual
MOST_WATCHED = 96  # pictures that are read for their sake besides the sampled ones
# Parts of a picture that vectors explain: of the first of a shot from the pictures before it; and of a
# picture that is decoded after that from those shown later.
UNEXPLAINED, FROM_BEFORE, FROM_LATER = 0.42, 0.25, 0.6
NONE = 0.1
EXPLAINED = 0.85  # of a reference: then what is shown before it begins nothing
UNLIKE = 0.5  # distance of the thumbnails of two intra pictures of which the second begins a shot


class Explained(NamedTuple):
    """Which part of an inter picture is predicted from pictures that are shown before it, and which from
    later ones."""

    past: float
    future: float


@dataclass
class ShotSearch:
    """A search for cuts that looks on while the signals of a video are read.

    Attributes:
        reader: the open video.
        first: the first frame that is looked at.
        last: the last one.
        suspects: where a shot may begin, the likeliest first; none where all pictures are looked at.
        watched: frames that are to be read besides the sampled ones.
    """

    reader: VideoReader | FrameSequence
    first: int
    last: int
    suspects: list[Suspect] = field(default_factory=list)
    watched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._explained: dict[int, Explained] = {}
        self._thumbnails: dict[int, np.ndarray] = {}
        if self._is_short or not isinstance(self.reader, VideoReader):
            return
        index = self.reader.index
        self.suspects = find_suspects(index, self.first, self.last, self.reader.codec)
        self.watched.add(self.first)
        for suspect in self.suspects:
            frames = {*range(suspect.since, suspect.until + 1)}
            if suspect.keyframe == "timed" or len(self.watched | frames) > MOST_WATCHED:
                continue
            self.watched |= frames

    @classmethod
    def over(cls, reader: VideoReader | FrameSequence, frame_ids: np.ndarray) -> "ShotSearch":
        """A search of what lies between the first and the last of the sampled frames."""
        return cls(reader, int(frame_ids.min()), int(frame_ids.max()))

    @property
    def _is_short(self) -> bool:
        frames = self.last - self.first + 1
        return frames * self.reader.height * self.reader.width <= SHORT

    def see(self, frame_id: int, luma: np.ndarray) -> None:
        """A picture itself, (H, W) uint8."""
        if frame_id in self.watched:
            self._thumbnails[frame_id] = thumbnail(luma)

    def see_vectors(self, frame_id: int, past: float, future: float) -> None:
        """Of an inter picture, the parts that its vectors explain.

        Args:
            frame_id: its number.
            past: from pictures that are shown before it.
            future: from later ones.
        """
        if frame_id in self.watched:
            self._explained[frame_id] = Explained(past, future)

    def watched_among(self, frame_ids: Iterable[int], around: int = 0) -> set[int]:
        """Those watched frames, and so many around each, that lie on the way to others, so that no more has
        to be decoded."""
        if not self.watched:
            return set()
        assert isinstance(self.reader, VideoReader)
        steps = range(-around, around + 1)
        self.watched = {frame_id + step for frame_id in self.watched for step in steps}
        self.watched &= set(self.reader.on_the_way(frame_ids))
        return self.watched

    def looking_on(
        self, frames: Iterable[DecodedFrame], wanted: set[int], references: bool
    ) -> Iterator[DecodedFrame]:
        """Decoded frames without those that are there for the search alone.

        Args:
            frames: in the order of display.
            wanted: numbers of the others.
            references: whether those that refer to nothing later are there anyway.
        """
        for frame in frames:
            self.see(frame.frame_id, frame.luma)
            if frame.frame_id in wanted or (references and frame.picture_type != "B"):
                yield frame

    def cuts(self) -> list[int]:
        """The first frames of all shots but the first, sorted. To be called when the signals are read."""
        if isinstance(self.reader, VideoReader) and not self._is_short:
            return sorted(set(self._judge()))
        with contextlib.suppress(VideoReadError):  # a damaged one that nobody sampled
            for frame in self.reader.frames(range(self.first, self.last + 1)):
                self._thumbnails[frame.frame_id] = thumbnail(frame.luma)
        return cuts_among(self._thumbnails)

    def _judge(self) -> Iterable[int]:
        earlier = self._thumbnails.get(self.first)  # the intra picture before
        self._decode_around([suspect for suspect in self.suspects if self._is_unsure(suspect)])
        for suspect in sorted(self.suspects):
            frames = range(suspect.since, suspect.until + 1)
            looks = self._thumbnails.get(suspect.frame_id)
            if self._thumbnails.keys() >= {*range(suspect.since - 1, suspect.until + 1)}:
                yield from cuts_among(self._thumbnails, frames)[:1]
            elif suspect.frame_id in self._explained:
                yield from self._unexplained(suspect)
            elif looks is None:
                # Nobody looked at it. Its encoder did.
                if suspect.keyframe == "placed" and suspect.frame_id not in self.watched:
                    yield suspect.frame_id
            elif earlier is not None and distance(earlier, looks) > UNLIKE:
                yield self._begin(suspect)
            if looks is not None:
                earlier = looks

    def _is_unsure(self, suspect: Suspect) -> bool:
        told = self._explained.get(suspect.frame_id)
        if suspect.until > suspect.frame_id and suspect.frame_id in self._explained:
            return True
        return suspect.keyframe == "timed" or (told is not None and UNEXPLAINED < told.past < EXPLAINED)

    def _decode_around(self, suspects: list[Suspect]) -> None:
        """Look at the pictures themselves of as many suspects as the limit allows."""
        assert isinstance(self.reader, VideoReader)
        pixels = self.reader.height * self.reader.width
        wanted: set[int] = set()
        for suspect in suspects:
            low, high = max(0, suspect.since - LOOKED_AROUND), suspect.until + LOOKED_AROUND
            more = wanted | {*range(low, min(high + 1, len(self.reader)))}
            if len(self.reader.on_the_way(more)) * pixels > MOST_DECODED:
                break
            wanted = more
        with contextlib.suppress(VideoReadError):
            for frame in self.reader.frames(wanted):
                self._thumbnails[frame.frame_id] = thumbnail(frame.luma)

    def _unexplained(self, suspect: Suspect) -> Iterable[int]:
        """The first picture that nothing before explains, if there is one, and it is no moment only."""
        for frame_id in range(suspect.since, suspect.until + 1):
            told = self._explained.get(frame_id)
            if told is None:
                continue
            is_explained = self._explained.get(suspect.frame_id, Explained(0.0, 0.0)).past >= EXPLAINED
            if (
                suspect.until > suspect.frame_id
            ):  # references of both sides tell their mean, so all must agree
                before = self._explained.get(frame_id - 1, told)
                if max(told.past, before.future) <= NONE and told.future + before.past > 0:
                    yield frame_id
                    return
                continue
            from_later = not is_explained and told.past <= FROM_BEFORE and told.future >= FROM_LATER
            if from_later or (frame_id >= suspect.frame_id and told.past <= UNEXPLAINED):
                yield frame_id
                return

    def _begin(self, suspect: Suspect) -> int:
        """Of a suspect that is known to be of a new shot: the first of that."""
        return next(iter(self._unexplained(suspect)), suspect.frame_id)


def parts_explained(records: np.ndarray | None, height: int, width: int) -> tuple[float, float]:
    """The parts of a picture that FFmpeg's motion vector records predict from earlier and from later
    pictures.

    Args:
        records: of one picture; None where it has none.
        height: in pixels.
        width: in pixels.
    """
    if records is None:
        return 0.0, 0.0
    areas = records["w"].astype(np.int64) * records["h"]
    past, future = (int(areas[records["source"] * sign > 0].sum()) for sign in (-1, 1))
    return min(1.0, past / (height * width)), min(1.0, future / (height * width))
