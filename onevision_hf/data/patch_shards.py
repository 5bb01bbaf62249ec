"""Patch shards, and `PatchShards`, which reads any row alone.

`tar_shards` says how a shard looks: here a row is a clip, with `000000012.patches.npy` (K, 3, p, p) uint8,
`000000012.positions.npy` (K, 3) int16 [t, h, w], `000000012.times.npy` (T,) float64 seconds of the sampled
frames, and `000000012.json` (the columns below).

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

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from ..modeling.patchify_config import PatchifyConfig
from .tar_shards import TarShards, TarShardWriter, columns_of

STAGE = "patches"
ARRAYS = ("patches", "positions", "times")


@dataclass(frozen=True, eq=False)
class PatchExample:
    """One clip; the columns and arrays are those of the module's table."""

    key: Annotated[str, pa.string()]
    source_sha256: Annotated[str, pa.string()]
    labels: Annotated[np.ndarray, pa.list_(pa.int32())]
    signal: Annotated[str, pa.string()]
    width: Annotated[int, pa.int32()]
    height: Annotated[int, pa.int32()]
    frames: Annotated[int, pa.int32()]
    duration: Annotated[float, pa.float64()]
    num_frames: Annotated[int, pa.int32()]
    num_patches: Annotated[int, pa.int32()]
    grid_height: Annotated[int, pa.int32()]
    grid_width: Annotated[int, pa.int32()]
    patches: np.ndarray
    positions: np.ndarray
    times: np.ndarray


_COLUMNS = columns_of(PatchExample)
_REPLACED = ("difference", "residual")  # what `auto` took before of codecs that have vectors now


class ShardWriter(TarShardWriter):
    """Writes the rows of one shard, one after the other; see `TarShardWriter`."""

    def __init__(self, paths: Sequence[Path], first: int):
        super().__init__(paths, _COLUMNS, ARRAYS, first)

    def add_example(self, row: PatchExample) -> None:
        self.add(row, {name: (f"{name}.npy", _npy(getattr(row, name))) for name in ARRAYS})


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


def _array(content: bytearray) -> np.ndarray:
    """What `_npy` wrote, in the same memory."""
    file = io.BytesIO(content[:256])
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


class PatchShards(TarShards):
    """The rows of a finished folder, by number. Nothing is decoded.

    Any number of processes and workers may read; no file is kept open, so an object can be copied to other
    processes. Numbers below zero count from the end.

    Attributes: `config` (what was kept of a clip), `classes` (labels are 0..classes-1; None: no labels),
    `shard_rows` (rows of each shard).

    Raises:
        ValueError: the folder is of another stage, not finished, or lacks a shard. IndexError: there is no
        such row. OSError: a shard is damaged where a row is.
    """

    def __init__(self, path: str | Path):
        super().__init__(path, STAGE, STAGE, ARRAYS)
        try:
            self.config = PatchifyConfig.from_recorded(self.run.settings)
        except KeyError as error:
            raise ValueError(
                f"{self.path} was cut by an older version, its plan lacks {error}: cut it again with "
                f"`onevision patches SRC {self.path} --redo`"
            ) from None
        self._refuse_other_signals()
        self.classes: int | None = self.run.settings["classes"]

    def _refuse_other_signals(self) -> None:
        """Raise ValueError where clips were cut by signals that their codec now has better ones than."""
        if self.run.settings.get("signals_version", 1) == self.config.signals.version:
            return
        columns = [self.index(shard)["signal"].to_pylist() for shard in range(len(self.shard_rows))]
        old = [signal for column in columns for signal in column if signal.startswith(_REPLACED)]
        if old:
            raise ValueError(
                f"{self.path} was cut by an older version, {len(old)} of its clips by {old[0]!r}: HEVC, VP8, "
                "VP9 and AV1 have vectors and residual now; cut it again with "
                f"`onevision patches SRC {self.path} --redo`"
            )

    def __repr__(self) -> str:
        return f"PatchShards({str(self.path)!r}: {len(self)} clips, {self.config})"

    def __getitem__(self, number: int) -> PatchExample:
        record, contents = self.read(*self.place(number))
        record["labels"] = np.asarray(record["labels"], np.int32)
        arrays: dict[str, Any] = {name: _array(content or bytearray()) for name, content in contents.items()}
        return PatchExample(**record, **arrays)
