"""Labelled media in shards: how they are laid out, how they are written, and `PackedShards`, which reads any
row alone.

Two layouts with the same rows. `tar` is webdataset's: `image-00000.tar` holds, for each row, `000000012.jpg`
(the media, byte for byte), `000000012.json` (everything below) and, for a video whose selection was cached,
`000000012.selection.safetensors`; `image-00000.index.parquet` beside it has the same columns plus the byte
offset and length of the media and of the selection, so a row is one seek and one read. `parquet` is one file,
`image-00000.parquet`, with the columns below plus `media` and `selection` as bytes, in row groups of
`GROUP_ROWS`.

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

import bisect
import functools
import io
import itertools
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..jobs.run_folder import FinishedRun

STAGE = "pack"
FORMATS = ("tar", "parquet")
# One row is read by reading its group: few rows a group keep that cheap, and the footer still small.
GROUP_ROWS = 8

_COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "head": pa.string(),
    "kind": pa.string(),
    "format": pa.string(),
    "labels": pa.list_(pa.int32()),
    "scores": pa.list_(pa.float32()),
    "width": pa.int32(),
    "height": pa.int32(),
    "frames": pa.int32(),
    "duration": pa.float64(),
}
_PLACES = ("media_offset", "media_length", "selection_offset", "selection_length")


@dataclass(frozen=True, eq=False)
class PackedRow:
    """One labelled picture or video; the columns are those of the module's table.

    `selection` holds the cached codec selection, or is None: `positions` (K, 3) int16 [t, h, w], `frame_ids`
    (T,) int64, `timestamps` (T,) float64 seconds, `scores` (K,) float32, `grid` (2,) int64 rows and columns
    of patches.
    """

    key: str
    head: str
    kind: str
    format: str
    media: bytes
    labels: np.ndarray
    scores: np.ndarray
    width: int
    height: int
    frames: int
    duration: float
    selection: dict[str, np.ndarray] | None = None


def shard_names(head: str, index: int, layout: str) -> tuple[str, ...]:
    """The files of one shard; the last one appears last."""
    if layout == "tar":
        return f"{head}-{index:05d}.tar", f"{head}-{index:05d}.index.parquet"
    return (f"{head}-{index:05d}.parquet",)


def write_shard(rows: Sequence[PackedRow], paths: Sequence[Path], layout: str, first: int = 0) -> None:
    """Write one shard to the files that `shard_names` lists; `first` numbers its first row over all
    shards."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for row in rows:
        for name, values in columns.items():
            value = getattr(row, name)
            values.append(value.tolist() if isinstance(value, np.ndarray) else value)
    selections = [save(row.selection) if row.selection is not None else None for row in rows]
    table = pa.table({name: pa.array(values, _COLUMNS[name]) for name, values in columns.items()})
    if layout == "parquet":
        table = table.append_column("media", pa.array([row.media for row in rows], pa.binary()))
        table = table.append_column("selection", pa.array(selections, pa.binary()))
        # Media are compressed already; statistics of bytes would copy them into the footer.
        pq.write_table(
            table,
            paths[0],
            row_group_size=GROUP_ROWS,
            compression="none",
            write_statistics=False,
            use_dictionary=False,
        )
        return
    places: dict[str, list[int]] = {name: [] for name in _PLACES}
    with tarfile.open(paths[0], "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (row, selection) in enumerate(zip(rows, selections, strict=True), first):
            record = {name: columns[name][number - first] for name in _COLUMNS}
            for part, content in (("media", row.media), ("selection", selection), ("json", _json(record))):
                if part != "json":
                    # Where this member's bytes will be: after its header of 512.
                    places[f"{part}_offset"].append(tar.offset + 512)
                    places[f"{part}_length"].append(len(content) if content is not None else -1)
                if content is not None:
                    extension = {"media": row.format, "selection": "selection.safetensors", "json": "json"}[
                        part
                    ]
                    member = tarfile.TarInfo(f"{number:09d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    for name, values in places.items():
        table = table.append_column(name, pa.array(values, pa.int64()))
    pq.write_table(table, paths[1])


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


class PackedShards:
    """The rows of a finished pack, by number: `rows[12]`, or `rows[3, 5]` for shard 3, row 5.

    Any number of processes and workers may read, each any rows; no file is kept open, so an object can be
    copied to other processes. Numbers below zero count from the end.

    Attributes: `head`, `classes` (labels are 0..classes-1), `layout`, `shard_rows` (rows of each shard).

    Raises:
        ValueError: the folder is not a finished pack, or lacks a shard. IndexError: there is no such row.
        OSError: a shard is damaged where a row is.
    """

    def __init__(self, path: str | Path):
        self.run = FinishedRun(path, STAGE)
        self.path = self.run.path
        self.head: str = self.run.settings["head"]
        self.layout: str = self.run.settings["layout"]
        self.classes: int = self.run.summary["classes"]
        self.shard_rows: list[int] = self.run.summary["rows"]
        self._starts = list(itertools.accumulate(self.shard_rows, initial=0))
        there = set(os.listdir(self.path))
        wanted = [
            name for i in range(len(self.shard_rows)) for name in shard_names(self.head, i, self.layout)
        ]
        if absent := [name for name in wanted if name not in there]:
            raise ValueError(
                f"{self.path} lacks {len(absent)} of {len(wanted)} files, {absent[0]} the first: copy "
                "what is missing, or pack again"
            )

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"PackedShards({str(self.path)!r}: {len(self)} rows of {self.head!r}, {self.classes} classes)"

    def place(self, number: int) -> tuple[int, int]:
        """(shard, row) of a row number."""
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)} in {self.path}")
        shard = bisect.bisect_right(self._starts, number) - 1
        return shard, number - self._starts[shard]

    def __getitem__(self, index: int | tuple[int, int]) -> PackedRow:
        shard, row = index if isinstance(index, tuple) else self.place(index)
        if not (0 <= shard < len(self.shard_rows) and 0 <= row < self.shard_rows[shard]):
            raise IndexError(
                f"shard {shard}, row {row} in {self.path}, which has shards of {self.shard_rows} rows"
            )
        try:
            record, media, selection = self._read(shard, row)
            chosen = load(selection) if selection is not None else None
        except (pa.ArrowInvalid, SafetensorError) as error:  # whose messages name no file
            name = shard_names(self.head, shard, self.layout)[-1]
            raise OSError(f"{self.path / name} is damaged: {error}") from error
        record["labels"] = np.asarray(record["labels"], np.int32)
        record["scores"] = np.asarray(record["scores"], np.float32)
        return PackedRow(**record, media=media, selection=chosen)

    def _read(self, shard: int, row: int) -> tuple[dict[str, Any], bytes, bytes | None]:
        """The columns of a row, its media, and its selection as bytes."""
        names = shard_names(self.head, shard, self.layout)
        if self.layout == "parquet":
            file = open_parquet(self.path / names[0], os.getpid())
            record = file.read_row_group(row // GROUP_ROWS).slice(row % GROUP_ROWS, 1).to_pylist()[0]
            return record, record.pop("media"), record.pop("selection")
        record = read_index(self.path / names[1]).slice(row, 1).to_pylist()[0]
        places = [record.pop(name) for name in _PLACES]
        with open(self.path / names[0], "rb") as tar:
            media = read_part(tar, *places[:2])
            return record, media, read_part(tar, *places[2:]) if places[3] >= 0 else None

    def table(self, shard: int) -> pa.Table:
        """Every column of a shard but the media and selections: labels and sizes without reading pictures."""
        names = shard_names(self.head, shard, self.layout)
        if self.layout == "parquet":
            return pq.read_table(self.path / names[0], columns=list(_COLUMNS))
        return read_index(self.path / names[1]).select(list(_COLUMNS))


def read_part(file: io.BufferedReader, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`. Raises OSError when the file ends early."""
    file.seek(offset)
    content = file.read(length)
    if len(content) != length:
        raise OSError(f"{file.name} ends early: {len(content)} of {length} bytes at {offset}")
    return content


@functools.lru_cache(maxsize=64)
def read_index(path: Path) -> pa.Table:
    """The table beside a tar; the last ones that were read are kept."""
    return pq.read_table(path)


@functools.lru_cache(maxsize=16)
def open_parquet(path: Path, process: int) -> pq.ParquetFile:
    """A footer costs a row's time to read; `process` keeps a forked worker from sharing its parent's file."""
    return pq.ParquetFile(path)
