"""Patch shards: how they are laid out, how they are written, and `PatchShards`, which reads any row alone.

Two layouts with the same rows. `tar` is webdataset's: `patches-00000.tar` holds, for each clip,
`000000012.patches.npy` (K, 3, p, p) uint8, `000000012.positions.npy` (K, 3) int16 [t, h, w],
`000000012.times.npy` (T,) float64 seconds of the sampled frames, and `000000012.json` (the columns below);
`patches-00000.index.parquet` beside it has the same columns plus the byte offset and length of the three
arrays, so a row is one seek and one read. `parquet` is one file, `patches-00000.parquet`, with the columns
below plus the three arrays as bytes, in row groups of `GROUP_ROWS`.

| column | type | |
|---|---|---|
| `key` | string | the clip's name in the source |
| `source_sha256` | string | of the encoded clip, so that shards can be traced and joined |
| `labels` | list<int32> | as in the source; may be empty |
| `signal` | string | what the selection was made of |
| `width`, `height`, `frames`, `duration` | int32, float64 | of the clip, as displayed; seconds |
| `num_frames`, `num_patches` | int32 | T sampled frames, K kept patches |
| `grid_height`, `grid_width` | int32 | of a frame, in patches |
"""

import bisect
import io
import itertools
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..jobs.run_folder import FinishedRun
from ..modeling.patchify_config import SETTINGS, PatchifyConfig
from .media_shards import FORMATS, GROUP_ROWS, open_parquet, read_index, read_part

__all__ = ["FORMATS", "STAGE", "PatchRow", "PatchShards", "ShardWriter", "shard_names"]

STAGE = "patches"
ARRAYS = ("patches", "positions", "times")
_COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "source_sha256": pa.string(),
    "labels": pa.list_(pa.int32()),
    "signal": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "frames": pa.int32(),
    "duration": pa.float64(),
    "num_frames": pa.int32(),
    "num_patches": pa.int32(),
    "grid_height": pa.int32(),
    "grid_width": pa.int32(),
}


@dataclass(frozen=True, eq=False)
class PatchRow:
    """One clip; the columns and arrays are those of the module's table."""

    key: str
    source_sha256: str
    labels: np.ndarray
    signal: str
    width: int
    height: int
    frames: int
    duration: float
    num_frames: int
    num_patches: int
    grid_height: int
    grid_width: int
    patches: np.ndarray
    positions: np.ndarray
    times: np.ndarray


def shard_names(index: int, layout: str) -> tuple[str, ...]:
    """The files of one shard; the last one appears last."""
    if layout == "tar":
        return f"patches-{index:05d}.tar", f"patches-{index:05d}.index.parquet"
    return (f"patches-{index:05d}.parquet",)


class ShardWriter:
    """Writes the rows of one shard, one after the other, to the files that `shard_names` lists."""

    def __init__(self, paths: Sequence[Path], layout: str, first: int):
        self.paths, self.layout, self._number = list(paths), layout, first
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._places: dict[str, list[int]] = {f"{n}_{p}": [] for n in ARRAYS for p in ("offset", "length")}
        self._tar: Any = None
        self._parquet: Any = None
        self._group: dict[str, list[Any]] = {}
        if layout == "tar":
            self._tar = tarfile.open(paths[0], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        else:
            fields = [*_COLUMNS.items(), *((name, pa.binary()) for name in ARRAYS)]
            # Pixels hardly shrink, and statistics of them would be copied into the footer.
            self._parquet = pq.ParquetWriter(
                paths[0], pa.schema(fields), compression="none", write_statistics=False, use_dictionary=False
            )
            self._group = {name: [] for name, _ in fields}

    def add(self, row: PatchRow) -> None:
        record = {name: getattr(row, name) for name in _COLUMNS}
        record["labels"] = np.asarray(row.labels).tolist()
        contents = {name: _npy(getattr(row, name)) for name in ARRAYS}
        if self.layout == "tar":
            for name, content in contents.items():
                # Where this member's bytes will be: after its header of 512.
                self._places[f"{name}_offset"].append(self._tar.offset + 512)
                self._places[f"{name}_length"].append(len(content))
                self._member(f"{name}.npy", content)
            self._member("json", json.dumps(record, ensure_ascii=False).encode())
            for name, value in record.items():
                self._columns[name].append(value)
        else:
            for name, value in (record | contents).items():
                self._group[name].append(value)
            if len(self._group["key"]) == GROUP_ROWS:
                self._flush()
        self._number += 1

    def _member(self, extension: str, content: bytes) -> None:
        member = tarfile.TarInfo(f"{self._number:09d}.{extension}")
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def _flush(self) -> None:
        if self._group["key"]:
            schema = self._parquet.schema
            table = pa.table({f.name: pa.array(self._group[f.name], f.type) for f in schema}, schema=schema)
            self._parquet.write_table(table)
            self._group = {name: [] for name in self._group}

    def close(self) -> None:
        if self.layout == "parquet":
            self._flush()
            self._parquet.close()
            return
        self._tar.close()
        table = pa.table({name: pa.array(self._columns[name], kind) for name, kind in _COLUMNS.items()})
        for name, values in self._places.items():
            table = table.append_column(name, pa.array(values, pa.int64()))
        pq.write_table(table, self.paths[1])


def config_of(plan: Mapping[str, Any]) -> PatchifyConfig:
    """The settings in a folder's plan, which holds more than these.

    Raises:
        KeyError: one is not there.
    """
    return PatchifyConfig.from_dict({name: plan[name] for name in SETTINGS})


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def _array(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


class PatchShards:
    """The rows of a finished folder, by number. Nothing is decoded.

    Any number of processes and workers may read; no file is kept open, so an object can be copied to other
    processes. Numbers below zero count from the end.

    Attributes: `config` (what was kept of a clip), `classes` (labels are 0..classes-1; None: no labels),
    `layout`, `shard_rows` (rows of each shard).

    Raises:
        ValueError: the folder is of another stage, or not finished. IndexError: there is no such row.
    """

    def __init__(self, path: str | Path):
        self.run = FinishedRun(path, STAGE)
        self.path = self.run.path
        try:
            self.config = config_of(self.run.settings)
        except KeyError as error:
            raise ValueError(
                f"{self.path} was cut by an older version, its plan lacks {error}: cut it again with "
                f"`onevision patches SRC {self.path} --redo`"
            ) from None
        self.layout: str = self.run.settings["layout"]
        self.classes: int | None = self.run.settings["classes"]
        self.shard_rows: list[int] = self.run.summary["rows"]
        self._starts = list(itertools.accumulate(self.shard_rows, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"PatchShards({str(self.path)!r}: {len(self)} clips, {self.config})"

    def __getitem__(self, number: int) -> PatchRow:
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)} in {self.path}")
        shard = bisect.bisect_right(self._starts, number) - 1
        row = number - self._starts[shard]
        names = shard_names(shard, self.layout)
        if self.layout == "parquet":
            file = open_parquet(self.path / names[0], os.getpid())
            record = file.read_row_group(row // GROUP_ROWS).slice(row % GROUP_ROWS, 1).to_pylist()[0]
            contents = {name: record.pop(name) for name in ARRAYS}
        else:
            record = read_index(self.path / names[1]).slice(row, 1).to_pylist()[0]
            places = {name: (record.pop(f"{name}_offset"), record.pop(f"{name}_length")) for name in ARRAYS}
            with open(self.path / names[0], "rb") as tar:
                contents = {name: read_part(tar, *place) for name, place in places.items()}
        record["labels"] = np.asarray(record["labels"], np.int32)
        arrays: dict[str, Any] = {name: _array(content) for name, content in contents.items()}
        return PatchRow(**record, **arrays)
