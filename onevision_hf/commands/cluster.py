"""`onevision cluster`: a folder of media -> features -> clusters -> labelled shards, at once or stage by
stage.

onevision cluster run pictures/ out/ --teacher facebook/dinov2-base --clusters 2000
torchrun --nproc_per_node 8 -m onevision_hf.cli cluster kmeans out/image/features out/image/kmeans --clusters
2000
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument as Arg
from typer import Option as Opt

from . import cluster_options as own
from . import groups
from .options import BatchErrors, Device, Json, RayAddress, Redo, Seed, Source, Workers, numbers
from .printing import pick_device

app = groups.stages()

Summary = dict[str, Any]


def stage(help: str) -> Callable[[Callable[..., Summary]], Callable[..., Summary]]:
    """Register a command: it runs on all processes that were launched together, the main one prints what it
    returns."""

    def decorate(do: Callable[..., Summary]) -> Callable[..., Summary]:
        @functools.wraps(do)
        def command(**options: Any) -> None:
            from onevision_hf.jobs.processes import launched

            with launched() as processes:
                summary = do(**options)
                if processes.main:
                    _print(summary, options["as_json"])

        return groups.stage(app, help)(command)

    return decorate


def _print(summary: Summary, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        if name != "plan" and not (isinstance(value, list) and len(value) > 8):
            print(f"{name}: {value}")


@stage("everything: features, dedup, kmeans, assign, pack, inspect, for each kind of media")
def run(
    source: Source,
    out: Annotated[Path, Arg(metavar="DST", help="folder for all stages: DST/image/..., DST/video/...")],
    clusters: own.Clusters,
    columns: own.Columns,
    extractor: own.Extractor,
    shards: own.FeatureShards,
    kmeans: own.KMeans,
    tags: own.Tags,
    packing: own.Packing,
    labels: own.Labels = None,
    threshold: own.Threshold = None,
    keep_duplicates: Annotated[bool, Opt("--keep-duplicates", help="leave out the dedup stage")] = False,
    workers: Workers = 4,
    device: Device = None,
    errors: BatchErrors = "skip",
    redo: Redo = False,
    as_json: Json = False,
) -> Summary:
    from onevision_hf.clustering.pipeline import run_pipeline

    pack = packing.settings(workers) | {"errors": errors}
    return run_pipeline(
        columns.open(source),
        out,
        extractor.make(device),
        clusters,
        features=shards.settings(workers) | {"errors": errors},
        dedup={"threshold": threshold, "seed": kmeans.seed},
        keep_duplicates=keep_duplicates,
        kmeans={**vars(kmeans), "device": pick_device(device)},
        labels={"labels": labels, "device": pick_device(device)},
        tags=vars(tags),
        pack=pack,
        redo=redo,
    )


@stage("media -> features, float16 in parquet shards")
def features(
    source: Source,
    out: own.Out,
    columns: own.Columns,
    extractor: own.Extractor,
    shards: own.FeatureShards,
    kind: Annotated[Literal["image", "video"] | None, Opt(help="needed when the source holds both")] = None,
    workers: Workers = 4,
    device: Device = None,
    engine: Annotated[Literal["local", "ray"], Opt(help="this process, or Ray")] = "local",
    ray_address: RayAddress = None,
    actors: Annotated[int, Opt(metavar="N", help="Ray's, an encoder in each")] = 1,
    errors: BatchErrors = "skip",
    redo: Redo = False,
    as_json: Json = False,
) -> Summary:
    from onevision_hf.clustering.features import extract_features

    media = columns.open(source)
    kinds: list[Any] = sorted({item.kind for item in media.items})
    if kind is None and len(kinds) > 1:
        raise ValueError(f"{source} holds images and videos: name one with --kind, or use `cluster run`")
    make = extractor.make(device)
    settings: dict[str, Any] = shards.settings(workers) | {"redo": redo, "errors": errors}
    settings |= {"engine": engine, "actors": actors, "address": ray_address, "make_extractor": make}
    return extract_features(media, out, make(), kind or kinds[0], **settings)


@stage("near-duplicates of features, joined by union-find")
def dedup(
    features: own.Features,
    out: own.Out,
    threshold: own.Threshold = None,
    cell_items: Annotated[int, Opt(metavar="N", help="items compared pair by pair")] = 20_000,
    seed: Seed = 0,
    redo: Redo = False,
    as_json: Json = False,
) -> Summary:
    from onevision_hf.clustering.dedup import find_duplicates

    return find_duplicates(features, out, threshold=threshold, cell_items=cell_items, seed=seed, redo=redo)


@stage("features -> centers, spherical k-means")
def kmeans(
    features: own.Features,
    out: own.Out,
    clusters: own.Clusters,
    settings: own.KMeans,
    dedup: own.Dedup = None,
    start: Annotated[Path | None, Opt(metavar="FILE", help="centers.safetensors to begin from")] = None,
    device: Device = None,
    redo: Redo = False,
    as_json: Json = False,
) -> Summary:
    from onevision_hf.clustering.kmeans import find_centers

    more = {**vars(settings), "device": pick_device(device)}
    return find_centers(features, out, clusters, dedup=dedup, start=start, redo=redo, **more)


@stage("features and centers -> the nearest centers of every item")
def assign(
    features: own.Features,
    out: own.Out,
    words: own.Tags,
    centers: Annotated[
        Path | None, Opt(metavar="DIR", help="a k-means folder or a centers.safetensors")
    ] = None,
    tags: Annotated[bool, Opt("--tags", help="label with words of the tags instead of centers")] = False,
    dedup: own.Dedup = None,
    device: Device = None,
    labels: own.Labels = None,
    redo: Redo = False,
    as_json: Json = False,
) -> Summary:
    if tags == (centers is not None):
        raise ValueError("name --centers, or --tags: one of them")
    from onevision_hf.clustering.assign import assign_labels, assign_tags

    if centers is None:
        return assign_tags(features, out, dedup=dedup, redo=redo, **vars(words))
    place = pick_device(device)
    return assign_labels(features, out, centers, labels=labels, dedup=dedup, device=place, redo=redo)


@stage("media and labels -> shards to train from")
def pack(
    source: Source,
    labels_folder: own.LabelsFolder,
    out: own.Out,
    columns: own.Columns,
    packing: own.Packing,
    head: Annotated[
        str | None,
        Opt(metavar="NAME", help="the training head that the labels are for (default: image or video)"),
    ] = None,
    workers: Workers = 4,
    errors: BatchErrors = "skip",
    redo: Redo = False,
    as_json: Json = False,
) -> Summary:
    settings = packing.settings(workers)
    from onevision_hf.clustering.assign import LabelShards
    from onevision_hf.clustering.pack import pack as pack_shards

    head = head or LabelShards(labels_folder).kind
    return pack_shards(columns.open(source), labels_folder, out, head, errors=errors, redo=redo, **settings)


@stage("sizes, closest centers, duplicates and contact sheets, as a page")
def inspect(
    source: Source,
    out: own.Out,
    columns: own.Columns,
    features: Annotated[Path, Opt(metavar="DIR", help="the folder of features")],
    labels: Annotated[Path, Opt(metavar="DIR", help="the folder of labels")],
    centers: Annotated[Path, Opt(metavar="DIR", help="the folder of centers")],
    dedup: Annotated[Path | None, Opt(metavar="DIR", help="the folder of duplicates")] = None,
    clusters: Annotated[
        list | None,
        Opt(
            parser=numbers,
            metavar="A,B,...",
            help="which to show, as 3,17,40 (default: some large, middle and small)",
        ),
    ] = None,
    samples: Annotated[int, Opt(metavar="N", help="items shown of a cluster")] = 10,
    pairs: Annotated[int, Opt(metavar="N", help="pairs shown")] = 8,
    as_json: Json = False,
) -> Summary:
    from onevision_hf.clustering.inspect import inspect as make_page

    report = make_page(
        columns.open(source),
        out,
        features=features,
        labels=labels,
        centers=centers,
        dedup=dedup,
        clusters=clusters,
        samples=samples,
        pairs=pairs,
    )
    return {**report, "page": str(out / "index.html")}


@stage("clusters against the truth of media that `onevision synth` drew")
def purity(
    source: Annotated[Path, Arg(metavar="SRC", help="the drawn folder that was clustered")],
    labels_folder: own.LabelsFolder,
    as_json: Json = False,
) -> Summary:
    from onevision_hf.clustering.purity import cluster_purity

    found = cluster_purity(source, labels_folder)
    if as_json:
        return {family: vars(p) for family, p in found.items()}
    return {
        family: f"{p.purity:.3f}, by chance {p.chance:.3f} ({p.answers} answers, {p.items} items)"
        for family, p in found.items()
    }
