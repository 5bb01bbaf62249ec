"""What becomes of a clip for a frozen encoder: patches with their positions, from one of three inputs.

codec   what the encoder's own processor selects, to the bit
frames  as many whole frames as the processor's budget makes: the middle of equal spans (while training: a
        random place in each), as published
dense   every patch of the frames that the processor samples

How many frames and patches, how large, what counts as energy, which colours: all of that the processor says,
with what is set otherwise on top (`training.transforms.with_overrides`).

Shapes: K patches, p patch side.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...data.labelled import Examples
from ...data.media import BROKEN
from ...modeling.frame_geometry import FrameGeometry
from ...modeling.frame_sampling import sample_frames
from ...modeling.frame_sequence import open_video
from ...modeling.patch_selection import Placement, Selection
from ...modeling.patchify_config import ClipPatches, PatchifyConfig, virtual_times_in_clip
from ...training.mixture import Sample
from ...training.schema import ConfigError
from .color_jitter import jitter

# Arxiv 2602.08683, Table 6; half of the patches outside of frame 0 are changed there.
INTERVENTIONS = ("replace", "foreign", "shuffle")
_PARTNERS = 16  # clips that are tried as a source of foreign patches


def middle_square(side: int) -> dict[str, Any]:
    """Settings of a processor that shows the middle square of a frame, `side` pixels, of its shorter side."""
    square = {"height": side, "width": side}
    return {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": square}


def shown_size(config: PatchifyConfig) -> int:
    """Pixels of the shorter side of what is shown of a frame."""
    layout = config.layout
    sides = layout.crop_size if layout.do_center_crop else None
    return min((sides or layout.size).values())


@dataclass(frozen=True, eq=False)
class InputSettings:
    """Everything that the tensors of a clip depend on: the input, and how clips are cut."""

    kind: str
    config: PatchifyConfig

    def identity(self) -> dict[str, Any]:
        """The same as JSON values: what is recorded of the processor's settings, and `input`."""
        return {"input": self.kind, **self.config.recorded()}

    def square_frame(self) -> tuple[FrameGeometry, bool]:
        """How a square frame is laid onto the grid, and whether frames of any shape give as many patches.

        Raises ConfigError where the processor's sizes do not fit its patches.
        """
        layout = self.config.layout
        side = layout.size.get("shortest_edge") or layout.size["height"]
        try:
            geometry = self.config.geometry(side, side)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        exact = layout.do_resize and "height" in layout.size
        return geometry, layout.do_center_crop or exact or self.config.signals.preset == "published"

    @property
    def num_patches(self) -> int | None:
        """The budget in patches of a clip that has all of its frames; None where that depends on the clip."""
        budget, sampling = self.config.budget, self.config.sampling
        if self.kind == "codec" and budget.keep_energy is not None:
            return None
        if budget.num_patches is not None:
            return int(budget.num_patches)
        geometry, fixed = self.square_frame()
        if budget.keep_ratio is None or not fixed or not self._by_number:
            return None
        total = sampling.num_frames * geometry.patches_per_frame
        return int(max(geometry.patches_per_frame, round(budget.keep_ratio * total)))

    @property
    def _by_number(self) -> bool:
        """Whether as many frames are sampled of every clip that has them."""
        return self.config.sampling.fps is None and self.config.sampling.timestamps is None

    def budget(self) -> str:
        """The budget in words."""
        count, budget = self.num_patches or self.config.budget.num_patches, self.config.budget
        most = f"{count} patches" if count else f"{100 * (budget.keep_ratio or 0):g} % of the patches"
        if self.kind != "codec" or budget.keep_energy is None:
            return most
        return f"{100 * budget.keep_energy:g} % of the energy, at most {most}"

    def check(self) -> None:
        """Raise ConfigError for a budget that no clip can give."""
        geometry, fixed = self.square_frame()
        count, sampling, layout = self.config.budget.num_patches, self.config.sampling, self.config.layout
        if self.kind == "dense" or count is None or not (fixed or layout.do_resize):
            return
        frame = geometry.patches_per_frame  # the fewest: the square is the smallest of the shapes
        if fixed and self._by_number and count > frame * sampling.num_frames:
            raise ConfigError(
                f"num_patches is {count}, but {sampling.num_frames} frames of {geometry.canvas_width} x "
                f"{geometry.canvas_height} pixels have {frame * sampling.num_frames} patches of "
                f"{layout.patch_size}: ask for fewer, or for more frames (num_frames)"
            )
        if count < frame:
            raise ConfigError(f"num_patches is {count}, less than the {frame} of one whole frame")


class ClipTransform:
    """`transform(row, rng, position)` -> `pixel_values_videos` (K, 3*p*p) float32, `patch_positions` (K, 3)
    int64, `labels` (1,).

    Args:
        settings: the input, and how clips are cut.
        augment: with a generator, draw frames and colours anew.
        intervene: one of `INTERVENTIONS`, on codec input.
        rows: where `foreign` takes other clips from; `position` is then the row's number there.

    A clip with fewer frames than are wanted gives all it has.
    """

    def __init__(
        self,
        settings: InputSettings,
        augment: bool = False,
        intervene: str | None = None,
        rows: Examples | None = None,
    ):
        settings.check()
        self.settings, self.augment, self.intervene, self.rows = settings, augment, intervene, rows
        # Colours are changed in [0, 1]; what the processor does to pixels comes after that.
        self._plain = settings.config.replace(do_rescale=True, rescale_factor=1 / 255, do_normalize=False)

    def __call__(self, row: Any, rng: np.random.Generator | None, position: int) -> Sample:
        """Raises what broken media raise (`clustering.media.BROKEN`), and ConfigError for a clip that the
        settings do not fit."""
        rng = rng if self.augment else None
        config = self.settings.config if rng is None else self._plain
        try:
            with open_video(row.media) as reader:
                cut = self._cut(reader, config, rng)
                if self.intervene is not None:
                    cut = self._changed(cut, reader, config, position)
        except (*BROKEN, ConfigError):
            raise
        except ValueError as error:
            raise ConfigError(f"{row.key or 'a clip'}: {error}") from error
        pixels = cut.patches
        if rng is not None:
            scale, offset = (v[:, None] for v in self.settings.config.pixels.scale_and_offset)
            pixels = jitter(pixels.reshape(len(pixels), 3, -1), rng) * (255 * scale) + offset
        return {
            "pixel_values_videos": pixels.reshape(len(pixels), -1),
            "patch_positions": cut.positions,
            "labels": np.asarray(row.labels[:1], np.int64),
        }

    def _cut(self, reader: Any, config: PatchifyConfig, rng: np.random.Generator | None) -> ClipPatches:
        """What is shown of an open video."""
        if self.settings.kind == "codec":
            return config.within(reader).patchify(reader)
        frame_ids = self._whole_frames(reader, rng)
        placement = Placement.whole_frames(frame_ids, config.geometry(reader.height, reader.width))
        cut = config.patchify(reader, placement)
        if self.settings.kind == "frames" and config.rope_temporal_size is not None:
            # Frames that stand alone keep their place in the clip, as published.
            times = virtual_times_in_clip(frame_ids, len(reader), config.rope_temporal_size)
            cut.positions[:, 0] = times[placement.positions[:, 0]]
        return cut

    def _whole_frames(self, reader: Any, rng: np.random.Generator | None) -> np.ndarray:
        """Numbers of the frames that are shown whole."""
        if len(reader) == 1:  # a picture: there is no time to sample by
            return np.zeros(1, np.int64)
        config = self.settings.config
        sampled = sample_frames(reader, config.sampling)
        if self.settings.kind == "dense":
            return sampled
        frame = config.geometry(reader.height, reader.width).patches_per_frame
        budget = config.budget
        wanted = budget.num_patches or round((budget.keep_ratio or 0) * len(sampled) * frame)
        every = replace(
            config.sampling, num_frames=len(reader), sampling="uniform", fps=None, timestamps=None
        )
        among = sample_frames(reader, every)
        return among[frames_of_spans(len(among), max(1, wanted // frame), rng)]

    def _changed(self, cut: ClipPatches, reader: Any, config: PatchifyConfig, position: int) -> ClipPatches:
        """Intervene; what is drawn depends on the clip's number alone."""
        assert self.intervene is not None and isinstance(cut.placement, Selection)
        chance = np.random.default_rng([INTERVENTIONS.index(self.intervene), position])
        if self.intervene == "shuffle":
            return cut._replace(positions=cut.positions[chance.permutation(len(cut.positions))])
        if self.intervene == "replace":
            return cut._replace(patches=config.cut(reader, without_motion(cut.placement, chance)))
        return self._mixed(cut, config, position, chance)

    def _mixed(
        self, cut: ClipPatches, config: PatchifyConfig, position: int, rng: np.random.Generator
    ) -> ClipPatches:
        """Patches from the motion of another clip in place of half of this one's."""
        chosen = half_of_motion(cut.placement, rng)
        assert self.rows is not None
        for step in rng.integers(1, max(2, len(self.rows)), _PARTNERS):
            other = self.rows[(position + int(step)) % len(self.rows)]
            try:
                with open_video(other.media) as reader:
                    found = self._cut(reader, config, None)
            except BROKEN:
                continue
            moving = np.flatnonzero(found.placement.positions[:, 0] > 0)
            if len(moving):
                taken = np.sort(rng.choice(moving, len(chosen), replace=len(moving) < len(chosen)))
                cut.patches[chosen] = found.patches[taken]
                return cut
        raise ConfigError(
            f"none of {_PARTNERS} other clips has motion to put into number {position} (intervene=foreign)"
        )


def frames_of_spans(frames: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """One frame of each of `count` equal spans, its middle or a random place; all frames if there are no
    more.

    Args:
        frames: how many there are.
        count: how many are taken.
        rng: draws the place; without one it is the middle.
    """
    if frames <= count:
        return np.arange(frames)
    span = (frames - 1) / count
    places = np.full(count, 0.5) if rng is None else rng.random(count)
    return (span * (np.arange(count) + places)).astype(np.int64)


def half_of_motion(selection: Placement, rng: np.random.Generator) -> np.ndarray:
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
