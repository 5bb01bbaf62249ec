"""All stages of clustering one after another, for each kind of media in a folder of its own.

    run_pipeline(open_source("media/"), Path("out"), make_extractor, 2000, pack={"shard_items": 256})

OUT/image/{features,dedup,kmeans,labels,inspect}, OUT/video/..., to train from OUT/shards/{image,video,ocr}.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data.sources import Source
from ..jobs.processes import Processes
from .assign import assign_labels, assign_tags
from .dedup import find_duplicates
from .extractors import FeatureExtractor
from .features import FeatureShards, extract_features
from .inspect import inspect
from .kmeans import find_centers
from .pack import pack as pack_shards

Settings = Mapping[str, Any]


def run_pipeline(
    source: Source,
    out: Path,
    make_extractor: Callable[[], FeatureExtractor],
    clusters: int,
    *,
    features: Settings | None = None,
    dedup: Settings | None = None,
    keep_duplicates: bool = False,
    kmeans: Settings | None = None,
    labels: Settings | None = None,
    tags: Settings | None = None,
    pack: Settings | None = None,
    redo: bool = False,
) -> dict[str, Any]:
    """Every stage for each kind of media; finished stages are passed over quickly.

    Args:
        source: images, videos or both.
        out: the folder of everything.
        make_extractor: makes the feature extractor, here or in another process.
        clusters: number of centers, of each kind of media.
        features: keyword arguments of `extract_features`.
        dedup: keyword arguments of `find_duplicates`.
        keep_duplicates: leave out the stage that finds them.
        kmeans: keyword arguments of `find_centers`.
        labels: keyword arguments of `assign_labels`.
        tags: keyword arguments of `assign_tags`, for images whose features carry words.
        pack: keyword arguments of `pack`.
        redo: empty a folder that was made from something else.

    Returns:
        kind -> `items`, `rejected`, `duplicates`, `clusters`, `mean_cosine`, `packed`, `page`, and `partial`
        where features are made of truncated videos too; empty on all processes but the main one.
    """
    processes = Processes.current()
    result: dict[str, Any] = {}
    for kind in sorted({item.kind for item in source.items}):
        root, shards = out / kind, out / "shards"
        of_features, of_centers, of_labels = root / "features", root / "kmeans", root / "labels"
        duplicates = None if keep_duplicates else root / "dedup"
        extracted = extract_features(
            source,
            of_features,
            make_extractor(),
            kind,
            make_extractor=make_extractor,
            redo=redo,
            **features or {},
        )
        dropped = None
        if duplicates is not None:
            if processes.main:
                dropped = find_duplicates(of_features, duplicates, redo=redo, **dedup or {})["dropped"]
            processes.barrier()
        centers = find_centers(of_features, of_centers, clusters, dedup=duplicates, redo=redo, **kmeans or {})
        assign_labels(of_features, of_labels, of_centers, dedup=duplicates, redo=redo, **labels or {})
        packed: dict[str, Any] = {
            kind: pack_shards(source, of_labels, shards / kind, kind, redo=redo, **pack or {})
        }
        if kind == "image" and FeatureShards(of_features).has_tags():
            assign_tags(of_features, root / "tags", dedup=duplicates, redo=redo, **tags or {})
            packed["ocr"] = pack_shards(source, root / "tags", shards / "ocr", "ocr", redo=redo, **pack or {})
        if processes.main:
            inspect(
                source,
                root / "inspect",
                features=of_features,
                labels=of_labels,
                centers=of_centers,
                dedup=duplicates,
            )
            result[kind] = {
                "items": extracted["items"],
                "rejected": extracted["rejected"],
                **({"partial": extracted["partial"]} if "partial" in extracted else {}),
                "duplicates": dropped,
                "clusters": centers["clusters"],
                "mean_cosine": round(centers["objective"], 4),
                "packed": {head: shard["items"] for head, shard in packed.items()},
                "page": str(root / "inspect" / "index.html"),
            }
        processes.barrier()
    return result
