"""A folder of labelled clips, DIR/<label>/<clip>, as a source for the suite; without ceilings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data.items import VIDEO_EXTENSIONS
from ...jobs.run_folder import digest_of
from .clips import LabelledClip
from .settings import CEILING_FRAMES

SUFFIXES = tuple(f".{extension}" for extension in VIDEO_EXTENSIONS)
FAMILY = "label"
TEST_EVERY = 5  # each fifth clip of a label is a test clip


@dataclass(frozen=True)
class Labelled:
    """The clips under `folder`: a sub-folder a label; of each label every fifth clip is kept for the test."""

    folder: Path
    labels: tuple[str, ...]
    clips: dict[str, tuple[tuple[Path, int], ...]]

    symmetric = False  # a label may well mean left

    @classmethod
    def open(cls, folder: Path) -> "Labelled":
        """Raises ValueError: no folder, fewer than two labels, or a label without clips for both splits."""
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is no folder: --clips takes a folder with a sub-folder for each label"
            )
        kinds = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(kinds) < 2:
            raise ValueError(f"{folder} has {len(kinds)} sub-folders: a label each is expected, two or more")
        clips: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
        for number, kind in enumerate(kinds):
            files = sorted(path for path in kind.iterdir() if path.suffix.lower() in SUFFIXES)
            if len(files) < 2:
                raise ValueError(
                    f"the label {kind.name!r} has {len(files)} clips ({', '.join(SUFFIXES)}): two or more "
                    "are needed, to train on and to test with"
                )
            for place, path in enumerate(files):
                clips["test" if place % TEST_EVERY == 0 else "train"].append((path, number))
        return cls(
            folder, tuple(k.name for k in kinds), {split: tuple(some) for split, some in clips.items()}
        )

    @property
    def families(self) -> dict[str, tuple[str, ...]]:
        return {FAMILY: self.labels}

    @property
    def counts(self) -> dict[str, int]:
        return {split: len(some) for split, some in self.clips.items()}

    @property
    def identity(self) -> dict:
        files = [
            [str(path.relative_to(self.folder)), path.stat().st_size]
            for some in self.clips.values()
            for path, _ in some
        ]
        return {"folder": digest_of({"files": files})}

    def item(self, split: str, number: int) -> LabelledClip:
        path, label = self.clips[split][number]
        return LabelledClip(path, [label], np.full((1, len(CEILING_FRAMES)), np.nan, np.float32), "")
