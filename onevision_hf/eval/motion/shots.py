"""Clips of several scenes, cut one after the other: what was in each, and what moved in it."""

from dataclasses import dataclass, field

import numpy as np

from ...synthetic import clips as synthetic
from ...synthetic.clips import draw_clip
from ...synthetic.encoding import EncodingSettings, encode, encoder_version
from ...synthetic.families import CAMERA_MOTIONS, CLIP_FAMILIES
from ...synthetic.folder import DRAWING
from ...synthetic.rng import StableRNG
from ...synthetic.scenes import MIN_FRAMES
from .ceilings import posterior
from .clips import LabelledClip, uniform_frames
from .settings import BACKGROUNDS, CEILING_FRAMES, STILL, ClipSettings

SCENE = 16  # frames
# What is asked of each scene: the shape of its red thing, and the colour of the one that darts out and back.
ASKED = {"shape": "what was in it", "nudge_who": "what moved in it"}


@dataclass(frozen=True)
class Joined:
    """Clips of scenes of `SCENE` frames, out of clips of the project's own world; those of the split `test`
    are from another seed.

    Attributes:
        settings: of the clips.
        encoding: of their files.
    """

    settings: ClipSettings
    encoding: EncodingSettings = field(default_factory=EncodingSettings)

    symmetric = True

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        return {
            f"scene {scene + 1}: {words}": CLIP_FAMILIES[name].labels
            for name, words in ASKED.items()
            for scene in range(self.settings.num_frames // SCENE)
        }

    @property
    def identity(self) -> dict:
        found: dict = {"drawing": DRAWING, "encoder": encoder_version(), "scenes": [SCENE, *ASKED]}
        if self.encoding != EncodingSettings():
            found["encoding"] = vars(self.encoding)
        return found

    def item(self, split: str, number: int) -> LabelledClip:
        settings, test = self.settings, split == "test"
        background = BACKGROUNDS[number % len(BACKGROUNDS)]
        size = synthetic.ClipSettings(MIN_FRAMES, settings.size, settings.size, background, settings.sweeps)
        rng = StableRNG(settings.seed + test, "shots", number)
        count = settings.num_frames // SCENE
        frames, labels, ceilings = [], [], np.full((2, count, len(CEILING_FRAMES)), np.nan, np.float32)
        for scene in range(count):
            # Labels take turns with the index, and those of a clip's scenes tell nothing of each other.
            turns = len(CLIP_FAMILIES["nudge_who"].labels)
            index = turns * (count * number + scene) + rng.below(turns)
            clip = draw_clip(settings.seed + test, index, "nudge_who", size)
            event = clip.truth.events[0]
            start = min(max(0, event.start - rng.between(1, 4)), MIN_FRAMES - SCENE)
            frames.append(clip.frames[start : start + SCENE])
            labels.append([CLIP_FAMILIES[name].labels.index(str(clip.labels[name])) for name in ASKED])
            for place, seen in enumerate(CEILING_FRAMES if test else ()):
                own = [t for t in uniform_frames(settings.num_frames, seen) if t // SCENE == scene]
                within = [start + t % SCENE for t in own]
                for row, name in enumerate(ASKED):
                    chance = CLIP_FAMILIES[name].chance
                    ceilings[row, scene, place] = posterior(name, clip, within).max() if own else chance
        camera = background if background in CAMERA_MOTIONS else STILL
        file = encode(np.concatenate(frames), self.encoding)
        return LabelledClip(
            file, np.transpose(labels).ravel().tolist(), ceilings.reshape(2 * count, -1), camera
        )
