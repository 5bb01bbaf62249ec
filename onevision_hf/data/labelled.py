"""Where labelled rows come from: anything whose rows can be read in any order, and streams, which cannot.

| `source` | labels |
|---|---|
| folder of `onevision cluster pack` | the packed ones |
| folder of `onevision patches` | the ones of the corpus; nothing is decoded |
| folder of pictures or videos | the sub-folder's place in alphabetical order |
| `hf:FOLDER` (`save_to_disk`), `hf:NAME:SPLIT`, `hf:NAME:CONFIG:SPLIT` | column `labels` (lists), `label` or
`cls`, or `labels` in a webdataset's json; NAME is of the Hub, or a folder of parquet or tar files |
| `stream:NAME:SPLIT`, `stream:NAME:CONFIG:SPLIT` | the same; no random access, so no exact resume |
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ..jobs.run_folder import PLAN
from .media_shards import PackedShards
from .patch_shards import STAGE as PATCHES
from .patch_shards import PatchShards
from .sources import MediaError, Source, kind_of_extension, open_dataset, open_source, undecoded

RowT = TypeVar("RowT", covariant=True)


@dataclass(frozen=True)
class Example:
    """A labelled picture or video. `width`, `height`, `frames` are 0 where nobody has looked yet."""

    key: str
    kind: str
    media: Any  # path, bytes, PIL image, or decoded frames (T, H, W, 3)
    labels: np.ndarray  # (M,) integers, nearest first; may be empty
    width: int = 0
    height: int = 0
    frames: int = 0
    selection: dict[str, np.ndarray] | None = None  # as `PackedExample.selection`


class Examples(Protocol[RowT]):
    """`classes` (None if unknown) and rows by number. A row that cannot be read raises a named error."""

    @property
    def classes(self) -> int | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> RowT: ...


def open_examples(spec: str) -> Examples:
    """Open a source with random access.

    Raises:
        FileNotFoundError: nothing is there. ValueError: what is there cannot be trained from.
    """
    if not spec:
        raise FileNotFoundError("no source is named")
    if spec.startswith("hf:"):
        return ArrowExamples(open_dataset(spec[3:]))
    path = Path(spec.removeprefix("folder:"))
    if not path.exists():
        raise FileNotFoundError(f"{spec} does not exist")
    # A folder that `onevision synth` drew has a plan too, and a manifest: it is a folder of media.
    if (path / PLAN).exists() and not (path / "manifest.parquet").exists():
        if json.loads((path / PLAN).read_text()).get("stage") == PATCHES:
            return PatchShards(path)
        return PackedShards(path)
    return FolderExamples(open_source(f"folder:{path}"), spec)


class FolderExamples:
    """A folder with a sub-folder for each class."""

    def __init__(self, source: Source, spec: str):
        self._items = source.items  # without the source itself, which workers could not be given
        folders = [item.key.rpartition("/")[0].partition("/")[0] for item in source.items]
        if "" in folders:
            stray = source.items[folders.index("")].key
            raise ValueError(
                f"{spec}: {stray} lies in no sub-folder, so it has no label; label a folder without classes "
                "with `onevision cluster run`"
            )
        self.names = sorted(set(folders))
        number = {name: index for index, name in enumerate(self.names)}
        self._labels = [number[folder] for folder in folders]
        self.classes: int | None = len(self.names)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        item = self._items[index]
        return Example(item.key, item.kind, item.path, np.array([self._labels[index]]))


class ArrowExamples:
    """A `datasets.Dataset` with one column of images or videos."""

    def __init__(self, dataset: Any):
        self._dataset, self._columns = _undecoded(dataset)
        feature = dataset.features[self._columns.label]
        self.classes: int | None = getattr(feature, "num_classes", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        return as_example(self._dataset[int(index)], self._columns, f"{index:07d}")


class StreamedExamples:
    """A Hub dataset that is only streamed: shuffled in a buffer, and after a resume from another place."""

    def __init__(self, spec: str, seed: int, rank: int, size: int, buffer: int = 1000):
        from datasets.distributed import split_dataset_by_node

        dataset, self._columns = _undecoded(open_dataset(spec, streaming=True))
        self._dataset = split_dataset_by_node(dataset.shuffle(seed=seed, buffer_size=buffer), rank, size)

    def __iter__(self) -> Iterator[tuple[str, Callable[[], Example]]]:
        """Keys and what reads their rows, without an end, epoch after epoch."""
        epoch = 0
        while True:
            self._dataset.set_epoch(epoch)
            number = -1
            for number, record in enumerate(self._dataset):
                key = f"{epoch}/{number:07d}"
                # Read by the caller: what raises in here would end the iteration.
                yield key, partial(as_example, record, self._columns, key)
            if number < 0:
                raise ValueError("the stream has no rows for this process: use fewer processes and workers")
            epoch += 1


@dataclass(frozen=True)
class Columns:
    """Where a dataset's rows have what: `label` is a column, or `json.labels`, a field of a tar's .json."""

    media: str
    kind: str
    label: str


def _undecoded(dataset: Any) -> tuple[Any, Columns]:
    """The columns that a training reads, with the media as bytes or a path."""
    import datasets

    features = dataset.features or {}
    media = [name for name, f in features.items() if isinstance(f, datasets.Image | datasets.Video)]
    inside = features.get("json")
    names = [*features, *(f"json.{name}" for name in inside or ())]
    label = next((n for n in ("labels", "label", "json.labels", "json.label", "cls") if n in names), None)
    if len(media) != 1 or label is None:
        raise ValueError(
            "a dataset to train from has one column of images or videos, and labels in a column `labels`, "
            f"`label` or `cls` or in a webdataset's json; this one has {names}"
        )
    dataset = dataset.select_columns([media[0], label.partition(".")[0]])
    kind = "video" if isinstance(features[media[0]], datasets.Video) else "image"
    return undecoded(dataset, media), Columns(media[0], kind, label)


def as_example(record: Mapping[str, Any], columns: Columns, key: str) -> Example:
    """A record of a table as a labelled medium.

    Args:
        record: column -> value.
        columns: where medium and labels are.
        key: the name that it gets.

    Raises:
        MediaError: the record holds no bytes and no path.
    """
    content = record[columns.media] or {}
    media = content.get("bytes") or content.get("path")
    if media is None:
        raise MediaError("the row holds no bytes and no path")
    name = content.get("path") or ""
    column, _, inside = columns.label.partition(".")
    found = record[column][inside] if inside else record[column]
    labels = np.atleast_1d(np.asarray([] if found is None else found, np.int64))
    return Example(key, kind_of_extension(name) or columns.kind, media, labels)
