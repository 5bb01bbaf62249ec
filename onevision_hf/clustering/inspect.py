"""What a person looks at before GPU time is spent: are the clusters about something?

    onevision cluster inspect pictures/ out/inspect --features out/features --labels out/labels --centers
    out/kmeans

Writes `index.html`, which shows the pictures next to it: `sizes.png` (how many items clusters have),
`clusters.png` (chosen clusters, their nearest and farthest items), `pairs.png` (the most similar pairs of
centers: one thing split in two?) and `duplicates.png` (what dedup dropped, and for what); and `report.json`
    with the numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from ..data.items import Source
from ..jobs.pages import render
from ..jobs.run_folder import canonical_json, write_atomically
from .assign import LabelShards
from .dedup import DROPPED, dropped_rows
from .features import FeatureShards
from .kmeans import CenterFile
from .pictures import Row, sheet, size_histogram, tile

# All pairs of more centers than this take minutes; beyond, the pairs of so many evenly chosen ones are shown.
MOST_CENTERS = 20_000
PAIR_BLOCK = 2048
PAGE = Path(__file__).with_name("report.html")


@dataclass
class Members:
    """Which items each cluster holds: `order` sorts the items by (cluster, descending cosine)."""

    keys: list[str]
    cluster: np.ndarray
    score: np.ndarray
    sizes: np.ndarray

    @classmethod
    def read(cls, labelled: LabelShards) -> "Members":
        tables = [labelled.table(i) for i in range(len(labelled))]
        if "scores" not in tables[0].column_names:
            raise ValueError(f"{labelled.run.path} holds words, not clusters; there is nothing to draw")
        keys = [key for table in tables for key in table["key"].to_pylist()]
        cluster = np.array([n[0] for table in tables for n in table["labels"].to_pylist()], np.int64)
        score = np.array([s[0] for table in tables for s in table["scores"].to_pylist()], np.float32)
        return cls(keys, cluster, score, np.bincount(cluster, minlength=labelled.classes))

    def of(self, cluster: int) -> np.ndarray:
        """Rows of one cluster, nearest first."""
        rows = np.flatnonzero(self.cluster == cluster)
        return rows[np.argsort(-self.score[rows], kind="stable")]


def inspect(
    source: Source,
    out: str | Path,
    *,
    features: str | Path,
    labels: str | Path,
    centers: str | Path,
    dedup: str | Path | None = None,
    clusters: Sequence[int] | None = None,
    samples: int = 10,
    pairs: int = 8,
) -> dict[str, Any]:
    """Draw the report under `out`.

    Args:
        source: the media that were clustered.
        out: the folder of the report.
        features: a finished features folder.
        labels: a finished assign folder.
        centers: a finished k-means folder, or a `centers.safetensors`.
        dedup: a finished dedup of the same features.
        clusters: which to show; four each of the largest, the middle and the smallest if left out.
        samples: tiles a cluster (a third as many for videos, whose tiles show three frames).
        pairs: how many pairs of centers, and of duplicates.

    Returns:
        The numbers of `report.json`.

    Raises:
        ValueError: the folders are not of one run, or there is no such cluster.
    """
    shards, labelled = FeatureShards(features), LabelShards(labels)
    if labelled.media != source.digest or shards.run.plan["sources"] != source.digest:
        raise ValueError("features and labels were not made from this source as it is now")
    all_dropped, _ = dropped_rows(dedup, shards)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    members = Members.read(labelled)
    file = CenterFile(centers)
    items = {item.key: item for item in source.items}
    unit = "video" if shards.kind == "video" else "picture"
    wide = 3 if shards.kind == "video" else 1
    samples = max(3, samples // wide)

    def counted(count: int) -> str:
        return f"{count:,} {unit}" if count == 1 else f"{count:,} {unit}s"

    def tiles(rows: Sequence[int] | np.ndarray) -> list[Image.Image]:
        return [tile(source, items[members.keys[i]]) for i in rows]

    chosen = list(clusters) if clusters is not None else _typical(members.sizes)
    for cluster in chosen:
        if not 0 <= cluster < len(members.sizes):
            raise ValueError(f"there is no cluster {cluster}: they are 0 to {len(members.sizes) - 1}")
    rows = []
    for cluster in chosen:
        own = members.of(cluster)
        far = samples // 3 if len(own) > samples else 0
        groups = [("nearest to the center", tiles(own[: samples - far]))]
        if far:
            groups.append(("farthest from it", tiles(own[len(own) - far :])))
        mean = f", mean cosine {members.score[own].mean():.2f}" if len(own) else ""
        rows.append(Row(f"Cluster {cluster}", f"{counted(len(own))}{mean}", groups))
    images: dict[str, Image.Image] = {
        "sizes.png": size_histogram(members.sizes.tolist()),
        "clusters.png": sheet(
            "Clusters", "Would one word fit each line? Then the clusters are about something.", rows
        ),
    }

    closest = closest_pairs(file, pairs)
    half = max(2, samples // 2 - 1)
    rows = []
    for one, two, cosine in closest:
        groups = [
            (f"cluster {c}, {counted(members.sizes[c])}", tiles(members.of(c)[:half])) for c in (one, two)
        ]
        rows.append(Row(f"{one} and {two}", f"cosine of the centers {cosine:.3f}", groups))
    if rows:
        images["pairs.png"] = sheet(
            "Closest pairs of centers",
            "Two of a kind: many such pairs say that there are too many clusters.",
            rows,
        )

    dropped: list[dict[str, Any]] = []
    if dedup is not None:
        table = pq.read_table(Path(dedup) / DROPPED)
        # Those just over the threshold come first: there a wrong one shows.
        dropped = table.sort_by("cosine").slice(0, pairs).to_pylist()
        rows = []
        for pair in dropped:
            both = [
                ("kept", [tile(source, items[pair["kept_key"]])]),
                ("dropped", [tile(source, items[pair["key"]])]),
            ]
            rows.append(
                Row(pair["key"], f"dropped for {pair['kept_key']}, cosine {pair['cosine']:.4f}", both)
            )
        if rows:
            images["duplicates.png"] = sheet(
                "Duplicates", "The least similar first: if these differ, raise the threshold.", rows
            )

    rejected = shards.run.file("rejected.jsonl").read_text().splitlines()
    report = {
        "kind": shards.kind,
        "items": len(members.keys),
        "clusters": len(members.sizes),
        "empty": int((members.sizes == 0).sum()),
        "largest": int(members.sizes.max()),
        "median": float(np.median(members.sizes)),
        "smallest": int(members.sizes.min()),
        "mean_cosine": round(float(members.score.mean()), 4),
        "dropped": len(all_dropped) if all_dropped is not None else None,
        "rejected": len(rejected),
        "closest_pairs": [[one, two, round(cosine, 4)] for one, two, cosine in closest],
        "pairs_among": min(file.count, MOST_CENTERS),
    }
    for name, image in images.items():
        image.save(out / name)
    for name in {"pairs.png", "duplicates.png"} - set(images):
        (out / name).unlink(missing_ok=True)
    write_atomically(out / "report.json", canonical_json(report))
    shown = [json.loads(line) for line in rejected[:20]]
    write_atomically(out / "index.html", render(PAGE, report=report, images=list(images), rejected=shown))
    return report


def _typical(sizes: np.ndarray, each: int = 4) -> list[int]:
    """Some of the largest, of the middle and of the smallest clusters that are not empty."""
    order = [int(c) for c in np.argsort(-sizes, kind="stable") if sizes[c]]
    middle = max(each, (len(order) - each) // 2)
    return list(dict.fromkeys([*order[:each], *order[middle : middle + each], *order[-each:]]))


def closest_pairs(file: CenterFile, count: int) -> list[tuple[int, int, float]]:
    """The most similar pairs of centers (first, second, cosine), keeping a running best over blocks.

    Of more than `MOST_CENTERS` centers, so many are compared, spread evenly over their numbers.
    """
    numbers = torch.linspace(0, file.count - 1, min(file.count, MOST_CENTERS)).round().long()
    parts = [
        block[(numbers[(numbers >= s) & (numbers < s + len(block))] - s)] for s, block in file.blocks(65536)
    ]
    centers = torch.cat(parts)
    best, found = torch.zeros(0), torch.zeros(0, 2, dtype=torch.int64)
    for a in range(0, len(centers), PAIR_BLOCK):
        for b in range(a, len(centers), PAIR_BLOCK):
            similarity = centers[a : a + PAIR_BLOCK] @ centers[b : b + PAIR_BLOCK].T
            if a == b:
                similarity = similarity.masked_fill(torch.ones_like(similarity).tril().bool(), -2)
            top, index = similarity.flatten().topk(min(count, similarity.numel()))
            pairs = torch.stack([index // similarity.shape[1] + a, index % similarity.shape[1] + b], 1)
            best, found = torch.cat([best, top]), torch.cat([found, pairs])
            order = best.argsort(descending=True, stable=True)[:count]
            best, found = best[order], found[order]
    return [
        (int(numbers[one]), int(numbers[two]), float(cosine))
        for (one, two), cosine in zip(found.tolist(), best, strict=True)
        if cosine > -2
    ]
