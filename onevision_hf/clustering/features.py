"""Stage 1: media -> features, float16 in parquet shards.

    onevision cluster features pictures/ out/features --teacher facebook/dinov2-base

Shard `features-00000.parquet` has the columns `key`, `kind`, `path`, `size`, `mtime_ns`, `feature`
(fixed_size_list<float16>[D], length one), and `tags` where asked for; its metadata name the plan. What could
not be decoded is in no shard, but in `rejected.jsonl` with its reason.
"""

import dataclasses
import functools
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data.decoding import decoded_batches
from ..data.items import Item, Kind, Source
from ..data.media import errors_setting
from ..data.sources import open_reader
from ..jobs.engines import run_tasks
from ..jobs.processes import Processes
from ..jobs.progress import progress
from ..jobs.run_folder import PLAN, FinishedRun, RunFolder, digest_of, json_lines, shard_files
from ..modeling.video_reader import VideoReader, VideoReadError
from .extractors import FeatureExtractor
from .matrix import RowFile

STAGE = "features"
T = TypeVar("T")
R = TypeVar("R")


def extract_features(
    source: Source,
    out: str | Path,
    extractor: FeatureExtractor,
    kind: Kind,
    *,
    batch_size: int = 32,
    workers: int = 4,
    shard_items: int = 4096,
    redo: bool = False,
    engine: str = "local",
    actors: int = 1,
    address: str | None = None,
    make_extractor: Callable[[], FeatureExtractor] | None = None,
    errors: str = "skip",
) -> dict[str, Any]:
    """Encode every item of `kind` into shards under `out`; a run that was stopped goes on.

    Args:
        source: of the items.
        out: the folder to fill.
        extractor: of features.
        kind: of the items to encode.
        batch_size: items the extractor takes at once. Not part of the plan: it changes results by rounding
            only.
        workers: threads that decode ahead of the extractor.
        shard_items: items of a shard.
        redo: empty a folder that was made otherwise, instead of refusing it.
        engine: `local`, this process and its peers of `torchrun`; `ray`, see `engines.run_tasks`.
        actors: of Ray, each with an extractor of its own.
        address: of the Ray cluster.
        make_extractor: makes an extractor in an actor.
        errors: "skip" leaves out what cannot be read, into rejected.jsonl; "partial" also uses what is there
            of truncated videos, and lists them in partial.jsonl.

    Returns:
        The summary: `items`, `rejected`, `shards`, `dim`, and with "partial" how many items are, in
        `partial`.

    Raises:
        ValueError: there is nothing of `kind`, nothing could be decoded, or `out` was made from something
        else.
    """
    of_errors = errors_setting(errors)
    processes = Processes.current()
    items = [item for item in source.items if item.kind == kind]
    if not items:
        raise ValueError(f"the source has {len(source.items)} items, but no {kind}s")
    settings = {**extractor.identity, "kind": kind, "shard_items": shard_items, "tags": source.tags_digest}
    if kind == "image":  # which has no signals
        settings.pop("signals_version", None)
    settings |= of_errors
    with processes.open_run(out, stage=STAGE, settings=settings, sources=source.digest, redo=redo) as run:
        parts = [items[i : i + shard_items] for i in range(0, len(items), shard_items)]
        names = [f"features-{i:05d}.parquet" for i in range(len(parts))]
        missing = run.missing(names)
        if run.finished and not missing:
            return FinishedRun(out, STAGE).summary
        mine = processes.own(missing)
        with progress(f"features ({kind})", sum(len(parts[i]) for i in mine), not processes.main) as step:
            if engine == "local":
                make = ShardMaker(run.path, source, extractor, batch_size, workers, errors)
                for index in mine:
                    make((index, parts[index]), step)
            else:
                if source.reader is None or make_extractor is None or processes.world > 1:
                    raise ValueError(
                        f"--engine {engine} takes one driver process, and a source and an extractor that "
                        "other processes can open"
                    )
                folder = str(run.path.resolve())
                make_worker = functools.partial(
                    open_worker, folder, source.reader, make_extractor, batch_size, workers, errors
                )
                # Whole paths: actors may run in another folder.
                tasks = [
                    (index, [dataclasses.replace(i, path=os.path.abspath(i.path)) for i in parts[index]])
                    for index in mine
                ]
                for index in run_tasks(make_worker, tasks, engine=engine, workers=actors, address=address):
                    step(len(parts[index]))
        processes.finish(lambda: _finish(run, names, len(items)))
        return FinishedRun(out, STAGE).summary


class ShardMaker:
    """Makes shards of features in a run's folder, each of a task (number, items).

    Args:
        folder: of the run.
        source: opens the items.
        extractor: of their features.
        batch_size: items that it takes at once.
        workers: threads that decode ahead of it.
        errors: see `extract_features`.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        extractor: FeatureExtractor,
        batch_size: int,
        workers: int,
        errors: str = "skip",
    ):
        self.folder, self.source, self.extractor = folder, source, extractor
        self.batch_size, self.workers, self.partial = batch_size, workers, errors == "partial"

    def __call__(
        self, task: tuple[int, Sequence[Item]], step: Callable[[int], None] = lambda count: None
    ) -> int:
        index, items = task
        rows, rejected, partial = self._encode(items, step)
        plan = digest_of(json.loads((self.folder / PLAN).read_text()))
        notes = [self.folder / f"{name}-{index:05d}.jsonl" for name in ("rejected", "partial")]
        files = [*notes, self.folder / f"features-{index:05d}.parquet"]
        owner = f"{socket.gethostname()}-{os.getpid()}"
        with shard_files(*files, owner=owner) as (rejected_path, partial_path, path):
            table = _table(rows, plan)
            pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
            rejected_path.write_text(json_lines(rejected))
            if self.partial:
                partial_path.write_text(json_lines(partial))
        return index

    def _encode(
        self, items: Sequence[Item], step: Callable[[int], None]
    ) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[dict[str, str]]]:
        """Rows of one shard, what was rejected, and what is there in part. Batches are those of the shard, so
        a rerun makes the same ones."""

        missing: dict[str, str] = {}

        def prepare(item: Item) -> Any:
            content = self.source.open(item)
            try:
                return self.extractor.prepare(content, item.kind)
            except VideoReadError:
                if not self.partial:
                    raise
            with VideoReader(content, errors="partial") as reader:
                prepared = self.extractor.prepare(reader, item.kind)
                missing[item.key] = reader.missing
                return prepared

        rows: list[dict[str, Any]] = []
        rejected: list[dict[str, str]] = []
        for batch in decoded_batches(prepare, items, self.batch_size, self.workers, step, rejected):
            features = self.extractor.encode([prepared for _, prepared in batch])
            for (item, _), feature in zip(batch, features, strict=True):
                if not bool(torch.isfinite(feature).all()) or float(feature.norm()) < 0.5:
                    rejected.append({"key": item.key, "reason": "its feature is not finite, or zero"})
                else:
                    rows.append({"item": item, "feature": feature.half().numpy()})
        partial = [
            {"key": row["item"].key, "reason": missing[row["item"].key]}
            for row in rows
            if row["item"].key in missing
        ]
        return rows, rejected, partial


def open_worker(
    folder: str,
    reader: Mapping[str, Any],
    make_extractor: Callable[[], FeatureExtractor],
    batch_size: int,
    workers: int,
    errors: str = "skip",
) -> ShardMaker:
    """A `ShardMaker` in another process, with a feature extractor of its own.

    Args:
        folder: of the run.
        reader: of the source, see `Source.reader`.
        make_extractor: makes the feature extractor.
        batch_size: items that it takes at once.
        workers: threads that decode ahead of it.
        errors: see `extract_features`.
    """
    source = Source([], open_reader(reader))
    return ShardMaker(Path(folder), source, make_extractor(), batch_size, workers, errors)


def _table(rows: list[dict[str, Any]], plan: str) -> pa.Table:
    items: list[Item] = [row["item"] for row in rows]
    dim = len(rows[0]["feature"]) if rows else 1
    flat = np.concatenate([row["feature"] for row in rows]) if rows else np.zeros(0, np.float16)
    columns: dict[str, pa.Array] = {
        "key": pa.array([i.key for i in items], pa.string()),
        "kind": pa.array([i.kind for i in items], pa.string()),
        "path": pa.array([i.path.encode("utf-8", "backslashreplace").decode() for i in items], pa.string()),
        "size": pa.array([i.size for i in items], pa.int64()),
        "mtime_ns": pa.array([i.mtime_ns for i in items], pa.int64()),
        "feature": pa.FixedSizeListArray.from_arrays(pa.array(flat), dim),
    }
    if any(i.tags is not None for i in items):
        columns["tags"] = pa.array([list(i.tags or ()) for i in items], pa.list_(pa.string()))
    return pa.table(columns).replace_schema_metadata({"plan": plan})


def _finish(run: RunFolder, names: list[str], items: int) -> None:
    run.remove(".*.tmp")  # of workers that were killed
    count = run.gather_rejected(len(names), items, "items")
    rows, dim = [], 1
    for name in names:
        schema = pq.read_schema(run.path / name)
        rows.append(pq.read_metadata(run.path / name).num_rows)
        if rows[-1]:
            dim = schema.field("feature").type.list_size
    summary = {"items": sum(rows), "rejected": count, "shards": len(names), "rows": rows, "dim": dim}
    run.finish(summary | run.gather_partial(len(names)))


class FeatureShards:
    """A finished features folder, read by shard.

    Attributes: `run`, `dim`, `rows` (rows of each shard), `total`, `kind`.
    """

    def __init__(self, path: str | Path):
        self.run = FinishedRun(path, STAGE)
        self.rows: list[int] = self.run.summary["rows"]
        self.dim: int = self.run.summary["dim"]
        self.kind: Kind = self.run.settings["kind"]

    @property
    def total(self) -> int:
        return sum(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        return pq.read_table(self.run.file(f"features-{shard:05d}.parquet"), columns=columns)

    def has_tags(self) -> bool:
        first = next(i for i, rows in enumerate(self.rows) if rows)
        return "tags" in pq.read_schema(self.run.file(f"features-{first:05d}.parquet")).names

    def matrix(self, shard: int) -> np.ndarray:
        """(rows, D) float16."""
        column = self.table(shard, ["feature"])["feature"].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)

    def kept(self, shard: int, dropped: np.ndarray | None) -> np.ndarray:
        """Rows of a shard that are not among `dropped`, which are sorted numbers counted over all shards."""
        rows = np.arange(self.rows[shard])
        if dropped is None or not len(dropped):
            return rows
        first = sum(self.rows[:shard])
        low, high = np.searchsorted(dropped, (first, first + len(rows)))
        return np.delete(rows, dropped[low:high] - first)

    def unpack(self, path: Path, dropped: np.ndarray | None = None, shards: range | None = None) -> RowFile:
        """Write the kept rows of `shards` (default all) as one plain file of float16.

        Parquet decodes float16 lists at some 100 MB/s; twenty iterations should not pay that twenty times.

        Args:
            path: of the file to write.
            dropped: sorted numbers of rows to leave out, counted over all shards.
            shards: which; None is all.
        """
        count = 0
        with open(path, "wb") as file:
            for shard in shards if shards is not None else range(len(self)):
                kept = self.kept(shard, dropped)
                if len(kept):
                    self.matrix(shard)[kept].astype(np.float16, copy=False).tofile(file)
                count += len(kept)
        return RowFile(path, count, self.dim)
