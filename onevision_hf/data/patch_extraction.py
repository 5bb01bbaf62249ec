"""Fills a folder with patch shards: the plan here, the work in whatever processes an engine has."""

import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..jobs.engines import run_tasks
from ..jobs.progress import progress
from ..jobs.run_folder import PLAN, FinishedRun, RunFolder, atomic_files, json_lines, shard_files
from ..modeling.patch_cutting import CHANNELS
from ..modeling.patch_selection import Selection
from ..modeling.patchify_config import PatchifyConfig
from ..modeling.video_reader import VideoReader, VideoReadError
from .corpus import ITEMS, Corpus, corpus_reader, open_corpus, read_items, write_items
from .items import Item, MediaError, Source
from .media import errors_setting, reason_of
from .patch_shards import STAGE, PatchExample, ShardWriter
from .tar_shards import LAYOUT, shard_names

# Workers that may die over a clip before it is left out.
MAX_DEATHS = 3
# The middle square, and as many patches of a clip as a published batch has.
DEFAULT = PatchifyConfig.from_dict({"do_center_crop": True, "num_patches": 2048})


def extract_patches(
    source: str | Corpus,
    out: str | Path,
    config: PatchifyConfig = DEFAULT,
    *,
    shard_items: int = 256,
    media_column: str | None = None,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    redo: bool = False,
    errors: str = "skip",
) -> dict[str, Any]:
    """Cut the patches of every video of a corpus; a run that was stopped goes on with what is missing.

    Args:
        source: see `open_corpus`.
        out: the folder; with Ray on a file system that all nodes share.
        config: what is kept of a clip; one that has fewer patches than `num_patches` gives all. Pixels and
            times are stored as they are, see `PatchifyConfig.as_stored`.
        shard_items: clips of a shard.
        media_column: of parquet or of a dataset; see `open_source`.
        engine: see `engines.run_tasks`; like the next two it changes nothing in the result.
        workers: processes or actors.
        address: of a Ray cluster.
        redo: empty a folder that was made otherwise, instead of refusing it.
        errors: "skip" leaves out what cannot be read, into rejected.jsonl; "partial" also uses what is there
            of truncated files, and lists them in partial.jsonl.

    Returns:
        The summary: `items`, `rejected`, `shards`, `rows` (of each), `patches`, `pixel_bytes`, `classes`, and
        with "partial" how many items are, in `partial`.

    Raises:
        ValueError: an argument is out of range, `out` was made from something else, or no clip can be read.
        EngineError, ImportError: see `engines.run_tasks`.
    """
    config, out = config.as_stored(), Path(out)
    if config.layout.do_resize:
        side = min(config.layout.size.values())
        config.geometry(side, side)  # sizes that fit no patch are found here, and not clip by clip
    of_errors = errors_setting(errors)
    if shard_items < 1:
        raise ValueError(f"shard_items must be at least 1, not {shard_items}")
    corpus = source if isinstance(source, Corpus) else open_corpus(source, media_column)
    plan = {
        **config.recorded(),
        "layout": LAYOUT,
        "shard_items": shard_items,
        "classes": corpus.classes,
        "reader": corpus.reader,
        **of_errors,
    }
    with RunFolder(out, stage=STAGE, settings=plan, sources=corpus.source.digest, redo=redo) as run:
        total = len(corpus.source.items)
        names = [shard_names(STAGE, index) for index in range(-(-total // shard_items))]
        missing = run.missing([name[-1] for name in names])
        if run.finished and not missing:
            return FinishedRun(out, STAGE).summary
        with atomic_files(out / ITEMS) as (path,):  # each time: the same clips may lie in another place
            write_items(corpus, path, shard_items)
        counts = [min(shard_items, total - index * shard_items) for index in range(len(names))]
        if workers:  # with none, this process reads the clips, and its death may be the fault of one
            for note in out.glob(".trying-*.json"):
                Deaths(note).pardon()
        make = functools.partial(ShardWorker, str(out.resolve()))
        with progress(f"patches ({engine})", sum(counts[index] for index in missing)) as step:
            for index in run_tasks(make, missing, engine=engine, workers=workers, address=address):
                step(counts[index])
        left = run.missing([name[-1] for name in names])
        if left:  # such as a folder that the workers do not share with this process
            raise OSError(
                f"{len(left)} shards are not in {out} although workers wrote them, the first is "
                f"{names[left[0]][-1]}: is the folder on a file system that all nodes share?"
            )
        run.remove(".*.tmp", ".trying-*.json")  # of workers that were killed
        _finish(run, [name[-1] for name in names], total)
        return FinishedRun(out, STAGE).summary


class ShardWorker:
    """Makes shards of a planned folder, named by their number."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        plan = json.loads((self.folder / PLAN).read_text())["settings"]
        self.config = PatchifyConfig.from_recorded(plan)
        self.shard_items: int = plan["shard_items"]
        self.partial = plan.get("errors") == "partial"
        self._read: Callable[[Item], str | bytes] = corpus_reader(plan["reader"])
        self._owner = f"{socket.gethostname()}-{os.getpid()}"

    def __call__(self, index: int) -> int:
        names = shard_names(STAGE, index)
        if (self.folder / names[-1]).exists():  # another worker was thought dead, and was not
            return index
        pairs = read_items(self.folder / ITEMS, index)
        source = Source([item for item, _ in pairs], self._read)
        rejected: list[dict[str, str]] = []
        partial: list[dict[str, str]] = []
        notes_of = [f"rejected-{index:05d}.jsonl", f"partial-{index:05d}.jsonl"]
        files = [self.folder / name for name in (*notes_of, *names)]
        notes = Deaths(self.folder / f".trying-{index:05d}.json")
        with shard_files(*files, owner=self._owner) as (rejected_path, partial_path, *paths):
            writer = ShardWriter(paths, index * self.shard_items)
            for item, labels in pairs:
                try:
                    notes.begin(item.key)
                    row, missing = self._row(source, item, labels)
                except (MediaError, VideoReadError) as error:
                    rejected.append({"key": item.key, "reason": reason_of(error)})
                else:
                    writer.add_example(row)  # what it raises is of the disk, and no clip's fault
                    if missing:
                        partial.append({"key": item.key, "reason": missing})
                notes.end(item.key)
            writer.close()
            rejected_path.write_text(json_lines(rejected), encoding="utf-8")
            if self.partial:
                partial_path.write_text(json_lines(partial), encoding="utf-8")
        notes.forget()
        return index

    def _row(self, source: Source, item: Item, labels: list[int]) -> tuple[PatchExample, str]:
        """A clip's row, and what of a truncated one is there."""
        try:
            content = source.open(item)
            digest = _sha256(content)
        except OSError as error:
            raise MediaError(f"cannot be read: {error.strerror or error}") from error
        with VideoReader(content, errors="partial" if self.partial else "raise") as reader:
            try:
                patches, _, selection = self.config.within(reader).patchify(reader)
            except VideoReadError:
                raise
            except ValueError as error:
                raise MediaError(f"no selection of its patches: {reason_of(error)}") from error
            assert isinstance(selection, Selection)
            side = self.config.layout.patch_size
            row = PatchExample(
                key=item.key,
                source_sha256=digest,
                labels=np.asarray(labels, np.int32),
                signal=selection.signal,
                width=reader.width,
                height=reader.height,
                frames=len(reader),
                duration=float(reader.duration),
                num_frames=len(selection.frame_ids),
                num_patches=len(patches),
                grid_height=selection.geometry.grid_height,
                grid_width=selection.geometry.grid_width,
                patches=patches.astype(np.uint8).reshape(-1, CHANNELS, side, side),
                positions=selection.positions.astype(np.int16),
                times=selection.timestamps.astype(np.float64),
            )
            return row, reader.missing


class Deaths:
    """How often a worker died over a clip: a note is written before it and taken back after it."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._counts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or killed while it was written
            self._counts = {}
        self._guilty = {key for key, count in self._counts.items() if count >= MAX_DEATHS}

    def begin(self, key: str) -> None:
        """Raises MediaError for a clip that killed its workers."""
        if key in self._guilty:
            raise MediaError(f"{MAX_DEATHS} workers died while they read it")
        self._counts[key] = self._counts.get(key, 0) + 1
        self._write()

    def end(self, key: str) -> None:
        if key not in self._guilty:
            self._counts.pop(key, None)

    def pardon(self) -> None:
        """Keep the clips that killed their workers, and forget those that were read when a run was killed:
        that was no fault of theirs, and it must not change what is in the shards."""
        self._counts = {key: self._counts[key] for key in self._guilty}
        self._write()

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self._counts), encoding="utf-8")
        os.replace(temporary, self.path)


def _sha256(content: str | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finish(run: RunFolder, names: list[str], total: int) -> None:
    count = run.gather_rejected(len(names), total, "clips")
    rows, patches = [], 0
    for name in names:
        kept = pq.read_table(run.path / name, columns=["num_patches"])["num_patches"].to_numpy()
        rows.append(len(kept))
        patches += int(kept.sum())
    side, settings = run.plan["settings"]["patch_size"], run.plan["settings"]
    run.finish(
        {
            "items": sum(rows),
            "rejected": count,
            "shards": len(names),
            "rows": rows,
            "patches": patches,
            "pixel_bytes": patches * 3 * side * side,
            "classes": settings["classes"],
            **run.gather_partial(len(names)),
        }
    )
