"""What is saved comes back: in every form of a folder, in half precision, and nothing that lacks or
differs is passed over.

Run: python -m pytest -m citizen tests/citizen/test_saving.py
"""

import json
from pathlib import Path

import pytest
import torch
from citizens import CITIZENS, WITH_TEXT, assert_close, models
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, PreTrainedModel

import onevision_hf
from onevision_hf import OneVisionVLModel

pytestmark = pytest.mark.citizen
FIRST_RELEASE = Path(__file__).parents[1] / "fixtures" / "onevision_vl_saved"


def test_every_public_model_is_among_the_citizens():
    public = (getattr(onevision_hf, name) for name in onevision_hf.__all__)
    every = {one for one in public if isinstance(one, type) and issubclass(one, PreTrainedModel)}
    assert {one.kind for one in CITIZENS.values()} >= every


@torch.no_grad()
@pytest.mark.parametrize("form", ["one file", "shards", "state dict", "pickled"])
@models()
def test_a_saved_model_computes_the_same(citizen, form, tmp_path):
    model = citizen.build()
    if form == "pickled":
        torch.save(model, tmp_path / "model.pt")
        loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    else:
        how = {"shards": {"max_shard_size": "20KB"}, "state dict": {"state_dict": model.state_dict()}}
        (citizen.build(seed=7) if form == "state dict" else model).save_pretrained(
            tmp_path, **how.get(form, {})
        )
        assert len(list(tmp_path.glob("*.safetensors"))) == 1 or form == "shards"
        assert (tmp_path / "model.safetensors.index.json").exists() == (form == "shards")
        loaded, found = citizen.kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(found[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert not loaded.training
        assert type(citizen.auto.from_pretrained(tmp_path)) is citizen.kind
    assert type(loaded) is citizen.kind
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(citizen.result(loaded), citizen.result(model))


@torch.no_grad()
@models()
def test_a_state_dict_and_a_config_are_a_model(citizen):
    model = citizen.build()
    again = citizen.kind.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(citizen.result(again), citizen.result(model))


@torch.no_grad()
@models()
def test_half_precision_is_kept_and_can_be_asked_for(citizen, tmp_path):
    model = citizen.build()
    model.save_pretrained(tmp_path / "full")
    half = citizen.kind.from_pretrained(tmp_path / "full", dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path / "half")
    kept = citizen.kind.from_pretrained(tmp_path / "half")
    assert {value.dtype for value in kept.parameters()} == {torch.bfloat16}
    widened = citizen.kind.from_pretrained(tmp_path / "half", dtype="float32")
    assert {value.dtype for value in widened.parameters()} == {torch.float32}
    model = model.to(torch.bfloat16)
    for name, value in model.state_dict().items():
        assert torch.equal(half.state_dict()[name], value) and torch.equal(kept.state_dict()[name], value)
    # Not what the cast model gives: casting rounds the language model's rotary frequencies too.
    assert torch.equal(citizen.result(half), citizen.result(kept))


@torch.no_grad()
@models()
def test_bfloat16_stays_near_float32(citizen):
    model = citizen.build()
    full = citizen.result(model)
    low = citizen.result(model.to(torch.bfloat16))
    assert low.isfinite().all()
    mask = citizen.inputs().get("attention_mask")
    if mask is not None and full.ndim == 3:
        full, low = full[mask.bool()], low[mask.bool()]
    assert torch.nn.functional.cosine_similarity(low.float().flatten(), full.flatten(), dim=0) > 0.98


@models()
def test_a_config_comes_back_and_its_parts_are_read_from_the_whole(citizen, tmp_path):
    config = citizen.config()
    kind = type(config)
    model = citizen.kind(config)
    assert model.config.to_dict() == config.to_dict() and isinstance(config, kind)
    config.save_pretrained(tmp_path / "in" / "it")
    for again in (
        kind.from_dict(config.to_dict()),
        kind(**config.to_dict()),
        kind.from_pretrained(tmp_path / "in" / "it"),
        kind.from_pretrained(tmp_path, subfolder="in/it"),
        kind.from_json_file(tmp_path / "in" / "it" / "config.json"),
        AutoConfig.from_pretrained(tmp_path / "in" / "it"),
    ):
        assert type(again) is kind
        assert plain(again) == plain(config)
    json.loads(config.to_json_string())
    changed, rest = kind.from_pretrained(
        tmp_path / "in" / "it", output_hidden_states=True, no_such_field=3, return_unused_kwargs=True
    )
    assert changed.output_hidden_states and rest == {"no_such_field": 3}
    for name in config.sub_configs:
        part = getattr(config, name)
        assert plain(type(part).from_pretrained(tmp_path / "in" / "it")) == plain(part) or (
            sum(type(getattr(config, other)) is type(part) for other in config.sub_configs) > 1
        )
    assert type(kind()) is kind


def plain(config):
    written = ("transformers_version", "_name_or_path", "architectures", "dtype", "auto_map")

    def clean(value):
        if isinstance(value, dict):
            return {name: clean(own) for name, own in value.items() if name not in written}
        return list(value) if isinstance(value, tuple) else value

    return clean(config.to_dict())


# -- what lacks, what is too much, what does not fit --


def change_file(folder: Path, change) -> list[str]:
    """The names in a folder's file, which `change` has changed."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return list(state)


@models()
def test_a_folder_that_lacks_weights_is_refused_and_they_are_listed(citizen, tmp_path):
    model = citizen.build()
    model.save_pretrained(tmp_path)
    lost: list[str] = []

    def drop(state):
        lost.extend([name for name in state if "layers.0" in name and "layer_norm1" in name])
        for name in lost:
            del state[name]

    change_file(tmp_path, drop)
    assert lost
    with pytest.raises(ValueError, match=f"lacks {len(lost)} weights") as refused:
        citizen.auto.from_pretrained(tmp_path)
    assert "allow_missing=True" in str(refused.value)
    opened, found = citizen.kind.from_pretrained(tmp_path, allow_missing=True, output_loading_info=True)
    assert len(found["missing_keys"]) == len(lost)
    assert all(name in str(refused.value) for name in found["missing_keys"])
    for name, value in opened.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) != (name in found["missing_keys"]) or (
            value.ndim == 1  # a norm starts as it is left here
        )


@models()
def test_weights_that_a_model_has_no_place_for_are_said_or_refused(citizen, tmp_path, monkeypatch):
    citizen.build().save_pretrained(tmp_path)
    change_file(tmp_path, lambda state: state.update({"nobodys.weight": torch.zeros(2)}))
    said = []
    monkeypatch.setattr(
        "onevision_hf.modeling.complete_weights._LOGGER.warning", lambda *a: said.append(a[0] % a[1:])
    )
    if citizen.kind.may_hold_others:
        _, found = citizen.kind.from_pretrained(tmp_path, output_loading_info=True)
        assert found["unexpected_keys"] == {"nobodys.weight"} and "nobodys.weight" in said[-1]
    else:
        with pytest.raises(ValueError, match=r"no place for: nobodys\.weight"):
            citizen.kind.from_pretrained(tmp_path)


@models()
def test_weights_of_another_size_are_refused_and_drawn_when_asked(citizen, tmp_path):
    model = citizen.build()
    model.save_pretrained(tmp_path)
    wrong: list[str] = []

    def widen(state):
        wrong.append(next(name for name in state if "fc1.bias" in name))
        state[wrong[0]] = torch.nn.functional.pad(state[wrong[0]], (0, 3))

    change_file(tmp_path, widen)
    with pytest.raises(RuntimeError, match="size mismatch of 1 weights"):
        citizen.kind.from_pretrained(tmp_path)
    opened, found = citizen.kind.from_pretrained(
        tmp_path, ignore_mismatched_sizes=True, output_loading_info=True
    )
    (name, has, wanted) = next(iter(found["mismatched_keys"]))
    assert has[-1] == wanted[-1] + 3 and opened.state_dict()[name].isfinite().all()


# -- what was saved before --


def first_release():
    recorded = load_file(FIRST_RELEASE / "case.safetensors")
    return recorded.pop("logits"), recorded


@torch.no_grad()
def test_a_folder_of_the_first_release_loads_unchanged_with_and_without_its_head():
    """Saved, with its logits, before there was a model without head (commit ab37920)."""
    logits, inputs = first_release()
    whole = AutoModelForImageTextToText.from_pretrained(FIRST_RELEASE)
    torch.testing.assert_close(whole(**inputs).logits, logits, rtol=1e-5, atol=1e-5)
    body = AutoModel.from_pretrained(FIRST_RELEASE)
    assert type(body) is OneVisionVLModel
    states = body(**inputs).last_hidden_state
    torch.testing.assert_close(whole.get_output_embeddings()(states), logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@models({name: one for name, one in WITH_TEXT.items() if one.output == "last_hidden_state"})
def test_a_model_without_head_loads_the_folder_of_the_whole_one(citizen, tmp_path):
    name = citizen.kind.__name__.replace("Model", "ForConditionalGeneration")
    whole = getattr(onevision_hf, name)(citizen.config()).eval()
    whole.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is citizen.kind
    states = whole(**citizen.inputs(), output_hidden_states=True).hidden_states[-1]
    assert_close(citizen.result(body), states)
