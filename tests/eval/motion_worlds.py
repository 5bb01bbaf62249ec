"""A motion suite small enough for tests: one scene, 64 clips, readers of one narrow layer."""

from dataclasses import replace

from onevision_hf.eval.motion import ClassifierSettings, SuiteSettings, TrainSettings
from onevision_hf.eval.motion.settings import ClipSettings

BRIEF = TrainSettings(steps=2, batch=4)
TINY = SuiteSettings(
    train=24,
    test=24,
    budgets=(1 / 16, 1 / 8),
    inputs=(
        "codec",
        "codec_energy",
        "uniform",
        "random",
        "difference_few",
        "difference_all",
        "positions",
        "dense",
    ),
    frozen_inputs=(),
    clips=ClipSettings(num_frames=32, schedule=("nudge_direction",)),
    classifier=ClassifierSettings(width=32, layers=1, heads=1),
    mixing=BRIEF,
    training=BRIEF,
    probing=BRIEF,
)
ONE_TRIAL = replace(TINY, budgets=(1 / 16,), inputs=("codec",))
