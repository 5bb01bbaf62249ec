"""The converter of the published OneVision folders.

Run: python -m pytest tests/conversion/test_onevision_encoder_conversion.py
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

from onevision_hf import OneVisionConfig, OneVisionImageProcessor, OneVisionModel, OneVisionVideoProcessor
from onevision_hf.cli import main
from onevision_hf.conversion import CheckpointError, CheckpointMismatchError, OneVisionEncoderAdapter

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLISHED = ["onevision_encoder_layernorm", "onevision_encoder_rmsnorm"]
ADAPTER = OneVisionEncoderAdapter()
State = dict[str, torch.Tensor]


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def folder(tmp_path) -> Path:
    return shutil.copytree(FIXTURES / PUBLISHED[0], tmp_path / "published")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_and_ours_are_bit_equal_under_the_same_names(name):
    state, config, _ = ADAPTER.read(str(FIXTURES / name))
    ours = ADAPTER.to_ours(state)
    OneVisionModel(config).load_state_dict(ours, strict=True)
    assert same(ours, state)

    model = OneVisionModel(OneVisionConfig.tiny(layer_norm_type=config.layer_norm_type))
    settings = json.loads(json.dumps(model.config.to_dict()))
    assert ADAPTER.config_of(model.state_dict(), settings).to_diff_dict() == model.config.to_diff_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_writes_a_folder_that_loads_by_auto_classes_with_the_recorded_output(name, tmp_path):
    destination = tmp_path / "converted"
    assert main(["convert", "onevision-encoder", str(FIXTURES / name), str(destination)]) == 0
    recorded = load_file(FIXTURES / name / "reference.safetensors")
    model = AutoModel.from_pretrained(destination)
    assert type(model) is OneVisionModel
    with torch.no_grad():
        found = model(recorded["image.pixel_values"]).pooler_output
    expected = recorded["image.pooler_output"]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert type(AutoImageProcessor.from_pretrained(destination)) is OneVisionImageProcessor
    assert type(AutoVideoProcessor.from_pretrained(destination)) is OneVisionVideoProcessor
    for reference in json.loads((destination / "config.json").read_text())["auto_map"].values():
        assert (destination / f"{reference.split('.')[0]}.py").is_file()
    card = ModelCard.load(destination / "README.md")
    assert card.data.license == "apache-2.0" and "Apache-2.0" in card.text


def test_the_published_settings_of_the_processor_are_kept(folder, tmp_path):
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "size": {"shortest_edge": 70},
        "crop_size": {"height": 56, "width": 42},
        "do_center_crop": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert main(["convert", "onevision-encoder", str(folder), str(tmp_path / "converted")]) == 0
    processor = AutoImageProcessor.from_pretrained(tmp_path / "converted")
    assert list(processor.image_mean) == [0.1, 0.2, 0.3] and processor.crop_size["width"] == 42


def test_sharded_weights_are_read_whole(folder):
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    weight_map = {}
    for part, keys in enumerate((names[::2], names[1::2])):
        save_file({key: state[key] for key in keys}, folder / f"part-{part}.safetensors")
        weight_map |= dict.fromkeys(keys, f"part-{part}.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(ADAPTER.read(str(folder))[0], state)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no part-1\.safetensors"):
        ADAPTER.read(str(folder))


def test_every_wrong_key_is_listed_by_what_is_wrong_with_it(folder):
    state = load_file(folder / "model.safetensors")
    del state["encoder.layers.0.mlp.fc1.bias"]
    state["video_head.weight"] = torch.zeros(2)
    state["head.probe"] = torch.zeros(1, 2, 64)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointMismatchError) as caught:
        ADAPTER.read(str(folder))
    assert caught.value.missing == ["encoder.layers.0.mlp.fc1.bias"]
    assert caught.value.left == ["video_head.weight"]
    assert caught.value.misshapen == {"head.probe": ((1, 2, 64), (1, 1, 64))}


def test_folders_of_another_kind_are_refused_by_what_was_found(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="is truncated or no safetensors"):
        ADAPTER.read(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds neither"):
        ADAPTER.read(str(folder))
    (folder / "model.safetensors").write_bytes(weights)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "siglip"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model_type = 'siglip', expected 'onevision_encoder'"):
        ADAPTER.read(str(folder))
