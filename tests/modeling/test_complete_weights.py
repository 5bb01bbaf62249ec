"""A folder whose weights are missing is an error, which lists them; never a random model.

Run: python -m pytest tests/modeling/test_complete_weights.py
"""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText
from transformers.utils import logging
from vl_tiny import tiny_model

from onevision_hf import (
    OneVisionConfig,
    OneVisionForVideoClassification,
    OneVisionModel,
    OneVisionVLForConditionalGeneration,
    OneVisionVLModel,
    OpenVision3Config,
    OpenVision3Model,
)

OPENVISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def drop(folder, *names):
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if k not in names}, folder / "model.safetensors", {"format": "pt"}
    )


@pytest.fixture
def said(monkeypatch):
    """What the library logs."""
    lines = []
    monkeypatch.setattr(
        "onevision_hf.modeling.complete_weights._LOGGER.warning", lambda *a: lines.append(a[0] % a[1:])
    )
    return lines


MODELS = {
    "encoder": lambda: OneVisionModel(OneVisionConfig.tiny(num_hidden_layers=1)),
    "openvision3": lambda: OpenVision3Model(OpenVision3Config(**OPENVISION)),
    "multimodal": tiny_model,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_that_lacks_weights_is_refused_and_the_weights_are_listed(name, tmp_path, said):
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    lost = [key for key in load_file(tmp_path / "model.safetensors") if "layers.0" in key][:2]
    drop(tmp_path, *lost)
    auto = AutoModelForImageTextToText if name == "multimodal" else AutoModel
    with pytest.raises(ValueError, match="lacks 2 weights") as refused:
        auto.from_pretrained(tmp_path)
    assert all(key in str(refused.value) for key in lost) and "allow_missing=True" in str(refused.value)
    opened, found = type(model).from_pretrained(tmp_path, allow_missing=True, output_loading_info=True)
    assert found["missing_keys"] == set(lost) and all(key in said[-1] for key in lost)
    kept = next(key for key in model.state_dict() if key not in lost)
    assert torch.equal(opened.state_dict()[kept], model.state_dict()[kept])


def test_a_classifier_on_an_encoder_is_new_and_that_is_one_line(tmp_path, said, caplog):
    OneVisionModel(OneVisionConfig.tiny(num_hidden_layers=1)).save_pretrained(tmp_path)
    logging.enable_propagation()
    try:
        OneVisionForVideoClassification.from_pretrained(tmp_path, num_labels=3)
    finally:
        logging.disable_propagation()
    assert len(said) == 1 and "classifier.probe" in said[0] and "\n" not in said[0]
    assert "LOAD REPORT" not in caplog.text
    drop(tmp_path, "layernorm_pre.weight")
    with pytest.raises(ValueError, match=r"lacks 1 weights of .*: onevision_encoder\.layernorm_pre\.weight"):
        OneVisionForVideoClassification.from_pretrained(tmp_path, num_labels=3)


def test_tied_heads_and_heads_of_a_body_are_not_missing(tmp_path, said):
    model = tiny_model()
    model.config.text_config.tie_word_embeddings = True
    tied = OneVisionVLForConditionalGeneration(model.config)
    tied.save_pretrained(tmp_path)
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = OneVisionVLForConditionalGeneration.from_pretrained(tmp_path)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert isinstance(AutoModel.from_pretrained(tmp_path), OneVisionVLModel)
    assert not said


def test_other_sizes_are_told_as_transformers_tells_them(tmp_path):
    OneVisionModel(OneVisionConfig.tiny(num_hidden_layers=1)).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        OneVisionModel.from_pretrained(tmp_path, intermediate_size=96)
