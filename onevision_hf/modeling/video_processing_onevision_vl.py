"""Videos for the multimodal model: what the codec selects, whole frames, or both, as packed patches.

    processor = OneVisionVLVideoProcessor(merge_size=2)
    inputs = processor("clip.mp4", video_mode="codec", num_frames=64, keep_ratio=0.125, return_tensors="pt")
    inputs["pixel_values_videos"], inputs["video_patch_positions"], inputs["video_cu_seqlens"]

    clip = processor.read("clip.mp4")       # a VideoPatches, which stands for the clip in any later prompt

Shapes: sum N patches of all videos, N of one, C channels, p patch side, T sampled frames, gh gw grid.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature

from .frame_sampling import sample_frames
from .frame_sequence import FrameSequence, open_video
from .patch_cutting import check_placement, cut_patches
from .patch_selection import BudgetSettings, Placement, check_positive, read_selection, resolve_budget
from .video_processing_onevision import (
    BUDGETS,
    OneVisionVideoProcessor,
    OneVisionVideoProcessorKwargs,
    frame_layout,
    virtual_times,
)
from .video_reader import VideoReader, VideoReadError

if TYPE_CHECKING:
    # transformers 5.7 fetches only the files that this one names, not those that they name in turn.
    from .bit_cost import quantiser_step  # noqa: F401
    from .channel_order import ChannelOrderBackend  # noqa: F401
    from .codec_signals import vectors  # noqa: F401
    from .configuration_onevision import OneVisionConfig  # noqa: F401
    from .decoded_frame import DecodedFrame  # noqa: F401
    from .frame_geometry import FrameGeometry
    from .h264_bitstream import BitReader  # noqa: F401
    from .image_processing_onevision import OneVisionImageProcessor  # noqa: F401
    from .lone_decoder import UnsupportedStreamError  # noqa: F401
    from .patch_inputs import prepare_patches  # noqa: F401
    from .pretrained_settings import read_with_model_settings  # noqa: F401
    from .remote_file import RemoteFile  # noqa: F401
    from .signal_energy import SignalSettings  # noqa: F401
    from .video_demuxer import Demuxer  # noqa: F401
    from .video_formats import explain_refusal  # noqa: F401
    from .video_pipeline import no_image_processor  # noqa: F401
    from .video_source import VideoFile  # noqa: F401

# Mode -> frames sampled when nobody says how many: the published 64 of a selection, 8 of whole frames.
DEFAULT_FRAMES = {"codec": 64, "frames": 8, "both": 64}


class VideoPatches:
    """One video, read: what goes to the model, and when each frame was.

    No dataclass: transformers makes dictionaries of those in a conversation.

    patches: (N, C*p*p) float32. positions: (N, 3) int64 [t, h, w], t on the model's grid, rows in merge-block
    order. frames: (N,) int64, the sampled frame of each patch, an index into `timestamps`. timestamps: (T,)
    seconds of the sampled frames, NaN for frames that came without times. selection: how they were chosen.
    """

    def __init__(
        self,
        patches: np.ndarray,
        positions: np.ndarray,
        frames: np.ndarray,
        timestamps: np.ndarray,
        selection: Placement,
    ):
        self.patches, self.positions, self.frames = patches, positions, frames
        self.timestamps, self.selection = timestamps, selection

    def __len__(self) -> int:
        return len(self.patches)


class OneVisionVLVideoProcessorKwargs(OneVisionVideoProcessorKwargs, total=False):
    """Those of `OneVisionVideoProcessor`, and:

    video_mode (`str`, default "codec"): "codec", patches that the codec says matter; "frames", whole frames,
        uniformly; "both", `whole_frames` of the sampled frames whole and the codec's choice from the others,
        of which the budget speaks.
    num_frames (`int`): frames sampled; 64, and 8 of video_mode "frames".
    whole_frames (`int`, default 8): of "both".
    max_pixels (`int`, *optional*): frames larger than that after `size` are made smaller, in their shape.
    """

    video_mode: str | None
    whole_frames: int | None
    max_pixels: int | None


class OneVisionVLVideoProcessor(OneVisionVideoProcessor):
    """Videos of any lengths as one pack of patches.

    Returns `pixel_values_videos` (sum N, C*p*p), `video_patch_positions` (sum N, 3) and `video_cu_seqlens`
    (videos+1,) int32. `takes_codec_input=False` (towers that see whole pictures) refuses every mode but
    "frames", which is then the default.
    """

    valid_kwargs = OneVisionVLVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values_videos", "video_patch_positions", "video_cu_seqlens"]

    num_frames = None  # type: ignore[assignment]
    video_mode = "codec"
    whole_frames = 8
    max_pixels = None
    takes_codec_input = True

    def __init__(self, **kwargs: Any):
        self.takes_codec_input = kwargs.pop("takes_codec_input", True)
        if not self.takes_codec_input:
            kwargs.setdefault("video_mode", "frames")
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "takes_codec_input": self.takes_codec_input}

    def preprocess(  # type: ignore[override]
        self,
        videos: Any,
        *,
        errors: str = "raise",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Read a list of videos, each anything that `read` takes.

        Args:
            errors: "raise", or "skip": videos that cannot be read are left out, and `skipped` lists (index,
                reason).

        Raises:
            VideoReadError: a video cannot be read. ValueError: an argument is out of range.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors must be "raise" or "skip", not {errors!r}')
        clips, skipped = [], []
        for index, video in enumerate(videos if isinstance(videos, list) else [videos]):
            try:
                clips.append(self.read(video, **kwargs))
            except VideoReadError as error:
                if errors == "raise":
                    raise
                skipped.append((index, str(error)))
        if not clips:
            raise VideoReadError(skipped[0][1], f"and none of the {len(skipped)} videos can be read")
        features = BatchFeature(pack_videos(clips), tensor_type=return_tensors)
        if errors == "skip":
            features["skipped"] = skipped
        return features

    def read(self, video: Any, *, selection: Placement | None = None, **kwargs: Any) -> VideoPatches:
        """One video: a path, bytes, a binary file object, decoded frames (uint8 array or tensor (T, H, W, 3)
        or (T, 3, H, W), list of PIL images), or a `VideoPatches`, which comes back as it is.

        Args:
            selection: what to cut, instead of choosing.
        """
        if isinstance(video, VideoPatches):
            return video
        settings = self.resolve_settings(kwargs)
        with open_video(video) as reader:
            if selection is None:
                selection = self._select(reader, settings)
            else:
                check_placement(selection, reader, settings["patch_size"])
            patches = cut_patches(reader, selection, settings)
            timestamps = reader.timestamps[selection.frame_ids]
        frames = selection.positions[:, 0].copy()
        positions = selection.positions.copy()
        positions[:, 0] = virtual_times(len(selection.frame_ids), settings["rope_temporal_size"])[frames]
        return VideoPatches(patches, positions, frames, timestamps, selection)

    def _select(self, reader: VideoReader | FrameSequence, settings: dict[str, Any]) -> Placement:
        geometry = _layout(reader.height, reader.width, settings)
        sampling, budget = settings["SamplingSettings"], settings["BudgetSettings"]
        if settings["video_mode"] == "frames":
            return Placement.whole_frames(sample_frames(reader, sampling), geometry, settings["merge_size"])
        if settings["video_mode"] == "both":
            count = len(sample_frames(reader, sampling))
            step = -(-count // settings["whole_frames"])
            budget = BudgetSettings(
                _both(count, step, geometry.patches_per_frame, budget),
                anchors=step,
                time_buckets=budget.time_buckets,
                merge_size=budget.merge_size,
            )
        return read_selection(
            reader, geometry, sampling=sampling, signals=settings["SignalSettings"], budget=budget
        )

    def get_number_of_video_patches(
        self, num_frames: int, height: int, width: int, videos_kwargs: dict[str, Any] | None = None
    ) -> int:
        """Patches kept of a video that has `num_frames` frames of height x width pixels; `merge_size`^2 of
        them make a token. Exact for anchors="first" or a number; "keyframes" depends on the stream.
        """
        known = self.valid_kwargs.__annotations__
        settings = self.resolve_settings({k: v for k, v in (videos_kwargs or {}).items() if k in known})
        geometry = _layout(height, width, settings)
        budget, block = settings["BudgetSettings"], settings["merge_size"] ** 2
        frames = settings["SamplingSettings"].num_sampled(num_frames)
        if settings["video_mode"] == "frames":
            return frames * geometry.patches_per_frame
        if settings["video_mode"] == "both":
            step = -(-frames // settings["whole_frames"])
            return _both(frames, step, geometry.patches_per_frame, budget)
        anchors = len(budget.anchor_frames(["?"] * frames))
        return resolve_budget(
            budget.num_patches, budget.keep_ratio, frames, geometry.patches_per_frame, anchors, block
        )

    # transformers' own processors have it under this name.
    get_num_of_video_patches = get_number_of_video_patches

    def resolve_settings(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        unknown = kwargs.keys() - self.valid_kwargs.__annotations__.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} got unknown arguments {sorted(unknown)}")
        mode = kwargs.get("video_mode") or self.video_mode
        if mode not in DEFAULT_FRAMES:
            raise ValueError(f"video_mode must be one of {', '.join(DEFAULT_FRAMES)}, not {mode!r}")
        if mode != "frames" and not self.takes_codec_input:
            raise ValueError(
                f"video_mode={mode!r} is codec input, parts of frames, and the tower of this model sees "
                "whole pictures: use video_mode='frames'"
            )
        given = [name for name in BUDGETS if kwargs.get(name) is not None]
        if mode == "frames" and given:
            raise ValueError(
                f"video_mode='frames' keeps whole frames, so {given[0]} does not go with it: give num_frames"
            )
        sampled = kwargs.get("do_sample_frames")
        if sampled is None:
            sampled = self.do_sample_frames
        if sampled and kwargs.get("num_frames") is None and self.num_frames is None:
            kwargs = {**kwargs, "num_frames": DEFAULT_FRAMES[mode]}
        settings = super().resolve_settings({**kwargs, "video_mode": mode})
        check_positive("whole_frames", settings["whole_frames"])
        if settings["max_pixels"] is not None:
            check_positive("max_pixels", settings["max_pixels"])
        return settings


def _layout(height: int, width: int, settings: dict[str, Any]) -> "FrameGeometry":
    """`frame_layout`, with a shorter side that keeps to `max_pixels`."""
    geometry = frame_layout(height, width, settings)
    limit, size = settings["max_pixels"], settings["size"]
    unit = settings["patch_size"] * settings["merge_size"]
    while limit and geometry.canvas_height * geometry.canvas_width > limit:
        shorter = min(geometry.canvas_height, geometry.canvas_width) - unit
        if shorter < unit or "shortest_edge" not in size or not settings["do_resize"]:
            raise ValueError(
                f"max_pixels={limit} is below the {geometry.canvas_height} x {geometry.canvas_width} pixels "
                "of a frame, which cannot be made smaller: raise it, or lower size"
            )
        size = {"shortest_edge": shorter}
        geometry = frame_layout(height, width, {**settings, "size": size})
    return geometry


def _both(frames: int, step: int, per_frame: int, budget: BudgetSettings) -> int:
    """Patches of every `step`-th of the sampled frames and of a selection from the others."""
    block = budget.merge_size**2
    whole = len(range(0, frames, step)) * per_frame
    chosen = budget.num_patches
    if chosen is None:
        chosen = resolve_budget(None, budget.keep_ratio, frames, per_frame, 0, block)
    return min(frames * per_frame, whole + chosen)


def pack_videos(clips: list[VideoPatches]) -> dict[str, torch.Tensor]:
    """Videos one after another, as the model takes them."""
    lengths = torch.tensor([0, *map(len, clips)])
    return {
        "pixel_values_videos": torch.cat([torch.from_numpy(clip.patches) for clip in clips]),
        "video_patch_positions": torch.cat([torch.from_numpy(clip.positions) for clip in clips]),
        "video_cu_seqlens": lengths.cumsum(0).to(torch.int32),
    }


__all__ = ["OneVisionVLVideoProcessor", "VideoPatches"]
