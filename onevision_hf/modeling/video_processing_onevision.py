"""From videos to the encoder's input: codec patchification behind transformers' video processor interface.

processor = OneVisionVideoProcessor()
inputs = processor("clip.mp4", num_frames=64, keep_ratio=0.125, return_tensors="pt")
outputs = model(**inputs)       # pixel_values_videos, patch_positions, pixel_attention_mask
"""

import dataclasses
import numbers
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import TensorType
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .frame_geometry import FrameGeometry
from .frame_sampling import SamplingSettings
from .frame_sequence import FrameSequence, is_encoded, open_video
from .patch_cutting import check_placement, cut_patches
from .patch_selection import (
    DEFAULT_KEEP_RATIO,
    BudgetSettings,
    Placement,
    check_budget,
    check_positive,
    read_selection,
)
from .pretrained_settings import read_with_model_settings
from .signal_energy import SignalSettings
from .video_reader import VideoReader, VideoReadError

if TYPE_CHECKING:
    # transformers 5.7 fetches only the files that this one names, not those that they name in turn.
    from .bit_cost import quantiser_step  # noqa: F401
    from .codec_signals import vectors  # noqa: F401
    from .configuration_onevision import OneVisionConfig  # noqa: F401
    from .decoded_frame import DecodedFrame  # noqa: F401
    from .h264_bitstream import BitReader  # noqa: F401
    from .lone_decoder import UnsupportedStreamError  # noqa: F401
    from .remote_file import RemoteFile  # noqa: F401
    from .video_demuxer import Demuxer  # noqa: F401
    from .video_formats import explain_refusal  # noqa: F401
    from .video_source import VideoFile  # noqa: F401

BUDGETS = ("num_patches", "keep_ratio")
# What says which frames are sampled, and has no meaning where every frame is taken.
SAMPLED_BY = ("num_frames", "sampling", "fps", "timestamps")


class OneVisionVideoProcessorKwargs(TypedDict, total=False):
    """Arguments of `OneVisionVideoProcessor`, in the constructor, in `from_pretrained` and at the call.

    num_frames (`int`, default 64): frames sampled uniformly; a shorter clip gives all it has.
    do_sample_frames (`bool`, default `True`): `False` takes every frame of a file or of a decoded clip.
    size (`int` or `dict`, default 224): the shorter side in pixels, both sides then resized to the nearest
        multiple of the patch (no crop); or {"height": h, "width": w}, multiples of the patch.
    do_center_crop (`bool`, default `False`), crop_size (`int` or `dict`, default `size`): the middle only.
    do_resize (`bool`, default `True`): `False` takes frames as they are: multiples of the patch, then.
    patch_size (`int`, default 14): pixels.
    keep_ratio (`float`, default 0.125) or num_patches (`int`): the budget. One given at the call or in the
        constructor replaces the stored one of either kind.
    preset (`str`, default "auto"), signals, weights, normalize, camera: what counts, see `SignalSettings`.
    anchors, time_buckets, merge_size: what is kept together, see `BudgetSettings`.
    sampling, fps, timestamps, start, end: which frames are looked at, see `SamplingSettings`.
    rope_temporal_size (`int`, default 64): the model's virtual time grid; `None` keeps the frame's index.
    do_rescale, rescale_factor, do_normalize, image_mean, image_std: as everywhere in transformers.
    return_metadata (`bool`): add `video_metadata` and `selections`, lists with an entry a video.
    """

    num_frames: int | None
    do_sample_frames: bool | None
    size: Any
    crop_size: Any
    do_resize: bool | None
    do_center_crop: bool | None
    patch_size: int | None
    num_patches: int | None
    keep_ratio: float | None
    preset: str | None
    signals: Any
    weights: Any
    normalize: str | None
    camera: str | None
    anchors: Any
    time_buckets: int | None
    merge_size: int | None
    sampling: str | None
    fps: float | None
    timestamps: Any
    start: float | None
    end: float | None
    rope_temporal_size: int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: Any
    image_std: Any
    default_to_square: bool | None
    return_metadata: bool | None


class OneVisionVideoProcessor(BaseVideoProcessor):
    """Codec patchification: keeps the patches of a video where its codec says that something happens."""

    valid_kwargs = OneVisionVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values_videos", "patch_positions", "pixel_attention_mask"]

    num_frames = 64
    do_sample_frames = True
    size = {"shortest_edge": 224}
    crop_size = None
    default_to_square = False
    do_resize = True
    do_center_crop = False
    patch_size = 14
    num_patches = None
    keep_ratio: float | None = DEFAULT_KEEP_RATIO
    preset = "auto"
    signals = None
    weights = None
    normalize = None  # type: ignore[assignment]  # of the energy; the backend's method of that name is not used here
    camera = None
    anchors = "first"
    time_buckets = 1
    merge_size = 1
    sampling = "uniform"
    fps = None
    timestamps = None
    start = None
    end = None
    rope_temporal_size = 64
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    return_metadata = False

    def __init__(self, **kwargs: Any):
        check_budget(kwargs.get("num_patches"), kwargs.get("keep_ratio"))
        super().__init__(**kwargs)
        if kwargs.get("num_patches") is not None:
            self.keep_ratio = None
        if "rope_temporal_size" in kwargs:  # None is a value: t stays the frame's index
            self.rope_temporal_size = kwargs["rope_temporal_size"]

    @classmethod
    def get_video_processor_dict(
        cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the folder; patch size and time grid are those of the model beside them."""
        settings, unused = read_with_model_settings(
            super().get_video_processor_dict,
            pretrained_model_name_or_path,
            ("patch_size", "rope_temporal_size"),
            ("num_frames",),
            **kwargs,
        )
        if "image_processor_type" in settings:
            # A published folder has an image processor's file only; what it says of sizes and colours counts.
            known = settings.keys() & cls.valid_kwargs.__annotations__.keys()
            settings = {name: settings[name] for name in known}
        return settings, unused

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any):  # type: ignore[override]
        if any(kwargs.get(name) is not None for name in BUDGETS):
            video_processor_dict = {k: v for k, v in video_processor_dict.items() if k not in BUDGETS}
        return super().from_dict(video_processor_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        # transformers leaves out what is None, but here None differs from the default.
        return {**super().to_dict(), "rope_temporal_size": self.rope_temporal_size}

    def preprocess(
        self,
        videos: Any,
        *,
        selection: Placement | list[Placement] | None = None,
        errors: str = "raise",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Read, select and cut one video or a list of videos.

        Args:
            videos: a path, bytes, a binary file object, decoded frames (uint8 array or tensor (T, H, W, 3) or
                (T, 3, H, W), list of PIL images), or a list of those.
            selection: what to cut (one `Placement`, such as a `Selection`, a video) instead of choosing.
            errors: "raise", or "skip": videos that cannot be read are left out of the batch; the result has
                `skipped`, a list of (index in the list, reason). Take it out before calling the model.
            return_tensors: "pt" or "np".

        Returns:
            `BatchFeature` with `pixel_values_videos` (B, K, C*p*p) float32, each patch flattened as (C, p,
            p), `patch_positions` (B, K, 3) int64 [t, h, w], `pixel_attention_mask` (B, K) bool; K is the
            largest of the batch, shorter ones are padded with zeros.

        Raises:
            VideoReadError: a video cannot be read. ValueError: an argument is out of range.
        """
        unknown = kwargs.keys() - self.valid_kwargs.__annotations__.keys()
        if unknown:
            raise TypeError(
                f"{type(self).__name__} got unknown arguments {sorted(unknown)}; it takes "
                f"{', '.join(self.valid_kwargs.__annotations__)}, selection, errors, return_tensors"
            )
        settings = self.resolve_settings(kwargs)
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors must be "raise" or "skip", not {errors!r}')
        clips = _as_list(videos)
        selections = _match_selections(selection, len(clips))

        results, skipped = [], []
        for index, (clip, chosen) in enumerate(zip(clips, selections, strict=True)):
            try:
                results.append(self._process(clip, chosen, settings))
            except VideoReadError as error:
                if errors == "raise":
                    raise
                skipped.append((index, str(error)))
        if not results:
            raise VideoReadError(
                skipped[0][1], f"and none of the other {len(skipped) - 1} videos can be read"
            )

        features = BatchFeature(data=_as_tensors(_pad(results), return_tensors))
        if errors == "skip":
            features["skipped"] = skipped
        if settings["return_metadata"]:
            features["video_metadata"] = [result["metadata"] for result in results]
            features["selections"] = [result["selection"] for result in results]
        return features

    def resolve_settings(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Stored settings, with those of the call on top; a budget of the call replaces the stored one.

        Raises:
            ValueError: one is out of range.
        """
        given = {
            name: value for name, value in kwargs.items() if value is not None or name == "rope_temporal_size"
        }
        check_budget(given.get("num_patches"), given.get("keep_ratio"))
        settings = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__} | given
        for name in BUDGETS:
            if name in given:
                settings[BUDGETS[1 - BUDGETS.index(name)]] = None
        check_budget(settings["num_patches"], settings["keep_ratio"])
        if settings["do_sample_frames"] is False:
            if asked := [name for name in SAMPLED_BY if name in given]:
                raise ValueError(
                    f"do_sample_frames=False takes every frame, so {asked[0]} does not go with it: "
                    "leave it out, or pass do_sample_frames=True"
                )
            settings |= dict.fromkeys(SAMPLED_BY)  # those that are stored are of no use now
        check_positive("patch_size", settings["patch_size"])
        for group in (SamplingSettings, SignalSettings, BudgetSettings):
            settings[group.__name__] = _group(group, settings)
        settings["size"] = _as_size(settings["size"], "size")
        if settings["crop_size"] is not None:
            settings["crop_size"] = _as_size(settings["crop_size"], "crop_size")
        return settings

    def _process(self, clip: Any, selection: Placement | None, settings: dict[str, Any]) -> dict[str, Any]:
        with open_video(clip) as reader:
            return self.process_reader(reader, settings, selection)

    def process_reader(
        self,
        reader: VideoReader | FrameSequence,
        settings: dict[str, Any],
        selection: Placement | None = None,
    ) -> dict[str, Any]:
        """One open video: select, then cut the patches out of the frames that have some.

        settings: of `resolve_settings`. Returns `patches` (K, C*p*p) float32, `positions` (K, 3) on the
        model's time grid, `selection`, `metadata`.
        """
        if selection is None:
            selection = read_selection(
                reader,
                frame_layout(reader.height, reader.width, settings),
                sampling=settings["SamplingSettings"],
                signals=settings["SignalSettings"],
                budget=settings["BudgetSettings"],
            )
        else:
            check_placement(selection, reader, settings["patch_size"])
        patches = cut_patches(reader, selection, settings)
        metadata = VideoMetadata(
            total_num_frames=len(reader),
            fps=reader.fps,
            width=reader.width,
            height=reader.height,
            duration=float(getattr(reader, "duration", "nan")),
            video_backend="pyav",
            frames_indices=selection.frame_ids.tolist(),
        )
        positions = selection.positions.copy()
        positions[:, 0] = virtual_times(len(selection.frame_ids), settings["rope_temporal_size"])[
            positions[:, 0]
        ]
        return {"patches": patches, "positions": positions, "selection": selection, "metadata": metadata}


def _group(kind: type, settings: dict[str, Any]) -> Any:
    """One of the settings' dataclasses from those of its fields that are set."""
    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: settings[name] for name in names if settings.get(name) is not None}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def virtual_times(num_frames: int, temporal_size: int | None) -> np.ndarray:
    """Where each sampled frame stands on the model's time grid of `temporal_size` frames."""
    if temporal_size is None or num_frames == temporal_size:
        return np.arange(num_frames)
    return np.linspace(0, temporal_size - 1, num_frames).astype(np.int64)


def frame_layout(height: int, width: int, settings: dict[str, Any]) -> FrameGeometry:
    """How frames of height x width pixels are laid onto the grid, by a processor's settings."""
    geometry = _layout(height, width, settings)
    geometry.check_merge(settings["merge_size"])
    return geometry


def _layout(height: int, width: int, settings: dict[str, Any]) -> FrameGeometry:
    patch_size, size = settings["patch_size"], settings["size"]
    shorter = size.get("shortest_edge")
    if settings["preset"] == "published":
        return FrameGeometry.pad_square(
            height, width, shorter or max(size["height"], size["width"]), patch_size
        )
    if not settings["do_resize"]:
        shorter = None
        size = {"height": height, "width": width}
    if settings["do_center_crop"]:
        crop = settings["crop_size"] or settings["size"]
        sides = (crop.get("height", crop.get("shortest_edge")), crop.get("width", crop.get("shortest_edge")))
        return FrameGeometry.crop(height, width, shorter or min(size.values()), *sides, patch_size)
    if shorter is not None:
        return FrameGeometry.fit(height, width, shorter, patch_size, settings["merge_size"])
    exact = (size["height"], size["width"])
    if exact[0] % patch_size or exact[1] % patch_size:
        raise ValueError(
            f"frames of {exact[0]} x {exact[1]} pixels are no multiple of the patch size {patch_size}"
        )
    return FrameGeometry(
        height, width, *exact, 0, 0, patch_size, exact[0] // patch_size, exact[1] // patch_size
    )


def _pad(results: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    longest = max(len(result["positions"]) for result in results)
    width = results[0]["patches"].shape[1]
    if len(results) == 1:
        patches = results[0]["patches"][None]
    else:
        patches = np.zeros((len(results), longest, width), np.float32)
    positions = np.zeros((len(results), longest, 3), np.int64)
    mask = np.zeros((len(results), longest), bool)
    for row, result in enumerate(results):
        count = len(result["positions"])
        if len(results) > 1:
            patches[row, :count] = result.pop("patches")
        positions[row, :count] = result["positions"]
        mask[row, :count] = True
    return {"pixel_values_videos": patches, "patch_positions": positions, "pixel_attention_mask": mask}


def _as_tensors(arrays: dict[str, np.ndarray], kind: str | TensorType | None) -> dict[str, Any]:
    """Without a copy, which `BatchFeature` makes of arrays."""
    if kind is None or kind == "np":
        return dict(arrays)
    if kind == "pt":
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    raise ValueError(f'return_tensors must be "pt", "np" or None, not {kind!r}')


def _as_list(videos: Any) -> list[Any]:
    """One video, or a list of them. A list of pictures is one video."""
    if is_encoded(videos):
        return [videos]
    if isinstance(videos, list | tuple):
        if not len(videos):
            raise ValueError("an empty list of videos was given")
        first = videos[0]
        one_clip = hasattr(first, "convert") or getattr(first, "ndim", 0) == 3
        return [videos] if one_clip else list(videos)
    if getattr(videos, "ndim", 0) == 5:
        return list(videos)
    if getattr(videos, "ndim", 0) == 4:
        return [videos]
    raise TypeError(
        f"videos must be paths, bytes, file objects, decoded frames (T, H, W, 3), or a list of those, not "
        f"{type(videos).__name__}{list(getattr(videos, 'shape', [])) or ''}"
    )


def _match_selections(selection: Placement | list[Placement] | None, count: int) -> list[Placement | None]:
    if selection is None:
        return [None] * count
    selections = [selection] if isinstance(selection, Placement) else list(selection)
    if len(selections) != count:
        raise ValueError(f"{count} videos but {len(selections)} selections: give one selection a video")
    return list(selections)


def _as_size(size: Any, name: str) -> dict[str, int]:
    """{"shortest_edge": s} or {"height": h, "width": w}, with positive integers."""
    if isinstance(size, numbers.Integral) and not isinstance(size, bool):
        size = {"shortest_edge": int(size)}
    sides = {key: value for key, value in dict(size).items() if value is not None}
    if set(sides) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(f"{name} must be an integer, shortest_edge, or height and width, not {size!r}")
    for side, value in sides.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value <= 0:
            raise ValueError(f"{name}: {side} must be a positive integer, not {value!r}")
    return {side: int(value) for side, value in sides.items()}
