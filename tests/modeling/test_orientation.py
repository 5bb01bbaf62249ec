"""All eight orientations of a display matrix, for pixels, signals and positions.

The truth is the definition: (x, y) is shown at (ax + cy, bx + dy).
"""

import io

import numpy as np
import pytest
from clip_zoo import turn_clip
from clips import moving_scene, write_clip

from onevision_hf import CodecStream, OneVisionVideoProcessor, StreamWindow, VideoReader, select_patches
from onevision_hf.clustering.descriptors import _displacement
from onevision_hf.data.transcode import transcode

MATRICES = [
    (a * straight, b * crossed, c * crossed, d * straight)
    for straight, crossed in ((1, 0), (0, 1))
    for a, b, c, d in ((1, 1, 1, 1), (1, 1, -1, -1), (-1, -1, 1, 1), (-1, -1, -1, -1))
]


def shown(stored: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W, ...) as displayed."""
    a, b, c, d = matrix
    y, x = np.indices(stored.shape[:2])
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    result = np.empty((down.max() + 1, right.max() + 1, *stored.shape[2:]), stored.dtype)
    result[down, right] = stored
    return result


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("turned") / "clip.mp4", moving_scene(24, 112, 168), bframes=0)


@pytest.fixture
def turned(straight, tmp_path):
    def make(matrix):
        turn_clip(straight, tmp_path / "turned.mp4", matrix)
        return tmp_path / "turned.mp4"

    return make


@pytest.mark.parametrize("matrix", MATRICES)
def test_pixels_are_shown_as_the_matrix_says(matrix, straight, turned):
    reader, as_stored = VideoReader(turned(matrix)), VideoReader(straight)
    (frame,), (stored,) = reader.frames([7]), as_stored.frames([7])
    expected = shown(stored.rgb(168, 112), matrix)
    assert (reader.height, reader.width) == expected.shape[:2]
    assert np.array_equal(frame.rgb(reader.width, reader.height), expected)
    assert reader.mirrored == (matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("signals", [None, ("vectors", "compensated"), ("bits",)])
def test_signals_and_positions_lie_where_the_picture_is_shown(matrix, signals, straight, turned):
    settings = {"size": 112, "signals": signals, "num_patches": 300}
    found = select_patches(turned(matrix), **settings)
    stored = select_patches(straight, **settings)
    expected = np.stack([shown(energy, matrix) for energy in stored.energy])
    assert found.energy.any() and np.allclose(found.energy, expected, atol=1e-6)
    for t in np.unique(stored.positions[:, 0]):
        kept = np.zeros(stored.energy.shape[1:], bool)
        kept[tuple(stored.positions[stored.positions[:, 0] == t, 1:].T)] = True
        there = found.positions[found.positions[:, 0] == t, 1:]
        assert shown(kept, matrix)[tuple(there.T)].mean() > 0.9  # equal energies may be kept elsewhere


@pytest.mark.parametrize("matrix", MATRICES)
def test_streams_descriptors_and_transcoding_follow_the_matrix(matrix, straight, turned):
    path = turned(matrix)
    (frame,) = VideoReader(path).frames([7], motion_vectors=True)
    (stored,) = VideoReader(straight).frames([7], motion_vectors=True)
    a, b, c, d = matrix
    moved = shown(_displacement(stored), matrix)
    expected = np.stack([a * moved[..., 0] + c * moved[..., 1], b * moved[..., 0] + d * moved[..., 1]], -1)
    assert np.array_equal(_displacement(frame), expected)

    picture = VideoReader(path)
    with VideoReader(transcode(str(path), 8)) as again:
        assert (again.width, again.height, again.mirrored) == (picture.width, picture.height, False)
        (copy,) = again.frames([7])
        error = np.abs(copy.rgb(again.width, again.height).astype(int) - frame.rgb(again.width, again.height))
    assert error.mean() < 12

    processor = OneVisionVideoProcessor(num_frames=4, size=56)
    with CodecStream(io.BytesIO(path.read_bytes()), processor, window=0.4) as stream:
        window = next(item for item in stream if isinstance(item, StreamWindow))
    expected = processor(str(path), start=window.start, end=window.end, return_tensors="pt")
    assert (window.inputs["pixel_values_videos"] == expected["pixel_values_videos"]).all()


def test_a_matrix_of_zeros_turns_nothing(straight, turned):
    reader = VideoReader(turned((0, 0, 0, 0)))
    assert (reader.rotation, reader.mirrored, reader.width) == (0, False, 168)
