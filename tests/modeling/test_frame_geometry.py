"""Frames keep their shape on the patch grid, and maps of blocks are carried over by area."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.modeling.frame_geometry import FrameGeometry


@given(
    height=st.integers(16, 1000),
    width=st.integers(16, 1000),
    size=st.integers(28, 448),
    patch=st.integers(8, 16),
)
def test_a_fit_takes_the_shorter_side_to_the_size_and_keeps_the_shape(height, width, size, patch):
    fit = FrameGeometry.fit(height, width, size, patch)
    scale = size / min(height, width)
    assert (fit.canvas_height, fit.canvas_width) == (fit.resized_height, fit.resized_width)
    assert abs(fit.canvas_height - height * scale) <= patch / 2 or fit.grid_height == 1
    assert abs(fit.canvas_width - width * scale) <= patch / 2 or fit.grid_width == 1
    assert fit.inside.all() and fit.patches_per_frame == fit.grid_height * fit.grid_width


@given(data=st.data(), cell=st.sampled_from([2, 4, 8]), patch=st.sampled_from([4, 6, 7]))
def test_pooling_is_the_mean_over_each_patch(data, cell, patch):
    """Against the map at full resolution, each pixel averaged, where nothing is resized."""
    height, width = patch * data.draw(st.integers(1, 4)), patch * data.draw(st.integers(1, 4))
    rows, columns = -(-height // cell), -(-width // cell)
    blocks = np.random.default_rng(data.draw(st.integers(0, 99))).random((rows, columns))
    geometry = FrameGeometry(height, width, height, width, 0, 0, patch, height // patch, width // patch)
    full = blocks.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    expected = full.reshape(height // patch, patch, width // patch, patch).mean((1, 3))
    assert np.allclose(geometry.pool(blocks, cell, cell), expected, atol=1e-5)


@given(height=st.integers(20, 300), width=st.integers(20, 300), level=st.floats(0.1, 5))
def test_a_flat_map_stays_flat_inside_and_padding_counts_as_nothing(height, width, level):
    blocks = np.full((-(-height // 4), -(-width // 4)), level, np.float32)
    fit = FrameGeometry.fit(height, width, 56, 14)
    assert np.allclose(fit.pool(blocks, 4, 4), level, rtol=1e-4)
    square = FrameGeometry.pad_square(height, width, 112, 16)
    pooled = square.pool(blocks, 4, 4)
    assert np.allclose(pooled[square.inside], level, rtol=1e-3) and (pooled <= level * 1.001).all()
    total = square.resized_height * square.resized_width / 16**2 * level
    assert pooled.sum() == pytest.approx(total, rel=1e-3)


def test_a_picture_is_laid_in_the_middle_padded_or_cropped():
    picture = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)
    padded = FrameGeometry(2, 6, 2, 6, 2, -1, 2, 3, 2).place(picture)
    assert np.array_equal(padded, [[0] * 4, [0] * 4, [2, 3, 4, 5], [8, 9, 10, 11], [0] * 4, [0] * 4])
    crop = FrameGeometry.crop(100, 200, 50, 28, 42, 14)
    assert (crop.resized_height, crop.resized_width, crop.top, crop.left) == (50, 100, -11, -29)
    square = FrameGeometry.pad_square(100, 200, 64, 16)
    assert (square.top, square.resized_height, square.inside.sum()) == (16, 32, 8)


def test_sizes_that_patches_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="size 100 is no multiple of the patch size 16"):
        FrameGeometry.pad_square(64, 64, 100, 16)
    with pytest.raises(ValueError, match="crop_size 30 x 28 is no multiple of the patch size 14"):
        FrameGeometry.crop(64, 64, 56, 30, 28, 14)
