"""What all tests share: capped threads, no network, and clips drawn once a session.

The environment is set before torch and transformers are imported anywhere: they read it at import. Neither is
imported here: the process that hands out the tests (`pytest -n`) would wait for it, and needs none.
"""
# ruff: noqa: E402

import gc
import os
from pathlib import Path

# One thread: the models are tiny, and some tests fork, which the pools of OpenMP and MKL do not survive.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 reports its settings on standard error otherwise

import hypothesis
import numpy as np
import pytest
from clip_zoo import Zoo
from clips import moving_scene, write_clip
from processes import warm_forkserver

warm_forkserver()
# A busy machine must not fail a test, and neither must chance: every run draws the same examples, and few.
# `make slow` draws others, and more, and prints its seed and, with a failure, what repeats it.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("random", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What collecting imports and lists stays to the end, so that nobody need look for garbage in it: a fifth
    of the time of collecting, and a quarter of that of a test which makes many objects afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """48 RGB frames of 144 x 192: a panning ground and three squares that move."""
    return moving_scene(48, 144, 192, seed=0)


@pytest.fixture(scope="session")
def clip(scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scene` as H.264 in mp4: keyframes every 12 frames, up to two B-pictures between references."""
    return write_clip(tmp_path_factory.mktemp("clips") / "scene.mp4", scene)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Clips of every codec and container, made when they are asked for."""
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips that `ONEVISION_CLIPS` names; tests that need it skip where it is not set."""
    folder = os.environ.get("ONEVISION_CLIPS")
    if not folder:
        pytest.skip("set ONEVISION_CLIPS to the folder of the real clips (beach.mp4 and what belongs to it)")
    return Path(folder)
