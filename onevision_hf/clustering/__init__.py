"""A folder of media -> features -> clusters -> labelled shards, one module a stage.

`sources` lists and reads media, `features` encodes them, `dedup` drops near-duplicates, `kmeans` finds
centers, `assign` labels every item with its nearest centers, `pack` writes shards for training, `inspect`
draws what a person looks at before the training starts. `shards.PackedShards` reads the result by row. The
command line is `onevision cluster`; docs/clustering.md walks through it.
"""

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "clustering reads and writes parquet: pip install 'onevision-hf[train]' (pyarrow is missing)"
    ) from error
