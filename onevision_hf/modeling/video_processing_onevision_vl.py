"""Videos for the multimodal model: what the codec selects, whole frames, or both, as packed patches.

    processor = OneVisionVLVideoProcessor(merge_size=2)
    inputs = processor("clip.mp4", video_mode="codec", num_frames=64, keep_ratio=0.125, return_tensors="pt")
    inputs["pixel_values_videos"], inputs["video_patch_positions"], inputs["video_cu_seqlens"]

    clip = processor.read("clip.mp4")       # a VideoPatches, which stands for the clip in any later prompt

Shapes: sum N patches of all videos, N of one, C channels, p patch side, T sampled frames, gh gw grid.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature

from .frame_geometry import check_positive
from .frame_sampling import sample_frames
from .frame_sequence import FrameSequence, Video, open_video
from .image_processing_onevision_vl import OF_ALL_PARTS
from .message_media import of_each
from .patch_inputs import pack_media
from .patch_selection import BudgetSettings, Placement, check_size, resolve_budget
from .patchify_config import BUDGETS, SETTINGS, PatchifyConfig
from .setting_names import refuse_unknown
from .url_access import UrlAccess
from .video_processing_onevision import (
    OneVisionVideoProcessor,
    OneVisionVideoProcessorKwargs,
    as_videos,
    of_reader,
    read_each,
)
from .video_reader import VideoReader

# Mode -> frames sampled when nobody says how many: the published 64 of a selection, 8 of whole frames.
DEFAULT_FRAMES = {"codec": 64, "frames": 8, "both": 64}


class _Mode(NamedTuple):
    """How videos are read: the mode, the frames of "both" that stay whole, and the rest of the settings."""

    name: str
    whole_frames: int
    config: PatchifyConfig


class VideoPatches:
    """One video, read: what goes to the model, and when each frame was.

    No dataclass: transformers makes dictionaries of those in a conversation.

    Args:
        patches: (N, C*p*p) float32.
        positions: (N, 3) int64 [t, h, w], t on the model's grid, in merge-block order.
        frames: (N,) int64, the sampled frame of each patch, an index into `timestamps`.
        timestamps: (T,) seconds of the sampled frames, NaN for frames that came without times.
        selection: how they were chosen.
        missing: what of a truncated file is there, "" of a whole one.
    """

    def __init__(
        self,
        patches: np.ndarray,
        positions: np.ndarray,
        frames: np.ndarray,
        timestamps: np.ndarray,
        selection: Placement,
        missing: str = "",
    ):
        self.patches, self.positions, self.frames = patches, positions, frames
        self.timestamps, self.selection, self.missing = timestamps, selection, missing

    def __len__(self) -> int:
        return len(self.patches)

    def __str__(self) -> str:
        whole = len(self.timestamps) * self.selection.geometry.patches_per_frame
        share = f"{len(self):,} of {whole:,} patches ({100 * len(self) / whole:.1f} %)"
        return f"{len(self.timestamps)} frames, {share}"


class OneVisionVLVideoProcessorKwargs(OneVisionVideoProcessorKwargs, total=False):
    """Those of `OneVisionVideoProcessor`, and what `OneVisionVLVideoProcessor` takes besides."""

    video_mode: str | None
    whole_frames: int | None


class OneVisionVLVideoProcessor(OneVisionVideoProcessor):
    """Videos of any lengths as one pack of patches.

    Args:
        video_mode (`str`, defaults to `"codec"`): "codec", patches that the codec says matter; "frames",
            whole frames, uniformly; "both", some of the sampled frames whole and the codec's choice from
            the others, of which the budget speaks.
        whole_frames (`int`, defaults to 8): frames that "both" keeps whole.
        takes_codec_input (`bool`, defaults to `True`): `False` (towers that see whole pictures) refuses
            every mode but "frames", which is then the default.
        **kwargs: the settings of `OneVisionVideoProcessor`; `num_frames` is 64 by default, and 8 of the
            mode "frames".

    Returns:
        `pixel_values_videos` (sum N, C*p*p), `video_patch_positions` (sum N, 3) and `video_cu_seqlens`
        (videos+1,) int32.
    """

    valid_kwargs = OneVisionVLVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values_videos", "video_patch_positions", "video_cu_seqlens"]

    num_frames = None  # type: ignore[assignment]
    video_mode = "codec"
    whole_frames = 8
    takes_codec_input = True
    of_others = OF_ALL_PARTS

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
        frames: bool = False,
        video_metadata: Any = None,
        errors: str = "raise",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Read a list of videos.

        Args:
            videos: one or a list, each anything that `read` takes.
            frames: see `read`; several clips are lists of files, folders or patterns.
            video_metadata: of decoded frames, see `read`; one, or a list with one (or None) a video.
            errors: "raise"; "skip": videos that cannot be read are left out, and `skipped` lists (index,
                reason); or "partial": of truncated ones what is there is used, and `partial` lists those.
            return_tensors: "pt" or "np".
            **kwargs: settings that replace the processor's own in this call.

        Returns:
            `pixel_values_videos` (sum N, C*p*p), `video_patch_positions` (sum N, 3) [t, h, w] and
            `video_cu_seqlens` (videos+1,) int32.

        Raises:
            VideoReadError: a video cannot be read.
            ValueError: an argument is out of range.
        """
        listed = [videos] if isinstance(videos, VideoPatches) else as_videos(videos, frames)
        pairs = list(zip(listed, of_each("video_metadata", video_metadata, len(listed)), strict=True))

        def read(pair: tuple[Any, Any]) -> VideoPatches:
            video, metadata = pair
            return self.read(
                video, frames=frames, video_metadata=metadata, errors=of_reader(errors), **kwargs
            )

        clips, skipped = read_each(pairs, read, errors)
        features = BatchFeature(pack_videos(clips), tensor_type=return_tensors)
        if errors == "skip":
            features["skipped"] = skipped
        elif errors == "partial":
            features["partial"] = [(i, clip.missing) for i, clip in enumerate(clips) if clip.missing]
        return features

    def read(
        self,
        video: "Video | VideoPatches",
        *,
        selection: Placement | None = None,
        frames: bool = False,
        video_metadata: Any = None,
        errors: str = "raise",
        **kwargs: Any,
    ) -> VideoPatches:
        """Read, select and cut one video.

        Args:
            video: what `OneVisionVideoProcessor` takes for one, or a `VideoPatches`, which comes back as it
                is.
            selection: what to cut, instead of choosing.
            frames: the files of pictures that are listed, lie in a folder or match a pattern are one clip.
            video_metadata: of decoded frames, see `OneVisionVideoProcessor`.
            errors: "raise", or "partial": of a truncated file, what is there; `missing` says how much that
                is.
            **kwargs: settings that replace the processor's own in this call.
        """
        if isinstance(video, VideoPatches):
            return video
        mode = self._mode(kwargs)
        urls = UrlAccess.of(kwargs, self)
        with open_video(video, errors, frames=frames, metadata=video_metadata, urls=urls) as reader:
            placement = self._select(reader, mode) if selection is None else selection
            patches, positions, _ = mode.config.patchify(reader, placement)
            timestamps = reader.timestamps[placement.frame_ids]
            frame_of, missing = placement.positions[:, 0].copy(), reader.missing
        return VideoPatches(patches, positions, frame_of, timestamps, placement, missing)

    def _select(self, reader: VideoReader | FrameSequence, mode: _Mode) -> Placement:
        config = mode.config
        if mode.name == "codec":
            return config.select(reader)
        frame_ids = sample_frames(reader, config.sampling)
        geometry = config.geometry(reader.height, reader.width)
        if mode.name == "frames":
            kept = len(frame_ids) * geometry.patches_per_frame
            check_size(reader, geometry, kept, config.budget.max_patches)
            return Placement.whole_frames(frame_ids, geometry, config.budget.merge_size)
        step = -(-len(frame_ids) // mode.whole_frames)
        count = _both(len(frame_ids), step, geometry.patches_per_frame, config.budget)
        return config.replace(num_patches=count, anchors=step).select(reader)

    def get_number_of_video_patches(
        self, num_frames: int, height: int, width: int, videos_kwargs: dict[str, Any] | None = None
    ) -> int:
        """Patches kept of a video; `merge_size`^2 of them make a token. Exact for anchors="first", "shots"
        or a number; "keyframes" depends on the stream. With `keep_energy` the most that are kept.

        Args:
            num_frames: that the video has.
            height: of its frames, in pixels.
            width: of its frames, in pixels.
            videos_kwargs: settings that replace the processor's own; others are left alone.
        """
        known = self._known()
        mode = self._mode({k: v for k, v in (videos_kwargs or {}).items() if k in known})
        per_frame = mode.config.geometry(height, width).patches_per_frame
        budget, frames = mode.config.budget, mode.config.sampling.num_sampled(num_frames)
        if mode.name == "frames":
            return frames * per_frame
        if mode.name == "both":
            return _both(frames, -(-frames // mode.whole_frames), per_frame, budget)
        anchors = len(budget.anchor_frames(["?"] * frames))
        return resolve_budget(
            budget.num_patches, budget.keep_ratio, frames, per_frame, anchors, budget.merge_size**2
        )

    # transformers' own processors have it under this name.
    get_num_of_video_patches = get_number_of_video_patches

    def patchify_config(self, **overrides: Any) -> PatchifyConfig:
        """What this processor is set to, but for the mode, with some settings changed.

        Args:
            overrides: as for `OneVisionVideoProcessor`. Where nobody says how many frames are sampled, it
                depends on `video_mode`.

        Raises:
            TypeError: an unknown name.
            ValueError: a value out of range.
        """
        return self._mode(overrides).config

    def _mode(self, given: dict[str, Any]) -> _Mode:
        refuse_unknown(type(self).__name__, given, list(self._known()))
        name = given.get("video_mode") or self.video_mode
        if name not in DEFAULT_FRAMES:
            raise ValueError(f"video_mode must be one of {', '.join(DEFAULT_FRAMES)}, not {name!r}")
        if name != "frames" and not self.takes_codec_input:
            raise ValueError(
                f"video_mode={name!r} is codec input, parts of frames, and the tower of this model sees "
                "whole pictures: use video_mode='frames'"
            )
        budgets = [budget for budget in (*BUDGETS, "keep_energy") if given.get(budget) is not None]
        if name == "frames" and budgets:
            raise ValueError(
                f"video_mode='frames' keeps whole frames, so {budgets[0]} does not go with it: "
                "give num_frames"
            )
        whole = given.get("whole_frames")
        whole = self.whole_frames if whole is None else whole
        check_positive("whole_frames", whole)
        stored = {setting: getattr(self, setting, None) for setting in SETTINGS}
        stored["num_frames"] = self.num_frames or DEFAULT_FRAMES[name]
        config = PatchifyConfig.from_dict(stored, **{k: v for k, v in given.items() if k in SETTINGS})
        return _Mode(name, whole, config)


def _both(frames: int, step: int, per_frame: int, budget: BudgetSettings) -> int:
    """Patches of every `step`-th of the sampled frames and of a selection from the others."""
    block = budget.merge_size**2
    whole = len(range(0, frames, step)) * per_frame
    chosen = budget.num_patches
    if chosen is None:
        chosen = resolve_budget(None, budget.keep_ratio, frames, per_frame, 0, block)
    return min(frames * per_frame, whole + chosen)


def pack_videos(clips: list[VideoPatches]) -> dict[str, torch.Tensor]:
    """Videos one after another, as the model takes them; nothing for none."""
    return pack_media(
        "video", [(torch.from_numpy(clip.patches), torch.from_numpy(clip.positions)) for clip in clips]
    )


__all__ = ["OneVisionVLVideoProcessor", "VideoPatches"]
