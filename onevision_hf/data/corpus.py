"""The clips of a corpus in the order of their keys, with labels where there are some.

| SRC | labels |
|---|---|
| a folder of `onevision cluster pack` | the packed ones |
| a folder with a sub-folder for each class | the sub-folder's place in alphabetical order |
| any other source of `onevision cluster` (folder, parquet, webdataset, hf:...) | none |
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..jobs.run_folder import PLAN
from .items import Item, Source
from .media_shards import STAGE as PACK
from .media_shards import PackedShards
from .sources import open_reader, open_source

ITEMS = "items.parquet"
_SCHEMA = pa.schema(
    [
        *(("key", pa.string()), ("kind", pa.string())),
        ("path", pa.binary()),  # a file system's bytes, which may be no text
        *((name, pa.int64()) for name in ("size", "mtime_ns", "place", "length")),
        ("labels", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """Items, the labels of each, the number of classes (None: no labels), and how an item is read."""

    source: Source
    labels: list[list[int]]
    classes: int | None

    @property
    def reader(self) -> dict[str, Any]:
        return dict(self.source.reader or {})


def open_corpus(spec: str, media_column: str | None = None) -> Corpus:
    """List the videos of `spec`.

    Raises:
        ValueError: there are none, or the folder of a stage is no finished pack.
    """
    path = Path(spec)
    labels: dict[str, list[int]] = {}
    classes: int | None = None
    if (path / PLAN).exists():
        packed = PackedShards(path)
        items: list[Item] = []
        for shard in range(len(packed.shard_rows)):
            columns = packed.table(shard).select(["key", "kind", "labels"]).to_pydict()
            for key, kind, found in zip(*columns.values(), strict=True):
                items.append(Item(key, kind, "", -1, -1, len(items)))
                labels[key] = found
        reader = {"scheme": PACK, "path": str(path.resolve())}
        source = Source(items, _PackedMedia(packed), identity=[PACK, packed.run.digest], reader=reader)
        classes = packed.classes
    else:
        source = open_source(spec, media_column=media_column)
    videos = [item for item in source.items if item.kind == "video"]
    if not videos:
        raise ValueError(f"{spec} holds {len(source.items)} pictures and no video")
    folders = sorted({_folder(item) for item in videos})
    if source.reader == {"scheme": "folder"} and "" not in folders:
        number = {name: index for index, name in enumerate(folders)}
        labels = {item.key: [number[_folder(item)]] for item in videos}
        classes = len(folders)
    source.items = videos
    return Corpus(source, [labels.get(item.key, []) for item in videos], classes)


def _folder(item: Item) -> str:
    return item.key.rpartition("/")[0].partition("/")[0]


class _PackedMedia:
    """Reads the media of a pack by row number."""

    def __init__(self, packed: PackedShards):
        self._packed = packed

    def __call__(self, item: Item) -> bytes:
        return self._packed[item.place].media


def corpus_reader(reader: Mapping[str, Any]) -> Callable[[Item], str | bytes]:
    """What reads items in another process."""
    if reader["scheme"] == PACK:
        return _PackedMedia(PackedShards(reader["path"]))
    return open_reader(reader)


def write_items(corpus: Corpus, path: Path, shard_items: int) -> None:
    """The listing, a row group a shard.

    Args:
        corpus: what to list.
        path: of the parquet file.
        shard_items: items of a shard, which is a row group.
    """
    listed = list(zip(corpus.source.items, corpus.labels, strict=True))
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for first in range(0, len(listed), shard_items):
            rows = []
            for item, labels in listed[first : first + shard_items]:
                row = {name: getattr(item, name) for name in _SCHEMA.names if name != "labels"}
                # Whole: workers may stand in another folder.
                whole = os.fsencode(os.path.abspath(item.path)) if item.path else b""
                rows.append(row | {"path": whole, "labels": labels})
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA), row_group_size=shard_items)


def read_items(path: Path, shard: int) -> list[tuple[Item, list[int]]]:
    """The items of one shard, with their labels."""
    rows = pq.ParquetFile(path).read_row_group(shard).to_pylist()
    found = []
    for row in rows:
        labels = row.pop("labels")
        row["path"] = os.fsdecode(row["path"])
        found.append((Item(**row), labels))
    return found
