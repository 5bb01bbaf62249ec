"""Shards that are webdatasets with an index: any row is one seek and one read.

`image-00000.tar` holds for each row a member a part (`000000012.jpg`, say) and its columns
(`000000012.json`); `image-00000.index.parquet` has the same columns, and the byte offset, length and XXH3 of
each part.
"""

import bisect
import io
import itertools
import json
import os
import tarfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..jobs.digests import PIECE, block_digest, damaged, file_now, is_seen, remembered, see
from ..jobs.run_folder import FinishedRun

LAYOUT = "tar"  # in the plans of runs, since some were made when there was another


def shard_names(prefix: str, index: int) -> tuple[str, str]:
    """The tar and the index of one shard; the index appears last."""
    return f"{prefix}-{index:05d}.tar", f"{prefix}-{index:05d}.index.parquet"


def columns_of(row: type) -> dict[str, pa.DataType]:
    """The columns of the index by name: the fields of a row's dataclass that are `Annotated` with a type."""
    hints = get_type_hints(row, include_extras=True)
    return {name: kind.__metadata__[0] for name, kind in hints.items() if get_origin(kind) is Annotated}


class TarShardWriter:
    """Writes the rows of one shard, one after the other.

    Args:
        paths: of the tar and of the index.
        columns: of a row, by name.
        parts: names of the contents of a row.
        first: number of the shard's first row over all shards, which names its members.
    """

    def __init__(
        self, paths: Sequence[Path], columns: Mapping[str, pa.DataType], parts: Sequence[str], first: int
    ):
        self.columns, self._index_path, self._number = columns, paths[1], first
        places = [f"{part}_{place}" for part in parts for place in ("offset", "length", "xxh3")]
        self._values: dict[str, list[Any]] = {name: [] for name in (*columns, *places)}
        self._tar = tarfile.open(paths[0], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, row: object, contents: Mapping[str, tuple[str, bytes | None]]) -> None:
        """Write a row.

        Args:
            row: whose attributes are the columns.
            contents: extension and bytes of each part; None: the row has no such part.
        """
        found = {name: getattr(row, name) for name in self.columns}
        record = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in found.items()}
        for part, (extension, content) in contents.items():
            # Where this member's bytes will be: after its header of 512.
            self._values[f"{part}_offset"].append(self._tar.offset + 512)
            self._values[f"{part}_length"].append(len(content) if content is not None else -1)
            self._values[f"{part}_xxh3"].append(block_digest(content or b""))
            if content is not None:
                self._member(extension, content)
        self._member("json", json.dumps(record, ensure_ascii=False).encode())
        for name in self.columns:
            self._values[name].append(record[name])
        self._number += 1

    def _member(self, extension: str, content: bytes) -> None:
        member = tarfile.TarInfo(f"{self._number:09d}.{extension}")
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        """End the tar and write the index."""
        self._tar.close()
        own = {name: pa.uint64() if name.endswith("_xxh3") else pa.int64() for name in self._values}
        kinds = own | dict(self.columns)
        table = pa.table({name: pa.array(self._values[name], kind) for name, kind in kinds.items()})
        pq.write_table(table, self._index_path)


class ShardedExamples:
    """Numbers of rows that lie in shards one after the other; `shard_rows` says how many each has."""

    def __init__(self, path: Path, shard_rows: Sequence[int]):
        self.path, self.shard_rows = path, list(shard_rows)
        self._starts = list(itertools.accumulate(shard_rows, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, number: int) -> tuple[int, int]:
        """(shard, row) of a row number; numbers below zero count from the end. Raises IndexError."""
        number = number + len(self) if number < 0 else number
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)} in {self.path}")
        shard = bisect.bisect_right(self._starts, number) - 1
        return shard, number - self._starts[shard]


class TarShards(ShardedExamples):
    """The rows of a finished run that wrote tars, by number.

    Any number of processes and workers may read, each any rows; no file is kept open, so an object can be
    copied to other processes.

    Args:
        path: the run's folder.
        stage: the stage that made it.
        prefix: of the shards' names; None is the run's head.
        parts: names of the contents of a row.

    Raises:
        ValueError: the folder is of another stage, not finished, of another layout, or lacks a file.
    """

    def __init__(self, path: str | Path, stage: str, prefix: str | None, parts: Sequence[str]):
        self.run = FinishedRun(path, stage)
        super().__init__(self.run.path, self.run.summary["rows"])
        if (layout := self.run.settings["layout"]) != LAYOUT:
            raise ValueError(
                f"{path} holds shards of the layout {layout!r}, which is no longer read: make them again"
            )
        self._prefix, self._parts = prefix or self.run.settings["head"], parts
        there = set(os.listdir(self.path))
        wanted = [name for shard in range(len(self.shard_rows)) for name in shard_names(self._prefix, shard)]
        if absent := [name for name in wanted if name not in there]:
            raise ValueError(
                f"{self.path} lacks {len(absent)} of {len(wanted)} files, {absent[0]} the first: copy "
                "what is missing, or make the shards again"
            )

    def index(self, shard: int) -> pa.Table:
        """The columns of a shard, and where its parts lie. Raises OSError when the file is damaged."""
        path = self.run.file(shard_names(self._prefix, shard)[1])
        try:
            return _read_index(path, (self.run.digest, self.run.digests.made))
        except pa.ArrowInvalid as error:  # whose message names no file
            raise OSError(f"{path} is damaged: {error}") from error

    def read(self, shard: int, row: int) -> tuple[dict[str, Any], dict[str, bytearray | None]]:
        """The columns of a row, and its parts. Raises OSError when a file is damaged."""
        record = self.index(shard).slice(row, 1).to_pylist()[0]
        places = {
            part: [record.pop(f"{part}_{place}", None) for place in ("offset", "length", "xxh3")]
            for part in self._parts
        }
        name = shard_names(self._prefix, shard)[0]
        with open(self.run.unchanged() / name, "rb", buffering=0) as tar:
            own = file_now(tar.name, os.fstat(tar.fileno()))
            is_new = not is_seen(own, row)
            contents = {
                part: _read_part(tar, offset, length, xxh3 if is_new else None)
                for part, (offset, length, xxh3) in places.items()
            }
        if is_new:
            see(own, row)
        return record, contents


@remembered
def _read_index(path: Path, made: Hashable) -> pa.Table:
    """`made`, the digests of the run, tells what was there before the folder was made again."""
    return pq.read_table(path)


def _read_part(file: io.FileIO, offset: int, length: int, xxh3: int | None) -> bytearray | None:
    """A part of a row; None for a length below zero.

    Args:
        file: the tar.
        offset: its first byte.
        length: bytes.
        xxh3: of them; None where it was compared, or not written yet when the shard was.

    Raises:
        OSError: the file ends early, or the bytes are not those that were written.
    """
    if length < 0:
        return None
    file.seek(offset)
    size = os.fstat(file.fileno()).st_size - offset  # a damaged index may claim any length
    content, whole, there = bytearray(max(0, min(size, length))), xxhash.xxh3_64(), 0
    with memoryview(content) as memory:
        while there < len(content) and (count := file.readinto(memory[there : there + PIECE])):
            if xxh3 is not None:
                whole.update(memory[there : there + count])
            there += count
    if there < length:
        raise damaged(Path(file.name), f"it ends early, {there} of {length} bytes at {offset}")
    if xxh3 is not None and whole.intdigest() != xxh3:
        what = f"bytes {offset:,} to {offset + length - 1:,} are not what was written"
        raise damaged(Path(file.name), what)
    return content
