"""Stage 2: drop near-duplicates, as the paper does before it clusters.

    onevision cluster dedup out/features out/dedup --threshold 0.97

Items whose features have a cosine of at least the threshold are joined (union-find), and of each group the
first is kept. Joining is transitive: a chain of small changes is one group. Up to `cell_items` items every
pair is compared; beyond, items are split into cells by k-means, each goes into its two nearest cells, and
pairs are compared within cells, so that the work grows with items x cell size. `dropped.parquet` lists `key`,
`kept_key`, `cosine`, and the rows of both, counted over all shards.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize

from ..jobs.processes import Processes
from ..jobs.progress import progress
from ..jobs.run_folder import FinishedRun, RunFolder
from .features import FeatureShards
from .matrix import RowFile, Rows, blocks, group_rows, span, take
from .spherical import State, lloyd, random_start

STAGE = "dedup"
DROPPED = "dropped.parquet"
MODEL_THRESHOLD, DESCRIPTOR_THRESHOLD = 0.97, 0.9995
PAIR_BLOCK = 2048
CELL_ITERATIONS = 5


def find_duplicates(
    features: str | Path,
    out: str | Path,
    *,
    threshold: float | None = None,
    cell_items: int = 20_000,
    seed: int = 0,
    redo: bool = False,
) -> dict[str, Any]:
    """Write what near-duplicates to drop under `out`; a run that was stopped goes on with the next cell.

    Args:
        features: a finished features folder.
        out: the folder to fill.
        threshold: cosine from which on two items count as the same, in (0, 1]; 0.97 for a model's
            features, 0.9995 for descriptors, whose histograms are all alike, if left out.
        cell_items: mean items of a cell; more finds a few more pairs at borders and costs in proportion.
        seed: of what is drawn by chance.
        redo: empty a folder that was made otherwise, instead of refusing it.

    Returns:
        The summary: `items`, `dropped`, `groups`.
    """
    shards = FeatureShards(features)
    if threshold is None:
        descriptors = str(shards.run.settings["teacher"]).startswith("descriptors")
        threshold = DESCRIPTOR_THRESHOLD if descriptors else MODEL_THRESHOLD
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], found {threshold}")
    settings = {"threshold": threshold, "cell_items": cell_items, "seed": seed}
    with RunFolder(out, stage=STAGE, settings=settings, sources=shards.run.digest, redo=redo) as run:
        if run.finished:
            return FinishedRun(out, STAGE).summary
        rows = shards.unpack(run.path / ".rows.tmp")
        cells = -(-len(rows) // cell_items)
        names = [f"pairs-{i:05d}.parquet" for i in range(cells)]
        missing = run.missing(names)
        if missing:
            members = _cells(rows, cells, seed, run.path / ".cells.tmp")
            with progress("dedup", sum(len(members[i][1]) for i in missing)) as step:
                for index in missing:
                    content, numbers = members[index]
                    one = _components(content, threshold)
                    joined = np.flatnonzero(one != np.arange(len(one)))
                    table = pa.table({"row": numbers[joined], "with": numbers[one[joined]]})
                    with run.shard(names[index]) as path:
                        pq.write_table(table, path)
                    step(len(numbers))
        first = np.arange(len(rows))
        for name in names:
            table = pq.read_table(run.file(name))
            first = join(first, table["row"].to_numpy(), table["with"].to_numpy())
        dropped = np.flatnonzero(first != np.arange(len(first)))
        with run.shard(DROPPED) as path:
            pq.write_table(_listing(shards, rows, dropped, first[dropped]), path)
        for name in (".rows.tmp", ".cells.tmp"):
            (run.path / name).unlink(missing_ok=True)
        groups = len(np.unique(first[dropped]))
        return run.finish({"items": len(rows), "dropped": len(dropped), "groups": groups})


def join(first: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Union-find over many pairs at once: `first[i]` is the smallest member of the group of `i`.

    Args:
        first: (N,) int64, a forest flattened by this function, at the start arange(N). one, two: (P,)
            int64, pairs to join.
        one: (P,) int64, the first of each pair to join.
        two: (P,) int64, the second of each.
    """
    first = first.copy()
    while len(one):
        a, b = first[one], first[two]
        apart = a != b
        one, two, a, b = one[apart], two[apart], a[apart], b[apart]
        np.minimum.at(first, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(first, shorter := first[first]):
            first = shorter
    return first


def _components(rows: Rows, threshold: float) -> np.ndarray:
    """(n,) the first row of each row's group, comparing all pairs, block by block."""
    first = np.arange(len(rows))
    for left_start, left in blocks(rows, PAIR_BLOCK):
        left = normalize(left, dim=1)
        for right_start in range(left_start, len(rows), PAIR_BLOCK):
            right = normalize(span(rows, right_start, right_start + PAIR_BLOCK), dim=1)
            one, two = torch.nonzero(left @ right.T >= threshold, as_tuple=True)
            ahead = one + left_start < two + right_start
            first = join(first, (one[ahead] + left_start).numpy(), (two[ahead] + right_start).numpy())
    return first


def _cells(rows: RowFile, cells: int, seed: int, path: Path) -> list[tuple[Rows, np.ndarray]]:
    """Each cell's rows and their numbers, ascending; every row is in its two nearest cells."""
    if cells <= 1:
        return [(rows, np.arange(len(rows)))]
    alone = Processes()
    state = lloyd(rows, State(random_start(rows, cells, seed, alone)), CELL_ITERATIONS, processes=alone)
    near = [(normalize(block, dim=1) @ state.centers.T).topk(2, dim=1).indices for _, block in blocks(rows)]
    file, begins, place_of = group_rows(rows, torch.cat(near), cells, path, alone)
    number_at = torch.empty(len(file), dtype=torch.int64)
    number_at[place_of.flatten()] = torch.arange(len(rows)).repeat_interleave(2)
    bounds = list(zip(begins.tolist(), begins.tolist()[1:], strict=False))
    return [(file.part(a, b), number_at[a:b].numpy()) for a, b in bounds]


def _listing(shards: FeatureShards, rows: RowFile, dropped: np.ndarray, kept: np.ndarray) -> pa.Table:
    keys: dict[int, str] = {}
    start = 0
    wanted = np.union1d(dropped, kept)
    for shard, count in enumerate(shards.rows):
        here = wanted[(wanted >= start) & (wanted < start + count)]
        if len(here):
            column = shards.table(shard, ["key"])["key"]
            keys.update((int(n), column[int(n - start)].as_py()) for n in here)
        start += count
    cosine = np.zeros(len(dropped), np.float32)
    for begin in range(0, len(dropped), PAIR_BLOCK):
        span = slice(begin, begin + PAIR_BLOCK)
        one, two = (normalize(take(rows, torch.from_numpy(n[span])), dim=1) for n in (dropped, kept))
        cosine[span] = (one * two).sum(1).numpy()
    return pa.table(
        {
            "key": [keys[int(n)] for n in dropped],
            "kept_key": [keys[int(n)] for n in kept],
            "cosine": cosine,
            "row": dropped,
            "kept_row": kept,
        }
    )


def dropped_rows(dedup: str | Path | None, features: FeatureShards) -> tuple[np.ndarray | None, str | None]:
    """Sorted numbers of the rows that a finished dedup drops, and its digest; (None, None) without one.

    Raises:
        ValueError: the dedup is of other features.
    """
    if dedup is None:
        return None, None
    run = FinishedRun(dedup, STAGE)
    if run.plan["sources"] != features.run.digest:
        raise ValueError(f"{dedup} is not a dedup of {features.run.path}: it was made from other features")
    return pq.read_table(run.file(DROPPED), columns=["row"])["row"].to_numpy(), run.digest
