"""From pooled clips to what a classifier sees: which patches an input keeps, then the patches themselves."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ...modeling.patch_selection import Selection, select, top_patches
from ...modeling.patchify_config import PatchifyConfig
from ...modeling.shot_cuts import Shots
from .clips import uniform_frames
from .pool import Pool
from .settings import (
    CALIBRATED_ON,
    CODEC_INPUTS,
    DECODED_MORE,
    MOST_OF_ONE_CLIP,
    TUBE,
    SuiteSettings,
    Trial,
)
from .training import PADDED, InputData


def codec_config(settings: SuiteSettings, name: str) -> PatchifyConfig:
    """What chooses the patches of a codec input (`positions` are those of `codec`), but for the budget."""
    changes = CODEC_INPUTS["codec" if name == "positions" else name]
    return settings.clips.patchify(patch_size=settings.classifier.patch_size, **changes)


def selected(pool: Pool, settings: SuiteSettings, trial: Trial, split: str) -> np.ndarray:
    """(n, K) int64: the patches that an input keeps of each clip, as t * gh * gw + h * gw + w.

    The first frame whole and the patches of the highest energy, as the processor takes them; `uniform` has
    whole frames only. `codec_energy` keeps of each clip as many as have a share of its energy, on average as
    many as the others: clips with fewer are filled up with -1.

    Args:
        pool: the clips.
        settings: of the run.
        trial: whose input it is, and how many patches are kept.
        split: "train" or "test".
    """
    k = settings.patches(trial.budget)
    count, per_frame = settings.clips.num_frames, settings.side**2
    clips = len(pool.read(split, "camera"))
    if trial.input == "uniform":
        frames = np.array(uniform_frames(count, k // per_frame))
        return np.tile((frames[:, None] * per_frame + np.arange(per_frame)).ravel(), (clips, 1))
    if trial.input == "random":
        # Another choice for every clip, the same in every run.
        kept = []
        for clip in range(clips):
            chance = np.random.default_rng([clip, split == "test"])
            rest = per_frame + chance.permutation((count - 1) * per_frame)[: k - per_frame]
            kept.append(np.sort(np.concatenate([np.arange(per_frame), rest])))
        return np.stack(kept)
    if trial.input in ("difference_all", "difference_few"):
        few = trial.input == "difference_few"
        step = max(1, count * per_frame // (DECODED_MORE * k)) if few else 1
        energies = pool.read(split, f"difference-{step}")
        kept = []
        for energy in _coarser(energies, settings.classifier.patch_size // settings.clips.block):
            t, h, w = top_patches(energy, k).T
            kept.append((t * step * settings.side + h) * settings.side + w)
        return np.stack(kept)
    if trial.input == "codec_energy":
        config = by_energy(pool, settings, trial.budget)
    else:
        config = codec_config(settings, trial.input).replace(num_patches=k)
    kept = []
    for selection in _selections(pool, config, pool.energies(split, config)):
        t, h, w = selection.positions.T
        kept.append((t * settings.side + h) * settings.side + w)
    most = max(map(len, kept))
    return np.stack([np.pad(own, (0, most - len(own)), constant_values=-1) for own in kept])


def by_energy(pool: Pool, settings: SuiteSettings, budget: float) -> PatchifyConfig:
    """What chooses the patches of `codec_energy`: the `keep_energy` with which train clips have as many
    patches on average as the other inputs have of each clip."""
    k = settings.patches(budget)
    config = codec_config(settings, "codec_energy").replace(
        num_patches=min(MOST_OF_ONE_CLIP * k, settings.patches(1.0)), keep_energy=1.0
    )
    energies = [array[:CALIBRATED_ON] for array in pool.energies("train", config)]
    low, high = 0.0, 1.0
    for _ in range(10):
        share = (low + high) / 2
        config = config.replace(keep_energy=share)
        counts = [len(selection) for selection in _selections(pool, config, energies)]
        low, high = (share, high) if np.mean(counts) <= k else (low, share)
    return config


def _selections(pool: Pool, config: PatchifyConfig, energies: Sequence[np.ndarray]) -> Iterator[Selection]:
    """What a config selects of each clip, of whose energies there is what `Pool.energies` gives."""
    geometry = config.layout.geometry(pool.settings.size, pool.settings.size)
    for energy, absolute, types, *begins in zip(*energies, strict=True):
        frames = np.arange(len(energy))
        starts = np.flatnonzero(begins[0]) if begins else frames[:1]
        yield select(
            energy, frame_ids=frames, timestamps=frames, picture_types=types.tolist(), signal="pooled",
            geometry=geometry, budget=config.budget, absolute=absolute,
            shots=Shots(starts.astype(float), starts),
        )  # fmt: skip


def _coarser(energies: np.ndarray, side: int) -> np.ndarray:
    """Means over side x side blocks: (n, T, gh, gw) -> (n, T, gh / side, gw / side)."""
    n, count, rows, columns = energies.shape
    return energies.reshape(n, count, rows // side, side, columns // side, side).mean((3, 5))


def build(pool: Pool, settings: SuiteSettings, trial: Trial, split: str) -> InputData:
    """The patches of one input of all clips of a split, with their positions and labels.

    Args:
        pool: the clips.
        settings: of the run.
        trial: whose input it is, and how many patches are kept.
        split: "train" or "test".
    """
    p, side = settings.classifier.patch_size, settings.side
    labels, symmetric = torch.from_numpy(pool.read(split, "labels")), pool.source.symmetric
    if trial.input == "dense":
        return InputData(
            Tubes(pool.pixels(split), p),
            _tube_positions(settings, len(labels)),
            labels,
            side,
            p,
            TUBE,
            symmetric=symmetric,
        )
    kept = selected(pool, settings, trial, split)
    positions = np.stack(np.unravel_index(np.maximum(kept, 0), (settings.clips.num_frames, side, side)), -1)
    positions[kept < 0, 0] = PADDED
    patches = None
    if trial.input != "positions":
        patches = torch.from_numpy(cut(pool, split, positions, p))
    return InputData(
        patches, torch.from_numpy(positions.astype(np.int16)), labels, side, p, symmetric=symmetric
    )


def cut(pool: Pool, split: str, positions: np.ndarray, p: int) -> np.ndarray:
    """(n, K, C*p*p) uint8: patches at given places of all clips of a split.

    Args:
        pool: the clips.
        split: "train" or "test".
        positions: (n, K, 3) [t, h, w].
        p: pixels of a patch's side.
    """
    parts, start = [], 0
    for pixels in pool.pixels(split):
        n, count, channels, height, width = pixels.shape
        grid = np.asarray(pixels).reshape(n, count, channels, height // p, p, width // p, p)
        t, h, w = positions[start : start + n].transpose(2, 0, 1)
        parts.append(grid[np.arange(n)[:, None], t, :, h, :, w].reshape(n, t.shape[1], -1))
        start += n
    return np.concatenate(parts)


class Tubes:
    """Every pixel of clips, as (clips, T / 4 * gh * gw, C * 4 * p * p) uint8, a tube laid out (C, 4, p, p).

    Cut on demand: all clips at once are gigabytes.
    """

    def __init__(self, pixels: list[np.ndarray], p: int):
        self.pixels, self.p = pixels, p
        self.starts = np.cumsum([0, *(len(part) for part in pixels)])

    def __getitem__(self, numbers: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(self._clip(int(number))) for number in numbers])

    def _clip(self, number: int) -> np.ndarray:
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        pixels = self.pixels[part][number - self.starts[part]]
        count, channels, height, width = pixels.shape
        p = self.p
        grid = pixels.reshape(count // TUBE, TUBE, channels, height // p, p, width // p, p)
        return grid.transpose(0, 3, 5, 2, 1, 4, 6).reshape(-1, channels * TUBE * p * p)


def _tube_positions(settings: SuiteSettings, clips: int) -> Tensor:
    count, side = settings.clips.num_frames // TUBE, settings.side
    t, h, w = np.unravel_index(np.arange(count * side**2), (count, side, side))
    positions = np.stack([t * TUBE + TUBE // 2, h, w], -1).astype(np.int16)
    return torch.from_numpy(positions).expand(clips, -1, -1)
