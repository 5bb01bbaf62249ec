"""Does it work? Probes, the motion suite, reconstruction metrics, the 16 benchmarks: `onevision eval --help`.

`published/` holds every published table that a report compares with, each with its source.
"""
