"""What becomes of a clip for a frozen encoder: patches with their positions, from one of three inputs.

codec   what the encoder's own processor selects, to the bit
frames  as many whole frames as the processor's budget makes: the middle of equal stretches (while training: a
        random place in each), as published
dense   every patch of the frames that the processor samples

How many frames and patches, how large, what counts as energy, which colours: all of that the processor says,
with what was asked for otherwise on top (`with_overrides`).

Shapes: K patches, p patch side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...data.labelled import Rows
from ...data.media import BROKEN
from ...modeling.frame_geometry import FrameGeometry
from ...modeling.frame_sampling import sample_frames
from ...modeling.frame_sequence import open_video
from ...modeling.patch_cutting import pixel_scale
from ...modeling.patch_selection import Placement, Selection
from ...modeling.video_processing_onevision import OneVisionVideoProcessor, frame_layout
from ...training.config import ConfigError, nearest
from ...training.transforms import Sample
from .color_jitter import jitter

# Arxiv 2602.08683, Table 6; half of the patches outside of frame 0 is the share there.
INTERVENTIONS = ("replace", "foreign", "shuffle")
_PARTNERS = 16  # clips that are tried as a source of foreign patches
_OF_THE_WEIGHTS = ("patch_size", "rope_temporal_size")
_NOT_SHOWN = ("return_metadata",)  # settings that no patch depends on


def with_overrides(
    processor: OneVisionVideoProcessor, overrides: Mapping[str, Any]
) -> OneVisionVideoProcessor:
    """A processor that differs from `processor` in what is named alone.

    Args:
        processor: the encoder's own.
        overrides: its arguments by name. A budget replaces the stored one of either kind.

    Raises:
        ConfigError: an unknown name, a value out of range, or one that the encoder's weights are made for.
    """
    known = processor.valid_kwargs.__annotations__
    for name, value in overrides.items():
        if name not in known:
            raise ConfigError(f"the processor has no setting {name!r}{nearest(name, list(known))}")
        if name in _OF_THE_WEIGHTS and value != getattr(processor, name):
            raise ConfigError(
                f"{name} is {getattr(processor, name)} in the encoder's weights, it cannot be {value}"
            )
    try:
        changed = OneVisionVideoProcessor.from_dict(processor.to_dict(), **overrides)
        changed.resolve_settings({})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the processor cannot be used so: {error}") from error
    return changed


def middle_square(side: int) -> dict[str, Any]:
    """Settings of a processor that shows the middle square of a frame, `side` pixels, of its shorter side."""
    square = {"height": side, "width": side}
    return {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": square}


def shown_size(processor: OneVisionVideoProcessor) -> int:
    """Pixels of the shorter side of what a processor shows of a frame."""
    settings = processor.resolve_settings({})
    sides = settings["crop_size"] if settings["do_center_crop"] else None
    return min((sides or settings["size"]).values())


@dataclass(frozen=True, eq=False)
class ViewSettings:
    """Everything that the tensors of a clip depend on: the input, and the processor that cuts it."""

    kind: str
    processor: OneVisionVideoProcessor

    def identity(self) -> dict[str, Any]:
        """The same as JSON values: the processor's settings, and `input`."""
        settings = self.processor.resolve_settings({})
        names = [name for name in self.processor.valid_kwargs.__annotations__ if name not in _NOT_SHOWN]
        return {"input": self.kind, **{name: settings[name] for name in names}}

    def square_frame(self) -> tuple[FrameGeometry, bool]:
        """How a square frame is laid onto the grid, and whether frames of any shape give as many patches.

        Raises ConfigError where the processor's sizes do not fit its patches.
        """
        settings = self.processor.resolve_settings({})
        size = settings["size"]
        side = size.get("shortest_edge") or size["height"]
        try:
            geometry = frame_layout(side, side, settings)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        exact = settings["do_resize"] and "height" in size
        return geometry, bool(settings["do_center_crop"] or exact or settings["preset"] == "published")

    @property
    def num_patches(self) -> int | None:
        """The budget in patches of a clip that has all of its frames; None where that depends on the clip."""
        p = self.processor
        if p.num_patches is not None:
            return int(p.num_patches)
        geometry, fixed = self.square_frame()
        if p.keep_ratio is None or not fixed or p.fps is not None or p.timestamps is not None:
            return None
        total = p.num_frames * geometry.patches_per_frame
        return int(max(geometry.patches_per_frame, round(p.keep_ratio * total)))

    def budget(self) -> str:
        """The budget in words."""
        count = self.num_patches
        return f"{count} patches" if count else f"{100 * (self.processor.keep_ratio or 0):g} % of the patches"

    def check(self) -> None:
        """Raise ConfigError for a budget that no clip can give."""
        p, (geometry, fixed) = self.processor, self.square_frame()
        if self.kind == "dense" or p.num_patches is None or not (fixed or p.do_resize):
            return
        frame = geometry.patches_per_frame  # the fewest: the square is the smallest of the shapes
        by_number = p.fps is None and p.timestamps is None
        if fixed and by_number and p.num_patches > frame * p.num_frames:
            raise ConfigError(
                f"num_patches is {p.num_patches}, but {p.num_frames} frames of {geometry.canvas_width} x "
                f"{geometry.canvas_height} pixels have {frame * p.num_frames} patches of {p.patch_size}: ask "
                "for fewer, or for more frames (num_frames)"
            )
        if p.num_patches < frame:
            raise ConfigError(f"num_patches is {p.num_patches}, less than the {frame} of one whole frame")


class ClipView:
    """`view(row, rng, position)` -> `pixel_values_videos` (K, 3*p*p) float32, `patch_positions` (K, 3) int64,
    `labels` (1,).

    Args:
        augment: with a generator, draw frames and colours anew.
        intervene: one of `INTERVENTIONS`, on codec input.
        rows: where `foreign` takes other clips from; `position` is then the row's number there.

    A clip with fewer frames than asked gives all it has.
    """

    def __init__(
        self,
        settings: ViewSettings,
        augment: bool = False,
        intervene: str | None = None,
        rows: Rows | None = None,
    ):
        settings.check()
        self.settings, self.augment, self.intervene, self.rows = settings, augment, intervene, rows
        self._processor = settings.processor
        self._shown = self._processor.resolve_settings({})
        # Colours are changed in [0, 1]; what the processor does to pixels comes after that.
        self._plain = self._processor.resolve_settings({"do_rescale": True, "rescale_factor": 1 / 255})
        self._plain["do_normalize"] = False

    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample:
        """Raises what broken media raise (`clustering.media.BROKEN`), and ConfigError for a clip that the
        settings do not fit."""
        rng = rng if self.augment else None
        settings = self._shown if rng is None else self._plain
        try:
            with open_video(row.media) as reader:
                cut = self._cut(reader, settings, rng)
                if self.intervene is not None:
                    self._change(cut, reader, settings, position)
        except BROKEN:
            raise
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{row.key or 'a clip'}: {error}") from error
        pixels = cut["patches"]
        if rng is not None:
            scale, offset = (values[:, None] for values in pixel_scale(self._shown))
            pixels = jitter(pixels.reshape(len(pixels), 3, -1), rng) * (255 * scale) + offset
        return {
            "pixel_values_videos": pixels.reshape(len(pixels), -1),
            "patch_positions": cut["positions"],
            "labels": np.asarray(row.labels[:1], np.int64),
        }

    def _cut(self, reader: Any, settings: dict[str, Any], rng: np.random.Generator | None) -> dict[str, Any]:
        """`patches`, `positions`, `selection` of an open video."""
        if self.settings.kind == "codec":
            return self._processor.process_reader(reader, _within(reader, settings))
        frame_ids = self._whole_frames(reader, rng)
        selection = Placement.whole_frames(frame_ids, frame_layout(reader.height, reader.width, settings))
        cut = self._processor.process_reader(reader, settings, selection)
        grid = settings["rope_temporal_size"]
        if self.settings.kind == "frames" and grid is not None:
            # Frames that stand alone keep their place in the clip, as published.
            times = np.rint(frame_ids / max(1, len(reader) - 1) * (grid - 1)).astype(np.int64)
            cut["positions"][:, 0] = times[selection.positions[:, 0]]
        return cut

    def _whole_frames(self, reader: Any, rng: np.random.Generator | None) -> np.ndarray:
        """Numbers of the frames that are shown whole."""
        if len(reader) == 1:  # a picture: there is no time to sample by
            return np.zeros(1, np.int64)
        sampling, budget = self._shown["SamplingSettings"], self._shown["BudgetSettings"]
        sampled = sample_frames(reader, sampling)
        if self.settings.kind == "dense":
            return sampled
        frame = frame_layout(reader.height, reader.width, self._shown).patches_per_frame
        wanted = budget.num_patches or round((budget.keep_ratio or 0) * len(sampled) * frame)
        every = replace(sampling, num_frames=len(reader), sampling="uniform", fps=None, timestamps=None)
        among = sample_frames(reader, every)
        return among[stretch_frames(len(among), max(1, wanted // frame), rng)]

    def _change(self, cut: dict[str, Any], reader: Any, settings: dict[str, Any], position: int) -> None:
        """Intervene; what is drawn depends on the clip's number alone."""
        assert self.intervene is not None
        chance = np.random.default_rng([INTERVENTIONS.index(self.intervene), position])
        if self.intervene == "shuffle":
            cut["positions"] = cut["positions"][chance.permutation(len(cut["positions"]))]
        elif self.intervene == "replace":
            calm = without_motion(cut["selection"], chance)
            cut["patches"] = self._processor.process_reader(reader, settings, calm)["patches"]
        else:
            self._mix_in(cut, settings, position, chance)

    def _mix_in(
        self, cut: dict[str, Any], settings: dict[str, Any], position: int, rng: np.random.Generator
    ) -> None:
        """Patches from the motion of another clip in place of half of this one's."""
        chosen = half_of_motion(cut["selection"], rng)
        assert self.rows is not None
        for step in rng.integers(1, max(2, len(self.rows)), _PARTNERS):
            other = self.rows[(position + int(step)) % len(self.rows)]
            try:
                with open_video(other.media) as reader:
                    found = self._cut(reader, settings, None)
            except BROKEN:
                continue
            moving = np.flatnonzero(found["selection"].positions[:, 0] > 0)
            if len(moving):
                taken = np.sort(rng.choice(moving, len(chosen), replace=len(moving) < len(chosen)))
                cut["patches"][chosen] = found["patches"][taken]
                return
        raise ConfigError(
            f"none of {_PARTNERS} other clips has motion to put into number {position} (intervene=foreign)"
        )


def _within(reader: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with no more patches asked for than a short clip has."""
    budget = settings["BudgetSettings"]
    if budget.num_patches is None:
        return settings
    frames = len(sample_frames(reader, settings["SamplingSettings"]))
    total = frames * frame_layout(reader.height, reader.width, settings).patches_per_frame
    if budget.num_patches <= total:
        return settings
    return {**settings, "BudgetSettings": replace(budget, num_patches=total)}


def stretch_frames(frames: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """One frame of each of `count` equal stretches, its middle or a random place; all frames if there are no
    more."""
    if frames <= count:
        return np.arange(frames)
    stretch = (frames - 1) / count
    places = np.full(count, 0.5) if rng is None else rng.random(count)
    return (stretch * (np.arange(count) + places)).astype(np.int64)


def half_of_motion(selection: Selection, rng: np.random.Generator) -> np.ndarray:
    """Places of half of the patches that are not of frame 0, which is kept whole."""
    moving = np.flatnonzero(selection.positions[:, 0] > 0)
    return np.sort(rng.choice(moving, len(moving) // 2, replace=False))


def without_motion(selection: Selection, rng: np.random.Generator) -> Selection:
    """Half of the motion patches replaced by what lay at the same place when least happened there.

    Only what is cut changes: the caller keeps the positions of the original. The paper's "non-motion patch
    replacement (same video, same position)" is read so.
    """
    chosen = half_of_motion(selection, rng)
    positions = selection.positions.copy()
    energy = np.array(selection.energy, np.float32)
    energy[tuple(positions.T)] = np.inf  # what is kept is shown already
    energy[0] = np.inf
    calm = energy.argmin(axis=0)[positions[chosen, 1], positions[chosen, 2]]
    free = np.isfinite(energy[calm, positions[chosen, 1], positions[chosen, 2]])
    positions[chosen[free], 0] = calm[free]
    return replace(selection, positions=positions)
