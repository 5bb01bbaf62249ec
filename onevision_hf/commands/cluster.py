"""`onevision cluster`: a folder of media -> features -> clusters -> labelled shards, at once or stage by
stage.

onevision cluster run pictures/ out/ --teacher facebook/dinov2-base --clusters 2000
torchrun --nproc_per_node 8 -m onevision_hf.cli cluster kmeans out/image/features out/image/kmeans --clusters
2000
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onevision_hf.assets import TINY, model_folder

from .patches import add_errors


def configure(parser: argparse.ArgumentParser) -> None:
    stages = parser.add_subparsers(dest="stage", metavar="STAGE", required=True)

    def stage(name: str, do: Callable[[argparse.Namespace], Any], help: str) -> argparse.ArgumentParser:
        sub = stages.add_parser(name, help=help, description=help)
        sub.set_defaults(do=do)
        sub.add_argument("--json", action="store_true", help="print the summary as one line of JSON")
        return sub

    run = stage(
        "run", _run, "everything: features, dedup, kmeans, assign, pack, inspect, for each kind of media"
    )
    _add_source(run)
    run.add_argument(
        "out", metavar="DST", type=Path, help="folder for all stages: DST/image/..., DST/video/..."
    )
    _add_teacher(run)
    _add_clusters(run)
    _add_labels(run)
    _add_pack(run)
    run.add_argument("--threshold", type=float, help="cosine of duplicates (0.97; 0.9995 for descriptors)")
    run.add_argument("--keep-duplicates", action="store_true", help="leave out the dedup stage")
    _add_rows(run)

    features = stage("features", _features, "media -> features, float16 in parquet shards")
    _add_source(features)
    features.add_argument("out", metavar="DST", type=Path)
    features.add_argument("--kind", choices=("image", "video"), help="needed when the source holds both")
    _add_teacher(features)
    _add_rows(features)
    features.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this process, or Ray (%(default)s)"
    )
    features.add_argument("--ray-address", metavar="HOST:PORT", help="a cluster's; or one is started here")
    add_errors(features)
    features.add_argument("--actors", type=int, default=1, help="Ray's, a teacher in each (%(default)s)")

    dedup = stage("dedup", _dedup, "near-duplicates of features, joined by union-find")
    dedup.add_argument("features", type=Path)
    dedup.add_argument("out", metavar="DST", type=Path)
    dedup.add_argument("--threshold", type=float, help="cosine of duplicates (0.97; 0.9995 for descriptors)")
    dedup.add_argument(
        "--cell-items", type=int, default=20_000, help="items compared pair by pair (%(default)s)"
    )
    dedup.add_argument("--seed", type=int, default=0)
    _add_rows(dedup, workers=False)

    kmeans = stage("kmeans", _kmeans, "features -> centers, spherical k-means")
    kmeans.add_argument("features", type=Path)
    kmeans.add_argument("out", metavar="DST", type=Path)
    kmeans.add_argument("--dedup", type=Path, help="leave out what this stage dropped")
    _add_clusters(kmeans)
    kmeans.add_argument("--start", type=Path, help="centers.safetensors to begin from")
    kmeans.add_argument("--device", default=None, help="cpu, cuda, ... (cuda when there is one)")
    _add_rows(kmeans, workers=False)

    assign = stage("assign", _assign, "features and centers -> the nearest centers of every item")
    assign.add_argument("features", type=Path)
    assign.add_argument("out", metavar="DST", type=Path)
    assign.add_argument("--centers", type=Path, help="a k-means folder or a centers.safetensors")
    assign.add_argument("--tags", action="store_true", help="label with words of the tags instead of centers")
    assign.add_argument("--dedup", type=Path, help="leave out what this stage dropped")
    assign.add_argument("--device", default=None, help="cpu, cuda, ... (cuda when there is one)")
    _add_labels(assign)
    _add_rows(assign, workers=False)

    pack = stage("pack", _pack, "media and labels -> shards to train from")
    _add_source(pack)
    pack.add_argument("labels_folder", metavar="LABELS", type=Path)
    pack.add_argument("out", metavar="DST", type=Path)
    pack.add_argument("--head", help="the training head that the labels are for (default: image or video)")
    _add_pack(pack)
    _add_rows(pack)

    inspect = stage("inspect", _inspect, "sizes, closest centers, duplicates and contact sheets, as a page")
    _add_source(inspect)
    inspect.add_argument("out", metavar="DST", type=Path)
    for name in ("features", "labels", "centers"):
        inspect.add_argument(f"--{name}", type=Path, required=True, help=f"the folder of {name}")
    inspect.add_argument("--dedup", type=Path)
    inspect.add_argument(
        "--clusters", type=_numbers, help="which to show, as 3,17,40 (some large, middle and small)"
    )
    inspect.add_argument("--samples", type=int, default=10, help="items shown of a cluster (%(default)s)")
    inspect.add_argument("--pairs", type=int, default=8, help="pairs shown (%(default)s)")

    purity = stage("purity", _purity, "clusters against the truth of media that `onevision synth` drew")
    purity.add_argument("source", metavar="SRC", type=Path, help="the drawn folder that was clustered")
    purity.add_argument("labels_folder", metavar="LABELS", type=Path, help="what `assign` made")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a folder, parquet, webdataset tars, or hf:NAME:SPLIT; also folder:PATH, ...",
    )
    parser.add_argument("--media-column", help="the column of parquet or of a dataset that holds the media")
    parser.add_argument("--tags-column", help="a column of words, or of lists of words, for the head of tags")
    parser.add_argument(
        "--tags-file", type=Path, help="a .parquet, .csv or .jsonl table with `key` and the column"
    )


def _add_teacher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher",
        default=TINY,
        help="a vision encoder that transformers loads, or descriptors, descriptors:object, "
        "descriptors:motion (default: tiny, the encoder in the package; clusters are only as good as "
        "their features, so for real media name a large one)",
    )
    parser.add_argument("--num-frames", type=int, help="frames of a video (8; 64 for descriptors and tiny)")
    parser.add_argument(
        "--pool",
        choices=("concat", "mean", "pooler", "tokens", "grid"),
        help="of an image encoder's frames: concat, mean; of the patches that an encoder of this package "
        "saw of a clip: pooler, tokens, grid (concat, pooler)",
    )
    parser.add_argument("--keep-dims", type=int, help="keep the first so many values a picture or frame")
    parser.add_argument(
        "--cache", metavar="DIR", help="keep the patches of clips there (this package's encoders)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="items at once (%(default)s)")
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (cuda when there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--feature-shard-items", type=int, default=4096, help="items a shard (%(default)s)")


def _add_clusters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clusters", type=int, required=True, help="K; 100 or more items a cluster are sound"
    )
    parser.add_argument("--iterations", type=int, default=20, help="of k-means (%(default)s)")
    parser.add_argument(
        "--cells", type=int, default=0, help="two-level k-means with so many cells (one level)"
    )
    parser.add_argument("--seed", type=int, default=0)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", type=int, help="nearest centers an item (10, or all if fewer)")
    parser.add_argument("--min-count", type=int, default=2, help="items that must have a word (%(default)s)")
    parser.add_argument("--vocabulary-size", type=int, help="keep the most frequent so many words")


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shard-items", type=int, default=1024, help="items a packed shard (%(default)s)")
    parser.add_argument(
        "--transcode", type=_pairs, metavar="gop=32", help="videos to H.264 with a keyframe every 32"
    )
    parser.add_argument(
        "--select",
        type=_pairs,
        metavar="num_patches=2048,...",
        help="choose patches now: num_frames, size, patch_size, num_patches or keep_ratio, preset",
    )


def _add_rows(parser: argparse.ArgumentParser, workers: bool = True) -> None:
    if workers:
        parser.add_argument("--workers", type=int, default=4, help="threads that decode (%(default)s)")
    parser.add_argument("--redo", action="store_true", help="empty DST if it was made from something else")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _pairs(text: str) -> dict[str, Any]:
    """`a=1,b=0.5,c=word` -> a dict."""
    pairs: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{part!r} is not name=value")
        try:
            pairs[name] = json.loads(value)
        except ValueError:
            pairs[name] = value
    return pairs


def run(args: argparse.Namespace) -> int:
    from ..jobs.processes import launched

    with launched() as processes:
        summary = args.do(args)
        if processes.main:
            _print(summary, args.json)
    return 0


def _print(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        if name != "plan" and not (isinstance(value, list) and len(value) > 8):
            print(f"{name}: {value}")


def _source(args: argparse.Namespace) -> Any:
    from ..data.sources import open_source

    return open_source(
        args.source, media_column=args.media_column, tags_column=args.tags_column, tags_file=args.tags_file
    )


def _device(args: argparse.Namespace) -> str:
    import torch

    return args.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _make_teacher(args: argparse.Namespace) -> Callable[[], Any]:
    """What makes the feature extractor, here or in another process."""
    from ..clustering.extractors import make_extractor

    return functools.partial(
        make_extractor,
        model_folder(args.teacher),
        num_frames=args.num_frames,
        pool=args.pool,
        keep_dims=args.keep_dims,
        device=_device(args),
        dtype=args.dtype,
        cache=args.cache,
    )


def _extract(args: argparse.Namespace, source: Any, kind: Any, out: Path) -> dict[str, Any]:
    from ..clustering.features import extract_features

    make = _make_teacher(args)
    return extract_features(
        source,
        out,
        make(),
        kind,
        batch_size=args.batch_size,
        workers=args.workers,
        shard_items=args.feature_shard_items,
        redo=args.redo,
        engine=getattr(args, "engine", "local"),
        actors=getattr(args, "actors", 1),
        address=getattr(args, "ray_address", None),
        make_extractor=make,
        errors=getattr(args, "errors", "skip"),
    )


def _features(args: argparse.Namespace) -> dict[str, Any]:
    source = _source(args)
    kinds = sorted({item.kind for item in source.items})
    if args.kind is None and len(kinds) > 1:
        raise ValueError(f"{args.source} holds images and videos: name one with --kind, or use `cluster run`")
    return _extract(args, source, args.kind or kinds[0], args.out)


def _dedup(args: argparse.Namespace) -> dict[str, Any]:
    from ..clustering.dedup import find_duplicates

    return find_duplicates(
        args.features,
        args.out,
        threshold=args.threshold,
        cell_items=args.cell_items,
        seed=args.seed,
        redo=args.redo,
    )


def _find_centers(args: argparse.Namespace, features: Path, out: Path, dedup: Path | None, start: Any) -> Any:
    from ..clustering.kmeans import find_centers

    return find_centers(
        features,
        out,
        args.clusters,
        dedup=dedup,
        iterations=args.iterations,
        cells=args.cells,
        start=start,
        seed=args.seed,
        device=_device(args),
        redo=args.redo,
    )


def _kmeans(args: argparse.Namespace) -> dict[str, Any]:
    return _find_centers(args, args.features, args.out, args.dedup, args.start)


def _assign(args: argparse.Namespace) -> dict[str, Any]:
    if args.tags == (args.centers is not None):
        raise ValueError("name --centers, or --tags: one of them")
    return _label(args, args.features, args.out, args.centers, args.dedup)


def _label(
    args: argparse.Namespace, features: Path, out: Path, centers: Path | None, dedup: Path | None
) -> dict[str, Any]:
    from ..clustering.assign import assign_labels, assign_tags

    if centers is None:
        return assign_tags(
            features,
            out,
            min_count=args.min_count,
            vocabulary_size=args.vocabulary_size,
            dedup=dedup,
            redo=args.redo,
        )
    return assign_labels(
        features, out, centers, labels=args.labels, dedup=dedup, device=_device(args), redo=args.redo
    )


def _pack_head(args: argparse.Namespace, source: Any, labels: Path, out: Path, head: str) -> dict[str, Any]:
    from ..clustering.pack import pack

    gop = None
    if args.transcode is not None:
        if set(args.transcode) != {"gop"}:
            raise ValueError(f"--transcode takes gop=N, found {args.transcode}")
        gop = args.transcode["gop"]
    return pack(
        source,
        labels,
        out,
        head,
        shard_items=args.shard_items,
        gop=gop,
        selection=args.select,
        workers=args.workers,
        redo=args.redo,
    )


def _pack(args: argparse.Namespace) -> dict[str, Any]:
    from ..clustering.assign import LabelShards

    head = args.head or LabelShards(args.labels_folder).kind
    return _pack_head(args, _source(args), args.labels_folder, args.out, head)


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    from ..clustering.inspect import inspect

    report = inspect(
        _source(args),
        args.out,
        features=args.features,
        labels=args.labels,
        centers=args.centers,
        dedup=args.dedup,
        clusters=args.clusters,
        samples=args.samples,
        pairs=args.pairs,
    )
    return {**report, "page": str(args.out / "index.html")}


def _purity(args: argparse.Namespace) -> dict[str, Any]:
    from ..clustering.purity import cluster_purity

    found = cluster_purity(args.source, args.labels_folder)
    if args.json:
        return {family: vars(p) for family, p in found.items()}
    return {
        family: f"{p.purity:.3f}, by chance {p.chance:.3f} ({p.answers} answers, {p.items} items)"
        for family, p in found.items()
    }


def _run(args: argparse.Namespace) -> dict[str, Any]:
    """Every stage for each kind of media, each in a folder of its own; finished stages are passed over
    quickly."""
    from ..clustering.features import FeatureShards
    from ..clustering.inspect import inspect
    from ..jobs.processes import Processes

    processes = Processes.current()
    source = _source(args)
    result: dict[str, Any] = {}
    for kind in sorted({item.kind for item in source.items}):
        root = args.out / kind
        features, dedup, kmeans, labels = (root / n for n in ("features", "dedup", "kmeans", "labels"))
        summary = _extract(args, source, kind, features)
        duplicates = None if args.keep_duplicates else dedup
        if duplicates is not None:
            if processes.main:
                from ..clustering.dedup import find_duplicates

                found = find_duplicates(
                    features, dedup, threshold=args.threshold, seed=args.seed, redo=args.redo
                )
                summary = {**summary, "duplicates": found["dropped"]}
            processes.barrier()
        centers = _find_centers(args, features, kmeans, duplicates, None)
        _label(args, features, labels, kmeans, duplicates)
        packed = {kind: _pack_head(args, source, labels, args.out / "shards" / kind, kind)}
        if kind == "image" and FeatureShards(features).has_tags():
            _label(args, features, root / "tags", None, duplicates)
            packed["ocr"] = _pack_head(args, source, root / "tags", args.out / "shards" / "ocr", "ocr")
        if processes.main:
            inspect(
                source, root / "inspect", features=features, labels=labels, centers=kmeans, dedup=duplicates
            )
            result[kind] = {
                "items": summary["items"],
                "rejected": summary["rejected"],
                "duplicates": summary.get("duplicates"),
                "clusters": centers["clusters"],
                "mean_cosine": round(centers["objective"], 4),
                "packed": {head: p["items"] for head, p in packed.items()},
                "page": str(root / "inspect" / "index.html"),
            }
        processes.barrier()
    return result
