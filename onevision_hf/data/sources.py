"""Where media come from: a folder, parquet files, webdataset tars, or a Hugging Face dataset.

`open_source` lists every picture and video once, in the order of their keys, and reads any one of them by
itself. The digest of the listing (keys, sizes, times of change) says whether two runs saw the same files.

| source | what is listed | key |
|---|---|---|
| folder | files with a picture's or a video's extension, at any depth | path inside the folder |
| parquet | rows with a binary column, or a struct with `bytes` (and `path`) | `file.parquet/0000012` |
| webdataset | tar members with a picture's or a video's extension | `shard.tar/name.jpg` |
| Hugging Face | rows of one split (`hf:NAME:SPLIT`, `hf:NAME:CONFIG:SPLIT`, or a folder from `save_to_disk`)
| `0000012` |

A folder that `onevision synth` drew lists the files of its manifest only, not the contact sheet beside them.
"""

import bisect
import dataclasses
import itertools
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from .folders import as_text, list_folder
from .items import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Item,
    Kind,
    MediaError,
    Source,
    format_of,
    kind_of_extension,
    split_tags,
)


def open_source(
    spec: str | Path,
    *,
    media_column: str | None = None,
    tags_column: str | None = None,
    tags_file: str | Path | None = None,
) -> Source:
    """List the media of `spec`.

    Args:
        spec: a path, whose kind is found by looking, or `folder:PATH`, `parquet:PATH`, `webdataset:PATH`,
            `hf:NAME:SPLIT`.
        media_column: the column of parquet or of a dataset; the only one that holds media if left out.
        tags_column: a column (parquet, dataset, tags file), a field of the `.json` member or the extension of
            a text member (webdataset), whose words or list of strings become the item's tags.
        tags_file: a .parquet, .csv or .jsonl table with the columns `key` and `tags_column` (default `tags`).

    Raises:
        ValueError: nothing is found, or what is found is ambiguous; the message says what is there.
    """
    scheme, path = _scheme(str(spec))
    if scheme == "folder":
        source = Source(list_folder(path), _read_file, reader={"scheme": scheme})
    elif scheme == "webdataset":
        source = Source(_list_tars(path, tags_column), _read_tar_member, reader={"scheme": scheme})
    elif scheme == "parquet":
        files = _files(path, "parquet")
        column = _media_column(pq.read_schema(files[0]), media_column, str(files[0]))
        items = _list_parquet(files, column, tags_column)
        source = Source(items, _ParquetColumn(column).read, reader={"scheme": scheme, "column": column})
    else:
        source = _open_dataset(path, media_column, tags_column)
    if tags_file is not None:
        tags = _read_tags_file(Path(tags_file), tags_column or "tags")
        source = dataclasses.replace(
            source, items=[dataclasses.replace(i, tags=tags.get(i.key)) for i in source.items]
        )
    elif tags_column is not None and scheme == "folder":
        raise ValueError(f"{path} is a folder, which has no columns: name a table of tags with --tags-file")
    if not source.items:
        raise ValueError(f"no pictures or videos in {path}: looked for {_extensions()} as {scheme}")
    return source


def open_reader(reader: Mapping[str, Any]) -> Callable[[Item], str | bytes]:
    """What reads the items of a source, from its `reader`.

    Raises:
        ValueError: an unknown kind, or a dataset that cannot be opened.
    """
    if reader["scheme"] == "folder":
        return _read_file
    if reader["scheme"] == "webdataset":
        return _read_tar_member
    if reader["scheme"] == "parquet":
        return _ParquetColumn(reader["column"]).read
    if reader["scheme"] == "hf":
        dataset, column, _ = _load_dataset(reader["path"], reader["column"])
        return _DatasetColumn(dataset, column).read
    raise ValueError(f"no reader is called {reader['scheme']!r}")


def _extensions() -> str:
    return ", ".join(f".{e}" for e in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS))


def _scheme(spec: str) -> tuple[str, str]:
    for scheme in ("folder", "parquet", "webdataset", "hf"):
        if spec.startswith(scheme + ":"):
            return scheme, spec[len(scheme) + 1 :]
    path = Path(spec)
    if not path.exists():
        raise ValueError(f"{spec} does not exist (for a dataset of the Hub write hf:NAME:SPLIT)")
    if path.is_file():
        by_name = {"parquet": "parquet", "tar": "webdataset"}.get(path.suffix[1:].lower())
        if by_name is None:
            raise ValueError(f"{spec} is one file; expected a folder, a .parquet, a .tar, or hf:NAME:SPLIT")
        return by_name, spec
    if (path / "dataset_info.json").exists() and (path / "state.json").exists():
        return "hf", spec
    names = [name for _, _, files in os.walk(path) for name in files]
    media = any(kind_of_extension(name) for name in names)
    tars = any(name.lower().endswith(".tar") for name in names)
    if media and tars:
        raise ValueError(f"{spec} holds media files and tars: write folder:{spec} or webdataset:{spec}")
    # A table beside media files is a list of labels, not a source.
    if not media and not tars and any(name.lower().endswith(".parquet") for name in names):
        return "parquet", spec
    return ("webdataset" if tars else "folder"), spec


def _files(path: str, extension: str) -> list[Path]:
    root = Path(path)
    if root.is_file():
        return [root]
    files = sorted(f for f in root.rglob(f"*.{extension}") if f.is_file() and not f.name.startswith("."))
    if not files:
        raise ValueError(f"no .{extension} files in {path}")
    return files


def _list_tars(path: str, tags_column: str | None) -> list[Item]:
    items: list[Item] = []
    for file, name, members in open_tars(Path(path), _files(path, "tar")):
        stat = file.stat()
        tags: dict[str, tuple[str, ...]] = {}
        for member in members if tags_column is not None else ():
            sample, extension = sample_name(member.name)
            if kind_of_extension(member.name) or extension not in ("json", str(tags_column).lower()):
                continue
            value: Any = read_span(str(file), member.offset_data, member.size).decode("utf-8", "replace")
            if extension == "json":
                try:
                    value = fields_of(value).get(str(tags_column))
                except ValueError as error:
                    raise ValueError(
                        f"{file} is not a readable tar of samples: {member.name}: {error}"
                    ) from error
            if value is not None:
                tags[sample] = split_tags(value)
        for member in members:
            if kind := kind_of_extension(member.name):
                found = tags.get(sample_name(member.name)[0], ()) if tags_column is not None else None
                place = (member.offset_data, member.size, found)
                key = as_text(f"{name}/{member.name}")
                items.append(Item(key, kind, str(file), stat.st_size, stat.st_mtime_ns, *place))
    return items


def open_tars(path: Path, files: Iterable[Path]) -> Iterator[tuple[Path, str, list[tarfile.TarInfo]]]:
    """Tars of samples: each file, its name in keys, its members that are files.

    Args:
        path: the file or folder that was named.
        files: in it.

    Raises:
        ValueError: a file is no tar.
    """
    for file in files:
        try:
            with tarfile.open(file, "r:") as tar:
                members = [member for member in tar if member.isfile()]
        except tarfile.TarError as error:
            raise ValueError(f"{file} is not a readable tar of samples: {error}") from error
        yield file, file.name if path.is_file() else file.relative_to(path).as_posix(), members


def fields_of(text: str | bytes) -> dict[str, Any]:
    """What the .json of a sample says.

    Raises:
        ValueError: it is no JSON, or no object.
    """
    found = json_of(text)
    if not isinstance(found, dict):
        raise ValueError(f"holds a {type(found).__name__} and no object")
    return found


def json_of(text: str | bytes) -> Any:
    """What a text in JSON says.

    Raises:
        ValueError: it is none, or is nested so deep that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists or objects are nested too deep") from None


def sample_name(member: str) -> tuple[str, str]:
    """(sample, extension in lower case): webdataset's rule, by the first dot of the last part."""
    folder, slash, last = member.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _read_file(item: Item) -> str:
    return item.path


def _read_tar_member(item: Item) -> bytes:
    return read_span(item.path, item.place, item.length)


def read_span(path: str, place: int, length: int) -> bytes:
    """A part of a file.

    Args:
        path: the file.
        place: where it begins, in bytes.
        length: in bytes.

    Raises:
        MediaError: the file ends before.
    """
    with open(path, "rb") as file:
        file.seek(place)
        content = file.read(length)
    if len(content) != length:
        raise MediaError(f"{path} ends inside this item: {len(content)} of {length} bytes")
    return content


def _media_column(schema: pa.Schema, wanted: str | None, where: str) -> str:
    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    candidates = [field.name for field in schema if holds_bytes(field.type)]
    if wanted is not None:
        if wanted not in candidates:
            raise ValueError(
                f"{where} has no column {wanted!r} of bytes; it has {candidates or schema.names}"
            )
        return wanted
    if len(candidates) != 1:
        raise ValueError(
            f"{where} has {len(candidates)} columns of bytes {candidates}; name one: --media-column"
        )
    return candidates[0]


def _list_parquet(files: Sequence[Path], column: str, tags_column: str | None) -> list[Item]:
    root = os.path.commonpath([f.parent for f in files])
    items = []
    kind: Kind | None = None
    for path in files:
        stat = path.stat()
        file = pq.ParquetFile(path)
        tags: list[Any] | None = None
        if tags_column is not None:
            if tags_column not in file.schema_arrow.names:
                raise ValueError(f"{path} has no column {tags_column!r}: {file.schema_arrow.names}")
            tags = file.read([tags_column])[tags_column].to_pylist()
        if kind is None and file.metadata.num_rows:
            content = _content(file.read_row_group(0, [column])[column][0].as_py()) or b""
            kind = kind_of_extension("x." + format_of(content)) or ("video" if "video" in column else "image")
        name = os.path.relpath(path, root).replace(os.sep, "/")
        for row in range(file.metadata.num_rows):
            found = split_tags(tags[row]) if tags is not None else None
            item = Item(f"{name}/{row:07d}", kind or "image", str(path), stat.st_size, stat.st_mtime_ns, row)
            items.append(dataclasses.replace(item, tags=found))
    return items


class _ParquetColumn:
    """The media column of parquet files; a row group stays in memory until another is asked for."""

    def __init__(self, column: str):
        self.column = column
        self._lock = threading.Lock()
        self._starts: dict[str, list[int]] = {}  # first row of each row group
        self._group: tuple[str, int] | None = None
        self._values: pa.ChunkedArray | None = None

    def read(self, item: Item) -> bytes:
        with self._lock:
            if item.path not in self._starts:
                metadata = pq.read_metadata(item.path)
                rows = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
                self._starts[item.path] = list(itertools.accumulate(rows, initial=0))
            starts = self._starts[item.path]
            group = bisect.bisect_right(starts, item.place) - 1
            if self._group != (item.path, group):
                self._values = pq.ParquetFile(item.path).read_row_group(group, [self.column])[self.column]
                self._group = (item.path, group)
            assert self._values is not None
            value = self._values[item.place - starts[group]].as_py()
        content = _content(value)
        if content is None:
            raise MediaError("the row holds no bytes")
        return content


def _content(value: Any) -> bytes | None:
    if isinstance(value, Mapping):
        if value.get("bytes") is None and value.get("path"):
            path = Path(value["path"])
            return path.read_bytes() if path.is_file() else None
        return value.get("bytes")
    return value


def open_dataset(spec: str, *, streaming: bool = False) -> Any:
    """A Hugging Face dataset: NAME:SPLIT, NAME:CONFIG:SPLIT, or a folder of `save_to_disk`.

    Raises:
        ValueError: no split is named. ImportError: datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Hugging Face datasets need: pip install '.[train]' in a clone") from error
    if os.path.isdir(spec) and not streaming:
        return datasets.load_from_disk(spec)
    name, *rest = spec.split(":")
    if not 1 <= len(rest) <= 2:
        raise ValueError(f"{spec!r}: write NAME:SPLIT or NAME:CONFIG:SPLIT")
    config = rest[0] if len(rest) == 2 else None
    return datasets.load_dataset(name, config, split=rest[-1], streaming=streaming)


def undecoded(dataset: Any, columns: Iterable[str]) -> Any:
    """The dataset with bytes and paths in place of the pictures and videos of these columns."""
    import datasets

    for name in columns:
        feature = dataset.features[name]
        inner = getattr(feature, "feature", feature)  # of a column of lists
        if isinstance(inner, datasets.Image | datasets.Video):
            plain = type(inner)(decode=False)
            dataset = dataset.cast_column(name, plain if inner is feature else type(feature)(plain))
    return dataset


def _load_dataset(spec: str, media_column: str | None) -> tuple[Any, str, bool]:
    """(dataset, media column, whether it holds videos)."""
    loaded = open_dataset(spec)
    import datasets

    if not isinstance(loaded, datasets.Dataset):
        raise ValueError(f"{spec} holds the splits {list(loaded)}; name the folder of one of them")
    features = loaded.features
    media = [n for n, f in features.items() if isinstance(f, (datasets.Image, datasets.Video))]
    column = media_column or (media[0] if len(media) == 1 else None)
    if column is None or column not in features:
        raise ValueError(
            f"{spec} has the media columns {media} of {list(features)}; name one: --media-column"
        )
    return loaded, column, isinstance(features[column], datasets.Video)


def _open_dataset(spec: str, media_column: str | None, tags_column: str | None) -> Source:
    loaded, column, is_video = _load_dataset(spec, media_column)
    kind: Kind = "video" if is_video else "image"
    tags: Iterable[Any] = (
        [None] * len(loaded) if tags_column is None else map(split_tags, loaded[tags_column])
    )
    items = [Item(f"{row:07d}", kind, "", -1, -1, row, tags=found) for row, found in enumerate(tags)]
    return Source(
        items,
        _DatasetColumn(loaded, column).read,
        identity=["hf", loaded._fingerprint, column],
        reader={
            "scheme": "hf",
            "path": os.path.abspath(spec) if os.path.exists(spec) else spec,
            "column": column,
        },
    )


class _DatasetColumn:
    """The media column of a Hugging Face dataset, not decoded."""

    def __init__(self, dataset: Any, column: str):
        self.column = column
        self._rows = undecoded(dataset.select_columns([column]), [column])
        self._lock = threading.Lock()

    def read(self, item: Item) -> bytes:
        with self._lock:
            content = _content(self._rows[item.place][self.column])
        if content is None:
            raise MediaError("the row holds no bytes and its file is gone")
        return content


def _read_tags_file(path: Path, column: str) -> dict[str, tuple[str, ...]]:
    formats = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json"}
    if path.suffix not in formats:
        raise ValueError(f"{path}: tags are read from .parquet, .csv or .jsonl")
    table = pyarrow.dataset.dataset(path, format=formats[path.suffix]).to_table()
    missing = [name for name in ("key", column) if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; it has {table.column_names}")
    both = zip(table["key"].to_pylist(), table[column].to_pylist(), strict=True)
    return {str(key): split_tags(value) for key, value in both}
