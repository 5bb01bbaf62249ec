"""Stage 4: features and centers -> the nearest centers of every item, as its labels.

    onevision cluster assign out/features out/labels --centers out/kmeans --labels 10

Shard `labels-00000.parquet` goes with `features-00000.parquet`: `key`, `row` (in that shard), `labels`
(list<int32>, nearest first) and `scores` (list<float32>, cosines). Dropped duplicates have no row. Centers
are read block by block, so the memory of a pass is that of one block of items, one block of centers, and the
running
best: flat in the number of both.

With `--tags`, labels are words instead: of the column that `features` read, those in a vocabulary
(`vocabulary.parquet`: `tag`, `count`; the row number is the label). Items without such words have no row, and
no label that stands for nothing.
"""

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize

from ..jobs.processes import Processes
from ..jobs.progress import progress
from ..jobs.run_folder import FinishedRun, digest_of
from .dedup import dropped_rows
from .features import FeatureShards
from .kmeans import CenterFile
from .matrix import BLOCK_ROWS

STAGE = "assign"
VOCABULARY = "vocabulary.parquet"
CENTER_BLOCK = 4096


def nearest_centers(
    rows: torch.Tensor, centers: Iterator[tuple[int, torch.Tensor]], k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most similar centers of each row, keeping a running best over blocks of centers.

    Args:
        rows: (n, D) of length one.
        centers: (first number, (c, D) of length one), block by block.
        k: how many of them.

    Returns:
        (n, k) cosines, descending, and (n, k) int64 numbers; the lower number first where two are equal.
    """
    best = torch.full((len(rows), k), -torch.inf, device=rows.device)
    numbers = torch.zeros(len(rows), k, dtype=torch.int64, device=rows.device)
    for start, block in centers:
        similarity = rows @ block.to(rows.device).T
        found, index = similarity.topk(min(k, similarity.shape[1]), dim=1)
        joined = torch.cat([best, found], 1)
        candidates = torch.cat([numbers, index + start], 1)
        # Two stable sorts: by number, then by cosine.
        order = candidates.argsort(dim=1, stable=True)
        joined, candidates = joined.gather(1, order), candidates.gather(1, order)
        order = joined.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, numbers = joined.gather(1, order), candidates.gather(1, order)
    return best, numbers


def assign_labels(
    features: str | Path,
    out: str | Path,
    centers: str | Path,
    *,
    labels: int | None = None,
    dedup: str | Path | None = None,
    device: str = "cpu",
    redo: bool = False,
) -> dict[str, Any]:
    """Label every kept item with its nearest centers; a run that was stopped goes on with the next shard.

    Args:
        features: a finished features folder.
        out: the folder to fill.
        centers: a finished k-means folder, or a `centers.safetensors`.
        labels: how many an item (10, as published, or as many as there are centers if those are fewer).
        dedup: a finished dedup of the same features, whose dropped items are left out.
        device: where it is computed, `cpu`, `cuda`, ...
        redo: empty a folder that was made otherwise, instead of refusing it.

    Returns:
        The summary: `items`, `classes`, `rows` (items of each shard).

    Raises:
        ValueError: centers of another width, more labels than centers, or `out` was made from something else.
    """
    shards = FeatureShards(features)
    file = CenterFile(centers)
    if file.dim != shards.dim:
        raise ValueError(f"{file.path} has centers of {file.dim} values, but the features have {shards.dim}")
    k = min(10, file.count) if labels is None else labels
    if not 1 <= k <= file.count:
        raise ValueError(f"{k} labels asked for, but there are {file.count} centers")
    dropped, dedup_digest = dropped_rows(dedup, shards)

    def nearest(index: int) -> pa.Table:
        kept = shards.kept(index, dropped)
        matrix = shards.matrix(index)[kept] if len(kept) else np.zeros((0, shards.dim), np.float16)
        scores, numbers = [np.zeros((0, k), np.float32)], [np.zeros((0, k), np.int32)]
        for start in range(0, len(matrix), BLOCK_ROWS):
            block = torch.from_numpy(matrix[start : start + BLOCK_ROWS]).to(device).float()
            best, found = nearest_centers(normalize(block, dim=1), file.blocks(CENTER_BLOCK), k)
            scores.append(best.cpu().numpy())
            numbers.append(found.cpu().numpy().astype(np.int32))
        return pa.table(
            {
                "key": shards.table(index, ["key"])["key"].take(pa.array(kept)),
                "row": pa.array(kept, pa.int32()),
                "labels": _lists(np.concatenate(numbers)),
                "scores": _lists(np.concatenate(scores)),
            }
        )

    settings = {"labels": k, "classes": file.count}
    sources = digest_of([shards.run.digest, dedup_digest, file.digest])
    return _write_labels(out, shards, settings, sources, redo, nearest, file.count)


def assign_tags(
    features: str | Path,
    out: str | Path,
    *,
    min_count: int = 2,
    vocabulary_size: int | None = None,
    dedup: str | Path | None = None,
    redo: bool = False,
) -> dict[str, Any]:
    """Label every kept item with the words of its tags that are in the vocabulary.

    Args:
        features: a finished features folder that read tags (`--tags-column`, `--tags-file`).
        out: the folder to fill.
        min_count: a word must occur in so many items.
        vocabulary_size: keep the most frequent so many.
        dedup: a finished dedup of the same features, whose dropped items are left out.
        redo: empty a folder that was made otherwise, instead of refusing it.

    Raises:
        ValueError: the features have no tags, or no word is frequent enough.
    """
    shards = FeatureShards(features)
    if not shards.has_tags():
        raise ValueError(f"{features} has no tags: make it with --tags-column or --tags-file")
    dropped, dedup_digest = dropped_rows(dedup, shards)
    counts: collections.Counter[str] = collections.Counter()
    for index in range(len(shards)):
        for words in _tags(shards, index, dropped)[1]:
            counts.update(words)
    frequent = [(word, count) for word, count in counts.items() if count >= min_count]
    frequent.sort(key=lambda pair: (-pair[1], pair[0]))
    frequent = frequent[:vocabulary_size]
    if not frequent:
        raise ValueError(
            f"no tag occurs in {min_count} items or more ({len(counts)} different tags): --min-count"
        )
    number = {word: index for index, (word, _) in enumerate(frequent)}
    vocabulary = pa.table({"tag": [w for w, _ in frequent], "count": [c for _, c in frequent]})

    def tagged(index: int) -> pa.Table:
        kept, tags, keys = _tags(shards, index, dropped)
        labelled = [[number[w] for w in words if w in number] for words in tags]
        some = [i for i, found in enumerate(labelled) if found]
        return pa.table(
            {
                "key": pa.array([keys[i] for i in some], pa.string()),
                "row": pa.array([int(kept[i]) for i in some], pa.int32()),
                "labels": pa.array([labelled[i] for i in some], pa.list_(pa.int32())),
            }
        )

    settings = {"tags": True, "min_count": min_count, "vocabulary_size": vocabulary_size}
    sources = digest_of([shards.run.digest, dedup_digest])
    return _write_labels(out, shards, settings, sources, redo, tagged, len(frequent), vocabulary)


def _tags(
    shards: FeatureShards, index: int, dropped: np.ndarray | None
) -> tuple[np.ndarray, list[list[str]], list[str]]:
    kept = shards.kept(index, dropped)
    if not len(kept):
        return kept, [], []
    table = shards.table(index, ["key", "tags"]).take(pa.array(kept))
    return kept, [words or [] for words in table["tags"].to_pylist()], table["key"].to_pylist()


def _write_labels(
    out: str | Path,
    shards: FeatureShards,
    settings: dict[str, Any],
    sources: str,
    redo: bool,
    table_of: Callable[[int], pa.Table],
    classes: int,
    vocabulary: pa.Table | None = None,
) -> dict[str, Any]:
    """Write what `table_of` makes of each shard of features that has no labels yet."""
    processes = Processes.current()
    settings |= {"media": shards.run.plan["sources"], "kind": shards.kind}
    with processes.open_run(out, stage=STAGE, settings=settings, sources=sources, redo=redo) as run:
        names = [f"labels-{i:05d}.parquet" for i in range(len(shards))]
        missing = run.missing(names)
        if run.finished and not missing:
            return FinishedRun(out, STAGE).summary
        if vocabulary is not None and processes.main:
            with run.shard(VOCABULARY) as path:
                pq.write_table(vocabulary, path)
        mine = processes.own(missing)
        with progress("assign", sum(shards.rows[i] for i in mine), not processes.main) as step:
            for index in mine:
                table = table_of(index)
                with run.shard(names[index]) as path:
                    pq.write_table(table, path)
                step(shards.rows[index])

        def summarise() -> None:
            rows = [pq.read_metadata(run.path / name).num_rows for name in names]
            run.finish({"items": sum(rows), "classes": classes, "rows": rows})

        processes.finish(summarise)
        return FinishedRun(out, STAGE).summary


def _lists(values: np.ndarray) -> pa.ListArray:
    """(n, k) -> n lists of k."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


class LabelShards:
    """A finished assign folder.

    Attributes: `run`, `classes`, `rows` (labelled items of each shard), `media` (digest of the media's
    listing), `kind`.
    """

    def __init__(self, path: str | Path):
        self.run = FinishedRun(path, STAGE)
        self.classes: int = self.run.summary["classes"]
        self.rows: list[int] = self.run.summary["rows"]
        self.media: str = self.run.settings["media"]
        self.kind: str = self.run.settings["kind"]

    def __len__(self) -> int:
        return len(self.rows)

    def table(self, shard: int) -> pa.Table:
        return pq.read_table(self.run.file(f"labels-{shard:05d}.parquet"))
