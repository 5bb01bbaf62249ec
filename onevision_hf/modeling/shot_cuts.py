"""Where the shots of a video begin, from what is decoded for its signals anyway and the sizes of its packets.

Of short clips every picture is compared with the one before (see `shot_changes`). Of longer ones so are those
that are decoded as they are; of others it counts over which time they are predicted (see `predicted_spans`):
nothing is over a cut. The sizes of the packets say where to look (see `shot_suspects`), and where nothing is
decoded, keyframes.
"""

import bisect
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .decoded_frame import DecodedFrame
from .frame_sequence import FrameSequence
from .predicted_spans import Look, Span
from .shot_changes import AROUND, cuts_among, distance, thumbnail
from .shot_suspects import Suspect, find_suspects
from .video_reader import VideoReader, VideoReadError

# Pixels of a clip of which every picture is decoded for its cuts: a tenth of a second on one core.
SHORT = 1 << 25
MOST_DECODED = 1 << 24  # pixels of longer clips that are decoded where nothing else tells
NEAR = 8  # pictures from one that is decoded as it is to the next
WATCHED_AROUND = 3  # pictures before and after, which tell what is usual
MOST_WATCHED = 96  # pictures that are read for their sake besides the sampled ones
UNEXPLAINED = 0.42  # share of each picture that is predicted over a cut at most
QUIET = 6.0  # grey levels of residual that what is explained by vectors has at most
FLASH = 2  # pictures after one that nothing explains that may be predicted from before it
UNLIKE = 0.5  # distance of the thumbnails of two intra pictures of which the second begins a shot


@dataclass
class ShotSearch:
    """A search for cuts that looks on while the signals of a video are read.

    Attributes:
        reader: the open video.
        first: the first frame that is looked at.
        last: the last one.
        watched: frames that are to be read besides the sampled ones.
    """

    reader: VideoReader | FrameSequence
    first: int
    last: int
    watched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._thumbnails: dict[int, np.ndarray] = {}
        self._seen: list[int] = []  # their frames, sorted
        self._near = 1  # by which they differ at most where they are compared
        self._suspects: dict[int, Suspect] = {}  # by frame
        # What share of a picture is predicted over the step to each frame, at most.
        self._bridged = np.zeros(len(self.reader) + 1, np.float32)
        # From the reference before to the time of a picture that it does not explain, and of an intra one.
        self._unexplained: list[tuple[float, float]] = []
        self._intra: list[tuple[float, float]] = []
        self._earlier = self._newest = -1.0  # times of the two pictures that are shown last so far
        if self._is_short or not isinstance(self.reader, VideoReader):
            return
        suspects = find_suspects(self.reader.index, self.first, self.last, self.reader.codec)
        self._suspects = {suspect.frame_id: suspect for suspect in suspects}
        self.watched.add(self.first)
        for suspect in suspects:
            frames = {*range(suspect.since, suspect.frame_id + 1)}
            if len(self.watched | frames) <= MOST_WATCHED:
                self.watched |= frames

    @classmethod
    def over(cls, reader: VideoReader | FrameSequence, frame_ids: np.ndarray) -> "ShotSearch":
        """A search of what lies between the first and the last of the sampled frames."""
        return cls(reader, int(frame_ids.min()), int(frame_ids.max()))

    @property
    def _is_short(self) -> bool:
        frames = self.last - self.first + 1
        return frames * self.reader.height * self.reader.width <= SHORT

    # -- looking on --

    def see(self, frame_id: int, luma: np.ndarray) -> None:
        """A picture itself, (H, W) uint8."""
        if not self._is_short:
            self._keep(frame_id, thumbnail(luma))

    def _keep(self, frame_id: int, looks: np.ndarray) -> None:
        if frame_id not in self._thumbnails:
            bisect.insort(self._seen, frame_id)
        self._thumbnails[frame_id] = looks

    def _seen_before(self, frame_id: int) -> int:
        """The last frame before this one that is seen, -1 where there is none."""
        place = bisect.bisect_left(self._seen, frame_id)
        return self._seen[place - 1] if place else -1

    def see_vectors(self, frame_id: int, past: float, future: float) -> None:
        """Of an inter picture, the parts that its vectors explain.

        Args:
            frame_id: its number.
            past: from pictures that are shown before it.
            future: from later ones.
        """
        for suspect in self._suspects.values():
            if frame_id == suspect.frame_id:
                before = suspect.since - 1
                self._see_spans(frame_id, before, [Span(before, frame_id, past)])
            elif suspect.since <= frame_id < suspect.frame_id:
                # From which side is right of most, how far is not.
                sides = [Span(frame_id - 1, frame_id, past), Span(frame_id, frame_id + 1, future)]
                self._see_spans(frame_id, None, sides)

    def see_painted(self, time: float, look: Look) -> None:
        """What a picture over painted references shows, at a time in frames."""
        if look.thumbnail is not None:
            self._keep(round(time), look.thumbnail)
            self._intra.append((self._earlier, time))
        else:
            self._see_spans(time, look.before if time == self._newest else None, look.spans)

    def _see_spans(self, time: float, before: float | None, spans: Sequence[Span]) -> None:
        steps = [(max(0, round(span.first) + 1), round(span.last) + 1) for span in spans]
        low, high = min((a for a, _ in steps), default=0), max((b for _, b in steps), default=0)
        own = np.zeros(high - low, np.float32)
        for (since, until), span in zip(steps, spans, strict=True):
            own[since - low : until - low] += span.share
        bridged = self._bridged[low:high]
        np.maximum(bridged, own[: len(bridged)], out=bridged)
        if before is not None and sum(span.share for span in spans if span.first < time) <= UNEXPLAINED:
            self._unexplained.append((before, time))

    def looks_at(self, rank: float, time: float) -> bool:
        """Whether the next picture over painted references that is decoded tells something: a cut shows in
        the first one that is shown after it, whose packet is suspicious, and in those shown around it.

        Args:
            rank: of the frame that its packet shows.
            time: of itself, in frames.
        """
        if is_newest := time > self._newest:
            self._earlier, self._newest = self._newest, time
        is_suspicious = rank in self._suspects or (rank == self.first and bool(self._suspects))
        return self.is_unclear(time) or (is_newest and is_suspicious)

    def is_unclear(self, time: float) -> bool:
        """Whether a picture shown at this time may tell where a shot begins: steps around it over which
        nothing is predicted so far."""
        low, high = round(time) - WATCHED_AROUND, round(time) + WATCHED_AROUND
        stretches = [
            self._bridged[max(low, round(before) + 1) : min(high, round(after)) + 1]
            for before, after in (*self._unexplained[-4:], *self._intra[-2:])
            if before < time <= after + FLASH
        ]
        return any((steps <= UNEXPLAINED).any() for steps in stretches)

    def watched_among(self, frame_ids: Iterable[int], around: int) -> set[int]:
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
        self._near = NEAR
        for frame in frames:
            self.see(frame.frame_id, frame.luma)
            if frame.frame_id in wanted or (references and frame.picture_type != "B"):
                yield frame

    # -- judging --

    def cuts(self) -> list[int]:
        """The first frames of all shots but the first, sorted. To be called when the signals are read."""
        if isinstance(self.reader, VideoReader) and not self._is_short:
            cuts = sorted(self._judge())
            return [cut for last, cut in zip([-FLASH, *cuts], cuts, strict=False) if cut - last > FLASH]
        self._decode(range(self.first, self.last + 1))
        return cuts_among(self._thumbnails)

    def _judge(self) -> set[int]:
        timed = [one for one in self._suspects.values() if one.keyframe == "timed"]
        unsure = [(one.since, one.frame_id) for one in timed if not self._looks_known(one.frame_id)]
        changes = cuts_among(self._thumbnails, self._near)
        unsure += [(self._seen_before(frame_id) + 1, frame_id) for frame_id in changes]
        self._decode_around(sorted(unsure) + [(frame_id, frame_id) for frame_id in self._unbridged()])
        changes = cuts_among(self._thumbnails, self._near)
        found = {*changes, *self._unbridged(), *self._begun_by_intra_pictures()}
        return {frame_id for frame_id in found if self.first < frame_id <= self.last}

    def _unbridged(self) -> Iterator[int]:
        """Frames over the step to which nothing is predicted."""
        for before, time in self._unexplained:
            since, until = max(round(before), self.first) + 1, min(round(time), self.last)
            if since > until:
                continue
            frame_id = self._lowest(since, until)
            if self._bridged[frame_id] <= UNEXPLAINED and not self._looks_known(frame_id):
                yield frame_id

    def _begun_by_intra_pictures(self) -> Iterator[int]:
        for frame_id, suspect in self._suspects.items():
            is_intra = suspect.keyframe == "placed" or frame_id in self._thumbnails
            if not is_intra or suspect.keyframe == "timed" or self._bridged[frame_id] > UNEXPLAINED:
                continue
            if not self._looks_known(frame_id):
                yield self._lowest(suspect.since, frame_id)

    def _lowest(self, since: int, until: int) -> int:
        """The frame of these over the step to which the least is predicted, the last of equal ones."""
        return until - int(self._bridged[since : until + 1][::-1].argmin())

    def _looks_known(self, frame_id: int) -> bool:
        """Whether a picture is seen, and looks like the last one before it that is, or its neighbour was
        seen, so that `cuts_among` knows better."""
        looks = self._thumbnails.get(frame_id)
        if looks is None:
            return False
        earlier = self._seen_before(frame_id)
        if earlier == frame_id - 1:
            return True
        return earlier >= 0 and distance(self._thumbnails[earlier], looks) <= UNLIKE

    def _decode_around(self, stretches: list[tuple[int, int]]) -> None:
        """Look at the pictures themselves of as many stretches, from a frame to a frame, as the limit
        allows."""
        assert isinstance(self.reader, VideoReader)
        pixels = self.reader.height * self.reader.width
        wanted: set[int] = set()
        for since, until in stretches:
            low, high = max(0, since - AROUND), min(until + AROUND, len(self.reader) - 1)
            more = wanted | {*range(low, high + 1)}
            if len(self.reader.on_the_way(more)) * pixels <= MOST_DECODED:
                wanted = more
        self._decode(wanted)

    def _decode(self, frame_ids: Iterable[int]) -> None:
        with contextlib.suppress(VideoReadError):  # a damaged one that nobody sampled
            for frame in self.reader.frames(frame_ids):
                self._keep(frame.frame_id, thumbnail(frame.luma))


def parts_explained(
    records: np.ndarray | None, residual: np.ndarray, height: int, width: int
) -> tuple[float, float]:
    """The parts of a picture that are predicted from earlier and from later pictures with little residual.

    Args:
        records: FFmpeg's of its motion vectors; None where it has none.
        residual: (H, W) uint8, the picture as it is decoded over grey.
        height: in pixels.
        width: in pixels.
    """
    if records is None:
        return 0.0, 0.0
    some = residual[::4, ::4].astype(np.int16)
    quiet = float((np.abs(some - np.median(some)) < QUIET).mean())
    areas = records["w"].astype(np.int64) * records["h"]
    past, future = (int(areas[records["source"] * sign > 0].sum()) for sign in (-1, 1))
    return quiet * past / (height * width), quiet * future / (height * width)
