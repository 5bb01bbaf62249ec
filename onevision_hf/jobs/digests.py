"""Digests of finished files, so that a flipped byte is an error that names its file, and is never used.

`digests-00007.json` is written with the files of shard 7 and has their digests; `digests.json`, written when
the stage is finished, has those of all other files and names the former. Of each file: `bytes`, `sha256`
(what `onevision doctor --verify` compares), and `blocks`, the XXH3 of each MiB, which is compared when a
process reads the block first. A folder without `digests.json` was finished before there were any.

What a process has compared, be it a block, a row of a tar or a sealed file, it does not compare again
(`see`), until it is told to `forget`.

    digests = FolderDigests(folder)
    digests.check("features-00007.parquet")            # its path, if all of it is what was written
"""

import functools
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import xxhash

T = TypeVar("T")
BLOCK = 1 << 20
PIECE = 1 << 16  # read at once: it is still in the core's cache when it is compared
DIGESTS = "digests.json"
_CLUSTER = ("features", "dedup", "kmeans", "assign", "pack")
# What this process has compared of each file: a bit a block or row, as corpora have 1e8 rows.
_SEEN: dict[Hashable, int] = {}
MOST_SEEN = 100_000  # files; beyond, a process forgets them and compares again
_CLEAR: list[Callable[[], None]] = [_SEEN.clear]


def is_seen(file: Hashable, number: int = 0) -> bool:
    """Whether this process has compared a block or row of a file, which is named as in `see`."""
    return bool(_SEEN.get(file, 0) >> number & 1)


def see(file: Hashable, number: int = 0) -> None:
    """Remember that a block or row was compared.

    Args:
        file: its path, and what tells it from another that lies there later: a digest, or its inode and time.
        number: of the block or row.
    """
    if len(_SEEN) >= MOST_SEEN and file not in _SEEN:
        _SEEN.clear()
    _SEEN[file] = _SEEN.get(file, 0) | 1 << number


def file_now(path: str | Path, status: os.stat_result) -> Hashable:
    """What names a file in `see`, and no other one that lies in its place later."""
    return str(path), status.st_ino, status.st_mtime_ns, status.st_size


def forget() -> None:
    """Compare everything again when it is read next, as another process does: for tests and measurements.

    Canvases of `modeling.canvas_cache` are not among it.
    """
    for clear in _CLEAR:
        clear()


def remembered(function: Callable[..., T]) -> Callable[..., T]:
    """Keep the last 64 results of a function that reads what was compared, until `forget`."""
    kept = functools.lru_cache(maxsize=64)(function)
    _CLEAR.append(kept.cache_clear)
    return kept


class DamagedError(OSError):
    """A finished file is gone, or is not what was written."""


def damaged(path: Path, what: str, stage: str | None = None) -> DamagedError:
    """The error of a file of a run folder.

    Args:
        path: of the file.
        what: is wrong with it.
        stage: that made it; None: what the plan says.
    """
    return DamagedError(f"{path} is damaged: {what}; {remedy(path.parent, stage)}")


def remedy(folder: Path, stage: str | None = None) -> str:
    """The command that makes again what is damaged in a folder of `stage`, by default that of its plan."""
    if stage is None:
        try:
            stage = str(json.loads((folder / "plan.json").read_bytes())["stage"])
        except (OSError, ValueError, KeyError, TypeError):
            stage = "..."
    command = f"cluster {stage}" if stage in _CLUSTER else stage
    return f"`onevision {command} ... --redo` makes it again, called with the arguments that made {folder}"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a run folder. Raises DamagedError."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise damaged(path, f"it is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise damaged(path, "it is no JSON object")
    return found


def block_digest(content: Any) -> int:
    """XXH3 of bytes or of an array, 64 bits."""
    return xxhash.xxh3_64_intdigest(content)


def digests_of(path: Path) -> dict[str, Any]:
    """`bytes`, `sha256` and `blocks` of a file."""
    whole, blocks, size = hashlib.sha256(), [], 0
    with open(path, "rb") as file:
        while content := file.read(BLOCK):
            whole.update(content)
            blocks.append(f"{block_digest(content):016x}")
            size += len(content)
    none = f"{block_digest(b''):016x}"  # the one block of an empty file
    return {"bytes": size, "sha256": whole.hexdigest(), "blocks": "".join(blocks) or none}


@functools.lru_cache(maxsize=1024)
def note_of(name: str) -> str:
    """The file that has the digests of the file `name`: that of its shard, if it is of one."""
    number = re.search(r"-(\d{5,})\.", name)
    return f"digests-{number[1]}.json" if number else DIGESTS


def note(files: Mapping[str, Path], **more: Any) -> str:
    """What is written of some files, by name; the text has a digest of itself."""
    content = {"files": {name: digests_of(path) for name, path in files.items()}, **more}
    return _text({**content, "digest": hashlib.sha256(_text(content).encode()).hexdigest()})


def read_note(path: Path, stage: str | None = None) -> dict[str, Any]:
    """What `note` wrote. Raises DamagedError."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise damaged(path, "it is gone", stage) from None
    # Keys are sorted, so the digest comes first; the text without it is what it is of.
    found = re.match(rb'{\n "digest": "(\w{64})",\n', text)
    if not found or hashlib.sha256(b"{\n" + text[found.end() :]).hexdigest().encode() != found[1]:
        raise damaged(path, "it is not what was written", stage)
    content: dict[str, Any] = json.loads(text)
    return content


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


class FolderDigests:
    """Compares the files of one folder with their digests.

    Args:
        folder: that a stage fills, or has filled.
        finished: it has; what its `digests.json` does not name is an error then.

    Attributes: `table`, the content of `digests.json`; None where there is none. `made`, which names the
    folder as it is now in `see`.

    Raises:
        DamagedError: `digests.json` is damaged.
    """

    def __init__(self, folder: str | Path, finished: bool = True):
        self.folder = Path(folder)
        path = self.folder / DIGESTS
        self.table = read_note(path) if finished and path.exists() else None
        own: str | None = self.table["digest"] if self.table else None
        self.made = (os.path.abspath(folder), own)

    @property
    def stage(self) -> str | None:
        return self.table["stage"] if self.table else None

    def check(self, name: str, start: int = 0, stop: int | None = None) -> Path:
        """The path of a file, of which the blocks that hold the bytes start..stop-1 are what was written.

        Each is read and compared once in a process. Files without digests are taken as they are.

        Args:
            name: of the file.
            start: the first byte.
            stop: after the last byte; None is the end.

        Raises:
            DamagedError: the file is gone, has another size, or such a block differs.
        """
        self.compare(name, start, stop)
        return self.folder / name

    def compare(self, name: str, start: int = 0, stop: int | None = None) -> None:
        """`check` for who knows the path."""
        if (found := self._digests(name)) is not None:
            stop = found["bytes"] if stop is None else min(stop, found["bytes"])
            wanted = (1 << max(1, -(-stop // BLOCK))) - (1 << start // BLOCK)
            path = self.folder / name
            try:
                status = os.stat(path)
            except FileNotFoundError:
                raise damaged(path, "it is gone", self.stage) from None
            own = (file_now(path, status), found["sha256"])
            if left := wanted & ~_SEEN.get(own, 0):
                self._compare_blocks(path, status.st_size, found, own, left)

    def _compare_blocks(self, path: Path, now: int, found: dict[str, Any], own: Hashable, left: int) -> None:
        """Compare the blocks of a file of `now` bytes whose bits are in `left`; `own` names it in `see`."""
        size = found["bytes"]
        if now != size:
            raise damaged(path, f"it has {now:,} bytes and had {size:,}", self.stage)
        piece = memoryview(bytearray(min(size, PIECE)))
        with open(path, "rb", buffering=0) as file:
            for block in range(left.bit_length()):
                if not left >> block & 1:
                    continue
                file.seek(block * BLOCK)
                if _next_block(file, piece) != found["blocks"][16 * block : 16 * block + 16]:
                    end = min(size, (block + 1) * BLOCK)
                    what = f"bytes {block * BLOCK:,} to {end - 1:,} are not what was written"
                    raise damaged(path, what, self.stage)
                see(own, block)

    def _digests(self, name: str) -> dict[str, Any] | None:
        """Of a file; None where there are none."""
        if (own := note_of(name)) == DIGESTS:
            if self.table is None:
                return None
            found = self.table["files"]
        elif self.table is not None:
            if own not in self.table["shards"]:
                raise damaged(self.folder / name, f"{DIGESTS} names no {own}", self.stage)
            found = _note_of_finished(str(self.folder), own, self.table["shards"][own], self.stage)
        else:
            path = self.folder / own
            found = read_note(path)["files"] if path.exists() else {}
        if name not in found and self.table is not None:
            raise damaged(self.folder / name, "it was not there when the folder was finished", self.stage)
        return found.get(name)


def _next_block(file: io.FileIO, piece: memoryview) -> str:
    """XXH3 of the next block of a file, which is read through the memory `piece`."""
    whole, left = xxhash.xxh3_64(), BLOCK
    while left and (count := file.readinto(piece[:left])):
        whole.update(piece[:count])
        left -= count
    return whole.hexdigest()


@remembered
def _note_of_finished(folder: str, own: str, digest: str, stage: str | None) -> dict[str, Any]:
    path = Path(folder, own)
    content = read_note(path, stage)
    if content["digest"] != digest:
        raise damaged(path, f"it is not the one that {DIGESTS} names", stage)
    return content["files"]


def checked(path: str | Path) -> Path:
    """`path`; all of it is what was written, if the folder around it has digests of it that are no shard's.

    Raises:
        DamagedError: it is not.
    """
    path = Path(path)
    digests = FolderDigests(path.parent)
    is_named = digests.table is not None and path.name in digests.table["files"]
    return digests.check(path.name) if is_named else path


@dataclass
class Examined:
    """What is in a folder, against its digests.

    Attributes:
        known: it has digests.
        files: how many were compared.
        size: their bytes.
        faults: name -> `differs`, `is missing`, or `is left over: no finished stage wrote it`.
    """

    known: bool
    files: int = 0
    size: int = 0
    faults: dict[str, str] = field(default_factory=dict)


def examine(folder: Path, step: Callable[[int], None] = lambda size: None) -> Examined:
    """Compare the SHA-256 of every file with that of its digests; the shards alone of what is unfinished.

    Args:
        folder: of one stage.
        step: told the size of each file that was compared.
    """
    table, found = None, Examined((folder / DIGESTS).exists())
    if found.known:
        try:
            table = read_note(folder / DIGESTS)
        except DamagedError:
            found.faults[DIGESTS] = "differs"
    named: dict[str, str] = table["shards"] if table else {}
    files: dict[str, dict[str, Any]] = dict(table["files"]) if table else {}
    there = {path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".lock-")}
    for own in sorted({*named, *(name for name in there if re.fullmatch(r"digests-\d{5,}\.json", name))}):
        try:
            content = read_note(folder / own)
        except DamagedError:
            found.faults[own] = "differs" if own in there else "is missing"
            continue
        if table and own in named and named[own] != content["digest"]:
            found.faults[own] = "differs"
        elif not table or own in named:
            files |= content["files"]
    for name, digests in sorted(files.items()):
        if name not in there:
            found.faults[name] = "is missing"
            continue
        found.files += 1
        found.size += digests["bytes"]
        if digests_of(folder / name)["sha256"] != digests["sha256"]:
            found.faults[name] = "differs"
        step(digests["bytes"])
    unknown = there - files.keys() - named.keys() - {DIGESTS} if table else set()
    left = {name: "is left over: no finished stage wrote it" for name in sorted(unknown)}
    # Those of a shard whose own digests are damaged cannot be told.
    found.faults |= {name: what for name, what in left.items() if note_of(name) not in found.faults}
    return found


def of_shard(folder: Path, name: str) -> Iterator[Path]:
    """The files that were written together with the file `name`, itself and their digests among them."""
    number = re.search(r"-(\d{5,})\.", name)
    yield from folder.glob(f"[!.]*-{number[1]}.*") if number else [folder / name]
