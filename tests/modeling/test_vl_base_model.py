"""`OneVisionVLModel` is the multimodal model without its head, on the same folders.

Run: python -m pytest tests/modeling/test_vl_base_model.py
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from vl_tiny import LANGUAGE_MODELS, tiny_config, tiny_model

from onevision_hf import OneVisionVLForConditionalGeneration, OneVisionVLModel
from onevision_hf.modeling.multimodal_features import window_bounds

SAVED = Path(__file__).parents[1] / "fixtures" / "onevision_vl_saved"


def case():
    recorded = load_file(SAVED / "case.safetensors")
    return recorded.pop("logits"), recorded


@pytest.mark.parametrize("text", LANGUAGE_MODELS)
def test_the_names_on_disk_are_those_of_the_whole_model(text, tmp_path):
    body = OneVisionVLModel(tiny_config(text=text))
    body.save_pretrained(tmp_path / "made")
    loaded = OneVisionVLModel.from_pretrained(tmp_path / "made")
    loaded.save_pretrained(tmp_path / "again")
    saved = load_file(tmp_path / "made" / "model.safetensors")
    assert saved.keys() == load_file(tmp_path / "again" / "model.safetensors").keys()
    whole = tiny_model(text=text)
    assert whole.state_dict().keys() - saved.keys() == {"language_model.lm_head.weight"}
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in body.state_dict().items())
    with pytest.raises(ValueError, match=r"lacks 1 weights .*: language_model\.lm_head\.weight"):
        OneVisionVLForConditionalGeneration.from_pretrained(tmp_path / "made")


@torch.no_grad()
def test_features_come_in_the_form_of_the_library():
    _, inputs = case()
    model = OneVisionVLModel.from_pretrained(SAVED, attn_implementation="eager")
    media = {name: inputs[name] for name in ("pixel_values", "image_patch_positions", "image_cu_seqlens")}
    found = model.get_image_features(**media, output_hidden_states=True, output_attentions=True)
    assert [tuple(own.shape) for own in found.pooler_output] == [(8, 16)]
    assert len(found.hidden_states) == len(found.attentions) + 1 == 2  # layer -2 of two is read
    plain = model.get_image_features(*media.values(), return_dict=False)
    assert isinstance(plain, tuple) and torch.equal(plain[0], found.last_hidden_state)
    ids = {"mm_token_type_ids": (inputs["input_ids"] == 2).long()}
    assert torch.equal(model(**inputs, **ids).last_hidden_state, model(**inputs).last_hidden_state)


@torch.no_grad()
def test_the_published_names_of_images_are_the_same_images():
    _, inputs = case()
    model = OneVisionVLModel.from_pretrained(SAVED)
    published = {
        "input_ids": inputs["input_ids"],
        "pixel_values": inputs["pixel_values"],
        "image_grid_thw": torch.tensor([[1, 2, 4]]),
        "patch_positions": inputs["image_patch_positions"][None],
    }
    assert torch.equal(model(**published).last_hidden_state, model(**inputs).last_hidden_state)
    with pytest.raises(ValueError, match=r"\[\[1, 2, 6\]\] is of 12 patches, pixel_values holds 8"):
        model(**{**published, "image_grid_thw": torch.tensor([[1, 2, 6]])})
    with pytest.raises(ValueError, match="without patch_positions"):
        model(**{**published, "patch_positions": None})


def test_windows_are_so_many_frames_of_a_row_and_the_rest():
    grid = torch.tensor([[6, 2, 2], [1, 4, 2], [4, 2, 2]])
    assert window_bounds(grid, 4).tolist() == [0, 16, 24, 32, 48]
    assert window_bounds(grid, None).tolist() == window_bounds(grid, 0).tolist() == [0, 24, 32, 48]
