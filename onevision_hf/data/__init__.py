"""Media and samples: items, sources, shards, captions, conversations, caches. Knows no trainer."""

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "listings and shards are parquet: pip install '.[train]' in a clone (pyarrow is missing)"
    ) from error
