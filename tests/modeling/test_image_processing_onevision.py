"""Images reach the encoder at their own resolution, at a fixed size or cropped, alone, padded or packed.

Run: python -m pytest tests/modeling/test_image_processing_onevision.py
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor

from onevision_hf import (
    OneVisionConfig,
    OneVisionImageProcessor,
    OneVisionModel,
    OneVisionVLImageProcessor,
    OpenVision3ImageProcessor,
)


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def model() -> OneVisionModel:
    torch.manual_seed(0)
    return OneVisionModel(OneVisionConfig.tiny(initializer_range=0.2)).eval()


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 120), width=st.integers(1, 120), patch=st.sampled_from([4, 14, 16]))
def test_native_resolution_rounds_each_side_to_the_patch(height, width, patch):
    pixels = OneVisionImageProcessor(patch_size=patch)(picture(height, width), return_tensors="pt")
    assert pixels.keys() == {"pixel_values"}
    for side, found in zip((height, width), pixels["pixel_values"].shape[-2:], strict=True):
        assert found % patch == 0 and found >= patch
        assert abs(found - side) <= patch / 2 or found == patch


def test_an_image_that_fits_the_grid_is_only_normalised():
    image = picture(28, 42)
    processor = OneVisionImageProcessor(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels, (expected - 0.5) / 0.25, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"size": 56}, (56, 84)),
        ({"size": {"shortest_edge": 56}}, (56, 84)),
        ({"size": {"height": 56, "width": 42}}, (56, 42)),
        ({"size": 56, "do_center_crop": True}, (56, 56)),
        ({"size": 60, "do_center_crop": True, "crop_size": {"height": 42, "width": 56}}, (42, 56)),
        ({"size": {"height": 56, "width": 42}, "do_center_crop": True}, (56, 42)),
        ({"do_center_crop": True}, (98, 98)),
    ],
)
def test_sizes_are_what_was_asked_for(options, shape):
    for pixels in (
        OneVisionImageProcessor()(picture(100, 150), return_tensors="pt", **options),
        OneVisionImageProcessor(**options)(picture(100, 150), return_tensors="pt"),
    ):
        assert pixels["pixel_values"].shape == (1, 3, *shape)


def test_the_centre_crop_is_the_published_one_bit_for_bit():
    options = {"size": {"shortest_edge": 56}, "do_center_crop": True}
    published = CLIPImageProcessor(**options, crop_size={"height": 56, "width": 56})
    for shape in ((100, 151), (60, 57), (333, 91)):
        expected = published(picture(*shape), return_tensors="pt")["pixel_values"]
        found = OneVisionImageProcessor(**options)(picture(*shape), return_tensors="pt")["pixel_values"]
        assert torch.equal(found, expected)


@torch.no_grad()
def test_unequal_images_padded_or_packed_are_what_each_is_alone(model):
    images = [picture(70, 99), picture(28, 28), picture(41, 130)]
    processor = OneVisionImageProcessor()
    alone = [model(**processor(image, return_tensors="pt")) for image in images]
    padded = processor(images, return_tensors="pt")
    assert padded.keys() == {"pixel_values", "patch_positions", "pixel_attention_mask"}
    packed = processor(images, packed=True, return_tensors="pt")
    assert packed.keys() == {"pixel_values", "patch_positions", "cu_seqlens"}
    assert packed["cu_seqlens"].dtype == torch.int32

    states = torch.cat([output.last_hidden_state[0] for output in alone])
    for inputs in (padded, packed):
        output = model(**inputs)
        found = output.last_hidden_state
        if "pixel_attention_mask" in inputs:
            found = found[inputs["pixel_attention_mask"]]
        torch.testing.assert_close(found, states, rtol=1e-4, atol=1e-5)
        pooled = torch.cat([output.pooler_output for output in alone])
        torch.testing.assert_close(output.pooler_output, pooled, rtol=1e-4, atol=1e-5)
    as_video = {"pixel_values_videos" if k == "pixel_values" else k: v for k, v in padded.items()}
    assert torch.equal(model(**as_video).pooler_output, model(**padded).pooler_output)


def test_gray_and_transparent_images_arrays_and_tensors_are_images_too(model):
    image = picture(28, 28)
    processor = OneVisionImageProcessor()
    expected = processor(image, return_tensors="pt")["pixel_values"]
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for same in (array, tensor, image.convert("RGBA")):
        assert torch.equal(processor(same, return_tensors="pt")["pixel_values"], expected)
    assert processor(image.convert("L"), return_tensors="np")["pixel_values"].shape == (1, 3, 28, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_resize": False}, "height 100 and width 150.*patch_size 14"),
        ({"size": {"height": 57, "width": 42}}, "height 57 and width 42"),
        ({"size": 60, "do_center_crop": True}, "height 60 and width 60"),
    ],
)
def test_sizes_off_the_grid_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OneVisionImageProcessor()(picture(100, 150), return_tensors="pt", **options)


def wide_or_tall(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "processor",
    [
        OneVisionImageProcessor(size={"height": 28, "width": 56}),
        OneVisionVLImageProcessor(),
        OpenVision3ImageProcessor(size={"height": 32, "width": 48}, do_center_crop=False),
    ],
    ids=lambda processor: type(processor).__name__,
)
@pytest.mark.parametrize("shape", [(1, 40), (3, 40), (4, 40), (40, 1), (40, 3), (40, 4), (1, 1), (3, 3)])
def test_a_narrow_picture_is_itself_as_picture_file_array_and_tensor(processor, shape, tmp_path):
    """An array is channels-first only when its last axis is no channel axis; a tensor is where it can be."""
    array = wide_or_tall(*shape)
    expected = processor(Image.fromarray(array), return_tensors="pt")["pixel_values"]
    Image.fromarray(array).save(tmp_path / "narrow.png")
    first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for same in (array, first, str(tmp_path / "narrow.png")):
        assert torch.equal(processor(same, return_tensors="pt")["pixel_values"], expected)
    said = {"input_data_format": "channels_first", "return_tensors": "pt"}
    assert torch.equal(processor(first.numpy(), **said)["pixel_values"], expected)
    said = {"input_data_format": "channels_last", "return_tensors": "pt"}
    assert torch.equal(processor(torch.from_numpy(array), **said)["pixel_values"], expected)
