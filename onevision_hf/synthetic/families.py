"""What is asked of a clip or an image: families of labels, which scene can answer them, in which words.

A family has a fixed list of labels, so its chance is 1 / len(labels). A clip answers the families of its
scene and those that any clip answers; for the others its label is None.
"""

from dataclasses import dataclass
from typing import Literal

from .lettering import WORDS

COLOURS = {"red": (222, 46, 44), "green": (48, 172, 70), "blue": (52, 84, 226), "yellow": (244, 208, 40)}
SHAPES = ("disc", "square", "triangle", "cross")
TEXTURES = ("plain", "striped", "checked", "dotted")
ORIENTATIONS = ("upright", "level", "rising", "falling")
BACKGROUNDS = ("static", "pan", "zoom", "shake", "flicker", "noise")
CAMERA_MOTIONS = ("pan", "zoom", "shake")
SPEEDS = ("slow", "medium", "fast")
# Unit steps in 1/256, x to the right and y down, clockwise from the right.
DIRECTIONS = {
    "right": (256, 0),
    "down-right": (181, 181),
    "down": (0, 256),
    "down-left": (-181, 181),
    "left": (-256, 0),
    "up-left": (-181, -181),
    "up": (0, -256),
    "up-right": (181, -181),
}
OBJECTS = tuple(f"{colour}-{shape}" for colour in COLOURS for shape in SHAPES)
# A quarter of the objects, every colour and every shape once: what a zero-shot test may hold out.
HELD_OUT_OBJECTS = tuple(f"{c}-{s}" for c, s in zip(COLOURS, SHAPES[1:] + SHAPES[:1], strict=True))

_COLOURS, _DIRECTIONS = tuple(COLOURS), tuple(DIRECTIONS)


@dataclass(frozen=True)
class Family:
    """A question with a fixed list of answers.

    Attributes:
        name: the name of the family.
        labels: every answer.
        scenes: the scenes that answer it; empty when every clip does.
        question: the question in words.
        kind: what the answer needs: `brief` motion that few whole frames see, `sustained` motion, `lasting`
            change, `static` content, or `lost`: content that motion-led sampling may well miss.
    """

    name: str
    labels: tuple[str, ...]
    scenes: tuple[str, ...]
    question: str
    kind: Literal["brief", "sustained", "lasting", "static", "lost"]

    @property
    def chance(self) -> float:
        return 1 / len(self.labels)


_CLIP_FAMILIES = (
    Family(
        "direction", _DIRECTIONS, ("glide",), "One shape keeps moving. Which way does it go?", "sustained"
    ),
    Family("speed", SPEEDS, ("glide",), "How fast does the moving shape go?", "sustained"),
    Family("mover_colour", _COLOURS, ("glide",), "What colour is the shape that keeps moving?", "sustained"),
    Family("mover_shape", SHAPES, ("glide",), "What shape is the thing that keeps moving?", "sustained"),
    Family("brief_direction", _DIRECTIONS, ("fly",), "Something flies past. Which way?", "brief"),
    Family("brief_colour", _COLOURS, ("fly",), "Something flies past. What colour is it?", "brief"),
    Family("brief_speed", SPEEDS, ("fly",), "Something flies past. How fast?", "brief"),
    Family("nudge_direction", _DIRECTIONS, ("nudge",), "One shape darts out and back. Which way?", "brief"),
    Family("nudge_who", _COLOURS, ("nudge",), "Which shape darts out and back?", "brief"),
    Family(
        "first", _COLOURS, ("order",), "Two shapes dart out and back in turn. Which one is first?", "brief"
    ),
    Family("count", ("1", "2", "3", "4"), ("count",), "How often does a shape dart out and back?", "brief"),
    Family(
        "binding",
        _DIRECTIONS,
        ("bind",),
        "Two shapes dart out and back at once. Which way does the red one go?",
        "brief",
    ),
    Family("crossing", _COLOURS, ("cross",), "Two shapes cross. Which passes in front?", "sustained"),
    Family(
        "orbit",
        ("clockwise", "counterclockwise"),
        ("orbit",),
        "Which way round does the dot go?",
        "sustained",
    ),
    Family("growth", ("grows", "shrinks"), ("growth",), "Does a shape grow or shrink?", "lasting"),
    Family("growth_who", _COLOURS, ("growth",), "Which shape changes its size?", "lasting"),
    Family("appear", ("appears", "vanishes"), ("appear",), "Does a shape appear or vanish?", "lasting"),
    Family("appear_who", _COLOURS, ("appear",), "Which shape appears or vanishes?", "lasting"),
    Family(
        "drift_direction",
        _DIRECTIONS,
        ("drift",),
        "One shape drifts slowly. Which way does it go?",
        "sustained",
    ),
    Family("word", WORDS, ("text",), "Which word appears?", "lasting"),
    Family("detail", _COLOURS, ("detail",), "A small mark fades in. What colour is it?", "lost"),
    Family("fine", ORIENTATIONS, ("fine",), "How do the fine lines under the noise run?", "lost"),
    Family("shape", SHAPES, ("nudge", "order", "count", "bind"), "What shape is the red one?", "static"),
    Family("ground", ORIENTATIONS, (), "How do the waves of the ground run?", "static"),
    Family("background", BACKGROUNDS, (), "What does the background do?", "sustained"),
)
_IMAGE_FAMILIES = (
    Family("object", OBJECTS, (), "What is the largest thing?", "static"),
    Family("colour", _COLOURS, (), "What colour is the largest thing?", "static"),
    Family("shape", SHAPES, (), "What shape is the largest thing?", "static"),
    Family("texture", TEXTURES, (), "What is the texture of the largest thing?", "static"),
    Family("count", ("1", "2", "3"), (), "How many shapes are there?", "static"),
    Family("word", WORDS, (), "Which word is written?", "static"),
    Family("ground", ORIENTATIONS, (), "How do the waves of the ground run?", "static"),
)
CLIP_FAMILIES: dict[str, Family] = {family.name: family for family in _CLIP_FAMILIES}
IMAGE_FAMILIES: dict[str, Family] = {family.name: family for family in _IMAGE_FAMILIES}


def named_family(name: str, families: dict[str, Family]) -> Family:
    """The family of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in families:
        raise ValueError(f"no family is called {name!r}; choose one of {', '.join(families)}")
    return families[name]
