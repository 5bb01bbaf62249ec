"""Codec patchification of a corpus into shards that a training reads without decoding.

    onevision patches clips/ out/patches --engine local --workers 8
    onevision patches clips/ out/patches --engine ray --ray-address 10.0.0.1:6379 --workers 200

The plan lies in the folder: `plan.json` says with what settings, `items.parquet` lists the clips, a row group
a shard. A worker needs the folder and the number of a shard, so whoever does the work writes the same bytes.
"""

from .extract import extract_patches
from .settings import PatchSettings
from .shards import PatchRow, PatchShards

__all__ = ["PatchRow", "PatchSettings", "PatchShards", "extract_patches"]
