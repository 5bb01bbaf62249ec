"""From videos to the encoder's input: codec patchification behind transformers' video processor interface.

processor = OneVisionVideoProcessor()
inputs = processor("clip.mp4", num_frames=64, keep_ratio=0.125, return_tensors="pt")
outputs = model(**inputs)       # pixel_values_videos, patch_positions, pixel_attention_mask
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.utils import TensorType
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .frame_sequence import FrameSequence, is_encoded, open_video
from .patch_cutting import PixelSettings
from .patch_selection import DEFAULT_KEEP_RATIO, Placement, check_budget
from .patchify_config import BOOKKEEPING, BUDGETS, SETTINGS, PatchifyConfig, refuse_unknown
from .pretrained_settings import HUB_ARGUMENTS, read_with_model_settings
from .video_reader import VideoReader, VideoReadError

T = TypeVar("T")
R = TypeVar("R")
# What transformers hands to `from_pretrained` besides settings; its pipelines hand over the model's too.
_LOADING = {
    *(*HUB_ARGUMENTS, "trust_remote_code", "code_revision", "return_unused_kwargs", "task", "variant"),
    *("dtype", "torch_dtype", "device_map", "max_memory", "low_cpu_mem_usage", "attn_implementation"),
    *("quantization_config", "offload_folder", "offload_buffers", "use_safetensors", "adapter_kwargs"),
}


# Every setting, and what transformers writes or asks for besides.
OneVisionVideoProcessorKwargs: Any = TypedDict(  # type: ignore[misc]
    "OneVisionVideoProcessorKwargs",
    dict.fromkeys((*SETTINGS, "default_to_square", "return_metadata"), Any),
    total=False,
)


class OneVisionVideoProcessor(BaseVideoProcessor):
    """Codec patchification: keeps the patches of a video where its codec says that something happens.

    Settings, in the constructor, in `from_pretrained` and at the call:

    num_frames (`int`, default 64): frames sampled uniformly; a shorter clip gives all it has.
    do_sample_frames (`bool`, default `True`): `False` takes every frame of a file or of a decoded clip.
    size (`int` or `dict`, default 224): the shorter side in pixels, both sides then resized to the nearest
        multiple of the patch (no crop); or {"height": h, "width": w}, multiples of the patch.
    do_center_crop (`bool`, default `False`), crop_size (`int` or `dict`, default `size`): the middle only.
    do_resize (`bool`, default `True`): `False` takes frames as they are: multiples of the patch, then.
    patch_size (`int`, default 14): pixels.
    max_pixels (`int`, *optional*): frames larger than that after `size` are made smaller, in their shape.
    keep_ratio (`float`, default 0.125) or num_patches (`int`): the budget. One given at the call or in the
        constructor replaces the stored one of either kind.
    preset (`str`, default "auto"), signals, weights, normalize, camera: what counts, see `SignalSettings`.
    anchors, time_buckets, merge_size: what is kept together, see `BudgetSettings`.
    sampling, fps, timestamps, start, end: which frames are looked at, see `SamplingSettings`.
    rope_temporal_size (`int`, default 64): the model's virtual time grid; `None` keeps the frame's index.
    do_rescale, rescale_factor, do_normalize, image_mean, image_std: as everywhere in transformers.
    return_metadata (`bool`): add `video_metadata` and `selections`, lists with an entry a video.
    """

    valid_kwargs = OneVisionVideoProcessorKwargs
    model_input_names = ["pixel_values_videos", "patch_positions", "pixel_attention_mask"]
    # Names that `from_pretrained` lets pass although they are no settings of videos.
    of_others: frozenset[str] = frozenset()

    num_frames = 64
    do_sample_frames = True
    size = {"shortest_edge": 224}
    crop_size = None
    default_to_square = False
    do_resize = True
    do_center_crop = False
    patch_size = 14
    max_pixels = None
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
    do_rescale = PixelSettings.do_rescale
    rescale_factor = PixelSettings.rescale_factor
    do_normalize = PixelSettings.do_normalize
    image_mean = list(PixelSettings.image_mean)
    image_std = list(PixelSettings.image_std)
    return_metadata = False

    def __init__(self, **kwargs: Any):
        refuse_unknown(type(self).__name__, kwargs.keys() - BOOKKEEPING, list(self._known()))
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
        if not kwargs.get("return_unused_kwargs"):  # then whoever asks looks at what is left
            named = {name for name in kwargs if name[0] != "_"} - _LOADING - BOOKKEEPING - cls.of_others
            refuse_unknown(f"{cls.__name__}.from_pretrained", named, list(cls._known()))
        if any(kwargs.get(name) is not None for name in BUDGETS):
            video_processor_dict = {k: v for k, v in video_processor_dict.items() if k not in BUDGETS}
        return super().from_dict(video_processor_dict, **kwargs)

    @classmethod
    def _known(cls) -> dict[str, Any]:
        """The settings by name."""
        return cls.valid_kwargs.__annotations__

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
            errors: "raise"; "skip": videos that cannot be read are left out of the batch; or "partial": of
                truncated ones what is there is used. The result then has `skipped` or `partial`, a list of
                (index in the list, reason). Take it out before calling the model.
            return_tensors: "pt" or "np".

        Returns:
            `BatchFeature` with `pixel_values_videos` (B, K, C*p*p) float32, each patch flattened as (C, p,
            p), `patch_positions` (B, K, 3) int64 [t, h, w], `pixel_attention_mask` (B, K) bool; K is the
            largest of the batch, shorter ones are padded with zeros.

        Raises:
            VideoReadError: a video cannot be read. ValueError: an argument is out of range.
        """
        refuse_unknown(type(self).__name__, kwargs, [*self._known(), "selection", "errors", "return_tensors"])
        with_metadata = kwargs.pop("return_metadata", None)
        with_metadata = self.return_metadata if with_metadata is None else with_metadata
        config = self.patchify_config(**kwargs)
        clips = _as_list(videos)
        pairs = list(zip(clips, _match_selections(selection, len(clips)), strict=True))

        def read(pair: tuple[Any, Placement | None]) -> dict[str, Any]:
            with open_video(pair[0], of_reader(errors)) as reader:
                return self.process_reader(reader, config, pair[1]) | {"missing": reader.missing}

        results, skipped = read_each(pairs, read, errors)
        features = BatchFeature(data=_as_tensors(_pad(results), return_tensors))
        if errors == "skip":
            features["skipped"] = skipped
        elif errors == "partial":
            features["partial"] = [
                (i, found["missing"]) for i, found in enumerate(results) if found["missing"]
            ]
        if with_metadata:
            features["video_metadata"] = [result["metadata"] for result in results]
            features["selections"] = [result["selection"] for result in results]
        return features

    def patchify_config(self, **overrides: Any) -> PatchifyConfig:
        """What this processor is set to, with some settings changed.

        Args:
            overrides: settings by name; None leaves one as it is. A budget replaces the stored one of either
                kind.

        Raises:
            TypeError: an unknown name. ValueError: a value out of range.
        """
        refuse_unknown(type(self).__name__, overrides, list(self._known()))
        stored = {name: getattr(self, name, None) for name in SETTINGS}
        return PatchifyConfig.from_dict(
            stored, **{name: value for name, value in overrides.items() if name in SETTINGS}
        )

    def process_reader(
        self,
        reader: VideoReader | FrameSequence,
        config: PatchifyConfig,
        placement: Placement | None = None,
    ) -> dict[str, Any]:
        """One open video: select, then cut the patches out of the frames that have some.

        Args:
            reader: the video.
            config: of `patchify_config`.
            placement: what to cut instead of choosing.

        Returns:
            `patches` (K, C*p*p) float32, `positions` (K, 3) on the model's time grid, `selection`,
            `metadata`.
        """
        patches, positions, placement = config.patchify(reader, placement)
        metadata = VideoMetadata(
            total_num_frames=len(reader),
            fps=reader.fps,
            width=reader.width,
            height=reader.height,
            duration=float(getattr(reader, "duration", "nan")),
            video_backend="pyav",
            frames_indices=placement.frame_ids.tolist(),
        )
        return {"patches": patches, "positions": positions, "selection": placement, "metadata": metadata}


def check_errors(errors: str) -> None:
    """Raise ValueError for anything but "raise", "skip" and "partial"."""
    if errors not in ("raise", "skip", "partial"):
        raise ValueError(f'errors must be "raise", "skip" or "partial", not {errors!r}')


def of_reader(errors: str) -> str:
    """The `errors` of `VideoReader` that serves these."""
    return "partial" if errors == "partial" else "raise"


def read_each(
    videos: Sequence[T], read: Callable[[T], R], errors: str
) -> tuple[list[R], list[tuple[int, str]]]:
    """What `read` makes of each video, and (index, reason) of those that were left out.

    Args:
        videos: what `read` takes, one after the other.
        read: raises VideoReadError for a video that cannot be read.
        errors: "skip" to leave such a video out; all others raise.

    Raises:
        VideoReadError: of a video, or because none can be read. ValueError: another word for `errors`.
    """
    check_errors(errors)
    results: list[R] = []
    skipped: list[tuple[int, str]] = []
    for index, video in enumerate(videos):
        try:
            results.append(read(video))
        except VideoReadError as error:
            if errors != "skip":
                raise
            skipped.append((index, str(error)))
    if not results:
        raise VideoReadError(skipped[0][1], f"and none of the other {len(skipped) - 1} videos can be read")
    return results, skipped


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
