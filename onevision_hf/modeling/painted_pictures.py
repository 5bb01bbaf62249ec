"""Motion fields and residuals of chosen frames of a video, by painted references (see `painted_decoder`)."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .coded_picture import BitstreamError, CodedPicture, RevealedStream
from .display_order import TimedPicture, with_times
from .painted_codecs import REVEALED, PaintingError, can_be_painted, reveal
from .painted_decoder import REFINED_BY_LUMA, PaintedDecoder, PaintedPicture
from .shot_cuts import ShotSearch
from .video_reader import VideoReader

# Pictures that nobody refers to can be left out, as they hand nothing on. VP8 and VP9 hand probabilities on.
INDEPENDENT = ("hevc", "av1")
PROBED_PICTURES = 9  # whose noise is measured
NOISY = 0.7  # levels: realtime VP9 has 1.2 and more, other VP9 at most 0.3
MAX_AHEAD = 16  # pictures after which one that nobody referred to so far is taken for used


class PlainStream:
    """A stream whose decoder hands out pictures at once by itself: MPEG-1/2/4, H.263, H.264 without B
    pictures.

    Its headers are not read: any picture before may be a reference.

    Args:
        extradata: the container's header.
    """

    def __init__(self, extradata: bytes = b""):
        self.extradata, self._count, self._entered = extradata, 0, True

    def enter(self) -> None:
        self._entered = True

    def split(self, packet: bytes) -> list[CodedPicture]:
        picture = CodedPicture(packet, self._count, is_key=self._entered)
        self._count += 1
        self._entered = False
        return [picture]


def iter_painted_pictures(
    reader: VideoReader,
    frame_ids: Iterable[int],
    *,
    passes: int = 1,
    threads: int = 1,
    search: ShotSearch | None = None,
) -> Iterator[tuple[int, PaintedPicture]]:
    """What frames of a video say, each when the decoder has it.

    Args:
        reader: the open video.
        frame_ids: numbers in the order of display.
        passes: 1 or 2, see `PaintedDecoder`.
        threads: for the slices of a picture; they change nothing in what is found.
        search: for cuts, which looks on; it changes nothing in what is found.

    Yields:
        (frame_id, picture) of each frame that the decoder gives; `picture.field` is None of intra pictures.
        Frames that cannot be decoded are missing.

    Raises:
        PaintingError: the references of this stream cannot be painted.
    """
    wanted = set(map(int, frame_ids))
    if not can_be_painted(reader):
        why = "its decoder hands no B pictures out over paint" if reader.codec == "h264" else "not known how"
        raise PaintingError(f"references of {reader.codec} are not painted: {why}")
    try:
        stream: RevealedStream
        if reader.codec in REVEALED:
            stream = reveal(reader.codec, reader.extradata)
        else:
            stream = PlainStream(reader.extradata)
    except BitstreamError as error:
        raise PaintingError(f"its header cannot be read: {error}") from error
    decoder = PaintedDecoder(
        reader.codec, stream.extradata, passes=passes, threads=threads, max_pixels=reader.max_pixels
    )
    if reader.codec == "av1":
        reader.close()  # dav1d, which read its first picture, would keep 20 MB of 1080p
    for packets in reader.packet_runs(sorted(wanted)):
        stream.enter()
        decoder.restart()
        steps = with_times(_steps(stream, packets))
        for step, is_used in with_use(steps, reader.codec in INDEPENDENT):
            is_wanted = round(step.time) in wanted
            unclear = search is not None and search.is_unclear(step.time)
            if not (is_wanted or is_used or unclear) and step.picture.is_coded:
                continue
            looked_at = search is not None and step.picture.is_coded and search.looks_at(step.rank, step.time)
            found = decoder.decode(step.picture, step.time, is_wanted, is_used, looked_at=looked_at)
            if found is None:
                continue
            if search is not None and looked_at and found.look is not None:
                search.see_painted(step.time, found.look)
            # The rank of packets outside of the edit list is no frame's.
            if step.picture.is_shown and step.rank in wanted:
                yield int(step.rank), found


def default_passes(reader: VideoReader) -> int:
    """Two where residuals of the chroma are dense: VP8, and VP9 as it is encoded in real time, which the
    first pictures tell; and where vectors are refined by the luma: VVC."""
    if reader.codec != "vp9":
        return 2 if reader.codec in ("vp8", *REFINED_BY_LUMA) else 1
    pictures = iter_painted_pictures(reader, range(min(len(reader), PROBED_PICTURES)))
    noise = [picture.field.noise for _, picture in pictures if picture.field is not None]
    return 2 if noise and np.mean(noise) > NOISY else 1


def _steps(
    stream: RevealedStream, packets: Iterator[tuple[float, bytes]]
) -> Iterator[tuple[float, CodedPicture]]:
    for number, packet in packets:
        try:
            pictures = stream.split(packet)
        except BitstreamError:  # damaged: its frame will be missing
            continue
        for picture in pictures:
            yield number, picture


def with_use(steps: Iterable[TimedPicture], may_skip: bool) -> Iterator[tuple[TimedPicture, bool]]:
    """(step, whether a later one may be predicted from it): known once it is referred to, or given up.

    Args:
        steps: in the order of decoding.
        may_skip: False where every picture is needed, whether it is referred to or not.
    """
    waiting: deque[_Step] = deque()
    for timed in steps:
        picture = timed.picture
        if not picture.is_coded:
            referred = {picture.number}
        elif picture.references is None:
            referred = {step.timed.picture.number for step in waiting}
        else:
            referred = {reference.number for reference in picture.references}
        for step in waiting:
            step.is_used |= step.timed.picture.number in referred
        waiting.append(_Step(timed, not may_skip or not picture.is_coded or picture.kept is None))
        while waiting and (waiting[0].is_decided(picture.kept) or len(waiting) > MAX_AHEAD):
            given_up = len(waiting) > MAX_AHEAD
            first = waiting.popleft()
            yield first.timed, first.is_used or given_up
    for step in waiting:
        yield step.timed, step.is_used


@dataclass
class _Step:
    timed: TimedPicture
    is_used: bool

    def is_decided(self, kept: frozenset[int] | None) -> bool:
        """Whether it is used, or the pictures that are still kept do not have it any more."""
        return self.is_used or (kept is not None and self.timed.picture.number not in kept)
