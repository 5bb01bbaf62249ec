"""What a picture shows, as plain arrays, and the panels that are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .painting import colour_map


@dataclass(frozen=True)
class Packets:
    """The whole stream, a packet a frame in display order.

    timestamps: (N,) seconds. sizes: (N,) bytes. picture_types: N of "I", "P", "B", "?".
    frame_ids: (T,) which of them were sampled.
    """

    timestamps: np.ndarray
    sizes: np.ndarray
    picture_types: Sequence[str]
    frame_ids: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(self.timestamps), len(self.sizes), len(self.picture_types)}
        if len(lengths) > 1:
            raise ValueError(
                f"{len(self.timestamps)} timestamps, {len(self.sizes)} sizes and {len(self.picture_types)} "
                "picture types do not fit: one of each for every packet is needed"
            )


@dataclass(frozen=True)
class ClipView:
    """What is drawn. T sampled frames on a grid of gh x gw patches, of which K are kept.

    Args:
        frames: (T, H, W, 3) uint8 RGB, resized onto the grid: H and W are multiples of gh and gw.
        energy: (T, gh, gw), at least 0: how much happens in each patch.
        positions: (K, 3) integers [t, h, w], all different: the patches that are kept.
        timestamps: (T,) seconds.
        picture_types: T names such as "I", "P", "B"; empty where the clip has none (decoded frames).
        title: what stands over the picture, usually the name of the file.
        subtitle: one or two smaller lines.
        figures: (label, value) pairs for the header, in order.
        signals: by name (T, gh, gw), at least 0, or in words why the clip does not give it.
        weights: of the signals that the energy is added up from, by name.
        packets: the stream that the frames were sampled of.

    Raises:
        ValueError: if the arrays do not fit one another.
    """

    frames: np.ndarray
    energy: np.ndarray
    positions: np.ndarray
    timestamps: np.ndarray
    picture_types: Sequence[str] = ()
    title: str = ""
    subtitle: str = ""
    figures: Sequence[tuple[str, str]] = ()
    signals: Mapping[str, np.ndarray | str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    packets: Packets | None = None

    def __post_init__(self) -> None:
        (t, gh, gw), (frames, height, width) = self.energy.shape, self.frames.shape[:3]
        if frames != t or height % gh or width % gw or len(self.timestamps) != t:
            raise ValueError(
                f"frames {self.frames.shape}, energy {self.energy.shape}, {len(self.timestamps)} timestamps"
                " do not fit: as many frames as maps and timestamps, and whole patches, are needed"
            )
        if len(self.picture_types) not in (0, t):
            raise ValueError(f"{len(self.picture_types)} picture types were given for {t} frames")
        for name, values in self.signals.items():
            if not isinstance(values, str) and values.shape != self.energy.shape:
                raise ValueError(f"{name} {values.shape} does not fit the energy {self.energy.shape}")
        if self.packets is not None and len(self.packets.frame_ids) != t:
            raise ValueError(
                f"{len(self.packets.frame_ids)} frames of the stream were sampled, {t} are drawn"
            )
        inside = (self.positions >= 0) & (self.positions < self.energy.shape)
        if not inside.all():
            outside = self.positions[~inside.all(axis=1)][0].tolist()
            raise ValueError(f"position {outside} lies outside the grid of {t} x {gh} x {gw} patches")

    @cached_property
    def kept(self) -> np.ndarray:
        """(T, gh, gw) bool: which patches are kept."""
        kept = np.zeros(self.energy.shape, dtype=bool)
        kept[tuple(self.positions.T)] = True
        return kept

    @cached_property
    def seen(self) -> np.ndarray:
        """The frames that uniform sampling takes whole for no more patches; at least one."""
        per_frame = self.energy[0].size
        whole = max(1, min(len(self.frames), len(self.positions) // per_frame))
        return np.floor(np.linspace(0, len(self.frames) - 1, whole)).astype(int)

    @cached_property
    def given(self) -> dict[str, np.ndarray]:
        """The signals that the clip gives, those that make the energy first."""
        maps = {name: values for name, values in self.signals.items() if not isinstance(values, str)}
        return dict(sorted(maps.items(), key=lambda item: item[0] not in self.weights))

    @cached_property
    def missing(self) -> dict[str, str]:
        """Why the clip does not give the others."""
        return {name: values for name, values in self.signals.items() if isinstance(values, str)}

    @cached_property
    def _ceilings(self) -> dict[str, float]:
        """What is drawn in the brightest colour: the 99th percentile over the clip."""
        maps = {"energy": self.energy, **self.given}
        return {name: float(np.percentile(values, 99)) or 1.0 for name, values in maps.items()}

    def heat(self, t: int, name: str = "energy") -> np.ndarray:
        """The energy of frame `t`, or one of its signals, in colours, (H, W, 3) uint8."""
        values = self.energy if name == "energy" else self.given[name]
        return self._enlarge(colour_map(values[t] / self._ceilings[name]))

    def dimmed(self, t: int) -> np.ndarray:
        """Frame `t` with the patches that are not kept darkened, (H, W, 3) uint8."""
        frame = self.frames[t].astype(np.float32)
        dark = frame.mean(axis=-1, keepdims=True) * 0.24 + 10
        return np.where(self._enlarge(self.kept[t])[..., None], frame, dark).astype(np.uint8)

    def caption(self, t: int) -> str:
        """Time and picture type of frame `t`."""
        kind = f"  {self.picture_types[t]}" if self.picture_types else ""
        return f"{self.timestamps[t]:.2f} s{kind}"

    def _enlarge(self, grid: np.ndarray) -> np.ndarray:
        height, width = self.frames.shape[1] // grid.shape[0], self.frames.shape[2] // grid.shape[1]
        return grid.repeat(height, axis=0).repeat(width, axis=1)
