"""How well clusters agree with a truth that they were made without.

    onevision cluster purity drawn/ out/video/labels          # a folder that `onevision synth` drew

Truth is looked at here and nowhere else in this room: no stage reads it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from .assign import LabelShards

MANIFEST = "manifest.parquet"


@dataclass(frozen=True)
class Purity:
    """Of one family of truth.

    Attributes:
        items: clustered items that have a label of the family.
        answers: different labels among them.
        purity: fraction of items whose label is the commonest of their cluster.
        chance: the same after the labels were shuffled among the items, mean of five shuffles: what many
            small clusters reach by themselves.
    """

    items: int
    answers: int
    purity: float
    chance: float


def cluster_purity(source: str | Path, labels: str | Path) -> dict[str, Purity]:
    """Compare the nearest center of every item with the labels in the manifests of drawn media.

    Args:
        source: the folder that was clustered; `onevision synth` drew it, or folders in it.
        labels: a finished assign folder (`DST/video/labels` of `cluster run`).

    Returns:
        For each family that some clustered item answers, its `Purity`.

    Raises:
        ValueError: no manifest below `source`, or none of its media is among the labels.
    """
    shards = LabelShards(labels)
    cluster_of = {
        key: found[0]
        for table in map(shards.table, range(len(shards)))
        for key, found in zip(table["key"].to_pylist(), table["labels"].to_pylist(), strict=True)
    }
    truth = _truth(Path(source))
    known = [key for key in cluster_of if key in truth]
    if not known:
        raise ValueError(f"none of the {len(cluster_of)} labelled items is in a {MANIFEST} below {source}")
    report = {}
    for family in next(iter(truth.values())):
        known_here = [key for key in known if truth[key].get(family) is not None]
        if not known_here:
            continue
        clusters = np.array([cluster_of[key] for key in known_here])
        answers = np.unique([truth[key][family] for key in known_here], return_inverse=True)[1]
        shuffles = [np.random.default_rng(seed).permutation(answers) for seed in range(5)]
        by_chance = float(np.mean([_purity(clusters, shuffled) for shuffled in shuffles]))
        report[family] = Purity(
            len(known_here), int(answers.max()) + 1, _purity(clusters, answers), by_chance
        )
    return report


def _purity(clusters: np.ndarray, answers: np.ndarray) -> float:
    counts = np.zeros((clusters.max() + 1, answers.max() + 1), np.int64)
    np.add.at(counts, (clusters, answers), 1)
    return float(counts.max(axis=1).sum() / len(answers))


def _truth(source: Path) -> dict[str, dict[str, str | None]]:
    """Key as in the labels -> the label or None of each family."""
    found = {}
    for manifest in sorted(source.rglob(MANIFEST)):
        if b"families" not in (pq.read_schema(manifest).metadata or {}):
            continue
        folder = manifest.parent.relative_to(source)
        table = pq.read_table(manifest, columns=["path", "labels"])
        for path, labels in zip(table["path"].to_pylist(), table["labels"].to_pylist(), strict=True):
            found[(folder / path).as_posix()] = labels
    if not found:
        raise ValueError(f"no {MANIFEST} of `onevision synth` below {source}")
    return found
