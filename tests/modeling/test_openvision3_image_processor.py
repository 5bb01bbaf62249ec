"""OpenVision3ImageProcessor: values in [-1, 1], sides that are multiples of 16, errors for the rest.

Run: python -m pytest tests/modeling/test_openvision3_image_processor.py
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor

from onevision_hf import OpenVision3Config, OpenVision3ImageProcessor


def gradient(height: int, width: int) -> np.ndarray:
    """A picture whose red rises from left to right and whose green rises from top to bottom."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return picture


def test_pictures_of_any_form_become_the_same_256_pixels_in_the_vaes_range():
    processor = OpenVision3ImageProcessor()
    picture = gradient(300, 400)
    forms = [picture, Image.fromarray(picture), torch.from_numpy(picture).permute(2, 0, 1)]
    pixels = processor(forms, return_tensors="pt").pixel_values
    assert pixels.shape == (3, 3, 256, 256) and pixels.dtype == torch.float32
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
    assert pixels[0, 2].eq(-1).all() and pixels[0, 1].max() > 0.98 and pixels.min() == -1
    grey = processor(Image.new("L", (64, 64), 255), return_tensors="pt").pixel_values
    assert grey.shape == (1, 3, 256, 256) and torch.allclose(grey, torch.ones(()))


def test_the_crop_is_central_and_the_picture_keeps_its_shape_before_it():
    # 300 x 400 -> 256 x 341: the middle 256 columns hold the middle 0.75 of the red ramp.
    pixels = OpenVision3ImageProcessor()(gradient(300, 400), return_tensors="pt").pixel_values[0]
    expected = torch.tensor([0.125, 0.875]) * 2 - 1
    assert torch.allclose(pixels[0, 128, [0, -1]], expected, atol=0.015)


@settings(max_examples=25, deadline=None)
@given(st.integers(10, 400), st.integers(10, 400), st.integers(1, 12))
def test_without_a_crop_the_sides_are_the_nearest_multiples_of_16(height, width, sixteenths):
    edge = 16 * sixteenths
    processor = OpenVision3ImageProcessor(size={"shortest_edge": edge}, do_center_crop=False)
    found = processor(gradient(height, width), return_tensors="pt").pixel_values.shape[-2:]
    longer = max(height, width) * edge / min(height, width)
    assert min(found) == edge and max(found) % 16 == 0
    assert abs(max(found) - longer) <= 8.0001
    assert (found[0] > found[1]) <= (height > width)


def test_any_size_can_be_asked_for_per_call():
    processor, picture = OpenVision3ImageProcessor(), gradient(90, 70)
    for height, width in ((128, 128), (224, 224), (320, 192)):
        size = {"height": height, "width": width}
        pixels = processor(picture, size=size, do_center_crop=False, return_tensors="pt").pixel_values
        assert pixels.shape == (1, 3, height, width)
    assert processor(picture, size=64, crop_size=32, return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)


def test_auto_classes_find_it_and_settings_survive(tmp_path):
    OpenVision3ImageProcessor(size={"shortest_edge": 224}, crop_size=224).save_pretrained(tmp_path)
    OpenVision3Config.tiny().save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is OpenVision3ImageProcessor
    assert loaded(gradient(300, 400), return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"crop_size": 250},
            r"crop_size must be multiples of 16 .* found \{'height': 250.*nearest: \{'height': 256",
        ),
        ({"size": {"height": 100, "width": 64}, "do_center_crop": False}, "size must be .*'height': 100.*96"),
    ],
)
def test_sizes_that_are_no_multiples_are_refused_when_made_and_when_called(arguments, message):
    with pytest.raises(ValueError, match=message):
        OpenVision3ImageProcessor(**arguments)
    with pytest.raises(ValueError, match=message):
        OpenVision3ImageProcessor()(gradient(64, 64), **arguments)


def test_pictures_that_do_not_fit_are_refused_rather_than_padded():
    processor, picture = OpenVision3ImageProcessor(), gradient(100, 100)
    with pytest.raises(ValueError, match="crop of 256 x 256 does not fit in a picture of 128 x 128"):
        processor(picture, size=128)
    with pytest.raises(ValueError, match="100 x 100 has sides that are not multiples of 16"):
        processor(picture, do_resize=False, do_center_crop=False)
