"""Frames that were decoded elsewhere (arrays, tensors, PIL images), behind the interface of `VideoReader`."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import av
import numpy as np

from .decoded_frame import DecodedFrame
from .embedded_media import is_cell
from .frame_files import FrameFiles, frames_of_decoder
from .setting_names import refuse_unknown
from .url_access import FETCHED, UrlAccess
from .video_reader import VideoReader, VideoSource

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

# A clip that was decoded elsewhere, and everything that is taken for a video.
Frames: TypeAlias = "np.ndarray | Tensor | Sequence[np.ndarray | Tensor | Image.Image]"
Video: TypeAlias = "VideoSource | VideoReader | FrameSequence | Frames"
# What may be known of frames that were decoded elsewhere: transformers' `VideoMetadata`, and their seconds.
METADATA = (
    *("fps", "timestamps", "frames_indices", "total_num_frames", "duration"),
    *("width", "height", "video_backend"),
)
_CHANNELS = (1, 3, 4)


class FrameSequence:
    """A clip given as frames: (T, H, W, C) or (T, C, H, W) array or tensor, or a list of such or of PIL
    images.

    Levels are uint8, floats from 0 to 1, or whole numbers from 0 to 255 as floats (Qwen's readers give
    those). Frames of one channel, and (T, H, W), are read as grey; of four as RGBA, on white. There are no
    picture types ("?") and no vectors; times (`timestamps`, else NaN) are those of the metadata.

    Args:
        frames: the clip.
        metadata: what is known of it, a mapping or transformers' `VideoMetadata`: `fps` of the file that the
            frames are from, with `frames_indices`, their numbers there, unless they are all of it; or
            `timestamps`, their seconds. `duration` in seconds and `total_num_frames` are the file's.

    Raises:
        ValueError: another dtype or shape, frames of unequal sizes, or no frame at all; metadata that do not
            fit.
        TypeError: unknown metadata; the nearest name is named.
    """

    name = "<frames>"
    codec = "frames"
    rotation = 0
    mirrored = False
    missing = ""

    def __init__(self, frames: Frames, metadata: Mapping[str, Any] | None = None):
        self._frames = _as_frames(frames)
        self.height, self.width = self._frames[0].shape[:2]
        self.timestamps, self.fps, self.duration = _times(metadata, len(self._frames))
        self.numbers = _numbers(metadata, len(self._frames))  # of the frames in their file

    def __enter__(self) -> "FrameSequence":
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def __len__(self) -> int:
        return len(self._frames)

    def decode_segments(self, frame_ids: Iterable[int], count: int) -> list[np.ndarray]:
        """All in one part: there is nothing to decode."""
        return [np.unique(np.fromiter(frame_ids, np.int64))]

    def frames(
        self, frame_ids: Iterable[int], *, motion_vectors: bool = False, references: bool = False
    ) -> Iterator[DecodedFrame]:
        """Each wanted frame once, in display order.

        Args:
            frame_ids: numbers of the frames.
            motion_vectors: taken as `VideoReader.frames` takes it; frames that were decoded elsewhere have
                none.
            references: likewise.

        Yields:
            The frames, as RGB.

        Raises:
            ValueError: there is no frame of that number.
        """
        wanted = np.unique(np.fromiter(frame_ids, np.int64))
        if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < len(self)):
            bad = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise ValueError(f"frame {bad} asked for, but the clip's frames are 0 to {len(self) - 1}")
        for frame_id in wanted:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(self._frames[frame_id]), format="rgb24")
            yield DecodedFrame(frame, int(frame_id), 0)


@contextmanager
def open_video(
    video: Video,
    errors: str = "raise",
    *,
    frames: bool = False,
    metadata: Mapping[str, Any] | None = None,
    urls: UrlAccess = FETCHED,
) -> Iterator[VideoReader | FrameSequence]:
    """A reader of a path, bytes or file object, or of frames that were decoded elsewhere.

    A reader that is open already is taken as it is, and left open: nobody indexes a file twice.

    Args:
        video: what was given.
        errors: `VideoReader`'s.
        frames: it is a list of pictures, a folder or a pattern of them: one clip.
        metadata: of decoded frames, see `FrameSequence`.
        urls: whether URLs are fetched, and within which bounds.

    Raises:
        ValueError: metadata for a file, which has its own.
    """
    if (given := pair_of(video)) is not None:
        video, metadata = given[0], metadata if metadata is not None else given[1]
    if metadata is not None and not frames and is_encoded(video):
        raise ValueError("video_metadata is of frames that were decoded elsewhere; a file has its own")
    if isinstance(video, VideoReader | FrameSequence):
        yield video
    elif frames:
        pictures = FrameFiles(video, urls) if _are_files(video) else cast("Frames", video)
        yield FrameSequence(pictures, metadata)
    elif is_encoded(video):
        with VideoReader(cast("VideoSource", video), errors=errors, **vars(urls)) as reader:
            yield reader
    elif hasattr(video, "get_frames_in_range"):  # torchcodec's, made by hand
        pixels, seconds = frames_of_decoder(video)
        yield FrameSequence(pixels, metadata or {"timestamps": seconds})
    else:
        yield FrameSequence(cast("Frames", video), metadata)


def pair_of(video: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """(frames, metadata), as transformers' and Qwen's readers return a clip; None of anything else."""
    pair = isinstance(video, tuple) and len(video) == 2 and isinstance(video[1], Mapping)
    return video if pair and not is_cell(video[1]) else None


def is_encoded(video: object) -> bool:
    """Whether this is a file (path, bytes, file object, open reader) rather than frames."""
    known = str | os.PathLike | bytes | bytearray | memoryview | VideoReader
    return (
        isinstance(video, known) or hasattr(video, "read") or hasattr(video, "_hf_encoded") or is_cell(video)
    )


def is_frame(picture: Any) -> bool:
    """Whether this is one decoded picture: PIL, (H, W), (H, W, C) or (C, H, W)."""
    shape = tuple(getattr(picture, "shape", ()))
    if hasattr(picture, "convert") or len(shape) == 2:
        return True
    return len(shape) == 3 and (shape[-1] in _CHANNELS or shape[0] in _CHANNELS)


def is_frames(media: Any) -> bool:
    """Whether this is a list of decoded pictures, and so one clip."""
    return isinstance(media, list | tuple) and len(media) > 0 and is_frame(media[0])


def _are_files(frames: Any) -> bool:
    listed = isinstance(frames, list | tuple) and not is_frames(frames)
    return listed or isinstance(frames, str | os.PathLike)


def _times(metadata: Any, count: int) -> tuple[np.ndarray, float, float]:
    """(T,) seconds, frames a second and the length in seconds that metadata tell of T frames; NaN for
    unknown."""
    unknown = np.full(count, np.nan)
    if metadata is None:
        return unknown, float("nan"), float("nan")
    if isinstance(metadata, list | tuple) and len(metadata) == 1:
        (metadata,) = metadata
    if not isinstance(metadata, Mapping):
        raise TypeError(
            f"video_metadata is a mapping or VideoMetadata a video, not {type(metadata).__name__}"
        )
    given = {name: value for name, value in metadata.items() if value is not None}
    refuse_unknown("video_metadata", given, METADATA)
    fps, duration = (float(given.get(name, "nan")) for name in ("fps", "duration"))
    for name, value in (("fps", fps), ("duration", duration)):
        if name in given and not 0 < value < np.inf:
            raise ValueError(f"video_metadata: {name} must be a positive number, not {given[name]!r}")
    total = given.get("total_num_frames")
    if "timestamps" in given:
        times = np.asarray(given["timestamps"], np.float64)
    else:
        numbers = given.get("frames_indices")
        if numbers is None and total not in (None, count):
            raise ValueError(
                f"video_metadata: {count} frames of {total}, but not which ones: give frames_indices (their "
                "numbers) or timestamps (their seconds)"
            )
        if "fps" not in given and "duration" in given:
            fps = (total or count) / duration
        times = (np.arange(count) if numbers is None else np.asarray(numbers, np.float64)) / fps
    if times.shape != (count,):
        raise ValueError(f"video_metadata: {times.size} timestamps or frames_indices for {count} frames")
    if np.isnan(times).all():
        return unknown, fps, duration
    if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"video_metadata: the frames' times must rise from 0 on, found {times[:8].tolist()}")
    span = float(times[-1] - times[0])
    mean = (count - 1) / span if span > 0 else fps
    if "duration" not in given:
        duration = total / fps if total and "fps" in given else float(times[-1]) + 1 / mean
    return times, mean, duration


def _numbers(metadata: Any, count: int) -> np.ndarray:
    """(T,) the frames' numbers in the file that metadata tell of; else 0..T-1."""
    if isinstance(metadata, list | tuple):
        (metadata,) = metadata
    numbers = None if metadata is None else metadata.get("frames_indices")
    return np.arange(count) if numbers is None else np.asarray(numbers, np.int64)


def _as_frames(frames: Any) -> Sequence[np.ndarray]:
    """A sequence of (H, W, 3) uint8 arrays."""
    if isinstance(frames, FrameFiles):
        return frames
    if isinstance(frames, list | tuple):
        pictures = [_as_array(frame) for frame in frames]
    else:
        clip = _as_array(frames)
        if clip.ndim != 4 and (clip.ndim != 3 or is_frame(clip)):
            raise ValueError(
                f"a decoded clip must have 4 dimensions (T, H, W, C), found shape {clip.shape}; a grey one "
                "may have three, (T, H, W), unless that could be a picture with channels"
            )
        pictures = list(clip)
    if not len(pictures):
        raise ValueError("a decoded clip must have at least one frame, found none")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(
            f"frames of one clip must have one size, found {sorted({p.shape for p in pictures})}"
        )
    first = pictures[0]
    if text := next((picture.dtype for picture in pictures if picture.dtype.kind in "US"), None):
        raise ValueError(
            f"decoded frames must be pictures, found text ({text}): files of pictures are one clip with "
            "frames=True, and videos come in a list, not in an array or a list in a list"
        )
    if first.size == 0:
        raise ValueError(f"decoded frames must have pixels, found shape {first.shape}")
    if not is_frame(first):
        raise ValueError(f"a decoded frame must be (H, W, 3) or (3, H, W), found shape {first.shape}")
    pictures = _in_bytes(pictures)
    if first.ndim == 2:
        pictures = [picture[..., None] for picture in pictures]
    elif first.shape[-1] not in _CHANNELS:
        pictures = [picture.transpose(1, 2, 0) for picture in pictures]
    channels = pictures[0].shape[-1]
    if channels == 1:
        return [picture.repeat(3, axis=-1) for picture in pictures]
    return [_on_white(picture) for picture in pictures] if channels == 4 else pictures


def _in_bytes(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """uint8 levels of uint8, of floats from 0 to 1, or of floats that are whole numbers from 0 to 255."""
    floats = [picture for picture in pictures if np.issubdtype(picture.dtype, np.floating)]
    other = next((p.dtype for p in pictures if p.dtype != np.uint8 and p.dtype.kind != "f"), None)
    if other is not None or len(floats) not in (0, len(pictures)):
        found = other or "uint8 and floats in one clip"
        raise ValueError(f"decoded frames must be uint8 in 0..255 or floats in 0..1, found {found}")
    if not floats:
        return pictures
    if (broken := next((t for t, p in enumerate(floats) if not np.isfinite(p).all()), None)) is not None:
        raise ValueError(f"decoded frames must be pictures, found NaN or infinite pixels in frame {broken}")
    low, high = min(float(p.min()) for p in floats), max(float(p.max()) for p in floats)
    if low >= 0 and high <= 1:
        return [np.rint(picture.astype(np.float32) * 255).astype(np.uint8) for picture in floats]
    if low >= 0 and high <= 255 and all((picture == np.rint(picture)).all() for picture in floats):
        return [picture.astype(np.uint8) for picture in floats]
    raise ValueError(
        f"decoded frames must be uint8 in 0..255 or floats in 0..1, found {floats[0].dtype} from {low:g} to "
        f"{high:g}: frames that are normalised already have lost their colours"
    )


def _on_white(frame: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 RGBA -> (H, W, 3) uint8: what shows of it before white, rounded."""
    alpha = frame[..., 3:].astype(np.uint32)
    return ((2 * (frame[..., :3] * alpha + 255 * (255 - alpha)) + 255) // 510).astype(np.uint8)


def _as_array(frame: Any) -> np.ndarray:
    if hasattr(frame, "convert"):
        from .pictures import as_rgb  # PIL, which nobody else needs

        return np.asarray(as_rgb(frame))
    if hasattr(frame, "detach"):
        frame = frame.detach().cpu()
        return (frame.float() if frame.is_floating_point() else frame).numpy()  # numpy has no bfloat16
    return np.asarray(frame)
