"""Frames that were decoded elsewhere (arrays, tensors, PIL images), behind the interface of `VideoReader`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import av
import numpy as np

from .decoded_frame import DecodedFrame
from .video_reader import VideoReader, VideoSource

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

# A clip that was decoded elsewhere, and everything that is taken for a video.
Frames: TypeAlias = "np.ndarray | Tensor | Sequence[np.ndarray | Tensor | Image.Image]"
Video: TypeAlias = "VideoSource | VideoReader | FrameSequence | Frames"


class FrameSequence:
    """A clip given as frames: (T, H, W, 3) or (T, 3, H, W) uint8 array or tensor, or a list of such or of PIL
    images.

    Frames of one channel are read as grey. There are no times (`timestamps` is NaN), picture types ("?") or
    vectors.

    Raises:
        ValueError: another dtype or shape, frames of unequal sizes, or no frame at all.
    """

    codec = "frames"
    rotation = 0
    mirrored = False
    missing = ""

    def __init__(self, frames: Frames):
        self._frames = _as_frames(frames)
        self.height, self.width = self._frames[0].shape[:2]
        self.timestamps = np.full(len(self._frames), np.nan)
        self.fps = float("nan")

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
def open_video(video: Video, errors: str = "raise") -> Iterator[VideoReader | FrameSequence]:
    """A reader of a path, bytes or file object, or of frames that were decoded elsewhere.

    A reader that is open already is taken as it is, and left open: nobody indexes a file twice. `errors` is
    `VideoReader`'s.
    """
    if isinstance(video, VideoReader | FrameSequence):
        yield video
    elif is_encoded(video):
        with VideoReader(cast("VideoSource", video), errors=errors) as reader:
            yield reader
    else:
        yield FrameSequence(cast("Frames", video))


def is_encoded(video: object) -> bool:
    """Whether this is a file (path, bytes, file object, open reader) rather than frames."""
    known = str | os.PathLike | bytes | bytearray | memoryview | VideoReader
    return isinstance(video, known) or hasattr(video, "read")


def _as_frames(frames: Any) -> Sequence[np.ndarray]:
    """A sequence of (H, W, 3) uint8 arrays."""
    if hasattr(frames, "detach"):
        frames = frames.detach().cpu().numpy()
    if isinstance(frames, list | tuple):
        pictures = [_as_array(frame) for frame in frames]
    else:
        clip = np.asarray(frames)
        if clip.ndim != 4:
            raise ValueError(f"a decoded clip must have 4 dimensions (T, H, W, C), found shape {clip.shape}")
        pictures = list(clip)
    if not len(pictures):
        raise ValueError("a decoded clip must have at least one frame, found none")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(
            f"frames of one clip must have one size, found {sorted({p.shape for p in pictures})}"
        )
    first = pictures[0]
    if other := next((picture.dtype for picture in pictures if picture.dtype != np.uint8), None):
        raise ValueError(f"decoded frames must be uint8 in 0..255, found {other}: convert them first")
    if first.size == 0:
        raise ValueError(f"decoded frames must have pixels, found shape {first.shape}")
    if first.ndim != 3 or (first.shape[-1] not in (1, 3) and first.shape[0] not in (1, 3)):
        raise ValueError(f"a decoded frame must be (H, W, 3) or (3, H, W), found shape {first.shape}")
    if first.shape[-1] not in (1, 3):
        pictures = [picture.transpose(1, 2, 0) for picture in pictures]
    if pictures[0].shape[-1] == 1:
        pictures = [picture.repeat(3, axis=-1) for picture in pictures]
    return pictures


def _as_array(frame: Any) -> np.ndarray:
    if hasattr(frame, "convert"):  # PIL
        return np.asarray(frame.convert("RGB"))
    if hasattr(frame, "detach"):
        return frame.detach().cpu().numpy()
    return np.asarray(frame)
