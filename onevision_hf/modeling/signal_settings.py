"""What counts as energy: a preset, or signals of one's own."""

from dataclasses import dataclass

from .camera_motion import CAMERA_MODELS

PRESETS = ("auto", "published", "bits")
SIGNALS = (
    *("vectors", "residual", "compensated", "difference", "bits"),
    *("painted_vectors", "painted_residual"),
)
NORMALIZE = ("frame", "clip")
# Of what `auto` selects, in plans and caches. 2: HEVC, VP8, VP9, AV1 and MPEG-4 with B pictures have vectors
# and residual by painted references; before, HEVC had a residual, MPEG-4 some of its vectors, the others a
# difference. 3: in those, cells without a known velocity count by their residual; VP9 and AV1 are read
# without their loop filters.
SIGNALS_VERSION = 3
# The same of `bits`. 2: coefficients on the border of two levels may be rounded to the other.
BITS_VERSION = 2


@dataclass(frozen=True)
class SignalSettings:
    """How energy is made of signals. With `signals` None the preset chooses.

    Attributes:
        preset: "auto", "published" or "bits", see `signal_energy`.
        signals: some of `SIGNALS` instead.
        weights: a number for each of them.
        normalize: divide each signal by its 95th percentile in the picture ("frame": every picture has its
            say) or over the clip ("clip": pictures in which more happens get more).
        camera: the camera model that is removed from the vectors, one of `CAMERA_MODELS`; by default a
            similarity, and for `published` the median.
        passes: how often a stream is decoded over painted references: once, or twice for less noise; by
            default twice where it pays (VP8, realtime VP9) or vectors need it (VVC).

    Raises:
        ValueError: one is out of range.
    """

    preset: str = "auto"
    signals: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    normalize: str | None = None
    camera: str | None = None
    passes: int | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("preset", self.preset, PRESETS),
            ("normalize", self.normalize, (None, *NORMALIZE)),
            ("camera", self.camera, (None, *CAMERA_MODELS)),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, choices))}")
        if self.passes not in (None, 1, 2):
            raise ValueError(f"passes must be 1 or 2, not {self.passes!r}")
        if self.signals is None:
            if self.weights is not None:
                raise ValueError("weights go with signals: name the signals too")
            return
        if isinstance(self.signals, str) or not self.signals or set(self.signals) - set(SIGNALS):
            raise ValueError(f"signals must be some of {', '.join(SIGNALS)}, not {self.signals!r}")
        if self.weights is not None and (
            len(self.weights) != len(self.signals) or any(not weight >= 0 for weight in self.weights)
        ):
            raise ValueError(f"weights must be {len(self.signals)} numbers >= 0, not {self.weights!r}")

    @property
    def version(self) -> int:
        """Changes with what the same settings select: 1 where that has not changed."""
        if "bits" in (self.signals or (self.preset,)):
            return BITS_VERSION
        return SIGNALS_VERSION if self.preset == "auto" and self.signals is None else 1

    @property
    def camera_model(self) -> str:
        return self.camera or ("median" if self.preset == "published" else "similarity")

    @property
    def pairs(self) -> list[tuple[str, float]]:
        names = self.signals or ()
        return list(zip(names, self.weights or (1.0,) * len(names), strict=True))
