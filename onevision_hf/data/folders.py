"""The media files of a folder, at any depth, each once, whatever links and pipes lie between them."""

import os
import warnings
from pathlib import Path

import pyarrow.parquet as pq

from .items import Item, kind_of_extension


def as_text(name: str) -> str:
    """A name as text that JSON and parquet can hold, whatever bytes the file system has in it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_folder(path: str) -> list[Item]:
    """The pictures and videos in it, those of its manifest where `onevision synth` drew it.

    Raises:
        ValueError: it is no folder.
    """
    if not os.path.isdir(path):
        raise ValueError(f"{path} is not a folder")
    items = []
    wanted = _manifest_paths(Path(path) / "manifest.parquet")
    seen = {_identity(path)}
    left_out: list[str] = []
    for folder, subfolders, names in os.walk(path, followlinks=True):
        visible = sorted(s for s in subfolders if not s.startswith("."))
        subfolders.clear()
        for name in visible:
            identity = _identity(os.path.join(folder, name))
            if identity not in seen:  # a link may lead back to where it lies: each folder once
                seen.add(identity)
                subfolders.append(name)
        for name in names:
            kind = kind_of_extension(name)
            if kind is None or name.startswith("."):
                continue
            full = os.path.join(folder, name)
            if wanted is not None and os.path.relpath(full, path) not in wanted:
                continue
            if not os.path.isfile(full):  # a pipe would be waited for, and a link may lead nowhere
                left_out.append(full)
                continue
            stat = os.stat(full)
            key = as_text(os.path.relpath(full, path).replace(os.sep, "/"))
            items.append(Item(key, kind, full, stat.st_size, stat.st_mtime_ns, 0, stat.st_size))
    if left_out:
        warnings.warn(
            f"{path}: {len(left_out)} names of media are no files (pipes, devices, links to nothing) and are "
            f"left out, {left_out[0]} the first",
            stacklevel=2,
        )
    return items


def _identity(folder: str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _manifest_paths(manifest: Path) -> set[str] | None:
    """The files that a drawn folder's manifest names; None where there is none. Other tables are labels."""
    if not manifest.is_file() or b"families" not in (pq.read_schema(manifest).metadata or {}):
        return None
    return {os.path.normpath(name) for name in pq.read_table(manifest, columns=["path"])["path"].to_pylist()}
