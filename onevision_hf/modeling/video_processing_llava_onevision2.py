"""Frames of videos for LLaVA-OneVision-2 and Mage-VL, by the sampling policies that are in use with them.

    processor = LlavaOnevision2VideoProcessor(frame_sampling="lmms_eval", max_frames=64)
    frames = processor.read("clip.mp4")
    frames.pictures, frames.numbers, frames.seconds

Their tower sees a frame as an image: `LlavaOnevision2Processor` makes patches of the pictures with the image
processor of the folder.

Shapes: T sampled frames, H W a frame's height and width in pixels.
"""

from typing import Any, NamedTuple

import numpy as np
from transformers.video_processing_utils import BaseVideoProcessor

from .canvas_cache import CanvasCache
from .codec_canvases import CodecCanvases, canvases_of
from .frame_geometry import check_positive
from .frame_sequence import FrameSequence, Video, open_video
from .image_processing_onevision_vl import OF_ALL_PARTS
from .known_names import KnownNames
from .setting_names import refuse_unknown
from .url_access import UrlAccess, UrlKwargs
from .video_reader import VideoReader


class Policy(NamedTuple):
    """How frames are sampled of a file: frames at most, and what t a frame gets."""

    max_frames: int
    positions: str


# The processor in the published folder; lmms-eval and vLLM (both qwen-vl-utils' rule: one frame a second, an
# even number of at least four), which hand frames over as images, whose t is 0.
POLICIES = {"native": Policy(384, "frame"), "lmms_eval": Policy(32, "zero"), "vllm": Policy(32, "zero")}
POSITIONS = ("frame", "zero")
PRESETS = (None, "ov2", "auto")
# What only frames have, and only canvases.
OF_FRAMES = ("frame_sampling", "frame_positions", "num_frames", "max_frames", "fps")
OF_CANVASES = ("canvas_settings", "target_canvas", "max_canvases", "canvas_cache")
# Names of the published processor -> ours.
OTHER_NAMES = {"fixed_num_frames": "num_frames", "target_fps": "fps"}


class SampledFrames:
    """Frames of one video.

    No dataclass: transformers makes dictionaries of those in a conversation.

    Args:
        pictures: (T, H, W, 3) uint8.
        numbers: (T,) t of each frame: its number in the source, or 0.
        seconds: (T,) when each is.
        missing: what of a truncated file is there, "" of a whole one.
    """

    def __init__(self, pictures: np.ndarray, numbers: np.ndarray, seconds: np.ndarray, missing: str = ""):
        self.pictures, self.numbers, self.seconds, self.missing = pictures, numbers, seconds, missing

    def __len__(self) -> int:
        return len(self.pictures)


class LlavaOnevision2VideoProcessorKwargs(UrlKwargs, total=False):
    """What `LlavaOnevision2VideoProcessor` takes; its docstring says what they mean."""

    frame_sampling: str
    frame_positions: str | None
    num_frames: int | None
    max_frames: int | None
    fps: float | None
    do_sample_frames: bool
    min_pixels: int | None
    max_pixels: int | None
    preset: str | None
    canvas_settings: str
    target_canvas: int
    max_canvases: int | None
    canvas_cache: str | None
    default_to_square: bool
    return_metadata: bool


class LlavaOnevision2VideoProcessor(KnownNames, BaseVideoProcessor):  # type: ignore[misc]
    """Which frames of a video are shown.

    Args:
        frame_sampling (`str`, defaults to `"native"`): "native", the published processor's: 8 frames of less
            than 10 seconds, 16 of less than 30, else `max_frames`, evenly; "lmms_eval", with which the
            published scores were made, and "vllm": one frame a second, an even number from 4 to
            `max_frames`.
        frame_positions (`str`, *optional*): t of a frame: "frame", its number in the file, or "zero", as
            images have it. `None`: as the policy has it, "frame" for "native", "zero" for the others.
        num_frames (`int`, *optional*): so many instead, evenly.
        max_frames (`int`, *optional*): of the policy; 384 by default for "native", 32 for the others.
        fps (`float`, *optional*): frames a second, up to `max_frames`.
        do_sample_frames (`bool`, defaults to `True`): `False` shows every frame of a file.
        min_pixels (`int`, *optional*): smaller frames are made larger; the image processor's by default.
        max_pixels (`int`, *optional*): larger frames are made smaller; likewise.
        preset (`str`, *optional*): codec input instead of frames: "ov2", canvases of what the codec spent
            bits on, as the published preprocessor makes them; "auto", the same of the energy of that preset,
            of any codec. See `select_canvases`. Nothing of the above then counts, and naming it together with
            a preset is refused.
        canvas_settings (`str`, defaults to `"bundled"`): "bundled" or "tuned".
        target_canvas (`int`, defaults to 32): sets how many frames are looked at.
        max_canvases (`int`, *optional*): never more canvases than this.
        allow_urls (`bool`, defaults to `True`): `False` refuses http and https, of images too.
        url_timeout (`float`, defaults to 30): seconds that a server has to answer and may be silent.
        max_url_bytes (`int`, *optional*): what is longer is refused.
        canvas_cache (`str`, *optional*): a folder in which canvases are kept by the content of their video
            (15 MB a video of 32 canvases), so that it is read once; not saved with the processor.
        **kwargs: these, by name.

    Frames that were decoded elsewhere are all shown. Raises TypeError for an unknown name, ValueError for a
    value out of range.
    """

    valid_kwargs = LlavaOnevision2VideoProcessorKwargs  # type: ignore[assignment]
    of_others = OF_ALL_PARTS
    model_input_names: list[str] = []  # its frames are images to the model

    frame_sampling = "native"
    frame_positions = None
    num_frames = None
    max_frames = None
    fps = None
    do_sample_frames = True
    min_pixels = None
    max_pixels = None
    preset = None
    canvas_settings = "bundled"
    target_canvas = 32
    max_canvases = None
    canvas_cache = None
    default_to_square = False
    return_metadata = False

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """A processor from what a file holds; of a published file what both know counts.

        Args:
            video_processor_dict: settings by name.
            **kwargs: settings that replace them, and arguments of `from_pretrained`.
        """
        named = {OTHER_NAMES.get(name, name): value for name, value in video_processor_dict.items()}
        pixels = ("min_pixels", "max_pixels") if "image_processor_type" in video_processor_dict else ()
        own = cls._known().keys() - set(pixels)
        return super().from_dict({name: named[name] for name in named.keys() & own}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The settings as they are saved: without the folder of this machine."""
        return {name: value for name, value in super().to_dict().items() if name != "canvas_cache"}

    def preprocess(self, videos: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Refused: patches are the processor's, which has the image processor."""
        raise ValueError(
            f"{type(self).__name__} samples frames (`read`); the patches are made by LlavaOnevision2Processor"
        )

    def read(
        self,
        video: "Video | SampledFrames",
        *,
        frames: bool = False,
        video_metadata: Any = None,
        errors: str = "raise",
        patch_size: int = 14,
        merge_size: int = 2,
        **kwargs: Any,
    ) -> SampledFrames | CodecCanvases:
        """Sample and decode one video.

        Args:
            video: a path, URL, bytes, reader, or frames; what was read already comes back.
            frames: the files of pictures that are listed, lie in a folder or match a pattern are one clip.
            video_metadata: of decoded frames: `frames_indices` and `fps`, or `timestamps`.
            errors: "raise", or "partial": of a truncated file, what is there.
            patch_size: of the canvases, in pixels.
            merge_size: of the canvases, patches along a side of a block.
            **kwargs: settings that replace the processor's own in this call.

        Raises:
            VideoReadError: it cannot be read. ValueError, TypeError: a setting.
        """
        if isinstance(video, SampledFrames):
            return video
        settings, policy = self.check_settings(**kwargs)
        urls = UrlAccess.of(kwargs, self)
        if settings["preset"] is not None:
            how = {**_of_canvases(settings), "patch_size": patch_size, "merge_size": merge_size}

            def choose() -> CodecCanvases:
                with open_video(video, errors, frames=frames, metadata=video_metadata, urls=urls) as reader:
                    return canvases_of(reader, **how)

            if settings["canvas_cache"] is None or frames:
                return choose()
            return CanvasCache(settings["canvas_cache"]).get(video, how, choose)
        with open_video(video, errors, frames=frames, metadata=video_metadata, urls=urls) as reader:
            numbers, seconds = self._sampled(reader, settings, policy)
            ids = np.arange(len(reader)) if isinstance(reader, FrameSequence) else numbers
            size = (reader.width, reader.height)
            read = {frame.frame_id: frame.rgb(*size) for frame in reader.frames(np.unique(ids))}
            pictures = np.stack([read[number] for number in ids.tolist()])
            missing = reader.missing
        return SampledFrames(pictures, numbers * (policy.positions == "frame"), seconds, missing)

    def canvases_of_span(
        self,
        reader: VideoReader,
        span: tuple[int, int],
        first_frame: int,
        sides: dict[str, int],
        **kwargs: Any,
    ) -> CodecCanvases:
        """Canvases of a part of an open video, such as a window of a stream.

        Args:
            reader: the video.
            span: [start, end) of its frames.
            first_frame: number of its first frame in its source.
            sides: `patch_size` and `merge_size`.
            **kwargs: settings that replace the processor's own; `preset` is "ov2" by default.
        """
        settings, _ = self.check_settings(**{"preset": self.preset or "ov2", **kwargs})
        how = {**_of_canvases(settings), **sides}
        return canvases_of(reader, **how, span=span, first_frame=first_frame)

    def check_settings(self, **kwargs: Any) -> tuple[dict[str, Any], Policy]:
        """All settings with those of a call, and the policy that they ask for; nothing is read.

        Raises:
            TypeError: an unknown name. ValueError: a value out of range, or one that cannot be followed.
        """
        refuse_unknown(type(self).__name__, kwargs, list(self._known()))
        settings = {name: getattr(self, name) for name in self._known()} | kwargs
        _check_preset(settings["preset"], kwargs)
        return settings, _policy(settings)

    def outlined(self, video: Video, **kwargs: Any) -> tuple[list[float], int, int]:
        """The seconds of the frames that `read` takes of a video, and their height and width, undecoded."""
        settings, policy = self.check_settings(**kwargs)
        with open_video(video, urls=UrlAccess.of(kwargs, self)) as reader:
            return self._sampled(reader, settings, policy)[1].tolist(), reader.height, reader.width

    def _sampled(
        self, reader: VideoReader | FrameSequence, settings: dict[str, Any], policy: Policy
    ) -> tuple[np.ndarray, np.ndarray]:
        """(T,) numbers in the source of the frames that are shown, and their seconds."""
        if isinstance(reader, FrameSequence):
            untimed = np.isnan(reader.timestamps)
            # Nothing is known of when they were: the published processor then counts them.
            return reader.numbers, np.where(untimed, np.arange(len(reader)), reader.timestamps)
        total, rate = len(reader), reader.fps if reader.fps > 0 else 30.0
        count = _count(total, rate, settings, policy) if settings["do_sample_frames"] else total
        numbers = np.linspace(0, total - 1, count).round().astype(np.int64)
        # Seconds as the published processors write them: numbers over the average rate.
        return numbers, numbers / rate


def _of_canvases(settings: dict[str, Any]) -> dict[str, Any]:
    own = {name: settings[name] for name in ("preset", "target_canvas", "max_canvases")}
    return {**own, "settings": settings["canvas_settings"]}


def _check_preset(preset: Any, given: dict[str, Any]) -> None:
    """A known preset, and no setting in this call that it leaves without a meaning."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be {', '.join(map(str, PRESETS))}, not {preset!r}")
    unused = [name for name in (OF_CANVASES if preset is None else OF_FRAMES) if given.get(name) is not None]
    if unused:
        shown = "frames are shown: give preset too" if preset is None else f"canvases are, by {preset!r}"
        raise ValueError(f"{', '.join(unused)} cannot be followed where {shown}")


def _policy(settings: dict[str, Any]) -> Policy:
    name = settings["frame_sampling"]
    if name not in POLICIES:
        raise ValueError(f"frame_sampling must be one of {', '.join(POLICIES)}, not {name!r}")
    for bound in ("num_frames", "max_frames"):
        if settings[bound] is not None:
            check_positive(bound, settings[bound])
    if settings["fps"] is not None and not 0 < settings["fps"] < float("inf"):
        raise ValueError(f"fps must be a positive number, not {settings['fps']!r}")
    positions = settings["frame_positions"] or POLICIES[name].positions
    if positions not in POSITIONS:
        raise ValueError(f"frame_positions must be one of {', '.join(POSITIONS)}, not {positions!r}")
    return POLICIES[name]._replace(positions=positions)


def _count(total: int, rate: float, settings: dict[str, Any], policy: Policy) -> int:
    """Frames that are shown of so many at so many a second."""
    most, fps = settings["max_frames"] or policy.max_frames, settings["fps"]
    seconds = total / rate
    if settings["num_frames"] is not None:
        return min(total, settings["num_frames"])
    if settings["frame_sampling"] == "native":
        if fps is not None:
            count = min(max(1, int(seconds * fps)), most)
        else:
            count = 8 if seconds < 10 else 16 if seconds < 30 else most
        return min(total, count)
    # qwen-vl-utils' smart_nframes; of a single frame two are made, since the number must be even.
    wanted = min(max(seconds * (fps or 1.0), 4), most // 2 * 2, total)
    return max(int(wanted // 2) * 2, 2)


__all__ = ["LlavaOnevision2VideoProcessor", "SampledFrames"]
