"""What the page knows of a clip: read once for a choice of frames and signals, cut to any budget at once."""

import time
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.patch_selection import BudgetSettings, Selection, reselect
from ..modeling.patchify_config import select_patches
from ..modeling.signal_settings import SignalSettings
from ..modeling.video_reader import VideoReader
from ..view import ClipView, Packets, describe_clip, read_packets, read_signals, view_clip

SIDE = 448  # pixels of the longer side of a frame on the page, about
REMEMBERED = 6  # clips, some 40 MB each


@dataclass(frozen=True)
class Choices:
    """What has to be read anew when it changes; arguments of `select_patches`."""

    num_frames: int = 64
    preset: str = "auto"
    signals: tuple[str, ...] | None = None
    sampling: str = "uniform"


@dataclass(frozen=True, eq=False)
class OpenedClip:
    """A clip at its sampled frames.

    whole: the selection of all patches. frames: (T, H, W, 3) uint8 as they are shown. seconds: what it took
    to read the signals, and to decode the frames. measured: what `seconds_for` found.
    """

    path: str
    report: dict[str, Any]
    whole: Selection
    frames: np.ndarray
    choices: Choices
    packets: Packets
    seconds: dict[str, float]
    measured: dict[tuple[int, ...], float] = field(default_factory=dict)

    def cut(self, keep_ratio: float, anchors: str | int, keep_energy: float | None = None) -> "Kept":
        """Spend a budget.

        Args:
            keep_ratio: share of the patches.
            anchors: frames kept whole.
            keep_energy: share of the energy at which fewer patches are enough.

        Raises:
            ValueError: as `select` does.
        """
        budget = BudgetSettings(keep_ratio=keep_ratio, anchors=anchors, keep_energy=keep_energy)
        return Kept(self, reselect(self.whole, budget))

    @cached_property
    def signals(self) -> tuple[dict[str, np.ndarray | str], dict[str, float]]:
        """Every signal of the clip, or why there is none, and the weights of those that were chosen."""
        with VideoReader(self.path, allow_urls=False) as reader:
            return read_signals(reader, self.whole, SignalSettings(self.choices.preset, self.choices.signals))

    def seconds_for(self, seen: tuple[int, ...]) -> float:
        """What it takes to decode these of the sampled frames and nothing else, as uniform sampling would."""
        if seen not in self.measured:
            start = time.perf_counter()
            geometry = self.whole.geometry
            with VideoReader(self.path, allow_urls=False) as reader:
                for frame in reader.frames(self.whole.frame_ids[list(seen)]):
                    frame.rgb(geometry.resized_width, geometry.resized_height)
            self.measured[seen] = time.perf_counter() - start
        return self.measured[seen]


@dataclass(frozen=True)
class Kept:
    """A clip and the patches of it that a budget buys."""

    clip: OpenedClip
    selection: Selection

    @cached_property
    def view(self) -> ClipView:
        """For the pictures of `onevision_hf.view`, with figures in the header."""
        clip = self.clip
        return view_clip(clip.report, self.selection, clip.frames, clip.packets)

    @cached_property
    def sheet_view(self) -> ClipView:
        """The same with every signal, for the sheet of `onevision view`; they take as long again to read."""
        signals, weights = self.clip.signals
        return replace(self.view, signals=signals, weights=weights)

    @property
    def energy_kept(self) -> float:
        """The share of the clip's energy that lies in the kept patches."""
        return self._share(self.view.kept)

    @property
    def energy_seen(self) -> float:
        """The share that lies in the whole frames which the same budget buys."""
        seen = np.zeros(self.view.kept.shape, bool)
        seen[self.view.seen] = True
        return self._share(seen)

    def _share(self, mask: np.ndarray) -> float:
        energy = self.selection.energy
        total = float(energy.sum())
        return float(energy[mask].sum()) / total if total else 1.0


def open_clip(path: str, choices: Choices = Choices()) -> OpenedClip:
    """Read the clip at `path`; what was read last is remembered.

    Raises:
        VideoReadError: the file cannot be read as a video, or is a URL: the page fetches nothing for others.
            ValueError: signals that do not go together.
    """
    return _read(path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0, choices)


@lru_cache(maxsize=REMEMBERED)
def _read(path: str, changed: int, choices: Choices) -> OpenedClip:
    start = time.perf_counter()
    with VideoReader(path, allow_urls=False) as reader:
        # All patches are kept, and no budget counts yet; the shots are known for one that asks.
        whole = select_patches(
            reader,
            num_frames=choices.num_frames,
            preset=choices.preset,
            signals=choices.signals,
            sampling=choices.sampling,
            keep_ratio=1.0,
            anchors="shots",
        )
        seconds = {"signals": time.perf_counter() - start}
        report = describe_clip(Path(path).name, Path(path), reader)
        geometry = whole.geometry
        side = max(geometry.canvas_height, geometry.canvas_width) // geometry.patch_size
        shown = _scaled(geometry, max(4, 2 * round(SIDE / side / 2)))
        start = time.perf_counter()
        size = (shown.resized_width, shown.resized_height)
        frames = np.stack([shown.place(frame.rgb(*size)) for frame in reader.frames(whole.frame_ids)])
        seconds["frames"] = time.perf_counter() - start
        packets = read_packets(reader, whole)
    return OpenedClip(path, report, whole, frames, choices, packets, seconds)


def _scaled(geometry: Any, patch_size: int) -> Any:
    """The same layout with patches of another size, for frames that are looked at rather than encoded."""
    scale = patch_size / geometry.patch_size
    sizes = {name: getattr(geometry, name) for name in ("resized_height", "resized_width", "top", "left")}
    return replace(geometry, patch_size=patch_size, **{name: round(scale * v) for name, v in sizes.items()})


def spread(seconds: np.ndarray) -> float:
    """The longest time between moments in a row."""
    return float(np.max(np.diff(seconds))) if len(seconds) > 1 else 0.0
