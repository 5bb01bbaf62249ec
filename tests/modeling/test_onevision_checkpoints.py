"""Published folders load as they are, and what is saved here loads without this package.

Run: python -m pytest tests/modeling/test_onevision_checkpoints.py
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import fresh
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor, CLIPImageProcessor

from onevision_hf import (
    OneVisionConfig,
    OneVisionImageProcessor,
    OneVisionModel,
    OneVisionVideoProcessor,
    bundled_clip,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "onevision_encoder_rmsnorm"

# As the published repositories have it, with values that no default has.
PUBLISHED_PREPROCESSOR = {
    "crop_size": {"height": 96, "width": 80},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.5, 0.6, 0.7],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 100},
}


@pytest.fixture
def published(tmp_path) -> Path:
    folder = shutil.copytree(FIXTURE, tmp_path / "published")
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 201, 3), dtype=np.uint8))


def code_named_by(folder: Path) -> set[str]:
    """The files that the auto maps of a folder name."""
    maps = [json.loads(path.read_text()).get("auto_map", {}) for path in folder.glob("*.json")]
    return {f"{reference.split('.')[0]}.py" for auto_map in maps for reference in auto_map.values()}


@pytest.mark.parametrize("trust", [None, False, True])
def test_a_published_folder_resolves_to_our_class_on_its_own_auto_map(published, trust):
    model = AutoModel.from_pretrained(published, trust_remote_code=trust)
    assert type(model) is OneVisionModel
    assert type(AutoConfig.from_pretrained(published, trust_remote_code=trust)) is OneVisionConfig


def test_unknown_keys_are_kept_and_tensors_return_bit_equal(published, tmp_path):
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "trained_on": "everything"}))
    model = AutoModel.from_pretrained(published)
    assert model.config.trained_on == "everything"
    model.save_pretrained(tmp_path / "again")

    before, after = (load_file(folder / "model.safetensors") for folder in (published, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    changed = ("architectures", "auto_map", "transformers_version")
    assert {key: value for key, value in saved.items() if key not in changed} == {
        **{key: value for key, value in config.items() if key not in changed},
        "trained_on": "everything",
    }


def test_the_image_processor_of_a_published_folder_stays_clips_and_feeds_the_model(published, image):
    processor = AutoImageProcessor.from_pretrained(published)
    assert isinstance(processor, CLIPImageProcessor)
    inputs = processor(image, return_tensors="pt")
    assert AutoModel.from_pretrained(published)(**inputs).last_hidden_state.shape == (1, 30, 128)
    ours = OneVisionImageProcessor.from_pretrained(published)
    assert ours.patch_size == 16
    assert torch.equal(ours(image, return_tensors="pt")["pixel_values"], inputs["pixel_values"])


def test_the_video_processor_of_a_published_folder_is_ours_with_its_settings(published):
    processor = AutoVideoProcessor.from_pretrained(published)
    assert type(processor) is OneVisionVideoProcessor
    assert dict(processor.size)["shortest_edge"] == 100
    assert (processor.crop_size["height"], processor.crop_size["width"]) == (96, 80)
    assert processor.do_center_crop
    assert tuple(processor.image_mean) == (0.1, 0.2, 0.3)
    assert tuple(processor.image_std) == (0.5, 0.6, 0.7)
    assert processor.patch_size == 16
    assert "resample" not in processor.to_dict()
    inputs = processor(bundled_clip(), num_frames=4, num_patches=40, return_tensors="pt")
    assert inputs["patch_positions"][..., 1:].amax(dim=(0, 1)).tolist() == [5, 4]
    assert AutoModel.from_pretrained(published)(**inputs).last_hidden_state.shape == (1, 40, 128)


@pytest.mark.parametrize("nested", [False, True])
def test_processors_load_from_a_folder_that_has_only_a_configuration(tmp_path, nested):
    config = OneVisionConfig.tiny(patch_size=8, rope_temporal_size=None).to_dict()
    config = {"model_type": "some_vlm", "vision_config": config} if nested else config
    (tmp_path / "config.json").write_text(json.dumps(config))
    video = OneVisionVideoProcessor.from_pretrained(tmp_path)
    assert (video.patch_size, video.rope_temporal_size, video.num_frames) == (8, None, 64)
    assert OneVisionImageProcessor.from_pretrained(tmp_path).patch_size == 8
    assert OneVisionImageProcessor.from_pretrained(tmp_path, patch_size=4).patch_size == 4


def test_the_model_beside_a_processor_decides_the_patch_size(tmp_path):
    OneVisionVideoProcessor().save_pretrained(tmp_path)
    OneVisionImageProcessor().save_pretrained(tmp_path)
    assert AutoVideoProcessor.from_pretrained(tmp_path).patch_size == 14
    OneVisionConfig.tiny(patch_size=8).save_pretrained(tmp_path)
    assert AutoVideoProcessor.from_pretrained(tmp_path).patch_size == 8
    assert AutoImageProcessor.from_pretrained(tmp_path).patch_size == 8


@pytest.mark.parametrize("processor", [OneVisionVideoProcessor, OneVisionImageProcessor])
def test_a_folder_without_a_model_or_a_processor_is_the_librarys_own_error(processor, tmp_path):
    with pytest.raises(OSError, match=r"(image|video) processor"):
        processor.from_pretrained(tmp_path)


def test_a_configuration_saved_alone_names_no_code_that_stayed_behind(published, tmp_path):
    config = AutoConfig.from_pretrained(published)
    config.auto_map["AutoModelForImageClassification"] = "owner/repository--modeling.Classifier"
    config.save_pretrained(tmp_path / "config")
    saved = json.loads((tmp_path / "config" / "config.json").read_text())["auto_map"]
    assert saved == {
        "AutoConfig": "configuration_onevision.OneVisionConfig",
        "AutoModelForImageClassification": "owner/repository--modeling.Classifier",
    }


WITHOUT_PACKAGE = """
import sys
sys.modules["onevision_hf"] = None      # importing it fails, as where it is not installed
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

folder, again, clip, picture, out = sys.argv[1:]
results = {}
for name, place in (("first", folder), ("again", again)):
    parts = [auto.from_pretrained(place, trust_remote_code=True)
             for auto in (AutoModel, AutoVideoProcessor, AutoImageProcessor)]
    model, video_processor, image_processor = parts
    assert all(type(part).__module__.startswith("transformers_modules.") for part in parts), parts
    inputs = video_processor(clip, num_frames=4, return_tensors="pt")
    with torch.no_grad():
        results[f"{name}.video"] = model.eval()(**inputs).pooler_output
        inputs = image_processor(Image.open(picture), return_tensors="pt")
        results[f"{name}.image"] = model(**inputs).pooler_output
    if name == "first":
        for part in parts:
            part.save_pretrained(again)
save_file(results, out)
"""


@torch.no_grad()
def test_what_is_saved_carries_its_code_and_keeps_it_when_saved_again(image, tmp_path):
    torch.manual_seed(0)
    model = OneVisionModel(OneVisionConfig.tiny(initializer_range=0.2)).eval()
    video_processor, image_processor = OneVisionVideoProcessor(size=112), OneVisionImageProcessor(size=56)
    folder, again = tmp_path / "folder", tmp_path / "again"
    for part in (model, video_processor, image_processor):
        part.save_pretrained(folder)
    named = code_named_by(folder)
    assert named == {
        "configuration_onevision.py",
        "modeling_onevision.py",
        "video_processing_onevision.py",
        "image_processing_onevision.py",
    }
    assert all((folder / name).is_file() for name in named)

    image.save(tmp_path / "image.png")
    out = tmp_path / "out.safetensors"
    arguments = [folder, again, bundled_clip(), tmp_path / "image.png", out]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub")}
    done = fresh(WITHOUT_PACKAGE, *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    results = load_file(out)
    video = model(**video_processor(bundled_clip(), num_frames=4, return_tensors="pt")).pooler_output
    picture = model(**image_processor(image, return_tensors="pt")).pooler_output
    for name in ("first", "again"):
        torch.testing.assert_close(results[f"{name}.video"], video, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(results[f"{name}.image"], picture, rtol=1e-5, atol=1e-5)
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in again.glob("*.py")}
    assert code_named_by(again) == named


def test_tensors_have_the_published_names():
    published = load_file(FIXTURE.parent / "onevision_encoder_layernorm" / "model.safetensors")
    model = OneVisionModel(OneVisionConfig.tiny(num_hidden_layers=3))
    assert set(model.state_dict()) == set(published)
