"""The motion suite: does codec input tell more of what moves than whole frames at the same budget?

    onevision eval motion --profile small

settings  ->  clips (shots, folder)  ->  pool (every clip read once)  ->  inputs (which patches)
->  training with classifier, or frozen with a probe  ->  trials (a result each)  ->  summary, report, figure

See docs/motion-suite.md.
"""

from .settings import FAMILIES, INPUTS, PROFILES, ClassifierSettings, SuiteSettings, TrainSettings, Trial
from .suite import run_suite

__all__ = [
    "FAMILIES",
    "INPUTS",
    "PROFILES",
    "ClassifierSettings",
    "SuiteSettings",
    "TrainSettings",
    "Trial",
    "run_suite",
]
