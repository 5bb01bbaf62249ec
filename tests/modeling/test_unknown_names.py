"""A name that no processor knows is refused wherever it is given; what was saved, by us or others, loads."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoVideoProcessor,
    CLIPImageProcessor,
    pipeline,
)
from vl_tiny import tiny_config, tiny_processor

from onevision_hf import (
    OneVisionConfig,
    OneVisionImageProcessor,
    OneVisionModel,
    OneVisionVideoProcessor,
    OneVisionVLImageProcessor,
    OneVisionVLProcessor,
    OneVisionVLVideoProcessor,
    OpenVision3ImageProcessor,
)

IMAGES = (OneVisionImageProcessor, OneVisionVLImageProcessor, OpenVision3ImageProcessor)
VIDEOS = (OneVisionVideoProcessor, OneVisionVLVideoProcessor)
AUTO = {**dict.fromkeys(IMAGES, AutoImageProcessor), **dict.fromkeys(VIDEOS, AutoVideoProcessor)}
MEAN, DEVIATION = (0.25,) * 3, (0.5,) * 3
MEANT = r"unknown arguments \['image_means'\]: did you mean image_mean\?"


def picture(side: int = 28) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("cls", [*IMAGES, *VIDEOS])
def test_constructor_and_from_pretrained_name_the_nearest_one(cls, tmp_path):
    with pytest.raises(TypeError, match=MEANT):
        cls(image_means=[0.5] * 3)
    cls().save_pretrained(tmp_path)
    for reader in (cls, AUTO[cls]):
        with pytest.raises(TypeError, match=MEANT):
            reader.from_pretrained(tmp_path, image_means=[0.5] * 3)


@pytest.mark.parametrize("cls", IMAGES)
def test_a_call_refuses_it_too(cls):
    with pytest.raises(Exception, match="image_means"):
        cls()(picture(32), image_means=[0.5] * 3, return_tensors="pt")


@pytest.mark.parametrize("cls", [*IMAGES, *VIDEOS])
def test_what_was_saved_loads_with_what_transformers_hands_over_and_replaced_settings(cls, tmp_path):
    cls(image_mean=MEAN).save_pretrained(tmp_path)
    for reader in (cls, AUTO[cls]):
        again = reader.from_pretrained(
            tmp_path, trust_remote_code=False, local_files_only=True, image_std=DEVIATION
        )
        assert type(again) is cls
        assert again.image_mean == MEAN and again.image_std == DEVIATION
    again, unused = cls.from_pretrained(tmp_path, return_unused_kwargs=True, other=1)
    assert unused["other"] == 1 and again.image_mean == MEAN


def test_a_mistake_in_a_file_of_ours_is_refused_names_of_another_class_are_passed_over(
    tmp_path,
):
    OneVisionImageProcessor(image_mean=MEAN).save_pretrained(tmp_path)
    file = next(path for path in tmp_path.glob("*.json") if "image_mean" in path.read_text())
    stored = json.loads(file.read_text())
    inner = stored.get("image_processor", stored)
    inner["image_means"] = [0.1] * 3
    file.write_text(json.dumps(stored))
    with pytest.raises(TypeError, match=MEANT):
        OneVisionImageProcessor.from_pretrained(tmp_path)
    inner["image_processor_type"] = "SomeImageProcessor"
    file.write_text(json.dumps(stored))
    assert OneVisionImageProcessor.from_pretrained(tmp_path).image_mean == MEAN


@pytest.mark.parametrize("cls", [OneVisionImageProcessor, OneVisionVideoProcessor])
def test_a_published_folder_loads_with_what_both_know(cls, tmp_path):
    CLIPImageProcessor(size={"height": 56, "width": 56}, image_mean=MEAN).save_pretrained(tmp_path)
    OneVisionConfig.tiny().save_pretrained(tmp_path)
    processor = cls.from_pretrained(tmp_path)
    assert processor.image_mean == MEAN
    assert dict(processor.size)["height"] == 56


def test_a_multimodal_processor_refuses_what_none_of_its_parts_knows(tmp_path):
    whole = tiny_processor(tiny_config())
    whole.save_pretrained(tmp_path)
    parts = whole.image_processor, whole.video_processor, whole.tokenizer
    with pytest.raises(
        TypeError, match=r"unknown arguments \['add_timestamp'\]: did you mean add_timestamps\?"
    ):
        OneVisionVLProcessor(*parts, add_timestamp=True)
    for reader in (OneVisionVLProcessor, AutoProcessor):
        for wrong, meant in (("num_frame", "num_frames"), ("add_timestamp", "add_timestamps")):
            with pytest.raises(TypeError, match=rf"'{wrong}'\]: did you mean {meant}\?"):
                reader.from_pretrained(tmp_path, **{wrong: 8})
        again = reader.from_pretrained(
            tmp_path, num_frames=3, max_pixels=3136, candidate_sizes=[[28, 28]], add_timestamps=True
        )
        assert again.video_processor.num_frames == 3 and again.add_timestamps
        assert again.image_processor.max_pixels == 3136
        assert again.image_processor.candidate_sizes == [[28, 28]]


def test_pipelines_of_transformers_load_the_image_processor(tmp_path):
    OneVisionModel(OneVisionConfig.tiny()).save_pretrained(tmp_path)
    OneVisionImageProcessor(patch_size=OneVisionConfig.tiny().patch_size).save_pretrained(tmp_path)
    extract = pipeline("image-feature-extraction", model=str(tmp_path), trust_remote_code=False)
    assert np.isfinite(extract(picture(56))).all()
