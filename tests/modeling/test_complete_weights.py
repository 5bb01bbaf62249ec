"""What a classifier adds on an encoder may be new, and nothing else; other models are among the citizens.

Run: python -m pytest tests/modeling/test_complete_weights.py
"""

import pytest
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from onevision_hf import (
    OneVisionConfig,
    OneVisionForVideoClassification,
    OneVisionModel,
)


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
