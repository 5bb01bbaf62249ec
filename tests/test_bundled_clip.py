"""The bundled clip is small, is what the script draws, and shows real motion."""

import importlib.util
from collections import Counter
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from onevision_hf import bundled_clip

SCRIPT = Path(__file__).parents[1] / "scripts" / "draw_bundled_clip.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("draw_bundled_clip", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frames():
    with av.open(str(bundled_clip())) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # with frame threads the vectors of H.264 are a data race
        stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        return list(container.decode(stream))


def test_it_is_a_few_seconds_in_a_few_hundred_kilobytes(frames):
    assert bundled_clip().stat().st_size < 400_000
    assert 3 <= frames[-1].time <= 6


def test_it_has_b_pictures_and_vectors_that_point_many_ways(frames):
    assert set(Counter(PictureType(frame.pict_type).name for frame in frames)) == {"I", "P", "B"}
    vectors = frames[50].side_data.get("MOTION_VECTORS").to_ndarray()
    steps = vectors["motion_x"] / vectors["motion_scale"]
    assert np.ptp(steps) > 10 and set(np.unique(vectors["source"])) == {-1, 1}


def test_it_is_what_the_script_draws(frames, script):
    drawn = list(islice(script.draw_frames(seed=0), 3))
    for picture, frame in zip(drawn, frames, strict=False):
        assert np.abs(picture - frame.to_ndarray(format="rgb24").astype(int)).mean() < 5


def test_the_same_seed_draws_the_same_pixels(script):
    first, second, other = (next(script.draw_frames(seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
