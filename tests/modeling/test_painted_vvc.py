"""Painted references of VVC tell where things move, in a stream that libvvenc made with its defaults.

`leading_pictures.mp4` holds the 40 frames of `panning_scene`, encoded by an FFmpeg with libvvenc with
`-pix_fmt yuv420p10le -c:v libvvenc -preset faster -qp 33`. Its only keyframe is frame 23: those before it are
leading pictures, which need nothing but it.
"""

from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from onevision_hf.modeling.painted_pictures import default_passes, iter_painted_pictures
from onevision_hf.modeling.video_reader import VideoReader

CLIP = Path(__file__).parents[1] / "fixtures" / "vvc" / "leading_pictures.mp4"
COUNT, HEIGHT, WIDTH, SIDE = 40, 128, 192, 40
KEYFRAME = 23
BACK = np.array([2, -3 + 1j])  # from the ground, and from the square, to where they were a frame ago

pytestmark = pytest.mark.skipif("vvc" not in av.codecs_available, reason="this PyAV has no decoder of VVC")


def is_square(t: int) -> np.ndarray:
    """(HEIGHT, WIDTH) bool."""
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[80 - t : 80 - t + SIDE, 8 + 3 * t : 8 + 3 * t + SIDE] = True
    return found


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    total = np.full((height, width, 3), 40.0)
    for cell, weight in ((16, 110), (4, 60), (1, 10)):
        grid = rng.random((height // cell + 1, width // cell + 1, 3))
        total += weight * grid.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return total.astype(np.uint8)


def panning_scene() -> np.ndarray:
    """(COUNT, HEIGHT, WIDTH, 3) uint8: a ground under a camera, and a square that crosses it."""
    rng = np.random.default_rng(5)
    ground, square = texture(rng, HEIGHT, WIDTH + 3 * COUNT), texture(rng, SIDE, SIDE)
    frames = np.stack([ground[:, 2 * t : 2 * t + WIDTH] for t in range(COUNT)])
    for t, frame in enumerate(frames):
        frame[is_square(t)] = square.reshape(-1, 3)
    return frames


@cache
def errors(passes: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By frame: (N,) end-point errors of cells that lie in one object and are known, and which are the
    square's."""
    found = {}
    with VideoReader(CLIP) as reader:
        for t, picture in iter_painted_pictures(reader, range(COUNT), passes=passes):
            if picture.field is None:
                continue
            shares = is_square(t).reshape(HEIGHT // 8, 8, WIDTH // 8, 8).mean((1, 3))
            off = np.abs(picture.field.velocity - BACK[(shares == 1).astype(int)])
            known = ((shares == 0) | (shares == 1)) & ~np.isnan(off)
            found[t] = off[known], shares[known] == 1
            assert known.mean() > 0.65
    return found


def test_the_clip_is_that_scene():
    """Its pixels as an ordinary decoder gives them."""
    scene = panning_scene()
    with av.open(str(CLIP)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == COUNT
    off = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, scene, strict=True)]
    assert max(off) < 12
    shifted = np.abs(frames[0].astype(int) - scene[1]).mean()
    assert shifted > 1.5 * off[0]


def test_leading_pictures_of_the_first_keyframe_are_frames_where_the_decoder_gives_them():
    with VideoReader(CLIP) as reader:
        assert len(reader) == COUNT
        assert np.flatnonzero(reader.index.keyframe).tolist() == [KEYFRAME]
        asked = [0, 5, KEYFRAME, 39]
        found = {frame.frame_id: frame.av_frame.to_ndarray() for frame in reader.frames(asked)}
    with av.open(str(CLIP)) as container:
        plain = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert sorted(found) == asked
    assert all(np.array_equal(found[t], plain[t]) for t in asked)


def test_vectors_are_those_of_the_scene_in_every_picture():
    found = errors(passes=2)
    assert sorted(found) == [t for t in range(COUNT) if t != KEYFRAME]
    assert max(np.median(off) for off, _ in found.values()) < 0.3
    of_square = np.concatenate([off[square] for off, square in found.values()])
    assert np.median(of_square) < 0.15
    assert np.mean(np.concatenate([off for off, _ in found.values()]) < 1) > 0.97


def test_vectors_that_the_decoder_refines_by_the_luma_need_a_pass_that_keeps_it():
    """Over flat luma nothing is refined: pictures next to both their references stay at what the stream says,
    here no motion at all."""
    medians = {t: np.median(off) for t, (off, _) in errors(passes=1).items()}
    assert sum(median > 1.5 for median in medians.values()) >= 3
    with VideoReader(CLIP) as reader:
        assert default_passes(reader) == 2


def test_the_residual_is_that_of_the_pass_with_flat_luma():
    with VideoReader(CLIP) as reader:
        once, twice = (
            {t: picture.field for t, picture in iter_painted_pictures(reader, range(8), passes=passes)}
            for passes in (1, 2)
        )
    for t in range(8):
        both = ~np.isnan(once[t].velocity) & ~np.isnan(twice[t].velocity)
        assert np.mean(once[t].residual[both] == twice[t].residual[both]) > 0.98
