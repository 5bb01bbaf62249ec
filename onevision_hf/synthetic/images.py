"""Images with captions and words, drawn from the same parts as the clips.

    image = draw_image(seed=0, index=3)
    image.pixels, image.captions, image.words, image.labels["object"]

One large shape near the middle, up to two small ones in corners, half of the time a word on a plate. With
`split="train"` no shape of `HELD_OUT_OBJECTS` is drawn, with `split="held-out"` no other.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .backgrounds import make_camera, make_ground, view
from .clips import check_size, wanted_label
from .families import HELD_OUT_OBJECTS, IMAGE_FAMILIES, OBJECTS, ORIENTATIONS, TEXTURES, named_family
from .rng import StableRNG
from .scenes import Stage
from .sprites import SUB, Sprite
from .truth import Truth, paint_all

Split = Literal["all", "train", "held-out"]
_CORNERS = {"top left": (10, 10), "top right": (54, 10), "bottom left": (10, 54), "bottom right": (54, 54)}


@dataclass(frozen=True)
class ImageSettings:
    """Size in pixels (even, 32 to 1024), and which of the 16 objects are drawn.

    Raises:
        ValueError: a value out of these ranges.
    """

    height: int = 128
    width: int = 128
    split: Split = "all"

    def __post_init__(self) -> None:
        check_size(self.height, self.width)
        if self.split not in get_args(Split):
            raise ValueError(f"split is one of {', '.join(get_args(Split))}, found {self.split!r}")

    @property
    def objects(self) -> tuple[str, ...]:
        """The objects that may be drawn, as colour-shape."""
        return tuple(
            o for o in OBJECTS if self.split == "all" or (o in HELD_OUT_OBJECTS) == (self.split == "held-out")
        )


@dataclass
class DrawnImage:
    """A drawn image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        labels: for every image family its label, None where there is none (no word).
        captions: three, from the most to the least detailed.
        words: what is written in the image.
        truth: boxes and masks, with T = 1.
    """

    pixels: np.ndarray
    labels: dict[str, str | None]
    captions: list[str]
    words: list[str]
    truth: Truth


def image_labels(family: str, settings: ImageSettings) -> tuple[str, ...]:
    """The labels of a family that a split has."""
    labels = named_family(family, IMAGE_FAMILIES).labels
    return tuple(label for label in labels if label in settings.objects) if family == "object" else labels


def draw_image(
    seed: int,
    index: int,
    family: str | None = None,
    settings: ImageSettings = ImageSettings(),
) -> DrawnImage:
    """Image `index` of the world `seed`; with a `family`, its labels take turns with the index.

    Args:
        seed: of the world, 0 or more.
        index: of the image, 0 or more.
        family: of labels, which take turns with the index.
        settings: size and split.

    Raises:
        ValueError: an unknown family, a negative seed or index.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index count from 0, found seed={seed}, index={index}")
    rng = StableRNG(seed, "images", family or "", index)
    wanted = {} if family is None else {family: wanted_label(image_labels(family, settings), index)}
    main = rng.pick([o for o in settings.objects if _fits(o, wanted)])
    colour, shape = main.split("-")
    labels: dict[str, str | None] = {
        "object": main,
        "colour": colour,
        "shape": shape,
        "texture": wanted.get("texture") or rng.pick(TEXTURES),
        "count": wanted.get("count") or rng.pick(IMAGE_FAMILIES["count"].labels),
        "word": wanted.get("word") or (rng.pick(IMAGE_FAMILIES["word"].labels) if rng.below(2) else None),
        "ground": wanted.get("ground") or rng.pick(ORIENTATIONS),
    }
    unit = SUB * min(settings.height, settings.width) // 64
    stage = Stage(rng, 1, settings.height, settings.width, unit)
    places = _place(stage, labels, [o for o in settings.objects if not o.startswith(colour)])

    margin = 2
    world = make_ground(
        rng, str(labels["ground"]), settings.height + 2 * margin, settings.width + 2 * margin, unit
    )
    camera = make_camera(rng, "static", 1, unit)
    frames = view(world, camera, settings.height, settings.width, margin)
    truth = paint_all(frames, stage.sprites, camera, [])
    frames += rng.between(1, 4) * rng.grain((*frames.shape[:3], 1))
    words = [labels["word"]] if labels["word"] else []
    return DrawnImage(
        np.clip(frames[0], 0, 255).astype(np.uint8),
        labels,
        _captions(stage.sprites, places, labels),
        words,
        truth,
    )


def _fits(name: str, wanted: dict[str, str]) -> bool:
    parts = dict(zip(("colour", "shape"), name.split("-"), strict=True), object=name)
    return all(parts.get(family, label) == label for family, label in wanted.items())


def _place(stage: Stage, labels: dict[str, str | None], others: list[str]) -> list[str]:
    """Put everything on the stage; the corners in which the small shapes are."""
    rng = stage.rng
    middle = stage.point(32 + rng.between(-6, 6), 32 + rng.between(-6, 6))
    stage.add(
        middle,
        colour=labels["colour"],
        shape=labels["shape"],
        texture=labels["texture"],
        half_radius=rng.between(21, 26),
    )
    corners = rng.shuffled(tuple(_CORNERS))[: int(str(labels["count"])) - 1]
    for corner in corners:
        colour, shape = rng.pick(others).split("-")
        x, y = _CORNERS[corner]
        place = stage.point(x + rng.between(-2, 2), y + rng.between(-2, 2))
        stage.add(place, colour=colour, shape=shape, half_radius=rng.between(11, 13))
    if labels["word"]:
        place = stage.point(32, rng.pick((7, 57)))
        stage.add(place, colour="white", shape="text", texture="plain", half_radius=8).word = labels["word"]
    return corners


def _captions(sprites: list[Sprite], corners: list[str], labels: dict[str, str | None]) -> list[str]:
    main, *small = [sprite for sprite in sprites if sprite.word is None]
    rest = [
        f"a small {s.texture} {s.colour} {s.shape} in the {corner}"
        for s, corner in zip(small, corners, strict=True)
    ]
    long = " and ".join([f"a large {main.texture} {main.colour} {main.shape}", *rest])
    long += f" on a ground of {labels['ground']} waves"
    middle = ", ".join([f"{s.colour} {s.shape}" for s in (main, *small)])
    if labels["word"]:
        long, middle = f"{long}, with the word {labels['word']}", f"{middle}, {labels['word']}"
    return [long, middle, f"a {main.texture} {main.colour} {main.shape}"]
