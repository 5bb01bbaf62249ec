"""Clips: a textured moving scene from a seed, the same pixels on every machine, and its exact truth.

    clip = draw_clip(seed=0, index=12)                       # a scene of chance
    clip = draw_clip(seed=0, index=12, family="direction")   # one that this family can be asked of
    clip.frames, clip.labels["direction"], clip.truth.boxes

On the command line: `onevision synth clips --out DIR --count 1000 --seed 0`.
"""

from dataclasses import dataclass

import numpy as np

from .backgrounds import GAIN_ONE, fine_lines, make_camera, make_ground, reach, view
from .families import BACKGROUNDS, CAMERA_MOTIONS, CLIP_FAMILIES, named_family
from .rng import StableRNG
from .scenes import MIN_FRAMES, SCENES, Stage, scene_of_chance
from .sprites import SUB
from .truth import Truth, paint_all

# How often each background is drawn: half of the clips have camera motion.
_BACKGROUNDS = ("static",) * 6 + ("flicker",) * 3 + ("noise",) * 3 + CAMERA_MOTIONS * 4
# What is asked of the drawn ground itself.
GROUND_FAMILIES = ("ground", "fine")
_FINE_STRENGTH = 6  # of lines under noise whose standard deviation is 5.7


@dataclass(frozen=True)
class ClipSettings:
    """How large and long a clip is, and what its background does.

    Attributes:
        num_frames: at least 32.
        height: pixels, even, 32 to 1024.
        width: pixels, even, 32 to 1024.
        background: one of `BACKGROUNDS`, or None for a mixture in which half of the clips have camera motion.
        sweeps: how often a pan or a zoom goes its way, there and back in turns: the more, the faster.

    Raises:
        ValueError: a value out of these ranges.
    """

    num_frames: int = 64
    height: int = 64
    width: int = 64
    background: str | None = None
    sweeps: int = 1

    def __post_init__(self) -> None:
        if self.num_frames < MIN_FRAMES:
            raise ValueError(f"a clip has at least {MIN_FRAMES} frames, found num_frames={self.num_frames}")
        check_size(self.height, self.width)
        if not 1 <= self.sweeps <= self.num_frames // 4:
            raise ValueError(
                f"a camera makes 1 to {self.num_frames // 4} sweeps in {self.num_frames} frames, "
                f"found sweeps={self.sweeps}"
            )
        if self.background is not None and self.background not in BACKGROUNDS:
            raise ValueError(
                f"no background is called {self.background!r}; choose one of {', '.join(BACKGROUNDS)}"
            )

    @property
    def unit(self) -> int:
        """A 64th of the shorter side, in sixteenths of a pixel."""
        return SUB * min(self.height, self.width) // 64

    @property
    def world_size(self) -> tuple[int, int]:
        """Height and width of a ground at which a camera looks that pans, zooms and shakes."""
        return self.height + 2 * reach(self.unit), self.width + 2 * reach(self.unit)


@dataclass
class Clip:
    """A drawn clip.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        scene: the name of its scene.
        labels: for every clip family its label, None where the question does not fit the clip.
        truth: boxes, masks, velocity, camera and events.
    """

    frames: np.ndarray
    scene: str
    labels: dict[str, str | None]
    truth: Truth


def check_size(height: int, width: int) -> None:
    for side in (height, width):
        if not 32 <= side <= 1024 or side % 2:
            raise ValueError(f"sides are even numbers from 32 to 1024, found {height} x {width}")


def wanted_label(labels: tuple[str, ...], index: int) -> str:
    """The label that item `index` of one family has: each in turn, so any count is balanced."""
    return labels[index % len(labels)]


def draw_clip(
    seed: int,
    index: int,
    family: str | None = None,
    settings: ClipSettings = ClipSettings(),
    ground: np.ndarray | None = None,
) -> Clip:
    """Clip `index` of the world `seed`.

    With a `family`, the scene is one that answers it, and its labels take turns with the index.

    Args:
        seed: of the world, 0 or more.
        index: of the clip, 0 or more.
        family: of labels: the scene is one that answers it, and its labels take turns with the index.
        settings: size, length and background.
        ground: RGB uint8 in place of the drawn ground: a picture (H, W, 3) of `settings.world_size`, or
            footage (T, H, W, 3) of the clip's own size, which has a camera of its own: the drawn one rests.

    Raises:
        ValueError: an unknown family, a negative seed or index; a ground of another size, or a family
            that is asked of what it replaces.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index count from 0, found seed={seed}, index={index}")
    rng = StableRNG(seed, "clips", family or "", index)
    wanted: dict[str, str] = {}
    scene = scene_of_chance(rng)
    if family is not None:
        named = named_family(family, CLIP_FAMILIES)
        wanted[family] = wanted_label(named.labels, index)
        scene = rng.pick(named.scenes) if named.scenes else scene
    if scene == "fine" and wanted.get("background", "noise") != "noise":
        scene = "nudge"  # fine lines want noise and a camera at rest
    background = settings.background
    if ground is not None:
        _check_ground(ground, family, settings)
        scene = "nudge" if scene == "fine" else scene
        background = "static" if ground.ndim == 4 else background
    unit = settings.unit
    stage = Stage(rng, settings.num_frames, settings.height, settings.width, unit, wanted)
    stage.labels["ground"] = stage.label("ground")
    background = stage.label("background", among=(background,) if background else _BACKGROUNDS)
    if scene == "fine":
        background = stage.labels["background"] = "noise"
    SCENES[scene][0](stage)

    camera = make_camera(rng, background, settings.num_frames, unit, settings.sweeps)
    if ground is None:
        world = make_ground(rng, stage.labels["ground"], *settings.world_size, unit)
    else:
        world = ground.astype(np.int16)
        del stage.labels["ground"]
    if scene == "fine":
        world += fine_lines(stage.labels["fine"], world.shape[0], world.shape[1], _FINE_STRENGTH)
    frames = world if world.ndim == 4 else view(world, camera, settings.height, settings.width, reach(unit))
    truth = paint_all(frames, stage.sprites, camera, stage.events)
    if background == "flicker":
        frames = frames * camera.gain.astype(np.int16)[:, None, None, None] // GAIN_ONE
    frames += camera.grain * rng.grain((*frames.shape[:3], 1))
    labels = {name: stage.labels.get(name) for name in CLIP_FAMILIES}
    return Clip(np.clip(frames, 0, 255).astype(np.uint8), scene, labels, truth)


def _check_ground(ground: np.ndarray, family: str | None, settings: ClipSettings) -> None:
    """Raises ValueError for a ground of another size, or a family that is asked of what it replaces."""
    footage = (settings.num_frames, settings.height, settings.width, 3)
    picture = (*settings.world_size, 3)
    if ground.dtype != np.uint8 or ground.shape not in (footage, picture):
        raise ValueError(
            f"a ground is uint8, footage {footage} or a picture {picture}, "
            f"found {ground.dtype} {ground.shape}"
        )
    replaced = GROUND_FAMILIES if ground.ndim == 3 else (*GROUND_FAMILIES, "background")
    if family in replaced:
        raise ValueError(f"{family} is asked of the drawn ground, and another is given")
