"""Which clips a probe learns from and which it is tested on: `path,label` lists or folders of folders.

Everything that can be wrong with a list is found before a clip is decoded: labels out of range, a class
without a training clip, clips that are not there, clips in both lists.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...data.items import Source
from ...data.labelled import Example, FolderExamples
from ...data.sources import open_source
from ...jobs.run_folder import digest_of
from ...training.schema import ConfigError
from .config import ClipsConfig
from .splits import TEST_FOLD, fold_numbers

_SHOWN = 5  # of a list of mistakes


class Entry(NamedTuple):
    """One line: its key (the path as listed), the file, the label as written, and where that stands."""

    key: str
    path: str
    label: str
    place: str


class ClipDataset:
    """Labelled clips by number (see `data.labelled.Examples`).

    Args:
        keys: of the clips.
        paths: of their files.
        labels: (N,) numbers of the classes.
        classes: how many there are.
        kind: of the files: videos, or tokens of them.
    """

    def __init__(
        self, keys: list[str], paths: list[str], labels: np.ndarray, classes: int, kind: str = "video"
    ):
        self.keys, self._paths, self._kind = keys, paths, kind
        self.labels: np.ndarray = np.asarray(labels, np.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Example:
        return Example(self.keys[index], self._kind, self._paths[index], self.labels[index : index + 1])

    def stamp(self, index: int) -> list[Any]:
        """What tells that a clip is still the same: name, size in bytes, time of change."""
        found = os.stat(self._paths[index])
        return [self.keys[index], found.st_size, found.st_mtime_ns]

    def digest(self) -> str:
        return digest_of([*self.stamp(i), int(label)] for i, label in enumerate(self.labels))


@dataclass
class ProbeClips:
    """`names` of the classes; `missing`: a record of each listed clip that is not there."""

    train: ClipDataset
    test: ClipDataset
    names: list[str]
    missing: list[dict[str, str]]


def open_clips(config: ClipsConfig) -> ProbeClips:
    """Read and check both lists.

    Raises:
        FileNotFoundError: a list or folder is not there. ConfigError: what it says cannot be used.
    """
    train = read_entries(config.train, config.root)
    test = read_entries(config.test, config.root) if config.test else None
    names = _names(config, train)
    numbers = _numbers(train, names)
    parts: list[tuple[list[Entry], np.ndarray]]
    if test is None:
        kept = fold_numbers([entry.key for entry in train], numbers) == TEST_FOLD
        parts = [
            ([entry for entry, is_test in zip(train, kept, strict=True) if is_test is wanted],
             np.asarray(numbers)[kept == wanted])
            for wanted in (np.False_, np.True_)
        ]  # fmt: skip
    else:
        parts = [(train, np.asarray(numbers)), (test, np.asarray(_numbers(test, names)))]
        both = sorted({entry.path for entry in train} & {entry.path for entry in test})
        if both:
            raise ConfigError(
                f"{len(both)} clips are in {config.train} and in {config.test}: {_some(both)}; a clip that "
                "was trained on tests nothing"
            )
    rows, missing = [], []
    for part, (entries, labels) in zip(("train", "test"), parts, strict=True):
        there = [os.path.isfile(entry.path) for entry in entries]
        missing += [
            {"part": part, "key": entry.key, "path": entry.path, "reason": "no such file"}
            for entry, found in zip(entries, there, strict=True)
            if not found
        ]
        kept_entries = [entry for entry, found in zip(entries, there, strict=True) if found]
        keys, paths = [entry.key for entry in kept_entries], [entry.path for entry in kept_entries]
        rows.append(ClipDataset(keys, paths, labels[np.asarray(there, bool)], len(names)))
    return ProbeClips(rows[0], rows[1], names, missing)


def check_clips(clips: ProbeClips, config: ClipsConfig, where: Path) -> None:
    """Stop before anything is trained where too much is missing.

    Args:
        clips: of both lists.
        config: what may be missing.
        where: the file that lists all that is.
    """
    total = len(clips.train) + len(clips.test) + len(clips.missing)
    if len(clips.missing) > config.max_missing * total:
        raise ConfigError(
            f"{len(clips.missing)} of {total} clips are missing, more than data.max_missing = "
            f"{config.max_missing:g}: {_some([record['path'] for record in clips.missing])}; all are listed "
            f"in {where}"
        )
    counts = np.bincount(clips.train.labels, minlength=len(clips.names))
    absent = [f"{number} ({clips.names[number]})" for number in np.flatnonzero(counts == 0)]
    if len(absent) > config.absent:
        raise ConfigError(
            f"{len(absent)} of {len(clips.names)} classes have no training clip, at most {config.absent} may "
            f"(data.absent): {_some(absent)}"
        )
    if not len(clips.test):
        raise ConfigError(
            f"no clip to test on: {config.test or config.train} gives none (fewer than 4 a class?)"
        )


def labelled_folder(spec: str) -> tuple[Source, FolderExamples]:
    """The pictures and clips of a folder with a sub-folder for each class, and their labels.

    Raises ConfigError for a sub-folder without any, ValueError where there are no sub-folders.
    """
    source = open_source(f"folder:{spec}")
    rows = FolderExamples(source, spec)
    empty = sorted(
        entry.name
        for entry in os.scandir(spec)
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in rows.names
    )
    if empty:
        raise ConfigError(
            f"{spec}: no picture or video in {_some(empty)}: a class without a sample; fill or remove it"
        )
    return source, rows


def read_entries(spec: str, root: str = "") -> list[Entry]:
    """The lines of a CSV of `path,label` (a first line `path,label` is a header), or the clips of a folder
    with a sub-folder for each class."""
    path = Path(spec)
    if path.is_dir():
        rows = labelled_folder(spec)[1]
        found = [rows[i] for i in range(len(rows))]
        return [Entry(r.key, str(r.media), rows.names[int(r.labels[0])], r.key) for r in found]
    if not path.is_file():
        raise FileNotFoundError(f"{spec} does not exist: expected a CSV of path,label or a folder of folders")
    start = Path(root) if root else path.parent
    entries = []
    with open(path, encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.reader(file), 1):
            if not line or (number == 1 and [word.strip().lower() for word in line] == ["path", "label"]):
                continue
            if len(line) != 2:
                raise ConfigError(f"{spec}, line {number}: expected path,label, found {','.join(line)!r}")
            name, label = (word.strip() for word in line)
            entries.append(Entry(name, str(start / name), label, f"{spec}, line {number}"))
    if not entries:
        raise ConfigError(f"{spec} lists no clip")
    return entries


def _names(config: ClipsConfig, train: list[Entry]) -> list[str]:
    """The classes in the order of their numbers."""
    numbered = all(entry.label.lstrip("-").isdigit() for entry in train)
    if config.names:
        names = [line.strip() for line in Path(config.names).read_text(encoding="utf-8").splitlines()]
        names = [name for name in names if name]
    elif numbered:
        names = [str(i) for i in range(config.classes or max(int(entry.label) for entry in train) + 1)]
    else:
        names = sorted({entry.label for entry in train})
    if config.classes and len(names) != config.classes:
        raise ConfigError(
            f"{config.names or config.train} names {len(names)} classes, data.classes is {config.classes}"
        )
    if len(names) < 2:
        raise ConfigError(f"{config.train} has one class only ({_some(names)}): nothing to tell apart")
    return names


def _numbers(entries: list[Entry], names: list[str]) -> list[int]:
    """The class of each entry.

    Raises ConfigError for labels out of range or names that no class has, with the places of the first.
    """
    number_of = {name: number for number, name in enumerate(names)}
    numbers, wrong = [], []
    for entry in entries:
        if entry.label in number_of:
            numbers.append(number_of[entry.label])
        elif entry.label.isdigit() and int(entry.label) < len(names):
            numbers.append(int(entry.label))
        else:
            wrong.append(f"{entry.label!r} ({entry.place})")
    if wrong:
        raise ConfigError(
            f"{len(wrong)} labels are none of the {len(names)} classes 0..{len(names) - 1} or their names: "
            f"{_some(wrong)}"
        )
    return numbers


def _some(things: Sequence[str]) -> str:
    more = f" and {len(things) - _SHOWN} more" if len(things) > _SHOWN else ""
    return ", ".join(things[:_SHOWN]) + more
