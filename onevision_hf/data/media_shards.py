"""Labelled media in shards, and `PackedShards`, which reads any row alone.

`tar_shards` says how a shard looks: here a row is `000000012.jpg` (the media, byte for byte),
`000000012.json` (everything below) and, for a video whose selection was cached,
`000000012.selection.safetensors`.

| column | type | |
|---|---|---|
| `key` | string | the item's name in the source |
| `head` | string | which of a training's heads the labels belong to |
| `kind`, `format` | string | `image` or `video`; the usual file extension |
| `labels` | list<int32> | nearest center first, or words of the vocabulary |
| `scores` | list<float32> | cosine to each; empty for words |
| `width`, `height` | int32 | pixels as displayed |
| `frames`, `duration` | int32, float64 | of a video (1 and 0.0 for a picture); seconds |

`summary.json` says how many rows each shard has, the head, and the number of classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .tar_shards import TarShards, TarShardWriter, columns_of, shard_names

STAGE = "pack"
PARTS = ("media", "selection")


@dataclass(frozen=True, eq=False)
class PackedExample:
    """One labelled picture or video; the columns are those of the module's table.

    `selection` holds the cached codec selection, or is None: `positions` (K, 3) int16 [t, h, w], `frame_ids`
    (T,) int64, `timestamps` (T,) float64 seconds, `scores` (K,) float32, `grid` (2,) int64 rows and columns
    of patches.
    """

    key: Annotated[str, pa.string()]
    head: Annotated[str, pa.string()]
    kind: Annotated[str, pa.string()]
    format: Annotated[str, pa.string()]
    media: bytes
    labels: Annotated[np.ndarray, pa.list_(pa.int32())]
    scores: Annotated[np.ndarray, pa.list_(pa.float32())]
    width: Annotated[int, pa.int32()]
    height: Annotated[int, pa.int32()]
    frames: Annotated[int, pa.int32()]
    duration: Annotated[float, pa.float64()]
    selection: dict[str, np.ndarray] | None = None


_COLUMNS = columns_of(PackedExample)


def write_shard(rows: Sequence[PackedExample], paths: Sequence[Path], first: int = 0) -> None:
    """Write one shard.

    Args:
        rows: of the shard.
        paths: of the tar and of the index, see `tar_shards.shard_names`.
        first: number of the first row over all shards.
    """
    writer = TarShardWriter(paths, _COLUMNS, PARTS, first)
    for row in rows:
        selection = save(row.selection) if row.selection is not None else None
        contents = {"media": (row.format, row.media), "selection": ("selection.safetensors", selection)}
        writer.add(row, contents)
    writer.close()


class PackedShards(TarShards):
    """The items of a finished pack, by number: `items[12]`, or `items[3, 5]` for shard 3, item 5.

    Any number of processes and workers may read, each any items; no file is kept open, so an object can be
    copied to other processes. Numbers below zero count from the end.

    Args:
        path: the folder that `onevision cluster pack` wrote.

    Attributes:
        head: name of the head that the labels are for.
        classes: labels are 0..classes-1.
        shard_rows: number of items of each shard.

    Raises:
        ValueError: the folder is not a finished pack, or lacks a shard.
        IndexError: there is no such item.
        OSError: a shard is damaged where an item is.
    """

    def __init__(self, path: str | Path):
        super().__init__(path, STAGE, None, PARTS)
        self.head: str = self.run.settings["head"]
        self.classes: int = self.run.summary["classes"]

    def __repr__(self) -> str:
        return f"PackedShards({str(self.path)!r}: {len(self)} rows of {self.head!r}, {self.classes} classes)"

    def __getitem__(self, index: int | tuple[int, int]) -> PackedExample:
        shard, row = index if isinstance(index, tuple) else self.place(index)
        if not (0 <= shard < len(self.shard_rows) and 0 <= row < self.shard_rows[shard]):
            raise IndexError(
                f"shard {shard}, row {row} in {self.path}, which has shards of {self.shard_rows} rows"
            )
        record, parts = self.read(shard, row)
        selection = parts["selection"]
        try:
            chosen = load(bytes(selection)) if selection is not None else None
        except SafetensorError as error:  # whose message names no file
            name = shard_names(self.head, shard)[0]
            raise OSError(f"{self.path / name} is damaged: {error}") from error
        record["labels"] = np.asarray(record["labels"], np.int32)
        record["scores"] = np.asarray(record["scores"], np.float32)
        return PackedExample(**record, media=bytes(parts["media"] or b""), selection=chosen)

    def table(self, shard: int) -> pa.Table:
        """Every column of a shard but the media and selections: labels and sizes without reading pictures."""
        return self.index(shard).select(list(_COLUMNS))

    def labels_by_key(self) -> Iterator[tuple[str, np.ndarray]]:
        """Key and labels (M,) int64 of every row, without reading media."""
        for shard in range(len(self.shard_rows)):
            table = self.table(shard)
            for key, labels in zip(table["key"].to_pylist(), table["labels"].to_pylist(), strict=True):
                yield key, np.asarray(labels, np.int64)
