"""The clips of the suite: drawn ones with their labels and ceilings, or the files of a labelled folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ...synthetic import clips as synthetic
from ...synthetic.clips import GROUND_FAMILIES, Clip, draw_clip
from ...synthetic.encoding import EncodingSettings, encode, encoder_version
from ...synthetic.families import CAMERA_MOTIONS, CLIP_FAMILIES
from ...synthetic.folder import DRAWING
from .ceilings import posterior
from .grounds import Grounds, camera_of
from .settings import BACKGROUNDS, CEILING_FRAMES, FAMILIES, OWN_CAMERA, STILL, ClipSettings

NO_LABEL = -1


@dataclass
class LabelledClip:
    """A clip to be read, with what it shows.

    Attributes:
        file: the bytes of a video, or its path.
        labels: for each family the number of its label, or -1.
        ceilings: (families, `CEILING_FRAMES`), what an observer of so many whole frames knows; NaN where
            it has no label or nothing is known of it.
        camera: what the camera does, `still`, one of `CAMERA_MOTIONS`, or `OWN_CAMERA` of footage that
            moves; "" where it is not known.
    """

    file: bytes | Path
    labels: list[int]
    ceilings: np.ndarray
    camera: str


class Source(Protocol):
    """Where clips come from: families with their labels, what the clips depend on, the clips by number, and
    whether a turned or mirrored clip has the turned or mirrored label."""

    symmetric: bool

    @property
    def families(self) -> dict[str, tuple[str, ...]]: ...

    @property
    def identity(self) -> dict: ...

    def item(self, split: str, number: int) -> LabelledClip: ...


@dataclass(frozen=True)
class Drawn:
    """Clips of the project's own world; those of the split `test` are from another seed.

    Attributes:
        settings: of the clips.
        encoding: of their files.
        grounds: real ones in place of the drawn ground; what is asked of that is then left out.
    """

    settings: ClipSettings
    encoding: EncodingSettings = field(default_factory=EncodingSettings)
    grounds: Grounds | None = None

    symmetric = True

    @property
    def schedule(self) -> tuple[str, ...]:
        if self.grounds is None:
            return self.settings.schedule
        return tuple(name for name in self.settings.schedule if name not in GROUND_FAMILIES)

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        """Those of the suite that its clips answer."""
        scenes = {scene for name in self.schedule for scene in CLIP_FAMILIES[name].scenes}
        answered = [n for n in FAMILIES if not CLIP_FAMILIES[n].scenes or scenes & {*CLIP_FAMILIES[n].scenes}]
        if self.grounds is not None:
            answered = [name for name in answered if name not in GROUND_FAMILIES]
        return {name: CLIP_FAMILIES[name].labels for name in answered}

    @property
    def identity(self) -> dict:
        """Codec and grounds only where they are other than they were when folders had neither."""
        found: dict = {"drawing": DRAWING, "encoder": encoder_version()}
        if self.encoding != EncodingSettings():
            found["encoding"] = asdict(self.encoding)
        if self.grounds is not None:
            found["grounds"] = self.grounds.identity
        return found

    def item(self, split: str, number: int) -> LabelledClip:
        test = split == "test"
        settings = self.settings
        drawn_for, index, background = scheduled(number, self.schedule)
        size = synthetic.ClipSettings(
            settings.num_frames, settings.size, settings.size, background, settings.sweeps
        )
        ground = None
        if self.grounds is not None:
            ground = self.grounds.ground(split, (settings.seed + test, number), size)
        clip = draw_clip(settings.seed + test, index, drawn_for, size, ground)
        labels = [_number(clip, name) for name in self.families]
        ceilings = np.full((len(labels), len(CEILING_FRAMES)), np.nan, np.float32)
        for place, count in enumerate(CEILING_FRAMES if test else ()):
            seen = uniform_frames(settings.num_frames, count)
            for family, name in enumerate(self.families):
                if labels[family] != NO_LABEL:
                    ceilings[family, place] = posterior(name, clip, seen).max()
        drawn = str(clip.labels["background"])
        camera = drawn if drawn in CAMERA_MOTIONS else STILL
        if ground is not None and ground.ndim == 4:
            camera = camera_of(ground)
        return LabelledClip(encode(clip.frames, self.encoding), labels, ceilings, camera)


def scheduled(number: int, schedule: Sequence[str]) -> tuple[str, int, str]:
    """The family that a clip is drawn for, its number among those of that family, and its background.

    Labels take turns with the number, so backgrounds change only after all eight labels had theirs.
    """
    family = schedule[number % len(schedule)]
    before = schedule[: number % len(schedule)].count(family)
    index = number // len(schedule) * schedule.count(family) + before
    return family, index, BACKGROUNDS[index // 8 % len(BACKGROUNDS)]


def _number(clip: Clip, family: str) -> int:
    label = clip.labels[family]
    return NO_LABEL if label is None else CLIP_FAMILIES[family].labels.index(label)


def in_subset(camera: np.ndarray, subset: str) -> np.ndarray:
    """(n,) bool: which clips one of `SUBSETS` counts, by what their cameras do."""
    if subset == "all":
        return np.ones(len(camera), bool)
    return np.isin(camera, (*CAMERA_MOTIONS, OWN_CAMERA) if subset == "moving" else (subset,))


def uniform_frames(num_frames: int, count: int) -> Sequence[int]:
    """The middles of `count` equal spans. (Nothing happens in the first and the last frames of a clip, so
    it would be unfair to whole frames to look there.)"""
    return [(2 * i + 1) * num_frames // (2 * count) for i in range(count)]
