"""The motion suite: does codec input tell more of what moves than whole frames at the same budget?

    onevision eval motion --profile small

settings  ->  clips, folder (what is shown)  ->  pool (every clip read once)  ->  inputs (which patches)
->  training with reader, or frozen with a probe  ->  cells (one result each)  ->  summary, report, figure

See docs/motion-suite.md.
"""

from .settings import FAMILIES, INPUTS, PROFILES, Cell, ReaderSettings, SuiteSettings, TrainSettings
from .suite import run_suite

__all__ = [
    "FAMILIES",
    "INPUTS",
    "PROFILES",
    "Cell",
    "ReaderSettings",
    "SuiteSettings",
    "TrainSettings",
    "run_suite",
]
