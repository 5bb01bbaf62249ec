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

from .content_budget import under_energy
from .frame_files import is_many, refuse_stills
from .frame_sequence import FrameSequence, is_encoded, is_frames, open_video, pair_of
from .known_names import KnownNames
from .message_media import of_each
from .patch_selection import BudgetSettings, Placement, default_anchors
from .patchify_config import BUDGETS, SETTINGS, PatchifyConfig
from .pretrained_settings import read_with_model_settings
from .setting_names import refuse_unknown
from .url_access import URL_SETTINGS, UrlAccess
from .video_reader import VideoReader, VideoReadError

# Of a call, besides settings.
ARGUMENTS = ("selection", "frames", "video_metadata", "errors", "return_tensors")
T = TypeVar("T")
R = TypeVar("R")
# Every setting, and what transformers writes or asks for besides.
OneVisionVideoProcessorKwargs: Any = TypedDict(  # type: ignore[misc]
    "OneVisionVideoProcessorKwargs",
    dict.fromkeys((*SETTINGS, *URL_SETTINGS, "default_to_square", "return_metadata"), Any),
    total=False,
)


class OneVisionVideoProcessor(KnownNames, BaseVideoProcessor):  # type: ignore[misc]
    """Codec patchification: keeps the patches of a video where its codec says that something happens.

    Args:
        num_frames (`int`, defaults to 64): frames sampled uniformly; a shorter clip gives all it has.
        do_sample_frames (`bool`, defaults to `True`): `False` takes every frame of a file or of a decoded
            clip.
        size (`int` or `dict`, defaults to 224): the shorter side in pixels, both sides then resized to the
            nearest multiple of the patch (no crop); or {"height": h, "width": w}, multiples of the patch.
        crop_size (`int` or `dict`, defaults to `size`): of the middle, in pixels.
        do_resize (`bool`, defaults to `True`): `False` takes frames as they are: multiples of the patch,
            then.
        do_center_crop (`bool`, defaults to `False`): keep the middle only.
        patch_size (`int`, defaults to 14): side of a patch in pixels; from the model's `config.json` where
            there is one.
        max_pixels (`int`, *optional*): frames larger than that after `size` are made smaller, in their
            shape.
        min_pixels (`int`, *optional*): frames smaller than that after `size` are made larger.
        num_patches (`int`, *optional*): the budget as a number. A budget given at the call or in the
            constructor replaces the stored one of either kind.
        keep_ratio (`float`, defaults to 0.125): the budget as a part of all patches of the sampled frames.
        keep_energy (`float`, *optional*): a budget that follows the content: the strongest patches until they
            have this share of the clip's energy, anchors included, and never more than the budget above,
            whose default is then 0.25. See `BudgetSettings`.
        preset (`str`, defaults to `"auto"`): "auto", "published" or "bits", which signals count; see
            `SignalSettings`.
        signals (`list`, *optional*): signals of one's own instead of the preset's.
        weights (`list`, *optional*): a number for each of them.
        normalize (`str`, *optional*): "frame" or "clip": what a signal is divided by the 95th percentile
            of.
        camera (`str`, *optional*): the camera model that is taken off the vectors.
        anchors (`str` or `int`, *optional*): frames kept whole: "first", "shots" (one of each, as far as
            half of the budget goes), "keyframes", or every n-th. By default "shots" for `auto` and "first"
            for the other presets; "first" for a saved processor that does not say.
        time_buckets (`int`, defaults to 1): spans of time of equal budget.
        merge_size (`int`, defaults to 1): m x m patches are scored and kept together.
        max_patches (`int`, defaults to 131072): a video that would have more is a `VideoReadError`, against
            small files that ask for gigabytes.
        sampling (`str`, defaults to `"uniform"`): or "packet_size": frames fall where the stream spends
            bytes.
        fps (`float`, *optional*): frames a second instead of a number of frames.
        min_frames (`int`, *optional*): of what `fps` or `num_frames` give, at least so many, evenly.
        max_frames (`int`, *optional*): at most so many, evenly.
        timestamps (`list`, *optional*): seconds instead, of which each shows the frame on screen.
        start (`float`, *optional*): seconds from which frames are taken.
        end (`float`, *optional*): seconds up to which they are; at least the frame that is on screen.
        rope_temporal_size (`int`, defaults to 64): the model's virtual time grid; `None` keeps the frame's
            index.
        do_rescale (`bool`, defaults to `True`): as everywhere in transformers, as the next four.
        rescale_factor (`float`, defaults to 1 / 255): what pixels are multiplied by.
        do_normalize (`bool`, defaults to `True`): take off the mean and divide by the deviation.
        image_mean (`list`): a number a channel.
        image_std (`list`): a number a channel.
        default_to_square (`bool`, defaults to `False`): what transformers makes of a `size` that is one
            number.
        return_metadata (`bool`, defaults to `False`): add `video_metadata` and `selections`, lists with an
            entry a video.
        allow_urls (`bool`, defaults to `True`): `False` refuses http and https, for what strangers name.
        url_timeout (`float`, defaults to 30): seconds that a server has to answer and may be silent.
        max_url_bytes (`int`, *optional*): a longer video is refused; 16 GiB by default.
        **kwargs: these, by name.

    Raises:
        TypeError: an unknown name; the nearest known one is named.
        ValueError: a value is out of range, or two exclude one another.
    """

    valid_kwargs = OneVisionVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values_videos", "patch_positions", "pixel_attention_mask"]

    # The defaults of the others are those of `PatchifyConfig`, set below.
    num_frames: int | None
    do_sample_frames: bool
    keep_ratio: float | None
    rope_temporal_size: int | None
    preset: str
    anchors: str | int
    default_to_square = False
    return_metadata = False

    def __init__(self, **kwargs: Any):
        budget = {
            name: kwargs[name] for name in ("num_patches", "keep_ratio", "keep_energy") if name in kwargs
        }
        kwargs["keep_ratio"] = BudgetSettings(**budget).keep_ratio
        super().__init__(**kwargs)
        if kwargs.get("anchors") is None:
            self.anchors = default_anchors(self.preset)
        if "rope_temporal_size" in kwargs:  # None is a value: t stays the frame's index
            self.rope_temporal_size = kwargs["rope_temporal_size"]

    @classmethod
    def get_video_processor_dict(
        cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the folder; patch size and time grid are those of the model beside them."""
        return read_with_model_settings(
            super().get_video_processor_dict,
            pretrained_model_name_or_path,
            ("patch_size", "rope_temporal_size"),
            ("num_frames",),
            **kwargs,
        )

    @classmethod
    def from_dict(  # type: ignore[override]
        cls, video_processor_dict: dict[str, Any], **kwargs: Any
    ) -> Any:
        if video_processor_dict.get("anchors") is None:  # saved before it could be anything else
            video_processor_dict = {**video_processor_dict, "anchors": "first"}
        if any(kwargs.get(name) is not None for name in BUDGETS):
            video_processor_dict = {k: v for k, v in video_processor_dict.items() if k not in BUDGETS}
        video_processor_dict = under_energy(video_processor_dict, kwargs)
        return super().from_dict(video_processor_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        # transformers leaves out what is None, but here None differs from the default.
        return {**super().to_dict(), "rope_temporal_size": self.rope_temporal_size}

    def preprocess(
        self,
        videos: Any,
        *,
        selection: Placement | list[Placement] | None = None,
        frames: bool = False,
        video_metadata: Any = None,
        errors: str = "raise",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Read, select and cut one video or a list of videos.

        Args:
            videos: a path, URL (`data:` too), base64, bytes, a binary file object, a value of a `datasets`
                Video column, decoded frames (see `FrameSequence`: array or tensor, list of pictures), or a
                list of those.
            selection: what to cut (one `Placement`, such as a `Selection`, a video) instead of choosing.
            frames: the files of pictures that are listed, lie in a folder or match `frame_%03d.png` are one
                clip.
            video_metadata: of decoded frames (fps, frames_indices, timestamps, ..., see `FrameSequence`), so
                that settings of time work for them; one, or a list with one (or None) a video.
            errors: "raise"; "skip": videos that cannot be read are left out of the batch; or "partial": of
                truncated ones what is there is used. The result then has `skipped` or `partial`, a list of
                (index in the list, reason). Take it out before calling the model.
            return_tensors: "pt" or "np".
            **kwargs: settings that replace the processor's own in this call.

        Returns:
            `BatchFeature` with `pixel_values_videos` (B, K, C*p*p) float32, each patch flattened as (C, p,
            p), `patch_positions` (B, K, 3) int64 [t, h, w], `pixel_attention_mask` (B, K) bool; K is the
            largest of the batch, shorter ones are padded with zeros.

        Raises:
            VideoReadError: a video cannot be read. ValueError: an argument is out of range.
        """
        refuse_unknown(type(self).__name__, kwargs, [*self._known(), *ARGUMENTS])
        with_metadata = kwargs.pop("return_metadata", None)
        with_metadata = self.return_metadata if with_metadata is None else with_metadata
        config, urls = self.patchify_config(**kwargs), UrlAccess.of(kwargs, self)
        clips = as_videos(videos, frames)
        given = list(
            zip(
                clips,
                _match_selections(selection, len(clips)),
                of_each("video_metadata", video_metadata, len(clips)),
                strict=True,
            )
        )

        def read(one: tuple[Any, Placement | None, Any]) -> dict[str, Any]:
            video, placement, metadata = one
            with open_video(video, of_reader(errors), frames=frames, metadata=metadata, urls=urls) as reader:
                return self.process_reader(reader, config, placement) | {"missing": reader.missing}

        results, skipped = read_each(given, read, errors)
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
            duration=float(reader.duration),
            video_backend="pyav",
            frames_indices=placement.frame_ids.tolist(),
        )
        return {"patches": patches, "positions": positions, "selection": placement, "metadata": metadata}


for _name, _value in PatchifyConfig().to_dict().items():
    setattr(OneVisionVideoProcessor, _name, _value)


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


def as_videos(videos: Any, frames: bool = False) -> list[Any]:
    """One video, or a list of them. A list of decoded pictures is one video.

    Args:
        videos: what was given.
        frames: files of pictures are one clip; several clips are lists of files, folders or patterns.

    Raises:
        ValueError: an empty list; picture files, of which nobody says that they are a clip.
        TypeError: no video at all.
    """
    if getattr(getattr(videos, "dtype", None), "kind", "") in ("U", "S", "O"):
        raise ValueError(
            f"videos came as an array of {videos.dtype}, whose elements are no pixels: give a list of paths"
        )
    known = is_encoded(videos) or pair_of(videos) is not None or isinstance(videos, FrameSequence)
    if known or hasattr(videos, "get_frames_in_range"):
        return [videos]
    if isinstance(videos, list | tuple):
        if not len(videos):
            raise ValueError("an empty list of videos was given")
        if is_frames(videos) or (frames and not all(map(is_many, videos))):
            return [videos]
        if not frames:
            refuse_stills(videos)
        return list(videos)
    if getattr(videos, "ndim", 0) == 5:
        return list(videos)
    if getattr(videos, "ndim", 0) in (3, 4):
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
