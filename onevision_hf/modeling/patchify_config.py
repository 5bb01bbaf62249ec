"""What of a clip is looked at, said once: which frames, what counts, how much is kept, how it is laid out.

config = PatchifyConfig.from_pretrained("folder")       # what the processor saved beside a model says
with VideoReader("clip.mp4") as reader:
    patches, positions, selection = config.patchify(reader)

selection = select_patches("clip.mp4", num_frames=64, keep_ratio=0.125)
selection.positions        # (K, 3) [t, h, w]: t counts the sampled frames, h and w the patch grid
selection.signal           # how the energy was obtained

It needs numpy and PyAV, and neither torch nor transformers. Two configs that are equal cut the same patches.
"""

import dataclasses
import json
import numbers
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .content_budget import under_energy
from .frame_geometry import FrameGeometry, LayoutSettings, check_positive
from .frame_sampling import SamplingSettings, sample_frames
from .frame_sequence import FrameSequence, Video, open_video
from .patch_cutting import STORED, PixelSettings, check_placement, cut_patches, read_placed_frames
from .patch_selection import (
    MAX_PATCHES,
    BudgetSettings,
    Placement,
    Selection,
    check_budget,
    default_anchors,
    read_selection,
)
from .setting_names import BOOKKEEPING, refuse_unknown
from .signal_energy import paints
from .signal_settings import SignalSettings
from .video_reader import VideoReader

GroupT = TypeVar("GroupT")

BUDGETS = ("num_patches", "keep_ratio")
# What says which frames are sampled, and has no meaning where every frame is taken.
SAMPLED_BY = ("num_frames", "sampling", "fps", "timestamps", "min_frames", "max_frames")
# Setting -> those that it takes the place of, when it is laid on top of others.
REPLACES: dict[str, tuple[str, ...]] = {
    "num_patches": ("keep_ratio",),
    "keep_ratio": ("num_patches",),
    "num_frames": ("fps", "timestamps"),
    "fps": ("timestamps",),
    "timestamps": ("fps", "start", "end"),
    "start": ("timestamps",),
    "end": ("timestamps",),
}
_GROUPS: dict[str, type] = {
    "sampling": SamplingSettings,
    "signals": SignalSettings,
    "budget": BudgetSettings,
    "layout": LayoutSettings,
    "pixels": PixelSettings,
}
SETTINGS = (
    *(entry.name for group in _GROUPS.values() for entry in dataclasses.fields(group)),
    "rope_temporal_size",
)
_OF_THE_MODEL = ("patch_size", "rope_temporal_size")
# What folders have that were saved before anchors were among their settings.
_BEFORE_SHOTS = {"anchors": "first"}
# What settings that came later are in plans of before.
_AS_BEFORE = {"passes": None, "keep_energy": None, "max_patches": MAX_PATCHES}


class ClipPatches(NamedTuple):
    """The patches of one clip.

    Attributes:
        patches: (K, C*p*p) float32, each patch flattened as (C, p, p).
        positions: (K, 3) int64 [t, h, w], t on the model's time grid.
        placement: what was cut, a `Selection` unless it was given.
    """

    patches: np.ndarray
    positions: np.ndarray
    placement: Placement


@dataclass(frozen=True)
class PatchifyConfig:
    """Everything that the patches of a clip depend on. Flat names are those of a processor's settings.

    Attributes:
        sampling: which frames are looked at.
        signals: what counts as energy.
        budget: how many patches are kept; by default an eighth, with the anchors of the preset.
        layout: how frames are laid onto the patch grid.
        pixels: how pixels are scaled.
        rope_temporal_size: frames of the model's time grid; None keeps the number of the sampled frame.
    """

    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    signals: SignalSettings = field(default_factory=SignalSettings)
    budget: BudgetSettings = None  # type: ignore[assignment]
    layout: LayoutSettings = field(default_factory=LayoutSettings)
    pixels: PixelSettings = field(default_factory=PixelSettings)
    rope_temporal_size: int | None = 64

    def __post_init__(self) -> None:
        if self.budget is None:
            budget = BudgetSettings(anchors=default_anchors(self.signals.preset))
            object.__setattr__(self, "budget", budget)
        if self.rope_temporal_size is not None:
            check_positive("rope_temporal_size", self.rope_temporal_size)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], **overrides: Any) -> "PatchifyConfig":
        """From a processor's settings by flat name.

        Args:
            settings: such as `video_preprocessor_config.json` holds. None stands for the default.
            overrides: laid on top, see `laid_on_top`; None leaves a setting as it is.

        Raises:
            TypeError: an unknown name.
            ValueError: a value out of range, or values that exclude one another.
        """
        refuse_unknown("the settings", settings.keys() - BOOKKEEPING, SETTINGS)
        refuse_unknown(cls.__name__, overrides, SETTINGS)
        given = {k: v for k, v in overrides.items() if v is not None or k == "rope_temporal_size"}
        check_budget(given.get("num_patches"), given.get("keep_ratio"), given.get("keep_energy"))
        stored = under_energy({name: settings[name] for name in SETTINGS if name in settings}, given)
        flat = laid_on_top(stored, given)
        if "size" in given and flat.get("do_center_crop") and "crop_size" not in given:
            flat["crop_size"] = following_crop(given["size"], settings.get("size"), settings.get("crop_size"))
        if flat.get("do_sample_frames") is False:
            if named := [name for name in SAMPLED_BY if name in given]:
                raise ValueError(
                    f"do_sample_frames=False takes every frame, so {named[0]} does not go with it: "
                    "leave it out, or pass do_sample_frames=True"
                )
            flat |= dict.fromkeys(SAMPLED_BY)  # those that are stored are of no use now
        # Another preset than the stored one has its own anchors, unless others than `auto`'s are stored.
        is_default = flat.get("anchors") == "shots" and "preset" in given and "anchors" not in given
        if flat.get("anchors") is None or is_default:
            flat["anchors"] = default_anchors(flat.get("preset"))
        groups: dict[str, Any] = {name: _group(kind, flat) for name, kind in _GROUPS.items()}
        return cls(**groups, rope_temporal_size=flat.get("rope_temporal_size", cls.rope_temporal_size))

    @classmethod
    def from_pretrained(cls, folder: str | PathLike, **overrides: Any) -> "PatchifyConfig":
        """What the processor of a local folder is set to; patch size and time grid are the model's beside it.

        Args:
            folder: with the files of a processor, of an encoder, or of both.
            overrides: as in `from_dict`.

        Raises:
            FileNotFoundError: it has neither.
            ValueError: its videos are no selection by codec (`video_mode` of a multimodal processor).
        """
        whole = _read(folder, "processor_config.json") or {}
        settings = whole.get("video_processor") or _read(folder, "video_preprocessor_config.json")
        if settings is None and (pictures := _read(folder, "preprocessor_config.json")) is not None:
            # Published folders have an image processor's file only: what it says of sizes and colours counts.
            settings = {name: pictures[name] for name in SETTINGS if name in pictures}
        model = _read(folder, "config.json") or {}
        model = model.get("vision_config", model)
        model = model if model.get("model_type") == "onevision_encoder" else {}
        if settings is None and not model:
            raise FileNotFoundError(f"{folder} has the settings of no processor and of no OneVision encoder")
        settings = {**_BEFORE_SHOTS, **(settings or {})}
        if (mode := settings.get("video_mode", "codec")) != "codec":
            raise ValueError(
                f"{folder}: its videos are read with video_mode={mode!r}, not by the codec alone"
            )
        settings |= {name: model[name] for name in _OF_THE_MODEL if name in model}
        if settings.get("num_frames") is None and model.get("num_frames") is not None:
            settings["num_frames"] = model["num_frames"]
        return cls.from_dict(settings, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The settings by flat name, as JSON values; `from_dict` gives an equal config."""
        flat: dict[str, Any] = {}
        for name in _GROUPS:
            group = getattr(self, name)
            flat |= {entry.name: getattr(group, entry.name) for entry in dataclasses.fields(group)}
        flat["rope_temporal_size"] = self.rope_temporal_size
        return {name: _as_json(value) for name, value in flat.items()}

    def recorded(self) -> dict[str, Any]:
        """What plans and caches compare: the settings, and the version of the signals where they are not the
        first any more. Settings that came later are left out where all is as before, so that plans of before
        stay equal."""
        found = {name: value for name, value in self.to_dict().items() if _AS_BEFORE.get(name, ...) != value}
        version = self.signals.version
        return found if version == 1 else {**found, "signals_version": version}

    @classmethod
    def from_recorded(cls, plan: Mapping[str, Any]) -> "PatchifyConfig":
        """The settings in a plan, which holds more than these.

        Raises:
            KeyError: one is not there.
        """
        return cls.from_dict({name: ({**_AS_BEFORE, **plan})[name] for name in SETTINGS})

    def replace(self, **overrides: Any) -> "PatchifyConfig":
        """The same with some settings changed, by flat name, as `from_dict` lays them on top."""
        return self.from_dict(self.to_dict(), **overrides)

    def differences(self, other: "PatchifyConfig") -> dict[str, tuple[Any, Any]]:
        """Flat name -> (value here, value there) of what is not the same."""
        theirs = other.to_dict()
        return {
            name: (value, theirs[name]) for name, value in self.to_dict().items() if value != theirs[name]
        }

    def geometry(self, height: int, width: int) -> FrameGeometry:
        """How frames of `height` x `width` pixels, as displayed, are laid onto the patch grid.

        Raises:
            ValueError: the sizes do not fit the patches.
        """
        return self.layout.geometry(
            height,
            width,
            merge_size=self.budget.merge_size,
            pad_square=self.signals.preset == "published",
        )

    def within(self, reader: VideoReader | FrameSequence) -> "PatchifyConfig":
        """The same, with no more patches asked for than the clip has: a short one gives all."""
        wanted = self.budget.num_patches
        if wanted is None:
            return self
        frames = len(sample_frames(reader, self.sampling))
        total = frames * self.geometry(reader.height, reader.width).patches_per_frame
        return self if wanted <= total else self.replace(num_patches=total)

    def as_stored(self) -> "PatchifyConfig":
        """The same for patches on disk: pixels as they are, 0..255, and t as the sampled frame's number. One
        folder serves models of any colours and time grid."""
        return dataclasses.replace(self, pixels=STORED, rope_temporal_size=None)

    def select(self, reader: VideoReader | FrameSequence) -> Selection:
        """Choose patches of an open video; no pixels are built.

        Raises:
            VideoReadError: the video cannot be read.
            ValueError: a setting does not fit it.
        """
        return read_selection(
            reader,
            self.geometry(reader.height, reader.width),
            sampling=self.sampling,
            signals=self.signals,
            budget=self.budget,
        )

    def cut(self, reader: VideoReader | FrameSequence, placement: Placement) -> np.ndarray:
        """Patches at given places of an open video: (K, C*p*p) float32.

        Raises:
            ValueError: the placement belongs to another video, or to another patch size.
        """
        check_placement(placement, reader, self.layout.patch_size)
        return cut_patches(reader, placement, self.pixels)

    def positions(self, placement: Placement) -> np.ndarray:
        """(K, 3) int64 [t, h, w] of a placement, with t on the model's time grid."""
        positions = placement.positions.copy()
        times = virtual_times(len(placement.frame_ids), self.rope_temporal_size)
        positions[:, 0] = times[positions[:, 0]]
        return positions

    def patchify(
        self, reader: VideoReader | FrameSequence, placement: Placement | None = None
    ) -> ClipPatches:
        """Select, unless a placement is given, and cut.

        Args:
            reader: the open video.
            placement: what to cut instead of choosing.
        """
        placed = None
        if placement is None and paints(reader, self.signals):
            # The two decoders, of paint and of pixels, know nothing of one another: side by side.
            geometry = self.geometry(reader.height, reader.width)
            with ThreadPoolExecutor(1) as pool:
                frame_ids = sample_frames(reader, self.sampling)
                frames = pool.submit(read_placed_frames, reader, frame_ids, geometry)
                placement = self.select(reader)
                placed = frames.result()
        elif placement is None:
            placement = self.select(reader)
        else:
            check_placement(placement, reader, self.layout.patch_size)
        patches = cut_patches(reader, placement, self.pixels, placed)
        return ClipPatches(patches, self.positions(placement), placement)


def laid_on_top(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others on top, which take the place of what says the same in another way: a budget of a
    budget of the other kind, a number of frames of a rate, times of a span."""
    replaced = {other for name in given for other in REPLACES.get(name, ()) if given[name] is not None}
    return {**settings, **dict.fromkeys(replaced & settings.keys()), **given}


def following_crop(size: Any, stored_size: Any, stored_crop: Any) -> Any:
    """The crop that goes with a new `size`: all of it, None, where the stored one was all of the stored size.

    Args:
        size: given without a crop.
        stored_size: of the processor.
        stored_crop: of the processor, None for all of the size.

    Raises:
        ValueError: the stored crop was a part of the size.
    """
    new, stored, crop = (_sides(value) for value in (size, stored_size, stored_crop))
    if new == stored or crop in (set(), stored):
        return stored_crop if new == stored else None
    raise ValueError(
        f"size={size!r} on a processor that crops {stored_crop} of {stored_size}: give crop_size too"
    )


def _sides(size: Any) -> set[int]:
    if size is None or isinstance(size, numbers.Integral):
        return {int(size)} if size else set()
    return {side for side in dict(size).values() if side}


def virtual_times(num_frames: int, temporal_size: int | None) -> np.ndarray:
    """Where each sampled frame stands on the model's time grid of `temporal_size` frames."""
    if temporal_size is None or num_frames == temporal_size:
        return np.arange(num_frames)
    return np.linspace(0, temporal_size - 1, num_frames).astype(np.int64)


def virtual_times_in_clip(frame_ids: np.ndarray, total: int, temporal_size: int | None) -> np.ndarray:
    """Where frames that stand alone lie on the model's time grid: each at its place in its clip.

    Args:
        frame_ids: (T,) numbers in display order.
        total: frames of the clip.
        temporal_size: frames of the grid; None: the frames are counted.
    """
    if temporal_size is None:
        return np.arange(len(frame_ids))
    return np.rint(frame_ids / max(1, total - 1) * (temporal_size - 1)).astype(np.int64)


def select_patches(
    video: Video,
    *,
    num_frames: int = 64,
    size: int = 224,
    patch_size: int = 14,
    num_patches: int | None = None,
    keep_ratio: float | None = None,
    keep_energy: float | None = None,
    preset: str = "auto",
    signals: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    normalize: str | None = None,
    camera: str | None = None,
    passes: int | None = None,
    anchors: str | int | None = None,
    time_buckets: int = 1,
    merge_size: int = 1,
    max_patches: int = MAX_PATCHES,
    sampling: str = "uniform",
    fps: float | None = None,
    timestamps: Sequence[float] | None = None,
    start: float | None = None,
    end: float | None = None,
    min_frames: int | None = None,
    max_frames: int | None = None,
    frames: bool = False,
    video_metadata: Mapping[str, Any] | None = None,
    errors: str = "raise",
) -> Selection:
    """Choose the patches of a video that its codec says matter, without building pixels.

    Args:
        video: a path, bytes, a binary file object, an open `VideoReader`, or decoded frames.
        num_frames: frames sampled uniformly, floor(linspace(0, N - 1, num_frames)); a shorter clip gives all.
        size: pixels of the shorter side, both then rounded to the patch; `published`: of the longer side.
        patch_size: pixels.
        num_patches: the budget as a number of patches.
        keep_ratio: or as a fraction of all patches, 0.125 if neither is given.
        keep_energy: a budget that follows the content: only as many as have this share of the clip's energy,
            and never more than the budget, 0.25 if none is given; see `BudgetSettings`.
        preset: `auto`, the best signal that the codec gives; `bits`, what each block cost; `published`, the
            published pipeline's signal and geometry (a black square of `size` with the picture in its middle,
            frame 0 kept whole with its padding). See `signal_energy`.
        signals: signals of one's own instead, see `SignalSettings`.
        weights: a number for each of them.
        normalize: "frame" or "clip", see `SignalSettings`.
        camera: the camera model that is taken off the vectors, see `SignalSettings`.
        passes: of painted references, 1 or 2, see `SignalSettings`.
        anchors: frames kept whole, see `BudgetSettings`; by default "shots" for `auto`, "first" for others.
        time_buckets: spans of time of equal budget.
        merge_size: m x m patches are kept together.
        max_patches: a clip that would have more is refused, see `BudgetSettings`.
        sampling: "uniform" or "packet_size", see `SamplingSettings`.
        fps: frames a second instead of a number of frames.
        timestamps: seconds instead, of which each shows the frame on screen.
        start: seconds from which frames are taken.
        end: seconds up to which they are.
        min_frames: at least so many of what `fps` or `num_frames` give.
        max_frames: at most so many.
        frames: the files of pictures that are listed, lie in a folder or match a pattern are one clip.
        video_metadata: of decoded frames, see `FrameSequence`.
        errors: "raise", or "partial": of a truncated file, choose from what is there; the selection's
            `signal` says how much that is.

    Raises:
        VideoReadError: the video cannot be read, or has over `max_patches`.
        ValueError: an argument is out of range.
    """
    config = PatchifyConfig.from_dict({name: value for name, value in locals().items() if name in SETTINGS})
    with open_video(video, errors, frames=frames, metadata=video_metadata) as reader:
        return config.select(reader)


def _group(kind: type[GroupT], flat: Mapping[str, Any]) -> GroupT:
    """One of the settings' dataclasses from those of its fields that are set."""
    names = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    given = {name: flat[name] for name in names if flat.get(name) is not None}
    return kind(**{k: tuple(v) if isinstance(v, list | np.ndarray) else v for k, v in given.items()})


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _read(folder: str | PathLike, name: str) -> dict[str, Any] | None:
    """The JSON file of this name, None where there is none."""
    try:
        return json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
