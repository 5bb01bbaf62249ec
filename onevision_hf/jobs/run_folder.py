"""A folder that a job fills with shards, and can go on filling after it was killed at any point.

`plan.json` says what the folder is made of: the stage, its settings, and a digest of its sources. A shard is
written under another name, synced to the disk and renamed, so a file under its own name is always whole. A
job started again with the same plan does the shards that are missing; with another plan it stops and says
what differs, or (`redo=True`) empties the folder and begins anew. With `redo` and the same plan, what is
damaged is made again (`digests.py` says how that is known). `summary.json` is written last.

    with RunFolder("out", stage="features", settings={"size": 224}, sources=digest_of(paths)) as run:
        for index in run.missing([f"part-{i:05d}.parquet" for i in range(12)]):
            with run.shard(f"part-{index:05d}.parquet") as path:
                write(path)
        run.finish({"items": 1200})
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .digests import (
    DIGESTS,
    DamagedError,
    FolderDigests,
    examine,
    note,
    note_of,
    of_shard,
    read_json,
    read_note,
)

PLAN, SUMMARY = "plan.json", "summary.json"


class OtherPlanError(ValueError):
    """A folder was made with another plan.

    Attributes:
        path: the folder.
        difference: what differs, as text.
    """

    def __init__(self, path: Path, difference: str):
        self.path, self.difference = path, difference
        super().__init__(
            f"{path} was made from something else: {difference}. Choose another folder, or pass --redo to "
            "make this one again"
        )


def canonical_json(value: Any) -> str:
    """JSON text that is the same for the same value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def digest_of(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, of bytes, or of an iterable of such (fed one by one)."""
    digest = hashlib.sha256()
    if isinstance(value, bytes):
        digest.update(value)
    elif isinstance(value, str | Mapping | int | float | bool | None):
        digest.update(canonical_json(value).encode())
    else:
        for part in value:
            digest.update(part if isinstance(part, bytes) else canonical_json(part).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_files(*paths: Path, owner: str = "") -> Iterator[tuple[Path, ...]]:
    """Temporary names next to `paths`, to be written by the body; on success they are synced and renamed.

    The last path is renamed last, so its presence says that the others are there too. When the body raises,
    nothing appears. A body may leave out any path but the last. Where several processes may write the same
    file, each is an `owner` with a name of its own.
    """
    mark = f".{owner}" if owner else ""
    temporary = tuple(path.with_name(f".{path.name}{mark}.tmp") for path in paths)
    try:
        yield temporary
    except Exception:
        for path in temporary:
            path.unlink(missing_ok=True)
        raise
    written = [(t, p) for t, p in zip(temporary, paths, strict=True) if t.exists() or p == paths[-1]]
    for path, _ in written:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    for path, final in written:
        os.replace(path, final)
    sync_folder(paths[-1].parent)


@contextlib.contextmanager
def shard_files(*paths: Path, owner: str = "") -> Iterator[tuple[Path, ...]]:
    """`atomic_files` for the files of a shard: their digests appear before the last of them.

    Args:
        *paths: of all files of the shard.
        owner: as of `atomic_files`.
    """
    own = note_of(paths[-1].name)
    if own == DIGESTS:  # of no shard: its digests are written when the stage is finished
        with atomic_files(*paths, owner=owner) as temporary:
            yield temporary
        return
    with atomic_files(paths[-1].with_name(own), *paths, owner=owner) as (beside, *temporary):
        yield tuple(temporary)
        written = zip(temporary, paths, strict=True)
        beside.write_bytes(note({path.name: file for file, path in written if file.exists()}).encode())


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str | bytes) -> None:
    with atomic_files(path) as (temporary,):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def save_arrays(path: Path, **arrays: Any) -> None:
    """An .npz that is there when it is whole."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def open_locked(path: Path, mode: str, busy: str) -> BinaryIO:
    """A file for this process alone, until it is closed or the process ends, however it ends.

    Over NFS the lock is the server's, and holds between machines. Where a file system has no locks, a warning
    says that nobody else is kept out.

    Args:
        path: of the file.
        mode: `wb` or `ab`.
        busy: what is said when another process has it.

    Raises:
        ValueError: another process has it.
    """
    file: Any = open(path, mode)  # noqa: SIM115 - held until it is closed
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(busy) from None
    except OSError as error:
        warnings.warn(
            f"{path.parent} cannot be kept for this process alone ({error.strerror}): see to it that no "
            "other writes there",
            stacklevel=3,
        )
    return file


class RunFolder:
    """One stage's folder, open for writing by one job at a time.

    Args:
        path: the folder; made if needed. One that holds files of nobody's plan is refused.
        stage: the name of the stage; a folder of another stage is refused.
        settings: every argument that changes the result, as JSON values.
        sources: a digest of what is read (names, sizes, times, or the plan of the stage before).
        redo: empty a folder that was made with another plan, instead of refusing it; of one with this plan,
            remove the files that are damaged, so that they are made again.
        rank: of several processes that fill one folder together, which this is; rank 0 must open it first.

    Raises:
        OtherPlanError: the folder was made with another plan. ValueError: it is being written by another job.
        DamagedError: its plan is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        stage: str,
        settings: Mapping[str, Any],
        sources: str,
        redo: bool = False,
        rank: int = 0,
    ):
        self.path = Path(path)
        # Through JSON and back, so that a tuple equals the list that it is read as.
        self.plan = json.loads(canonical_json({"stage": stage, "settings": settings, "sources": sources}))
        self.path.mkdir(parents=True, exist_ok=True)
        busy = f"{self.path} is being written by another process; wait for it or stop it"
        self._lock = open_locked(self.path / f".lock-{rank}", "wb", busy)
        try:
            self._match_plan(redo and rank == 0)  # the others find what it left
            if rank == 0:
                self.remove(".*.tmp")
        except BaseException:
            self.close()
            raise

    def _match_plan(self, redo: bool) -> None:
        """Match the folder to the plan: continue, begin, empty it, or refuse."""
        plan_path = self.path / PLAN
        if plan_path.exists():
            found = self._found_plan(redo)
            if found == self.plan:
                if redo:
                    self._remove_damaged()
                return
            # A job that was killed while it emptied the folder left {"emptying": true}.
            if not found.get("emptying"):
                if not redo:
                    raise OtherPlanError(self.path, _difference(found, self.plan))
                self._unfinish()  # before the plan is another one than that of the digests
                write_atomically(plan_path, canonical_json({"emptying": True}))
            for file in self.path.iterdir():
                if file.is_file() and file.name != PLAN and not file.name.startswith(".lock-"):
                    file.unlink()
        else:
            other = [f.name for f in self.path.iterdir() if not f.name.startswith(".")]
            if other:
                raise ValueError(
                    f"{self.path} holds {len(other)} files ({min(other)}, ...) but no {PLAN}: "
                    "no run made it; choose an empty folder"
                )
        write_atomically(plan_path, canonical_json(self.plan))

    def _found_plan(self, redo: bool) -> dict[str, Any]:
        """The plan in the folder. A damaged one is an error, or (`redo`) written again where it is known by
        its digest that it was this job's."""
        path, own = self.path / PLAN, canonical_json(self.plan)
        digests: FolderDigests | None = None
        try:
            digests = FolderDigests(self.path)
            return read_json(digests.check(PLAN))
        except DamagedError:
            if not redo:
                raise
        known = digests.table["files"][PLAN]["sha256"] if digests and digests.table else None
        if known == hashlib.sha256(own.encode()).hexdigest():
            write_atomically(path, own)
        try:
            return read_json(path)
        except DamagedError:
            return {}

    def _remove_damaged(self) -> None:
        """Remove the files that differ from their digests, and of a shard all others too."""
        faults = examine(self.path).faults
        wrong = [name for name, what in faults.items() if not what.startswith("is left over")]
        if wrong:
            self._unfinish()
        paths = {path for name in wrong for path in of_shard(self.path, name)} - {self.path / PLAN}
        # Digests last: files without any are taken for those of an older version.
        for path in sorted(paths, key=lambda path: path.name.startswith("digests-")):
            path.unlink(missing_ok=True)

    def _unfinish(self) -> None:
        for name in (SUMMARY, DIGESTS):
            (self.path / name).unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """Of the plan: what a later stage names as its source."""
        return digest_of(self.plan)

    def missing(self, names: Sequence[str]) -> list[int]:
        """Indices of the shards that are not there yet."""
        return [i for i, name in enumerate(names) if not (self.path / name).exists()]

    @contextlib.contextmanager
    def shard(self, name: str, *companions: str) -> Iterator[Any]:
        """Path(s) to write a shard to; `companions` are further files that appear just before it.

        Yields one path, or a tuple (shard, *companions)."""
        with shard_files(*(self.path / n for n in (*companions, name))) as paths:
            yield paths[0] if not companions else (paths[-1], *paths[:-1])

    def write(self, name: str, content: str | bytes) -> None:
        write_atomically(self.path / name, content)

    def file(self, name: str) -> Path:
        """Where a file of a finished shard lies. Raises DamagedError: it is not what was written."""
        return FolderDigests(self.path, finished=False).check(name)

    def gather_rejected(self, shards: int, total: int, noun: str) -> int:
        """Join what each of the `shards` rejected (rejected-00000.jsonl, ...) into rejected.jsonl; how many
        lines that has.

        Args:
            shards: how many.
            total: things in all.
            noun: what they are called in the error, in the plural.

        Raises:
            ValueError: all of the `total` things, called `noun`, were rejected.
        """
        count = self.gather("rejected", shards)
        if count == total:
            first = json.loads((self.path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()[0])
            raise ValueError(
                f"none of the {total} {noun} could be used; the first: {first['key']}: {first['reason']} "
                f"(all are in {self.path / 'rejected.jsonl'})"
            )
        return count

    def gather(self, name: str, shards: int) -> int:
        """Join the lines of NAME-00000.jsonl, ..., one of each of the `shards`, into NAME.jsonl; how many."""
        parts = (self.file(f"{name}-{index:05d}.jsonl") for index in range(shards))
        lines = "".join(part.read_text(encoding="utf-8") for part in parts)
        self.write(f"{name}.jsonl", lines)
        return lines.count("\n")

    def gather_partial(self, shards: int) -> dict[str, int]:
        """`partial`: how many things are there in part, which partial.jsonl lists; nothing where the plan
        takes none."""
        return {"partial": self.gather("partial", shards)} if "errors" in self.plan["settings"] else {}

    @property
    def finished(self) -> bool:
        path = self.path / SUMMARY
        return path.exists() and read_json(path).get("plan") == self.digest

    def finish(self, summary: Mapping[str, Any], working: Sequence[str] = ()) -> dict[str, Any]:
        """Say that every shard is there, and write the digests that are not written yet.

        Args:
            summary: must depend on the plan only: no times, no rates.
            working: patterns of files that only an unfinished run needs; they are removed at the end.

        Returns:
            What `summary.json` holds.
        """
        content = {"plan": self.digest, **summary}
        used = {file for pattern in working for file in self.path.glob(pattern)}
        shards: dict[str, dict[str, Path]] = {}
        for file in sorted({*self.path.iterdir()} - used):
            if file.is_file() and not file.name.startswith(".") and file.name not in (DIGESTS, SUMMARY):
                shards.setdefault(note_of(file.name), {})[file.name] = file
        rest = shards.pop(DIGESTS, {})
        for name, of in shards.items():
            if not (self.path / name).exists():  # shards of a run that was begun before there were digests
                self.write(name, note(of))
        notes = {name: read_note(self.path / name)["digest"] for name in shards}
        with atomic_files(self.path / DIGESTS, self.path / SUMMARY) as (digests, path):
            path.write_text(canonical_json(content), encoding="utf-8")
            stage = self.plan["stage"]
            digests.write_text(note({**rest, SUMMARY: path}, stage=stage, shards=notes), encoding="utf-8")
        self.remove(*working)
        return content

    def remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FinishedRun:
    """A folder that a stage has finished, opened for reading.

    Attributes: `path`, `plan`, `settings`, `summary`, `digests` (of its files), and `digest`, which names it
    as the source of a later stage.

    Raises:
        ValueError: the folder is not of this stage, or the stage has not finished. DamagedError: what it says
        of itself is not what was written.
    """

    def __init__(self, path: str | Path, stage: str | Iterable[str]):
        self.path = Path(path)
        stages = [stage] if isinstance(stage, str) else list(stage)
        self._plan_path = os.path.join(path, PLAN)
        if not os.path.exists(self._plan_path):
            raise ValueError(f"{self.path} holds no {PLAN}: expected a folder made by {' or '.join(stages)}")
        self.digests = FolderDigests(self.path)
        self.plan: dict[str, Any] = read_json(self.digests.check(PLAN))
        if self.plan.get("stage") not in stages:
            raise ValueError(
                f"{self.path} was made by {self.plan.get('stage')!r}, "
                f"expected {' or '.join(map(repr, stages))}"
            )
        self.settings: dict[str, Any] = self.plan["settings"]
        self.digest = digest_of(self.plan)
        self._plan_seen: tuple[int, int] | None = None  # of its file: inode and time of change
        is_told = (self.path / SUMMARY).exists()
        self.summary: dict[str, Any] = read_json(self.file(SUMMARY)) if is_told else {}
        if self.summary.get("plan") != self.digest:
            raise ValueError(f"{self.path} is not finished: run {self.plan['stage']!r} again, it will go on")

    def file(self, name: str, start: int = 0, stop: int | None = None) -> Path:
        """Where a file lies, after what is to be read of it was compared with its digests.

        Args:
            name: of the file.
            start: the first byte that is read.
            stop: after the last byte; None is the end.

        Raises:
            OSError: as `unchanged`. DamagedError: it is gone, or not what was written.
        """
        return self.unchanged() and self.digests.check(name, start, stop)

    def unchanged(self) -> Path:
        """The folder. Raises OSError if it was made again, so that what is known of it is of other files."""
        status = os.stat(self._plan_path)
        seen = (status.st_ino, status.st_mtime_ns)
        if seen != self._plan_seen and digest_of(read_json(self.path / PLAN)) != self.digest:
            raise OSError(f"{self.path} was made again, another way, since it was opened: open it anew")
        self._plan_seen = seen
        return self.path


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if found.get("stage") != wanted["stage"]:
        return f"it holds the stage {found.get('stage')!r}, not {wanted['stage']!r}"
    changed = changes(found.get("settings", {}), wanted["settings"])
    if found.get("sources") != wanted["sources"]:
        changed.append("the sources have changed (a file added, removed, or written again)")
    return "; ".join(changed)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Each setting that differs, with both values."""
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return [f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in names]


def json_lines(records: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
