"""What a run of the motion suite is made of: clips, inputs, classifiers, the trials of a profile."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...modeling.patchify_config import PatchifyConfig
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
OWN_CAMERA = "own"  # of footage that is a clip's ground
SUBSETS = ("all", STILL, "moving", *CAMERA_MOTIONS)
# The labels that are predicted, in the order of the tables.
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

# Name -> how reports call it; what each is stands in docs/motion-suite.md.
INPUTS = {
    "codec": "codec",
    "codec_energy": "codec, by energy",
    "codec_shots": "codec, by shots",
    "codec_published": "codec, published",
    "codec_bits": "codec, bits",
    "uniform": "uniform frames",
    "random": "random",
    "difference_few": "difference, few",
    "difference_all": "difference, all",
    "positions": "positions only",
    "dense": "dense",
}
# Of the others: `codec_shots` differs from `codec` where clips have cuts alone.
USUAL_INPUTS = tuple(name for name in INPUTS if name != "codec_shots")
# What a classifier sees in turns before it is trained on one input alone. Whole frames by themselves teach it
# to find what moves so slowly that it would stay at chance, whatever they hold.
MIXTURE = ("codec", "uniform", "difference_all", "positions")
# The inputs that the codec chooses: what each changes of the processor's settings.
CODEC_INPUTS: dict[str, dict[str, Any]] = {
    "codec": {},
    "codec_energy": {},
    "codec_shots": {"anchors": "shots"},
    "codec_published": {"preset": "published"},
    "codec_bits": {"preset": "bits"},
}
# Of `codec_energy`: no clip has more than so many times the patches that clips have on average, and the share
# of energy is found on so many train clips.
MOST_OF_ONE_CLIP = 2
CALIBRATED_ON = 256
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
        size: pixels a side.
        num_frames: of a clip.
        block: pixels a side of the blocks whose differences are kept.
        sweeps: of a camera that pans or zooms, see `synthetic.ClipSettings`. With one, a pan moves by a
            quarter of a pixel a frame, which the difference of frames hardly sees: that is a camera at rest.
        seed: of the world of the train clips; that of the test clips is the next.
        schedule: the families that clips are drawn for, in turns.
        processor: settings of `OneVisionVideoProcessor` that are other than its own, by name (camera, ...).
    """

    size: int = 64
    num_frames: int = 64
    block: int = 8
    sweeps: int = 4
    seed: int = 0
    schedule: tuple[str, ...] = SCHEDULE
    processor: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def patchify(self, **overrides: Any) -> PatchifyConfig:
        """How clips are cut: stretched to a square, pixels as they are, t as the sampled frame's number; one
        frame is kept whole where nothing else is said.

        Args:
            overrides: settings of the processor by name, on top of `processor`.
        """
        size = {"height": self.size, "width": self.size}
        own = {"size": size, "num_frames": self.num_frames, "anchors": "first"}
        return PatchifyConfig.from_dict(own, **{**self.processor, **overrides}).as_stored()


@dataclass(frozen=True)
class ClassifierSettings:
    """Sizes of the classifier; `patch_size` in pixels, `expansion` of its MLPs."""

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
class Trial:
    """One classifier trained on one input.

    `mode` is `scratch`, a classifier of patches, or `frozen`, a probe on the tokens of an encoder. `dense`
    has budget 1.
    """

    mode: str
    input: str
    budget: float
    seed: int

    def __post_init__(self) -> None:
        if self.input not in INPUTS:
            raise ValueError(f"no input is called {self.input!r}; choose one of {', '.join(INPUTS)}")


@dataclass(frozen=True)
class SuiteSettings:
    """A run of the suite: how many clips, which trials, how they are trained.

    Attributes:
        train, test: clips drawn (a folder brings its own).
        budgets: fractions of all patches.
        inputs: names of `INPUTS`. Those named frozen_ are for probes on a frozen encoder.
        mixing: of the classifier of each budget and seed, on `MIXTURE`.
        training: of its copies, each on its input.
        probing: of the probes on a frozen encoder.
        seeds: of classifiers; the clips stay the same.
    """

    train: int = 4320
    test: int = 960
    budgets: tuple[float, ...] = (1 / 16, 1 / 8)
    seeds: tuple[int, ...] = (0,)
    inputs: tuple[str, ...] = tuple(n for n in USUAL_INPUTS if n not in ("codec_bits", "codec_energy"))
    frozen_budgets: tuple[float, ...] = (1 / 16,)
    frozen_inputs: tuple[str, ...] = ("codec", "uniform", "positions")
    clips: ClipSettings = field(default_factory=ClipSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    mixing: TrainSettings = field(default_factory=lambda: TrainSettings(steps=1600))
    training: TrainSettings = field(default_factory=lambda: TrainSettings(steps=600))
    probing: TrainSettings = field(default_factory=lambda: TrainSettings(steps=1000))

    def __post_init__(self) -> None:
        p, size = self.classifier.patch_size, self.clips.size
        if size % p or p % self.clips.block:
            raise ValueError(
                f"patches of {p} pixels must fill frames of {size} and be a multiple of the "
                f"{self.clips.block} pixels for which energies are kept"
            )
        for budget in self.budgets:
            self.patches(budget)
        if "codec_energy" in self.frozen_inputs:
            raise ValueError("codec_energy is no input of frozen encoders here: its clips are padded")

    def changed(
        self,
        seeds: int | None = None,
        steps: tuple[int, int] | None = None,
        inputs: Sequence[str] | None = None,
        budgets: Sequence[float] | None = None,
    ) -> "SuiteSettings":
        """The same with what is given instead.

        Args:
            seeds: how many.
            steps: of the mixture and of one input.
            inputs: names of `INPUTS`.
            budgets: fractions of all patches.
        """
        mixing, training = steps or (self.mixing.steps, self.training.steps)
        return replace(
            self,
            seeds=tuple(range(seeds)) if seeds else self.seeds,
            mixing=replace(self.mixing, steps=mixing),
            training=replace(self.training, steps=training),
            inputs=tuple(inputs or self.inputs),
            budgets=tuple(budgets or self.budgets),
        )

    @property
    def side(self) -> int:
        """Patches a side of a frame."""
        return self.clips.size // self.classifier.patch_size

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

    def trials(self, with_model: bool) -> list[Trial]:
        """The trials in the order in which they are worked on: the smaller budget of the goals first, all its
        seeds, then what takes longest, then the others: a run that is stopped early has the most telling
        ones, and none waits long for its last."""
        found: list[Trial] = []
        order = sorted(self.budgets, key=lambda b: (b != 1 / 16, b != 1 / 8, b))
        for budget in order:
            for seed in self.seeds:
                found += [Trial("scratch", n, budget, seed) for n in self.inputs if n != "dense"]
            if with_model and budget in self.frozen_budgets:
                found += [Trial("frozen", n, budget, s) for s in self.seeds for n in self.frozen_inputs]
            if budget == order[0] and "dense" in self.inputs:
                found += [Trial("scratch", "dense", 1.0, seed) for seed in self.seeds]
        return found

    def key(self, trial: Trial, **more: Any) -> dict[str, Any]:
        """Everything that a trial's result depends on."""
        if trial.mode == "scratch":
            how = {"training": asdict(self.training), "mixture": self.mixture_key(trial.budget, trial.seed)}
        else:
            how = {"training": asdict(self.probing), **self._clips_key()}
        return {"trial": asdict(trial), "test": self.test, **how, **more}

    def mixture_key(self, budget: float, seed: int) -> dict[str, Any]:
        """Everything that the classifier depends on with which trials of a budget and a seed begin; that of
        the smallest budget for `dense`."""
        return {
            "inputs": MIXTURE,
            "budget": min(self.budgets) if budget == 1 else budget,
            "seed": seed,
            "training": asdict(self.mixing),
            **self._clips_key(),
        }

    def _clips_key(self) -> dict[str, Any]:
        return {"train": self.train, "clips": asdict(self.clips), "classifier": asdict(self.classifier)}


PROFILES = {
    # In half an hour on two cores, with some minutes to spare.
    "small": SuiteSettings(mixing=TrainSettings(steps=1400), training=TrainSettings(steps=500)),
    "full": SuiteSettings(
        budgets=(1 / 32, 1 / 16, 1 / 8, 1 / 4),
        seeds=(0, 1, 2),
        inputs=USUAL_INPUTS,
        frozen_inputs=("codec", "uniform", "random", "difference_all", "positions"),
    ),
}
