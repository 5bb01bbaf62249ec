"""Where images with captions come from: anything whose rows can be read in any order.

| `source` | captions |
|---|---|
| tars (webdataset): a .tar, or a folder of them | members `.txt`, or fields of `.json` |
| parquet: a file, or a folder of them | a column of texts, or of lists of texts |
| `hf:FOLDER` (`save_to_disk`), `hf:NAME:SPLIT`, `hf:NAME:CONFIG:SPLIT` | the same |
| a .jsonl or .csv in a folder of pictures or beside it; or its folder | the same |
| a folder that `onevision synth images` drew | those of its manifest |

Keys are those of `onevision latents` on the same source, so cached latents find their rows.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..synthetic.manifest import NAME as MANIFEST
from ..synthetic.manifest import read_manifest
from .latents import LatentShards
from .sources import (
    IMAGE_EXTENSIONS,
    MediaError,
    fields_of,
    json_of,
    open_dataset,
    open_tars,
    read_span,
    sample_name,
    undecoded,
)

CAPTION_COLUMNS = ("captions", "caption", "text", "txt")
FILE_COLUMNS = ("file_name", "image", "file", "path")
TABLES = (".jsonl", ".csv")


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its captions, which may be nothing; `latents` (C, h, w) where they are cached."""

    key: str
    media: Any  # path, bytes, or PIL image
    captions: tuple[str, ...]
    latents: Tensor | None = None


def open_pairs(spec: str, image_column: str = "", caption_columns: Sequence[str] = ()) -> Any:
    """Open a source of images with captions.

    Args:
        spec: `hf:NAME`, a folder or file, or one of these after `webdataset:`, `parquet:` or `synth:`.
        image_column: of a table; found by itself where it is empty. In .jsonl and .csv it names files.
        caption_columns: of a table or a shard's JSON; found by themselves where there are none.

    Returns:
        its pairs, by number.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it holds no images with captions, or the columns that were named are not there; the
            message says what is.
    """
    if not spec:
        raise FileNotFoundError("no source is named")
    if spec.startswith("hf:"):
        return ArrowPairs(open_dataset(spec[3:]), spec, image_column, caption_columns)
    kind, _, named = spec.partition(":")
    kind, named = (kind, named) if kind in ("webdataset", "parquet", "synth") else ("", spec)
    path = Path(named)
    if not path.exists():
        raise FileNotFoundError(f"{named} does not exist")
    if kind in ("", "synth") and (path / MANIFEST).is_file() and _is_drawn(path):
        return DrawnPairs(path)
    tars, tables = (_files(path, extension) for extension in ("tar", "parquet"))
    if kind in ("", "webdataset") and tars:
        return TarPairs(path, tars, caption_columns)
    if kind in ("", "parquet") and tables:
        import datasets

        table = datasets.Dataset.from_parquet([str(file) for file in tables])
        return ArrowPairs(table, spec, image_column, caption_columns, _parquet_keys(path, tables))
    if not kind and (listed := _table_of(path)):
        return FolderPairs(*listed, image_column, caption_columns)
    raise ValueError(
        f"{spec} holds no images with captions: looked for .tar, .parquet, the manifest of "
        f"`onevision synth images`, and a table (.jsonl, .csv) in {path} or named {path.name}.jsonl beside it"
    )


def _is_drawn(path: Path) -> bool:
    import pyarrow.parquet as pq

    return (pq.read_schema(path / MANIFEST).metadata or {}).get(b"kind") == b"images"


def _files(path: Path, extension: str) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix == f".{extension}" else []
    return sorted(f for f in path.rglob(f"*.{extension}") if not f.name.startswith("."))


def _parquet_keys(path: Path, files: Sequence[Path]) -> list[str]:
    import pyarrow.parquet as pq

    root = os.path.commonpath([file.parent for file in files])
    return [
        f"{os.path.relpath(file, root).replace(os.sep, '/')}/{row:07d}"
        for file in files
        for row in range(pq.read_metadata(file).num_rows)
    ]


def as_captions(value: Any) -> tuple[str, ...]:
    """A text, or a list of them, or nothing."""
    listed = [value] if isinstance(value, str) else value or []
    return tuple(text for text in listed if text is not None)


class ArrowPairs:
    """A `datasets.Dataset` with a column of images and one or several of captions."""

    def __init__(
        self,
        dataset: Any,
        spec: str,
        image_column: str,
        caption_columns: Sequence[str],
        keys: Sequence[str] | None = None,
    ):
        features = dataset.features
        images = [image_column] if image_column else [n for n, f in features.items() if _holds_images(f)]
        captions = list(caption_columns) or [name for name in CAPTION_COLUMNS if name in features][:1]
        lacking = [name for name in (*images, *captions) if name not in features]
        if len(images) != 1 or not captions or lacking:
            raise ValueError(
                f"{spec}: pairs are a column of images and columns of captions; it has {list(features)}"
                f"{', not ' + ', '.join(lacking) if lacking else ''}: name them with "
                "unified.pairs.image_column and caption_columns"
            )
        (self._image,), self._captions, self._keys = images, captions, keys
        self._dataset = undecoded(dataset.select_columns([self._image, *captions]), images)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> CaptionedImage:
        record = self._dataset[int(index)]
        content = record[self._image]
        if isinstance(content, dict):
            content = content.get("bytes") or content.get("path")
        if content is None:
            raise MediaError("the row holds no bytes and no path")
        captions = tuple(c for name in self._captions for c in as_captions(record[name]))
        return CaptionedImage(self._keys[index] if self._keys else f"{index:07d}", content, captions)


def _holds_images(feature: Any) -> bool:
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or "binary" in str(getattr(feature, "dtype", ""))


class TarPairs:
    """Webdataset tars: members of one name up to the first dot are one sample."""

    def __init__(self, path: Path, files: Sequence[Path], caption_columns: Sequence[str]):
        self._columns = tuple(caption_columns)
        self._samples: list[tuple[str, str, dict[str, tuple[int, int]], str]] = []
        for file, name, infos in open_tars(path, files):
            members: dict[str, dict[str, tuple[int, int]]] = {}
            for info in infos:
                sample, extension = sample_name(info.name)
                members.setdefault(sample, {})[extension] = (info.offset_data, info.size)
                if extension.rpartition(".")[2] in IMAGE_EXTENSIONS:
                    self._samples.append((f"{name}/{info.name}", str(file), members[sample], extension))
        if not self._samples:
            raise ValueError(f"{path}: its tars hold no pictures")
        self._samples.sort(key=lambda sample: sample[0])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> CaptionedImage:
        key, file, members, image = self._samples[index]

        def read(extension: str) -> bytes:
            return read_span(file, *members[extension])

        return CaptionedImage(key, read(image), self._captions_of(members, read))

    def _captions_of(self, members: dict[str, tuple[int, int]], read: Any) -> tuple[str, ...]:
        fields: dict[str, Any] = {}
        if "json" in members and (not self._columns or any(c not in members for c in self._columns)):
            try:
                fields = fields_of(read("json"))
            except ValueError as error:
                raise MediaError(f"its .json cannot be read: {error}") from error
        if self._columns:
            columns = self._columns
        else:
            columns = next(((c,) for c in CAPTION_COLUMNS if c in members or c in fields), ())  # type: ignore[assignment]
        captions: list[str] = []
        for column in columns:
            if column in members:
                captions.append(read(column).decode("utf-8", "replace"))
            else:
                captions += as_captions(fields.get(column))
        return tuple(captions)


def _table_of(path: Path) -> tuple[Path, Path] | None:
    """A table of captions and the folder that its names start from, of a folder or of a table.

    A table lies in its folder, or beside it under the folder's name.
    """
    if path.is_file():
        named = path.with_suffix("")
        return (path, named if named.is_dir() else path.parent) if path.suffix in TABLES else None
    beside = [path.parent / f"{path.resolve().name}{extension}" for extension in TABLES]
    inside = [file for file in sorted(path.iterdir()) if file.suffix in TABLES]
    found = [file for file in (*inside, *beside) if file.is_file()]
    if len(found) > 1:
        raise ValueError(
            f"{path} has {len(found)} tables, {', '.join(map(str, found))}: name one as the source"
        )
    return (found[0], path) if found else None


class FolderPairs:
    """Pictures in a folder, and a table that names files and says what is on them.

    A file may have several rows, and a row several captions. Rows are in the order of their files.

    Args:
        table: .jsonl, an object a line; or .csv, whose first line names the columns.
        folder: that the files' names start from.
        image_column: with the names; by default the first of `FILE_COLUMNS` that is there.
        caption_columns: in order; by default the first of `CAPTION_COLUMNS` that is there.

    Raises:
        ValueError: the table cannot be read, lacks a column, or names files that are not in the folder.
    """

    classes = None

    def __init__(self, table: Path, folder: Path, image_column: str, caption_columns: Sequence[str]):
        found: dict[str, list[str]] = {}
        columns: list[str] = []
        for line, record in _records(table):
            if not columns:
                image = image_column or next((name for name in FILE_COLUMNS if name in record), "")
                texts = list(caption_columns) or [name for name in CAPTION_COLUMNS if name in record][:1]
                columns = [image, *texts]
            if len(columns) < 2 or not record.keys() >= set(columns):
                raise ValueError(
                    f"{table}, line {line} has {list(record)}: a row is a column with a file's name "
                    f"({', '.join(FILE_COLUMNS)}) and columns of captions ({', '.join(CAPTION_COLUMNS)}); "
                    "name others with unified.pairs.image_column and caption_columns"
                )
            key = os.path.normpath(str(record[columns[0]]))
            captions = found.setdefault(key, [])
            captions += [text for name in columns[1:] for text in as_captions(record[name])]
        self._folder, self._rows = folder, sorted(found.items())
        there = [key for key, _ in self._rows if (folder / key).is_file()]
        if not there:
            first = f", {self._rows[0][0]} the first" if self._rows else ""
            raise ValueError(f"{table} names {len(self._rows)} files{first}, of which none is in {folder}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionedImage:
        key, captions = self._rows[index]
        return CaptionedImage(Path(key).as_posix(), str(self._folder / key), tuple(captions))


def _records(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table, each with the number of its line."""
    number = 0
    with open(table, encoding="utf-8-sig", newline="") as file:
        try:
            if table.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    number = reader.line_num
                    yield number, row
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _object(line, f"{table}, line {number}")
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{table} cannot be read behind line {number}: {error}") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json_of(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} is no object: {line.strip()[:60]}")
    return record


class DrawnPairs:
    """The images of a folder that `onevision synth images` drew."""

    def __init__(self, path: Path):
        table = read_manifest(path)
        self._folder = path
        self._paths = table["path"].to_pylist()
        self._captions = table["captions"].to_pylist()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> CaptionedImage:
        name = self._paths[index]
        return CaptionedImage(os.path.normpath(name), str(self._folder / name), tuple(self._captions[index]))


class WithLatents:
    """Pairs with the latents that `onevision latents` made of the same source."""

    def __init__(self, rows: Any, shards: LatentShards):
        self._rows, self._shards = rows, shards
        self._numbers = {key: number for number, key in enumerate(shards.keys)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> CaptionedImage:
        row = self._rows[index]
        number = self._numbers.get(row.key)
        if number is None:
            raise MediaError(f"no cached latents in {self._shards.path}")
        return replace(row, latents=self._shards[number])
