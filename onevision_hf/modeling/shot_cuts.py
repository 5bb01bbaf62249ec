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
from typing import NamedTuple

import numpy as np

from .decoded_frame import DecodedFrame
from .frame_sequence import FrameSequence
from .shot_changes import CUT, cuts_among, distance, thumbnail
from .shot_suspects import Suspect, find_suspects
from .standalone_decoder import STANDALONE_CODECS
from .video_reader import VideoReader, VideoReadError

# Pixels of a clip of which every picture is decoded for its cuts: a tenth of a second on one core.
SHORT = 1 << 25
NEAR = 8  # intra pictures of which two are unlike and those between them are decoded
# Packets that are read besides those of the sampled pictures; where it would take more, none is.
MOST_WATCHED = 96
# Times that a suspicious packet is larger than its neighbours: those of H.264 and HEVC tell more plainly.
LARGER, LARGER_PLAIN = 1.3, 1.5
# Share of each picture that is predicted over a cut at most.
UNEXPLAINED, UNEXPLAINED_AV1 = 0.42, 0.25
QUIET = 6.0  # grey levels of residual that what is explained by vectors has at most
FLASH = 2  # pictures after one that nothing explains that may be predicted from before it
UNLIKE = 0.5  # distance of the thumbnails of two intra pictures of which the second begins a shot


class Shots(NamedTuple):
    """The shots of a clip, the first included.

    Attributes:
        seconds: (n,) float64, when their first pictures are shown.
        seen: (n,) int64, the first sampled frame (t) of each; where none was sampled, that of a later one or
            T.
    """

    seconds: np.ndarray
    seen: np.ndarray

    def anchors(self, num_frames: int, most: int) -> list[int]:
        """The sampled frames (t) that are kept whole: of evenly chosen shots where there are more of them.

        Args:
            num_frames: T.
            most: anchors that the budget reaches for; there is always one, the first frame.
        """
        starts = np.unique(np.append(0, self.seen))
        starts = starts[starts < num_frames]
        return starts[evenly(len(starts), max(1, most))].tolist()


def evenly(count: int, most: int) -> np.ndarray:
    """Places of at most `most` of `count`, spread evenly from the first on."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


class Look(NamedTuple):
    """What is seen of a picture over painted references: its thumbnail, of an intra picture; of others the
    time of the last possible reference before it, None where there is none, and how it is predicted."""

    thumbnail: np.ndarray | None = None
    before: float | None = None
    spans: Sequence["Span"] = ()


class Span(NamedTuple):
    """What share of a picture is predicted over the time from `first` to `last`, in frames; one of the two is
    the picture's own time, unless the part has references on both sides."""

    first: float
    last: float
    share: float


@dataclass
class ShotSearch:
    """A search for cuts that looks on while the signals of a video are read.

    Attributes:
        reader: the open video.
        first: the first frame that is looked at.
        last: the last one.
        watched: frames whose packets are to be read besides those of the sampled ones, where each is read by
            itself.
    """

    reader: VideoReader | FrameSequence
    first: int
    last: int
    watched: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._thumbnails: dict[int, np.ndarray] = {}
        self._seen: list[int] = []  # their frames, sorted
        self._suspects: dict[int, Suspect] = {}  # by frame
        # What share of a picture is predicted over the step to each frame, at most.
        self._bridged = np.zeros(len(self.reader) + 1, np.float32)
        # From the reference before to the time of a picture that it does not explain, and of an intra one.
        self._unexplained: list[tuple[float, float]] = []
        self._intra: list[tuple[float, float]] = []
        self._earlier = self._newest = -1.0  # times of the two pictures that are shown last so far
        self._least = UNEXPLAINED
        self._keyframes: set[int] = set()
        if self._is_short or not isinstance(self.reader, VideoReader):
            return
        if self.reader.codec == "av1":
            self._least = UNEXPLAINED_AV1
        self._keyframes = {*np.flatnonzero(self.reader.index.keyframe).tolist()}
        larger = LARGER_PLAIN if self.reader.codec in STANDALONE_CODECS else LARGER
        suspects = find_suspects(self.reader.index, self.first, self.last, larger)
        self._suspects = {suspect.frame_id: suspect for suspect in suspects}
        watched = {frame_id for one in suspects for frame_id in range(one.since, one.frame_id + 1)}
        if len(watched) <= MOST_WATCHED:
            self.watched |= {self.first, *watched}

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
        if before is not None and sum(span.share for span in spans if span.first < time) <= self._least:
            self._unexplained.append((before, time))

    def looks_at(self, rank: float, time: float) -> bool:
        """Whether the next picture over painted references that is decoded tells something: a cut shows in
        the first one that is shown after it, whose packet is suspicious, and in those shown around it. Those
        before a keyframe may be of either shot.

        Args:
            rank: of the frame that its packet shows.
            time: of itself, in frames.
        """
        if is_newest := time > self._newest:
            self._earlier, self._newest = self._newest, time
        is_suspicious = rank in self._suspects or (rank == self.first and bool(self._suspects))
        return self.is_unclear(time) or (is_newest and (is_suspicious or rank in self._keyframes))

    def is_unclear(self, time: float) -> bool:
        """Whether a picture shown at this time may tell where a shot begins: nothing is predicted so far
        over the step to it, or to one before it that nothing explains."""
        return any(
            before < time <= after + FLASH and self._bridged[round(min(time, after))] <= self._least
            for before, after in (*self._unexplained[-4:], *self._intra[-2:])
        )

    def on_the_way(self, frame_ids: np.ndarray) -> set[int]:
        """The frames that are decoded when these are, as far as the search goes."""
        if not isinstance(self.reader, VideoReader):
            return set()
        decoded = self.reader.on_the_way(frame_ids)
        return {*decoded[(decoded >= self.first) & (decoded <= self.last)].tolist()}

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

    # -- judging --

    def shots(self, frame_ids: np.ndarray) -> Shots:
        """The shots, of which frames were sampled. To be called when the signals are read."""
        cuts = np.asarray(self.cuts(), np.int64)
        seconds = np.append(0.0, self.reader.timestamps[cuts])
        return Shots(seconds, np.append(0, np.searchsorted(frame_ids, cuts)))

    def cuts(self) -> list[int]:
        """The first frames of all shots but the first, sorted."""
        if isinstance(self.reader, VideoReader) and not self._is_short:
            if self.reader.index.keyframe.all():
                self._decode([*self._between_unlike()])
            found = {*cuts_among(self._thumbnails), *self._unbridged(), *self._begun_by_intra_pictures()}
            cuts = sorted(frame_id for frame_id in found if self.first < frame_id <= self.last)
            return [cut for last, cut in zip([-FLASH, *cuts], cuts, strict=False) if cut - last > FLASH]
        self._decode({*range(self.first, self.last + 1)} - self._thumbnails.keys())
        return cuts_among(self._thumbnails)

    def _between_unlike(self) -> Iterator[int]:
        """Frames between two that were seen, near each other and unlike."""
        for before, after in zip(self._seen[:-1], self._seen[1:], strict=True):
            looks = self._thumbnails[before], self._thumbnails[after]
            if 1 < after - before <= NEAR and distance(*looks) >= CUT:
                yield from range(before + 1, after)

    def _unbridged(self) -> Iterator[int]:
        """Frames over the step to which nothing is predicted."""
        told = [(stretch, True) for stretch in self._unexplained]
        # Of what leads up to an intra picture nothing is known where no picture in between tells it, and of
        # the step to itself never: those before it need not refer to it. So it takes more there.
        for (before, time), is_told in (*told, *((stretch, False) for stretch in self._intra)):
            since, until = max(round(before), self.first) + 1, min(round(time), self.last)
            until -= not is_told
            steps, most = self._bridged[since : until + 1], self._least if is_told else self._least / 2
            if len(steps) and (is_told or steps.max() > self._least) and steps.min() <= most:
                frame_id = self._lowest(since, until)
                if not self._looks_known(frame_id):
                    yield frame_id

    def _begun_by_intra_pictures(self) -> Iterator[int]:
        for frame_id, suspect in self._suspects.items():
            is_intra = suspect.is_keyframe or frame_id in self._thumbnails
            if not is_intra or self._bridged[frame_id] > self._least:
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
