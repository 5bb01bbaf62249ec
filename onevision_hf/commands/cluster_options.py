"""Options that several stages of `onevision cluster` have."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument as Arg
from typer import Option as Opt

from .options import BatchSize, FloatType, MediaColumn, Seed, pairs
from .printing import pick_device

Out = Annotated[Path, Arg(metavar="DST", help="folder of the result")]
Features = Annotated[Path, Arg(metavar="FEATURES", help="a folder of features")]
LabelsFolder = Annotated[Path, Arg(metavar="LABELS", help="what `assign` made")]
Dedup = Annotated[Path | None, Opt(metavar="DIR", help="leave out what this stage dropped")]
Clusters = Annotated[int, Opt(metavar="K", help="number of centers; 100 or more items a cluster are sound")]
Threshold = Annotated[
    float | None, Opt(metavar="COSINE", help="of duplicates (default: 0.97; 0.9995 for descriptors)")
]


@dataclass(kw_only=True)
class Columns:
    """What of a source holds the media and their tags."""

    media_column: MediaColumn = None
    tags_column: Annotated[
        str | None, Opt(metavar="NAME", help="a column of words, or of lists of words, for the head of tags")
    ] = None
    tags_file: Annotated[
        Path | None, Opt(metavar="FILE", help="a .parquet, .csv or .jsonl table with `key` and the column")
    ] = None

    def open(self, source: str) -> Any:
        from onevision_hf.data.sources import open_source

        return open_source(source, **vars(self))


@dataclass(kw_only=True)
class Extractor:
    """What makes a feature of an item."""

    teacher: Annotated[
        str,
        Opt(
            metavar="ID_OR_FOLDER",
            help="a vision encoder that transformers loads, or descriptors, descriptors:object, "
            "descriptors:motion; tiny is the encoder in the package. Clusters are only as good as their "
            "features, so for real media name a large one",
        ),
    ] = "tiny"
    num_frames: Annotated[
        int | None, Opt(metavar="N", help="frames of a video (default: 8; 64 for descriptors and tiny)")
    ] = None
    pool: Annotated[
        Literal["concat", "mean", "pooler", "tokens", "grid"] | None,
        Opt(
            help="of an image encoder's frames: concat, mean; of the patches that an encoder of this package "
            "saw of a clip: pooler, tokens, grid (default: concat; pooler)"
        ),
    ] = None
    keep_dims: Annotated[
        int | None, Opt(metavar="N", help="keep the first so many values a picture or frame")
    ] = None
    cache: Annotated[
        str | None, Opt(metavar="DIR", help="keep the patches of clips there (this package's encoders)")
    ] = None
    dtype: Annotated[FloatType, Opt(help="of the encoder")] = "float32"

    def make(self, device: str | None) -> Callable[[], Any]:
        """What makes it, here or in another process."""
        from onevision_hf.assets import model_folder
        from onevision_hf.clustering.extractors import make_extractor

        settings = {**vars(self), "device": pick_device(device)}
        return functools.partial(make_extractor, model_folder(settings.pop("teacher")), **settings)


@dataclass(kw_only=True)
class FeatureShards:
    """How features are computed and stored."""

    batch_size: BatchSize = 32
    feature_shard_items: Annotated[int, Opt(metavar="N", help="items of a shard of features")] = 4096

    def settings(self, workers: int) -> dict[str, int]:
        """Keyword arguments of `extract_features`."""
        return {"batch_size": self.batch_size, "shard_items": self.feature_shard_items, "workers": workers}


@dataclass(kw_only=True)
class KMeans:
    """Keyword arguments of `find_centers`."""

    iterations: Annotated[int, Opt(metavar="N", help="of k-means")] = 20
    cells: Annotated[int, Opt(metavar="N", help="two-level k-means with so many cells; 0: one level")] = 0
    seed: Seed = 0


Labels = Annotated[
    int | None, Opt(metavar="N", help="nearest centers an item (default: 10, or all if fewer)")
]


@dataclass(kw_only=True)
class Tags:
    """Keyword arguments of `assign_tags`."""

    min_count: Annotated[int, Opt(metavar="N", help="items that must have a word")] = 2
    vocabulary_size: Annotated[int | None, Opt(metavar="N", help="keep the most frequent so many words")] = (
        None
    )


@dataclass(kw_only=True)
class Packing:
    """How media and labels are packed."""

    shard_items: Annotated[int, Opt(metavar="N", help="items a packed shard")] = 1024
    transcode: Annotated[
        dict | None, Opt(parser=pairs, metavar="gop=32", help="videos to H.264 with a keyframe every 32")
    ] = None
    select: Annotated[
        dict | None,
        Opt(
            parser=pairs,
            metavar="num_patches=2048,...",
            help="choose patches now: num_frames, size, patch_size, num_patches or keep_ratio, "
            "keep_energy, preset",
        ),
    ] = None

    def settings(self, workers: int) -> dict[str, Any]:
        """Keyword arguments of `pack`.

        Raises:
            ValueError: --transcode has more than a gop.
        """
        if self.transcode is not None and set(self.transcode) != {"gop"}:
            raise ValueError(f"--transcode takes gop=N, found {self.transcode}")
        return {
            "shard_items": self.shard_items,
            "gop": None if self.transcode is None else self.transcode["gop"],
            "selection": self.select,
            "workers": workers,
        }
