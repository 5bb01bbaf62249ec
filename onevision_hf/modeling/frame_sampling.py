"""Which frames of a video are looked at: uniformly, at a rate, where the stream says that something happens,
or at given times."""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .frame_geometry import check_positive
from .frame_sequence import FrameSequence
from .video_reader import VideoReader

SAMPLINGS = ("uniform", "packet_size")
# Moments that a rate may ask for: five hours at 60 a second.
MAX_MOMENTS = 1 << 20


@dataclass(frozen=True)
class SamplingSettings:
    """How frames are sampled.

    Attributes:
        num_frames: floor(linspace(0, N - 1, num_frames)) of the N frames; a shorter clip gives all it has.
        sampling: "uniform", or "packet_size": equal shares of the stream's bytes between frames, so that more
            of them fall where more happens (keyframes count like their neighbours).
        fps: frames a second, instead of a number.
        min_frames: where `fps` or `num_frames` give fewer, so many are spread evenly, as far as there are
            any.
        max_frames: where they give more, so many are spread evenly.
        timestamps: seconds instead, of which each shows the frame that is on screen.
        start: seconds from which frames are taken.
        end: seconds up to which they are; where no frame begins between the two, the one on screen is taken.
        do_sample_frames: False takes every frame instead, between `start` and `end` where they are set.

    Raises:
        ValueError: one is out of range, or two exclude one another.
    """

    num_frames: int = 64
    sampling: str = "uniform"
    fps: float | None = None
    timestamps: tuple[float, ...] | None = None
    start: float | None = None
    end: float | None = None
    do_sample_frames: bool = True
    min_frames: int | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        check_positive("num_frames", self.num_frames)
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"unknown sampling {self.sampling!r}: choose one of {', '.join(SAMPLINGS)}")
        for name in ("fps", "start", "end"):
            _check_number(name, getattr(self, name))
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps must be a positive number, not {self.fps!r}")
        for name in ("min_frames", "max_frames"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise ValueError(f"min_frames={self.min_frames} is more than max_frames={self.max_frames}")
        if self.timestamps is not None and (
            self.fps is not None or self.start is not None or self.end is not None
        ):
            raise ValueError("timestamps name the frames: fps, start and end do not go with them")
        if self.sampling != "uniform" and (self.fps is not None or self.timestamps is not None):
            raise ValueError(f"sampling={self.sampling!r} does not go with fps or timestamps")
        if self.start is not None and self.end is not None and not self.start < self.end:
            raise ValueError(f"start={self.start} is not before end={self.end}")
        if not isinstance(self.do_sample_frames, bool):
            raise ValueError(f"do_sample_frames must be True or False, not {self.do_sample_frames!r}")

    def num_sampled(self, num_available: int) -> int:
        """How many of `num_available` frames are taken, where no times are asked for."""
        if not self.do_sample_frames:
            return num_available
        return min(num_available, self.bounded(self.num_frames))

    def bounded(self, count: int) -> int:
        """A number of frames, within `min_frames` and `max_frames`."""
        count = max(count, self.min_frames or 0)
        return min(count, self.max_frames or count)

    @property
    def needs_times(self) -> bool:
        return any(value is not None for value in (self.fps, self.timestamps, self.start, self.end))


def sample_frames(reader: VideoReader | FrameSequence, settings: SamplingSettings) -> np.ndarray:
    """(T,) int64, the sampled frames' numbers in display order, each once.

    Raises:
        ValueError: times outside the video, or times for frames that have none.
    """
    if settings.needs_times and np.isnan(reader.timestamps).any():
        raise ValueError(
            "frames that were decoded elsewhere have no times: fps, timestamps, start, end need a file, or "
            'video_metadata with the frames, such as {"fps": 25}'
        )
    if settings.timestamps is not None:
        return _at_times(reader, settings.timestamps)
    first, last = _range(reader, settings)
    if not settings.do_sample_frames:
        return np.arange(first, last + 1)
    count = last - first + 1
    if settings.fps is not None:
        times = _at_rate(reader, settings, first)
        if settings.bounded(len(times)) == len(times):
            return _at_times(reader, times.tolist())
        return first + sample_frame_ids(count, settings.bounded(len(times)))
    wanted = settings.bounded(settings.num_frames)
    if settings.sampling == "packet_size":
        if not isinstance(reader, VideoReader):
            raise ValueError(
                "frames that were decoded elsewhere have no packets: sampling='packet_size' needs a file"
            )
        sizes, keyframes = reader.index.size[first : last + 1], reader.index.keyframe[first : last + 1]
        return first + sample_by_size(sizes, keyframes, wanted)
    return first + sample_frame_ids(count, wanted)


def sample_frame_ids(num_available: int, num_frames: int) -> np.ndarray:
    """floor(linspace(0, N - 1, num_frames)); all N frames when there are not more than that."""
    check_positive("num_frames", num_frames)
    if num_available <= num_frames:
        return np.arange(num_available)
    return np.linspace(0, num_available - 1, int(num_frames)).astype(np.int64)


def sample_by_size(sizes: np.ndarray, keyframes: np.ndarray, num_frames: int) -> np.ndarray:
    """Frames between which the stream spends equal numbers of bytes, the first frame among them.

    Args:
        sizes: (N,) bytes of each frame's packet.
        keyframes: (N,) bool: their size says what the picture costs, not what happens, so they count like
            the others around them.
        num_frames: how many are wanted.

    Returns:
        (min(N, num_frames),) int64, increasing.
    """
    count = len(sizes)
    if count <= num_frames:
        return np.arange(count)
    weight = sizes.astype(np.float64)
    if keyframes.any() and not keyframes.all():
        others = np.flatnonzero(~keyframes)
        weight[keyframes] = np.interp(np.flatnonzero(keyframes), others, weight[others])
    spent = np.cumsum(weight)
    chosen = np.searchsorted(spent, np.linspace(0, spent[-1], num_frames, endpoint=False), side="right")
    chosen[0] = 0
    # Each frame once: pushed on where two fall together, and back where they would run over the end.
    place = np.arange(num_frames)
    chosen = np.maximum.accumulate(chosen - place) + place
    return np.minimum(chosen, count - num_frames + place).astype(np.int64)


def _range(reader: VideoReader | FrameSequence, settings: SamplingSettings) -> tuple[int, int]:
    """The first and the last frame between `start` and `end`."""
    first, last = 0, len(reader) - 1
    if settings.start is not None:
        first = int(np.searchsorted(reader.timestamps, settings.start - 1e-6))
    if settings.end is not None:
        last = int(np.searchsorted(reader.timestamps, settings.end + 1e-6, side="right")) - 1
    if first > last:
        begin = settings.start or 0.0
        if last < 0 or begin >= reader.duration:
            raise ValueError(
                f"no frame lies between start={settings.start} and end={settings.end}: the video has "
                f"{reader.duration:.3f} s"
            )
        first = last = first - 1
    return first, last


def _at_rate(reader: VideoReader | FrameSequence, settings: SamplingSettings, first: int) -> np.ndarray:
    """Seconds at `fps` from frame `first` on, up to `end` or the end of the clip, which shows nothing more.

    Raises:
        ValueError: more than anybody can want.
    """
    assert settings.fps is not None
    begin = float(reader.timestamps[first])
    if settings.end is not None and settings.end < reader.duration:
        count = int((settings.end - begin) * settings.fps + 1e-6) + 1
    else:
        count = int(np.ceil((reader.duration - begin) * settings.fps - 1e-6))
    if count > MAX_MOMENTS:
        raise ValueError(
            f"fps={settings.fps:g} asks for {count} moments of a video of {len(reader)} frames, and "
            f"{MAX_MOMENTS} at most are looked at: lower it, or give num_frames"
        )
    return begin + np.arange(max(1, count)) / settings.fps


def _at_times(reader: VideoReader | FrameSequence, times: Sequence[float]) -> np.ndarray:
    wanted = np.asarray(times, np.float64)
    if not len(wanted) or not (np.isfinite(wanted).all() and wanted.min() >= 0):
        raise ValueError(f"timestamps must be seconds >= 0, not {list(times)!r}")
    if wanted.max() > reader.duration + 1e-6:
        raise ValueError(
            f"timestamp {wanted.max():g} s is after the end of the video at {reader.duration:.3f} s"
        )
    on_screen = np.searchsorted(reader.timestamps, wanted + 1e-6, side="right") - 1
    return np.unique(np.maximum(on_screen, 0))


def _check_number(name: str, value: object) -> None:
    """Raise ValueError for a setting that is neither a number nor None."""
    if value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool)):
        return
    hint = ": a video of its own settings each says them in its part of a message, or in a call of its own"
    raise ValueError(
        f"{name} must be a number, not {value!r}{hint if isinstance(value, tuple | list) else ''}"
    )
