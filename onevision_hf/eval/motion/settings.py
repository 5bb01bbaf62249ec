"""What a run of the motion suite is made of: the clips, the inputs, the readers, the cells of a profile."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ...synthetic.families import CAMERA_MOTIONS, CLIP_FAMILIES

# The clips take turns through this list; each is drawn for the family named, and answers others too.
SCHEDULE = (
    "brief_direction", "nudge_direction", "binding", "direction", "count", "drift_direction",
    "brief_direction", "nudge_direction", "binding", "direction", "first", "detail",
    "brief_direction", "nudge_direction", "binding", "direction", "count", "drift_direction",
    "brief_direction", "nudge_direction", "binding", "direction", "first", "fine",
)  # fmt: skip
# Half of the clips have camera motion.
BACKGROUNDS = ("static", "pan", "static", "zoom", "static", "shake")
# Clips are counted all together, by a camera at rest or not, and by what it does.
STILL = "still"
VIEWS = ("all", STILL, "moving", *CAMERA_MOTIONS)
# What is asked, in the order of the tables.
FAMILIES = (
    "brief_direction", "brief_colour", "brief_speed", "nudge_direction", "nudge_who", "first",
    "count", "binding",
    "direction", "speed", "mover_colour", "drift_direction",
    "shape", "ground", "detail", "fine",
)  # fmt: skip
MOTION = tuple(name for name in FAMILIES if CLIP_FAMILIES[name].kind == "brief")
SUSTAINED = tuple(name for name in FAMILIES if CLIP_FAMILIES[name].kind == "sustained")
# Of the motion families, those whose answer is in the pixels: where something moved should not give it.
NEED_PIXELS = ("brief_colour", "nudge_who", "first", "binding")

INPUTS = {
    "codec": "codec patchification, preset `auto`",
    "codec_published": "codec patchification, preset `published`",
    "codec_bits": "codec patchification, preset `bits`",
    "uniform": "whole frames, evenly spread",
    "random": "the first frame, then patches of chance",
    "difference_few": "the first frame, then the largest differences among four times as many frames as "
    "`uniform` decodes",
    "difference_all": "the first frame, then the largest differences among all frames",
    "positions": "the positions of `codec`, every patch blank",
    "dense": "every pixel of every frame, in tubes of four frames",
}
# What a reader sees in turns before it is trained on one input alone. Whole frames by themselves teach it to
# find what moves so slowly that it would stay at chance, whatever they hold.
MIXTURE = ("codec", "uniform", "difference_all", "positions")
PRESETS = {"codec": "auto", "codec_published": "published", "codec_bits": "bits"}
# `difference_few` looks at every so manieth frame; energies are kept for all of these.
STEPS = (1, 2, 4, 8, 16)
DECODED_MORE = 4
# Numbers of whole frames for which a ceiling is worked out.
CEILING_FRAMES = (1, 2, 4, 8, 16)
TUBE = 4


@dataclass(frozen=True)
class ClipSettings:
    """How clips are drawn and read.

    Attributes:
        size: pixels a side. num_frames: of a clip. cell: pixels a side of the blocks that have an energy.
        sweeps: of a camera that pans or zooms, see `synthetic.ClipSettings`. With one, a pan moves by a
            quarter of a pixel a frame, which the difference of frames hardly sees: that is a camera at rest.
        seed: of the world of the train clips; that of the test clips is the next.
        schedule: the families that clips are drawn for, in turns.
    """

    size: int = 64
    num_frames: int = 64
    cell: int = 8
    sweeps: int = 4
    seed: int = 0
    schedule: tuple[str, ...] = SCHEDULE


@dataclass(frozen=True)
class ReaderSettings:
    """Sizes of the reader; `patch_size` in pixels, `expansion` of its MLPs."""

    patch_size: int = 16
    width: int = 128
    layers: int = 2
    heads: int = 2
    expansion: int = 3


@dataclass(frozen=True)
class TrainSettings:
    """`steps` updates of `batch` clips; the rates fall linearly to a tenth in the second half."""

    steps: int
    batch: int = 32
    muon_rate: float = 0.007
    adam_rate: float = 3e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class Cell:
    """One reader trained on one input.

    `reading` is `scratch`, a reader of its own, or `frozen`, a probe on the tokens of an encoder. `dense` has
    budget 1.
    """

    reading: str
    input: str
    budget: float
    seed: int

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise ValueError(f"no input is called {self.input!r}; choose one of {', '.join(INPUTS)}")


@dataclass(frozen=True)
class SuiteSettings:
    """A run of the suite: how many clips, which cells, how they are trained.

    Attributes:
        train, test: clips drawn (a folder brings its own).
        budgets: shares of all patches. inputs: names of `INPUTS`. Those named frozen_ are for reading a
            frozen encoder.
        mixing: of the reader of each budget and seed, on `MIXTURE`. training: of its copies, each on its
            input. probing: of the probes on a frozen encoder.
        seeds: of readers; the clips stay the same.
    """

    train: int = 4320
    test: int = 960
    budgets: tuple[float, ...] = (1 / 16, 1 / 8)
    seeds: tuple[int, ...] = (0,)
    inputs: tuple[str, ...] = tuple(name for name in INPUTS if name != "codec_bits")
    frozen_budgets: tuple[float, ...] = (1 / 16,)
    frozen_inputs: tuple[str, ...] = ("codec", "uniform", "positions")
    clips: ClipSettings = field(default_factory=ClipSettings)
    reader: ReaderSettings = field(default_factory=ReaderSettings)
    mixing: TrainSettings = field(default_factory=lambda: TrainSettings(steps=1600))
    training: TrainSettings = field(default_factory=lambda: TrainSettings(steps=600))
    probing: TrainSettings = field(default_factory=lambda: TrainSettings(steps=1000))

    def __post_init__(self) -> None:
        p, size = self.reader.patch_size, self.clips.size
        if size % p or p % self.clips.cell:
            raise ValueError(
                f"patches of {p} pixels must fill frames of {size} and be a multiple of the "
                f"{self.clips.cell} pixels for which energies are kept"
            )
        for budget in self.budgets:
            self.patches(budget)

    @property
    def side(self) -> int:
        """Patches a side of a frame."""
        return self.clips.size // self.reader.patch_size

    def patches(self, budget: float) -> int:
        """How many patches a budget is.

        Raises:
            ValueError: more than a clip has, or no whole number of frames.
        """
        count, per_frame = self.clips.num_frames, self.side**2
        if not 0 < budget <= 1:
            raise ValueError(
                f"a budget of {budget:g} would be {budget * count * per_frame:g} patches, and a clip of "
                f"{count} frames of {per_frame} has {count * per_frame}: choose one in (0, 1]"
            )
        frames = budget * count
        if frames != round(frames):
            raise ValueError(
                f"a budget of {budget:g} pays for {frames:g} of {count} frames: choose a multiple of "
                f"{1 / count:g}, so that it can be compared with whole frames"
            )
        return round(frames) * per_frame

    def frames(self, budget: float) -> int:
        """How many whole frames a budget pays for."""
        return self.patches(budget) // self.side**2

    def cells(self, with_model: bool) -> list[Cell]:
        """The cells in the order in which they are worked on: the smaller budget of the goals first, all its
        seeds, then what takes longest, then the others: a run that is stopped early has the most telling
        ones, and none waits long for its last."""
        found: list[Cell] = []
        order = sorted(self.budgets, key=lambda b: (b != 1 / 16, b != 1 / 8, b))
        for budget in order:
            for seed in self.seeds:
                found += [Cell("scratch", n, budget, seed) for n in self.inputs if n != "dense"]
            if with_model and budget in self.frozen_budgets:
                found += [Cell("frozen", n, budget, s) for s in self.seeds for n in self.frozen_inputs]
            if budget == order[0] and "dense" in self.inputs:
                found += [Cell("scratch", "dense", 1.0, seed) for seed in self.seeds]
        return found

    def key(self, cell: Cell, **more: Any) -> dict[str, Any]:
        """Everything that a cell's result depends on."""
        if cell.reading == "scratch":
            how = {"training": asdict(self.training), "mixture": self.mixture_key(cell.budget, cell.seed)}
        else:
            how = {"training": asdict(self.probing), **self._clips_key()}
        return {"cell": asdict(cell), "test": self.test, **how, **more}

    def mixture_key(self, budget: float, seed: int) -> dict[str, Any]:
        """Everything that the reader depends on with which cells of a budget and a seed begin; that of the
        smallest budget for `dense`."""
        return {
            "inputs": MIXTURE,
            "budget": min(self.budgets) if budget == 1 else budget,
            "seed": seed,
            "training": asdict(self.mixing),
            **self._clips_key(),
        }

    def _clips_key(self) -> dict[str, Any]:
        return {"train": self.train, "clips": asdict(self.clips), "reader": asdict(self.reader)}


PROFILES = {
    # In half an hour on two cores, with some minutes to spare.
    "small": SuiteSettings(mixing=TrainSettings(steps=1400), training=TrainSettings(steps=500)),
    "full": SuiteSettings(
        budgets=(1 / 32, 1 / 16, 1 / 8, 1 / 4),
        seeds=(0, 1, 2),
        inputs=tuple(INPUTS),
        frozen_inputs=("codec", "uniform", "random", "difference_all", "positions"),
    ),
}
