"""`manifest.parquet`: one row for each clip, image or question, with its path, labels, truth and settings.

    rows = read_manifest("DIR")                 # a pyarrow table
    masks = unpack_masks(row["truth"]["masks"], len(row["truth"]["sprites"]), row["truth"]["shape"])

Paths are relative to the manifest's folder. Families and their labels are in the schema's metadata.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .families import Family
from .truth import Truth, pack_owners

NAME = "manifest.parquet"
ROWS_AT_ONCE = 500


def needs_pyarrow() -> Any:
    """The module pyarrow.

    Raises:
        ImportError: it is not installed; the message names the extra that brings it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "the manifest is a parquet file, which needs pyarrow: pip install '.[train]' in a clone"
        ) from error
    return pyarrow


def read_manifest(folder: str | Path) -> Any:
    """The manifest of a drawn folder as a pyarrow table.

    Args:
        folder: that `onevision synth` drew.

    Raises:
        FileNotFoundError: there is none: nothing was drawn there, or the run has not finished.
        ImportError: pyarrow is not installed.
        ValueError: it names files outside of the folder.
    """
    path = Path(folder) / NAME
    pa = needs_pyarrow()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: draw it with `onevision synth`, or finish the run")
    table = pa.parquet.read_table(path)
    for name in table["path"].to_pylist() if "path" in table.column_names else ():
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise ValueError(f"{path} names {name}, which is outside of its folder: it was not drawn here")
    return table


def truth_row(truth: Truth) -> dict[str, Any]:
    """A truth as plain arrays and bytes, small enough to travel between processes."""
    return {
        "sprites": truth.sprites,
        "boxes": truth.boxes,
        "velocity": truth.velocity,
        "masks": pack_owners(truth.owners),
        "shape": list(truth.owners.shape),
        "camera": truth.camera,
        "events": [vars(event) for event in truth.events],
    }


def schema(kind: str, families: Mapping[str, Family], settings: Mapping[str, Any]) -> Any:
    """The columns of a kind (`clips`, `images`, `questions`).

    Args:
        kind: `clips`, `images` or `questions`.
        families: of labels, by name.
        settings: what the media were drawn with; stored in the file.
    """
    pa = needs_pyarrow()
    text = pa.string()
    truth = pa.struct(
        {
            "sprites": pa.list_(pa.struct({name: text for name in ("colour", "shape", "texture", "word")})),
            "boxes": pa.list_(pa.list_(pa.list_(pa.int16(), 4))),
            "velocity": pa.list_(pa.list_(pa.list_(pa.float32(), 2))),
            "masks": pa.binary(),
            "shape": pa.list_(pa.int32(), 3),
            "camera": pa.list_(pa.list_(pa.float32(), 3)),
            "events": pa.list_(
                pa.struct({"kind": text, "sprite": pa.int32(), "start": pa.int32(), "end": pa.int32()})
            ),
        }
    )
    own = {
        "clips": {"scene": text},
        "images": {"captions": pa.list_(text), "words": pa.list_(text)},
        "questions": {"scene": text, "question": text, "choices": pa.list_(text), "answer": text},
    }[kind]
    columns = {
        "id": text,
        "path": text,
        "family": text,
        "label": text,
        "seed": pa.int64(),
        "index": pa.int64(),
        **own,
        "labels": pa.struct({name: text for name in families}),
        "truth": truth,
        "settings": pa.struct({name: _type_of(pa, value) for name, value in settings.items()}),
    }
    about = {
        name: {"labels": f.labels, "kind": f.kind, "question": f.question} for name, f in families.items()
    }
    return pa.schema(columns, metadata={"families": json.dumps(about), "kind": kind})


class ManifestWriter:
    """Rows to a parquet file, some hundreds at a time, so that memory stays flat.

    with ManifestWriter(path, schema) as manifest:
        manifest.add(row)
    """

    def __init__(self, path: Path, schema: Any):
        self._pa = needs_pyarrow()
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._writer = self._pa.parquet.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        arrays = []
        for field in self._schema:
            values = [row[field.name] for row in self._rows]
            arrays.append(self._truths(field.type, values) if field.name == "truth" else values)
        columns = [
            a if isinstance(a, self._pa.Array) else self._pa.array(a, f.type)
            for a, f in zip(arrays, self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))
        self._rows = []

    def _truths(self, kind: Any, values: Sequence[dict[str, Any]]) -> Any:
        parts = []
        for field in kind:
            column = [value[field.name] for value in values]
            if isinstance(column[0], np.ndarray):
                parts.append(self._nested(column, field.type))
            else:
                parts.append(self._pa.array(column, field.type))
        return self._pa.StructArray.from_arrays(parts, fields=list(kind))

    def _nested(self, arrays: list[np.ndarray], kind: Any) -> Any:
        """Arrays (..., k) as nested lists, without a Python number for each value."""
        flat = self._pa.array(np.concatenate([a.reshape(-1) for a in arrays]))
        nested = self._pa.FixedSizeListArray.from_arrays(flat, arrays[0].shape[-1])
        if arrays[0].ndim == 3:
            lengths = np.repeat([a.shape[1] for a in arrays], [a.shape[0] for a in arrays])
            nested = self._pa.ListArray.from_arrays(_offsets(lengths), nested)
        nested = self._pa.ListArray.from_arrays(_offsets([len(a) for a in arrays]), nested)
        return nested.cast(kind)

    def __enter__(self) -> "ManifestWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._rows and kind is None:
            self._flush()
        self._writer.close()


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _type_of(pa: Any, value: Any) -> Any:
    return pa.int64() if isinstance(value, int) else pa.string()
