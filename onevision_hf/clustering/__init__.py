"""A folder of media -> features -> clusters -> labelled shards, one module a stage.

`data.sources` lists and reads media, `features` encodes them with one of `extractors`, `dedup` drops
near-duplicates, `kmeans` finds centers, `assign` labels every item with its nearest centers, `pack` writes
shards for training, which `data.media_shards` reads by row, `inspect` draws what a person looks at before the
training starts. The command line is `onevision cluster`; docs/clustering.md walks through it.
"""
