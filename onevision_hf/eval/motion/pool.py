"""Every clip read once, into a folder that can be gone on with: its file, pixels, labels and energies.

train-clips-000300-000400.npz         files, labels, ceilings, camera, energies of differences, the rejected
train-pixels-000300-000400.npy        (clips, T, 3, size, size) uint8
train-9f2c81d0a7b3-000300-000400.npz  energy and absolute energy (clips, T, gh, gw) float32 and picture types
                                      (clips, T) under one `PatchifyConfig` but for its budget, when an input
                                      needs it; where anchors are those of shots also (clips, T) which
                                      frames are the first sampled ones of a shot

More clips of the same settings go on in the same folder.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...jobs.pool import in_order
from ...jobs.run_folder import atomic_files, digest_of, save_arrays
from ...modeling.codec_signals import DEAD_ZONE, absolute_difference
from ...modeling.frame_sampling import sample_frames
from ...modeling.patchify_config import PatchifyConfig
from ...modeling.shot_cuts import ShotSearch
from ...modeling.signal_energy import frame_energies
from ...modeling.video_reader import VideoReader, VideoReadError
from .clips import NO_LABEL, LabelledClip, Source
from .settings import STEPS, ClipSettings

CHUNK = 100
SPLITS = ("train", "test")
MAX_REJECTED = 0.1  # more unreadable clips than this fraction stop a run
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]

Report = Callable[[str], None]


class Pool:
    """The pooled clips.

    Args:
        folder: of the files.
        settings: how clips are drawn and cut.
        source: of the clips.
        counts: split -> clips.
    """

    def __init__(self, folder: Path, settings: ClipSettings, source: Source, counts: dict[str, int]):
        self.folder, self.settings, self.source, self.counts = folder, settings, source, counts

    def chunks(self, split: str) -> range:
        return range(-(-self.counts[split] // CHUNK))

    def fill(self, configs: Iterable[PatchifyConfig], workers: int, report: Report) -> None:
        """Pool what is missing: clips first, then the energies under each of `configs`.

        Args:
            configs: of the inputs that the codec chooses.
            workers: processes.
            report: called with a line of progress.

        Raises:
            ValueError: too many clips cannot be read.
        """
        stages: list[tuple[str, Callable[[tuple[str, int]], None]]] = [("clips", self.read_chunk)]
        stages += [(energy_name(config), partial(self.measure_chunk, config)) for config in configs]
        for stage, work in stages:
            missing = [
                (split, chunk)
                for split in reversed(SPLITS)
                for chunk in self.chunks(split)
                if not self.path(split, stage, chunk).exists()
            ]
            for number, _ in enumerate(in_order(work, missing, workers), 1):
                if number == len(missing) or number % 10 == 0:
                    report(f"{stage}: {number} of {len(missing)} chunks of {CHUNK} clips")
            if stage == "clips":
                self._check_rejected()

    def path(self, split: str, kind: str, chunk: int) -> Path:
        """The file of a chunk.

        Args:
            split: "train" or "test".
            kind: "clips", "pixels", or `energy_name` of a config.
            chunk: its number.
        """
        numbers = self.numbers(split, chunk)
        suffix = "npy" if kind == "pixels" else "npz"
        return self.folder / f"{split}-{kind}-{numbers.start:06d}-{numbers.stop:06d}.{suffix}"

    def numbers(self, split: str, chunk: int) -> range:
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.counts[split]))

    def read_chunk(self, place: tuple[str, int]) -> None:
        """Draw or open the clips of a chunk of a split, decode them, and write both its files."""
        split, chunk = place
        clips: list[tuple[LabelledClip, np.ndarray, np.ndarray]] = []
        rejected = []
        for number in self.numbers(split, chunk):
            item = self.source.item(split, number)
            try:
                clips.append((item, *read_pixels(item.file, self.settings)))
            except VideoReadError as error:
                rejected.append({"clip": str(item.file), "reason": str(error)})
        side, count = self.settings.size, self.settings.num_frames
        files = [np.frombuffer(_content(item.file), np.uint8) for item, _, _ in clips]
        families = len(self.source.families)
        arrays: dict[str, Any] = {
            "files": np.concatenate([np.empty(0, np.uint8), *files]),
            "sizes": np.array([len(file) for file in files], np.int64),
            "labels": np.array([item.labels for item, _, _ in clips], np.int16).reshape(-1, families),
            "ceilings": np.array([item.ceilings for item, _, _ in clips], np.float32),
            "camera": np.array([item.camera for item, _, _ in clips], str),
            "rejected": np.array(json.dumps(rejected)),
        }
        grid = side // self.settings.block
        for step in STEPS:
            energies = [difference_energy(luma[::step], self.settings.block) for _, _, luma in clips]
            arrays[f"difference-{step}"] = np.array(energies, np.float32).reshape(
                len(clips), -(-count // step), grid, grid
            )
        names = self.path(split, "pixels", chunk), self.path(split, "clips", chunk)
        with atomic_files(*names) as (pixels, rest):
            with open(pixels, "wb") as file:
                np.save(file, np.array([p for _, p, _ in clips], np.uint8).reshape(-1, count, 3, side, side))
            with open(rest, "wb") as file:
                np.savez(file, **arrays)

    def measure_chunk(self, config: PatchifyConfig, place: tuple[str, int]) -> None:
        """The energies of the clips of a chunk of a split under one config."""
        split, chunk = place
        with np.load(self.path(split, "clips", chunk)) as arrays:
            files = np.split(arrays["files"], np.cumsum(arrays["sizes"])[:-1])
        measured = [codec_energy(file.tobytes(), config) for file in files if len(file)]
        count, grid = self.settings.num_frames, self.settings.size // config.layout.patch_size
        energies, absolute = (
            np.array([found[place] for found in measured], np.float32).reshape(-1, count, grid, grid)
            for place in (0, 1)
        )
        types = np.array([found[2] for found in measured], "U1").reshape(-1, count)
        begins = np.array([found[3] for found in measured], bool).reshape(-1, count)
        arrays = {"energies": energies, "absolute": absolute, "types": types, "begins": begins}
        save_arrays(self.path(split, energy_name(config), chunk), **{n: arrays[n] for n in _held(config)})

    def read(self, split: str, name: str) -> np.ndarray:
        """An array of all clips of a split: `labels`, `ceilings`, `camera`, `difference-4`."""
        parts = []
        for chunk in self.chunks(split):
            with np.load(self.path(split, "clips", chunk)) as arrays:
                parts.append(arrays[name])
        return np.concatenate([part for part in parts if len(part)])

    def energies(self, split: str, config: PatchifyConfig) -> list[np.ndarray]:
        """Energies and absolute energies (n, T, gh, gw), picture types (n, T), and with anchors of shots
        whether a frame is the first of one (n, T), of all clips of a split under one config."""
        parts = [np.load(self.path(split, energy_name(config), chunk)) for chunk in self.chunks(split)]
        return [np.concatenate([part[name] for part in parts]) for name in _held(config)]

    def pixels(self, split: str) -> list[np.ndarray]:
        """A chunk after the other, mapped and not read."""
        return [np.load(self.path(split, "pixels", chunk), mmap_mode="r") for chunk in self.chunks(split)]

    def rejected(self) -> list[dict[str, str]]:
        found = []
        for split in SPLITS:
            for chunk in self.chunks(split):
                with np.load(self.path(split, "clips", chunk)) as arrays:
                    found += json.loads(str(arrays["rejected"]))
        return found

    def check_labels(self) -> None:
        """Raises ValueError where a label has no clip to train on or to test with, or is out of range."""
        for split in SPLITS:
            labels = self.read(split, "labels")
            for row, (family, answers) in enumerate(self.source.families.items()):
                given = labels[:, row][labels[:, row] != NO_LABEL]
                outside = given[(given < 0) | (given >= len(answers))]
                if len(outside):
                    raise ValueError(
                        f"{family}: label {outside[0]} is out of range, there are {len(answers)} labels"
                    )
                lacking = sorted(set(range(len(answers))) - set(given.tolist()))
                if lacking:
                    raise ValueError(
                        f"{family}: no {split} clip has the label {answers[lacking[0]]!r}: "
                        "more clips are needed"
                    )

    def _check_rejected(self) -> None:
        rejected, total = self.rejected(), sum(self.counts.values())
        if len(rejected) > MAX_REJECTED * total:
            raise ValueError(
                f"{len(rejected)} of {total} clips cannot be read (at most {MAX_REJECTED:.0%} may be), the "
                f"first is {rejected[0]['clip']}: {rejected[0]['reason']}"
            )


def energy_name(config: PatchifyConfig) -> str:
    """What the energies under a config are filed by; they do not depend on its budget."""
    budget = {entry.name for entry in fields(config.budget)}
    values = {name: value for name, value in config.recorded().items() if name not in budget}
    return digest_of(values | {"holds": _held(config)})[:12]


def _held(config: PatchifyConfig) -> list[str]:
    """The arrays that are kept of a clip under a config."""
    return ["energies", "absolute", "types", *(["begins"] if config.budget.anchors == "shots" else [])]


def read_pixels(file: bytes | Path, settings: ClipSettings) -> tuple[np.ndarray, np.ndarray]:
    """The sampled frames of a clip: (T, 3, size, size) RGB and (T, size, size) luma, uint8.

    Raises:
        VideoReadError: the file cannot be read or has too few frames.
    """
    count, size = settings.num_frames, settings.size
    with VideoReader(file) as reader:
        if len(reader) < count:
            raise VideoReadError(reader.name, f"it has {len(reader)} frames, the suite needs {count}")
        pixels = np.zeros((count, 3, size, size), np.uint8)
        luma = np.zeros((count, size, size), np.uint8)
        for t, frame in enumerate(reader.frames(sample_frames(reader, settings.patchify().sampling))):
            pixels[t] = frame.rgb_planes(size, size)
            is_whole = frame.luma.shape == luma.shape[1:]
            luma[t] = frame.luma if is_whole else (pixels[t] * _LUMA).sum(0).astype(np.uint8)
    return pixels, luma


def codec_energy(
    file: bytes, config: PatchifyConfig
) -> tuple[np.ndarray, np.ndarray, Sequence[str], np.ndarray]:
    """What the codec gives of a clip: energies and absolute energies (T, gh, gw) float32, the sampled frames'
    picture types, and which of them (T,) are the first of a shot, where anchors are those of shots."""
    with VideoReader(file) as reader:
        # Every input shows the same pixels: preset `published` does not pad them here.
        geometry = config.layout.geometry(reader.height, reader.width)
        frame_ids = sample_frames(reader, config.sampling)
        search = ShotSearch.over(reader, frame_ids) if config.budget.anchors == "shots" else None
        energy, types, _, absolute = frame_energies(reader, frame_ids, geometry, config.signals, search)
        begins = np.zeros(len(frame_ids) + 1, bool)
        begins[0 if search is None else search.shots(frame_ids).seen] = True
        return energy, absolute, types, begins[:-1]


def difference_energy(luma: np.ndarray, block: int) -> np.ndarray:
    """How much each block differs from the frame before, over the dead zone that the codec's residual has
    too: (T, H, W) uint8 -> (T, H / block, W / block) float32, zero in the first."""
    change = np.zeros(luma.shape, np.float32)
    change[1:] = np.maximum(absolute_difference(luma[1:], luma[:-1]), DEAD_ZONE) - DEAD_ZONE
    count, height, width = luma.shape
    return change.reshape(count, height // block, block, width // block, block).mean((2, 4))


def _content(file: bytes | Path) -> bytes:
    return file if isinstance(file, bytes) else file.read_bytes()
