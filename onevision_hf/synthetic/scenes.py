"""Scenes: who stands where, and what happens when. Each writes down the labels of the families it answers.

A scene is planned on a stage of 64 x 64 units, whatever the size of the picture. Brief events are over in at
most ten frames and leave nothing behind, since a lasting displacement can be read off two whole frames.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .families import CLIP_FAMILIES, COLOURS, DIRECTIONS, SHAPES, SPEEDS, TEXTURES
from .rng import SINE_ONE, TURN, StableRNG, cosine, sine
from .sprites import OPAQUE, SUB, Sprite

MIN_FRAMES = 32
_RADIUS = 13  # of a sprite, in half units
_QUARTERS = ((20, 20), (44, 20), (20, 44), (44, 44))
_OTHER_WAY = {"clockwise": 1, "counterclockwise": -1}


@dataclass(frozen=True)
class Event:
    """Something that happens to one sprite in the frames `start` to `end` - 1.

    `kind` is `glides`, `flies`, `nudges`, `orbits`, `grows`, `shrinks`, `appears`, `vanishes` or `fades in`.
    """

    kind: str
    sprite: int
    start: int
    end: int


@dataclass
class Stage:
    """Where a scene is set up.

    Attributes:
        rng: where chance comes from.
        num_frames, height, width: of the clip.
        unit: a 64th of the shorter side, in sixteenths of a pixel.
        wanted: labels that are given and not left to chance, by family.
        sprites: painted in this order, the last on top.
    """

    rng: StableRNG
    num_frames: int
    height: int
    width: int
    unit: int
    wanted: dict[str, str] = field(default_factory=dict)
    sprites: list[Sprite] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    def label(self, family: str, among: tuple[str, ...] = ()) -> str:
        """The label of a family: the wanted one, or one of chance; noted as the clip's label."""
        self.labels[family] = self.wanted.get(family) or self.rng.pick(among or CLIP_FAMILIES[family].labels)
        return self.labels[family]

    def point(self, x: int, y: int) -> np.ndarray:
        """A place of the 64 x 64 stage in the middle of the picture, in sixteenths of a pixel."""
        middle = np.array([self.width - 1, self.height - 1]) * SUB // 2
        return middle + (np.array([x, y]) - 32) * self.unit

    def add(
        self,
        place: np.ndarray,
        *,
        colour: str | None = None,
        shape: str | None = None,
        texture: str | None = None,
        half_radius: int = _RADIUS,
        wraps: bool = False,
    ) -> Sprite:
        """A sprite that rests at `place` for the whole clip; what is not given is left to chance.

        Args:
            place: (2,) in sixteenths of a pixel.
            colour: one of `COLOURS`; what is None is left to chance.
            shape: one of `SHAPES`, or text.
            texture: one of `TEXTURES`.
            half_radius: in half units.
            wraps: whether it comes back on the other side.
        """
        rng, count = self.rng, self.num_frames
        sprite = Sprite(
            colour or rng.pick(tuple(COLOURS)),
            shape or rng.pick(SHAPES),
            texture or rng.pick(TEXTURES),
            np.tile(place, (count, 1)),
            np.full(count, half_radius * self.unit // 2),
            np.full(count, OPAQUE),
            wraps=wraps,
        )
        self.sprites.append(sprite)
        return sprite

    def quarters(self) -> list[np.ndarray]:
        """Four places, one in each quarter, in an order of chance."""
        jitter = self.rng.below_all(7, (4, 2)) - 3
        places = [
            self.point(x + int(j[0]), y + int(j[1])) for (x, y), j in zip(_QUARTERS, jitter, strict=True)
        ]
        return self.rng.shuffled(places)

    def cast(self, count: int = 4, but: tuple[str, ...] = ()) -> list[Sprite]:
        """`count` sprites at rest, each of another colour, each in another quarter."""
        colours = self.rng.shuffled([colour for colour in COLOURS if colour not in but])
        return [self.add(place, colour=c) for place, c in zip(self.quarters(), colours[:count], strict=False)]

    def of_colour(self, colour: str) -> Sprite:
        return next(sprite for sprite in self.sprites if sprite.colour == colour)

    def note(self, kind: str, sprite: Sprite, start: int, end: int) -> None:
        """Write down an event for the truth of the clip.

        Args:
            kind: what happens.
            sprite: to which of the stage's sprites.
            start: first frame.
            end: last frame.
        """
        self.events.append(
            Event(kind, next(i for i, s in enumerate(self.sprites) if s is sprite), start, end)
        )

    def along(self, direction: str, amounts: np.ndarray) -> np.ndarray:
        """Displacements (n, 2) of `amounts` (n,) sixteenths of a pixel in a direction."""
        return (amounts[:, None] * np.array(DIRECTIONS[direction]) + 128) // 256

    def nudge(self, sprite: Sprite, direction: str, start: int, frames: int) -> None:
        """Nine units out and back within `frames`.

        Args:
            sprite: to move.
            direction: one of `DIRECTIONS`.
            start: the first frame.
            frames: how many.
        """
        step = np.arange(1, frames)
        amounts = 9 * self.unit * (frames - np.abs(2 * step - frames)) // frames
        sprite.centres[start : start + frames - 1] += self.along(direction, amounts)
        self.note("nudges", sprite, start, start + frames)

    def part_inside(self, ways: np.ndarray) -> float:
        """How much of a way (T, 2) from the corner, coming in again on the other side, is well inside."""
        sides = np.array([self.width, self.height]) * SUB
        wrapped = (ways + 7 * self.unit) % (sides + 14 * self.unit) - 7 * self.unit
        inside = (wrapped >= 4 * self.unit) & (wrapped < sides - 4 * self.unit)
        return float(inside.all(axis=1).mean())

    def start(self, frames: int, low: int = 3, high: int | None = None) -> int:
        """A first frame for an event that lasts `frames`, so that it ends before `high`.

        Args:
            frames: of the event.
            low: the earliest first frame.
            high: the frame before which it ends; None is three before the last.
        """
        return self.rng.between(low, (self.num_frames - 3 if high is None else high) - frames)


def glide(stage: Stage) -> None:
    """One sprite moves on and on, out on one side and in again on the other: a place tells little."""
    colour, shape = stage.label("mover_colour"), stage.label("mover_shape")
    direction, speed = stage.label("direction"), stage.label("speed")
    stage.cast(stage.rng.below(4), but=(colour,))
    mover = stage.add(stage.point(0, 0), colour=colour, shape=shape, wraps=True)
    hundredths = (35, 60, 100)[SPEEDS.index(speed)]
    steps = stage.along(direction, np.arange(stage.num_frames) * stage.unit * hundredths // 100)
    for _ in range(32):
        start = stage.point(stage.rng.between(-6, 70), stage.rng.between(-6, 70)) - stage.point(0, 0)
        if stage.part_inside(start + steps) >= 0.5:  # more would let the first place tell the way
            break
    mover.centres += start + steps
    stage.note("glides", mover, 1, stage.num_frames)


def fly(stage: Stage) -> None:
    """A disc appears, crosses 24 units in 4, 6 or 10 frames, and is gone."""
    direction, colour, speed = (
        stage.label(name) for name in ("brief_direction", "brief_colour", "brief_speed")
    )
    stage.cast()
    frames = (10, 6, 4)[SPEEDS.index(speed)]
    start = stage.start(frames + 1)
    steps = stage.along(
        direction, np.clip(np.arange(stage.num_frames) - start, 0, frames) * 24 * stage.unit // frames
    )
    middle = stage.point(32 + stage.rng.between(-11, 11), 32 + stage.rng.between(-11, 11))
    disc = stage.add(middle, colour=colour, shape="disc", half_radius=11)
    disc.centres += steps - steps[-1] // 2
    disc.opacity[:start] = disc.opacity[start + frames + 1 :] = 0
    stage.note("flies", disc, start, start + frames + 1)


def nudge(stage: Stage) -> None:
    """One of four sprites darts out and back."""
    who, direction = stage.label("nudge_who"), stage.label("nudge_direction")
    _cast_with_red(stage)
    frames = stage.rng.pick((4, 6, 10))
    stage.nudge(stage.of_colour(who), direction, stage.start(frames), frames)


def order(stage: Stage) -> None:
    """Two of four sprites dart out and back, one in each half."""
    first = stage.label("first")
    second = stage.rng.pick([colour for colour in COLOURS if colour != first])
    _cast_with_red(stage)
    half = stage.num_frames // 2
    for colour, low, high in ((first, 3, half), (second, half, stage.num_frames - 3)):
        _dart(stage, partial(stage.of_colour, colour), low, high)


def count(stage: Stage) -> None:
    """One to four nudges, never two at once."""
    number = int(stage.label("count"))
    _cast_with_red(stage)
    slot = (stage.num_frames - 5) // 4
    for place in sorted(stage.rng.shuffled(range(4))[:number]):
        frames = stage.rng.pick([f for f in (4, 6, 10) if f <= slot - 1])
        start = stage.start(frames, 3 + place * slot, 3 + (place + 1) * slot)
        stage.nudge(stage.rng.pick(stage.sprites), stage.rng.pick(tuple(DIRECTIONS)), start, frames)


def bind(stage: Stage) -> None:
    """The red sprite and another dart out and back at once, in directions of their own."""
    direction = stage.label("binding")
    _cast_with_red(stage)
    frames = stage.rng.pick((4, 6, 10))
    start = stage.start(frames)
    other = stage.rng.pick([sprite for sprite in stage.sprites if sprite.colour != "red"])
    stage.nudge(stage.of_colour("red"), direction, start, frames)
    stage.nudge(other, stage.rng.pick([d for d in DIRECTIONS if d != direction]), start, frames)


def cross(stage: Stage) -> None:
    """Two sprites pass through one another in the middle of the clip."""
    front = stage.label("crossing")
    back = stage.rng.pick([colour for colour in COLOURS if colour != front])
    direction = stage.rng.pick(tuple(DIRECTIONS))
    place = stage.point(32 + stage.rng.between(-5, 5), 32 + stage.rng.between(-5, 5))
    frames, last = 40 * stage.num_frames // 64, stage.num_frames - 1
    t = np.clip(np.arange(stage.num_frames) - (last - frames) // 2, 0, frames)
    amounts = (2 * t - frames) * 20 * stage.unit // frames
    for colour, sign in ((back, -1), (front, 1)):
        sprite = stage.add(place, colour=colour)
        sprite.centres += stage.along(direction, sign * amounts)
        stage.note("glides", sprite, (last - frames) // 2 + 1, (last - frames) // 2 + frames + 1)


def orbit(stage: Stage) -> None:
    """A dot goes round a resting sprite, one and a half times."""
    sense = _OTHER_WAY[stage.label("orbit")]
    place = stage.point(32 + stage.rng.between(-8, 8), 32 + stage.rng.between(-8, 8))
    hub = stage.add(place)
    dot = stage.add(
        place,
        colour=stage.rng.pick([c for c in COLOURS if c != hub.colour]),
        shape="disc",
        texture="plain",
        half_radius=7,
    )
    angle = stage.rng.below(TURN) + sense * np.arange(stage.num_frames) * TURN * 3 // (2 * stage.num_frames)
    dot.centres += np.stack([cosine(angle), sine(angle)], axis=1) * 14 * stage.unit // SINE_ONE
    stage.note("orbits", dot, 1, stage.num_frames)


def growth(stage: Stage) -> None:
    """One of four sprites becomes larger by 70 %, or shrinks from that."""
    way, who = stage.label("growth"), stage.label("growth_who")
    stage.cast()
    frames = 24 * stage.num_frames // 64
    start = stage.start(frames)
    sprite = stage.of_colour(who)
    done = np.clip(np.arange(stage.num_frames) - start + 1, 0, frames)
    sprite.radii = (
        sprite.radii * (100 * frames + 70 * (done if way == "grows" else frames - done)) // (100 * frames)
    )
    stage.note(way, sprite, start, start + frames)


def appear(stage: Stage) -> None:
    """One of four sprites is there from some frame on, or until some frame."""
    way, who = stage.label("appear"), stage.label("appear_who")
    stage.cast()
    start = stage.rng.between(stage.num_frames // 4, 3 * stage.num_frames // 4)
    sprite = stage.of_colour(who)
    if way == "appears":
        sprite.opacity[:start] = 0
    else:
        sprite.opacity[start:] = 0
    stage.note(way, sprite, start, start + 1)


def drift(stage: Stage) -> None:
    """One of four sprites moves by 14 units in the whole clip."""
    direction = stage.label("drift_direction")
    sprite = stage.rng.pick(stage.cast())
    last = stage.num_frames - 1
    sprite.centres += stage.along(
        direction, (2 * np.arange(stage.num_frames) - last) * 7 * stage.unit // last
    )
    stage.note("glides", sprite, 1, stage.num_frames)


def text(stage: Stage) -> None:
    """A word appears over resting sprites and stays."""
    word = stage.label("word")
    stage.cast(stage.rng.between(1, 4))
    place = stage.point(32 + stage.rng.between(-8, 8), 32 + stage.rng.between(-20, 20))
    start = stage.rng.between(stage.num_frames // 4, 3 * stage.num_frames // 4)
    plate = stage.add(place, colour="white", shape="text", texture="plain", half_radius=8)
    plate.word = word
    plate.opacity[:start] = 0
    stage.note("appears", plate, start, start + 1)


def detail(stage: Stage) -> None:
    """A small mark fades in, too slowly for any one frame to show it, away from two nudges."""
    colour = stage.label("detail")
    places = stage.quarters()
    movers = [
        stage.add(place, colour=c)
        for place, c in zip(places[:3], stage.rng.shuffled(tuple(COLOURS)), strict=False)
    ]
    mark = stage.add(places[3], colour=colour, shape="disc", texture="plain", half_radius=6)
    last = stage.num_frames - 1
    mark.opacity = np.clip(np.arange(stage.num_frames) * 40 // (last - 6), 0, 40)
    stage.note("fades in", mark, 1, last - 6)
    for low, high in ((3, stage.num_frames // 2), (stage.num_frames // 2, stage.num_frames - 3)):
        _dart(stage, partial(stage.rng.pick, movers), low, high)


def fine(stage: Stage) -> None:
    """Fine lines under strong noise all over the ground (see `clips`), while a sprite darts about."""
    stage.label("fine")
    stage.cast(2)
    _dart(stage, partial(stage.rng.pick, stage.sprites))


def _dart(stage: Stage, choose: Callable[[], Sprite], low: int = 3, high: int | None = None) -> None:
    """A sprite darts out and back in a direction of chance; of chance are drawn, in this order, how long it
    takes, the sprite, where to and when."""
    frames, sprite = stage.rng.pick((4, 6, 10)), choose()
    direction = stage.rng.pick(tuple(DIRECTIONS))
    stage.nudge(sprite, direction, stage.start(frames, low, high), frames)


def _cast_with_red(stage: Stage) -> None:
    """Four sprites at rest, and the shape of the red one as a label."""
    shape = stage.label("shape")
    stage.cast()
    stage.of_colour("red").shape = shape


# Scene -> how often it is drawn when no family is named.
SCENES: dict[str, tuple[Callable[[Stage], None], int]] = {
    "glide": (glide, 20),
    "fly": (fly, 10),
    "nudge": (nudge, 10),
    "order": (order, 8),
    "count": (count, 8),
    "bind": (bind, 8),
    "cross": (cross, 5),
    "orbit": (orbit, 5),
    "growth": (growth, 5),
    "appear": (appear, 5),
    "drift": (drift, 5),
    "text": (text, 5),
    "detail": (detail, 3),
    "fine": (fine, 3),
}


def scene_of_chance(rng: StableRNG) -> str:
    ticket = rng.below(sum(weight for _, weight in SCENES.values()))
    for name, (_, weight) in SCENES.items():
        if ticket < weight:
            return name
        ticket -= weight
    raise AssertionError("the weights of the scenes do not add up")
