"""From pooled clips to what a reader is given: which patches an input keeps, then the patches themselves."""

import numpy as np
import torch
from torch import Tensor

from ...modeling.frame_geometry import FrameGeometry
from ...modeling.patch_selection import BudgetSettings, select, top_patches
from .clips import uniform_frames
from .pool import Pool
from .settings import DECODED_MORE, TUBE, Cell, SuiteSettings
from .training import InputData


def selected(pool: Pool, settings: SuiteSettings, cell: Cell, split: str) -> np.ndarray:
    """(n, K) int64: the patches that an input keeps of each clip, as t * gh * gw + h * gw + w.

    The first frame whole and the patches of the highest energy, as `select_patches` takes them; `uniform`
    has whole frames only.
    """
    k = settings.patches(cell.budget)
    count, per_frame = settings.clips.num_frames, settings.side**2
    clips = len(pool.read(split, "camera"))
    if cell.input == "uniform":
        frames = np.array(uniform_frames(count, k // per_frame))
        return np.tile((frames[:, None] * per_frame + np.arange(per_frame)).ravel(), (clips, 1))
    if cell.input == "random":
        # Another choice for every clip, the same in every run.
        kept = []
        for clip in range(clips):
            chance = np.random.default_rng([clip, split == "test"])
            rest = per_frame + chance.permutation((count - 1) * per_frame)[: k - per_frame]
            kept.append(np.sort(np.concatenate([np.arange(per_frame), rest])))
        return np.stack(kept)
    step, by_codec = 1, cell.input not in ("difference_all", "difference_few")
    if by_codec:
        energies = pool.energies(split, "codec" if cell.input == "positions" else cell.input)
    else:
        if cell.input == "difference_few":
            step = max(1, count * per_frame // (DECODED_MORE * k))
        energies = pool.read(split, f"difference-{step}")
    kept = []
    for energy in _coarser(energies, settings.reader.patch_size // settings.clips.cell):
        t, h, w = (_codec_positions(energy, k, settings) if by_codec else top_patches(energy, k)).T
        kept.append((t * step * settings.side + h) * settings.side + w)
    return np.stack(kept)


def _codec_positions(energy: np.ndarray, k: int, settings: SuiteSettings) -> np.ndarray:
    """(K, 3), by the very rules of codec patchification, whole frames where nothing moves among them."""
    size, count = settings.clips.size, len(energy)
    return select(
        energy,
        frame_ids=np.arange(count),
        timestamps=np.arange(count),
        picture_types=["?"] * count,
        signal="pooled",
        geometry=FrameGeometry.fit(size, size, size, settings.reader.patch_size),
        budget=BudgetSettings(num_patches=k),
    ).positions


def _coarser(energies: np.ndarray, side: int) -> np.ndarray:
    """Means over side x side cells: (n, T, gh, gw) -> (n, T, gh / side, gw / side)."""
    n, count, rows, columns = energies.shape
    return energies.reshape(n, count, rows // side, side, columns // side, side).mean((3, 5))


def build(pool: Pool, settings: SuiteSettings, cell: Cell, split: str) -> InputData:
    """The patches of one input of all clips of a split, with their positions and labels."""
    p, side = settings.reader.patch_size, settings.side
    labels, symmetric = torch.from_numpy(pool.read(split, "labels")), pool.source.symmetric
    if cell.input == "dense":
        return InputData(
            Tubes(pool.pixels(split), p),
            _tube_positions(settings, len(labels)),
            labels,
            side,
            p,
            TUBE,
            symmetric=symmetric,
        )
    kept = selected(pool, settings, cell, split)
    positions = np.stack(np.unravel_index(kept, (settings.clips.num_frames, side, side)), -1)
    patches = None
    if cell.input != "positions":
        patches = torch.from_numpy(cut(pool, split, positions, p))
    return InputData(
        patches, torch.from_numpy(positions.astype(np.int16)), labels, side, p, symmetric=symmetric
    )


def cut(pool: Pool, split: str, positions: np.ndarray, p: int) -> np.ndarray:
    """(n, K, C*p*p) uint8: patches at positions (n, K, 3)."""
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

    Cut when asked for: all clips at once are gigabytes.
    """

    def __init__(self, pixels: list[np.ndarray], p: int):
        self.pixels, self.p = pixels, p
        self.starts = np.cumsum([0, *(len(part) for part in pixels)])

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(self._clip(int(row))) for row in rows])

    def _clip(self, row: int) -> np.ndarray:
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        pixels = self.pixels[part][row - self.starts[part]]
        count, channels, height, width = pixels.shape
        p = self.p
        grid = pixels.reshape(count // TUBE, TUBE, channels, height // p, p, width // p, p)
        return grid.transpose(0, 3, 5, 2, 1, 4, 6).reshape(-1, channels * TUBE * p * p)


def _tube_positions(settings: SuiteSettings, clips: int) -> Tensor:
    count, side = settings.clips.num_frames // TUBE, settings.side
    t, h, w = np.unravel_index(np.arange(count * side**2), (count, side, side))
    positions = np.stack([t * TUBE + TUBE // 2, h, w], -1).astype(np.int16)
    return torch.from_numpy(positions).expand(clips, -1, -1)
