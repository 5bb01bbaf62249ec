"""How weights begin, and which of them are shared: no value comes from what memory held before.

Run: python -m pytest -m citizen tests/citizen/test_weights.py
"""

import copy
import inspect

import pytest
import torch
from citizens import GENERATING, WITH_TEXT, assert_close, models, parts_of
from safetensors.torch import load_file
from torch import nn

pytestmark = pytest.mark.citizen


@models()
def test_every_weight_and_buffer_is_initialised_and_not_by_what_memory_held(citizen):
    drawn = []
    for garbage in (float("nan"), 7.0):
        with torch.device("meta"):
            model = citizen.kind(citizen.config())
        assert all(value.is_meta for value in model.parameters())
        model.to_empty(device="cpu")
        with torch.no_grad():
            for value in (*model.parameters(), *model.buffers()):
                value.fill_(garbage)
        for module in model.modules():
            module.__dict__.pop("_is_hf_initialized", None)
        torch.manual_seed(0)
        model.init_weights()
        drawn.append({**dict(model.named_parameters()), **dict(model.named_buffers())})
    for name, value in drawn[0].items():
        assert value.isfinite().all() and torch.equal(value, drawn[1][name]), name


@models()
def test_a_new_model_has_the_same_spread_however_it_is_made(citizen):
    """Built at once, and from a folder without a weight, as transformers builds what it loads."""
    torch.manual_seed(0)
    made = citizen.kind(citizen.config())
    empty = citizen.kind.from_pretrained(None, config=citizen.config(), state_dict={}, allow_missing=True)
    for name, value in made.state_dict().items():
        found = empty.state_dict()[name]
        if value.numel() > 500:  # enough to tell a spread by
            assert found.float().std() == pytest.approx(float(value.float().std()), rel=0.25, abs=1e-6), name
            assert abs(float(found.float().mean() - value.float().mean())) < 0.3 * value.float().std() + 1e-6
        elif "norm" in name or name.endswith("bias"):
            assert torch.equal(found, value) or "in_proj" in name, name


@models()
def test_weights_that_were_read_are_not_drawn_again(citizen):
    model = citizen.build()
    state = model.state_dict()
    half = {name: value for number, (name, value) in enumerate(state.items()) if number % 2}
    opened = citizen.kind.from_pretrained(None, config=model.config, state_dict=half, allow_missing=True)
    for name, value in opened.state_dict().items():
        assert value.isfinite().all(), name
        if name in half:
            assert torch.equal(value, half[name]), name


@models()
def test_what_a_module_holds_is_a_parameter_or_a_buffer(citizen):
    """Or it would not follow the model to another device or type."""
    for name, module in citizen.kind(citizen.config()).named_modules():
        stray = [own for own, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not stray, (name, stray)


@models()
def test_a_model_is_made_and_loaded_under_a_device_context_but_not_under_meta(citizen, tmp_path):
    model = citizen.build()
    model.save_pretrained(tmp_path)
    with torch.device("cpu"):
        loaded = citizen.kind.from_pretrained(tmp_path)
    assert all(value.device.type == "cpu" for value in loaded.parameters())
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device context"):
        citizen.kind.from_pretrained(tmp_path)


@models()
def test_a_copy_is_a_model_of_its_own(citizen):
    model = citizen.build()
    twin = copy.deepcopy(model)
    assert twin.state_dict().keys() == model.state_dict().keys()
    first = next(iter(twin.parameters()))
    with torch.no_grad():
        first += 1
    assert not torch.equal(first, next(iter(model.parameters())))


@models()
def test_every_part_has_the_config_that_the_whole_has_of_it(citizen):
    """So that what is set in one is set in the other."""
    model = citizen.build()
    configs = {id(model.config)} | {id(getattr(model.config, name)) for name in model.config.sub_configs}
    for part in parts_of(model):
        assert id(part.config) in configs, type(part).__name__


@models()
def test_the_main_input_is_the_first_argument_of_forward(citizen):
    arguments = list(inspect.signature(citizen.kind.forward).parameters)
    assert arguments[1] == citizen.kind.main_input_name


# -- embeddings --


@models()
def test_input_embeddings_are_a_module(citizen):
    model = citizen.build()
    assert isinstance(model.get_input_embeddings(), nn.Module)
    if citizen in WITH_TEXT.values():
        config = model.config.text_config
        other = nn.Embedding(config.vocab_size + 3, config.hidden_size)
        model.set_input_embeddings(other)
        assert model.get_input_embeddings() is other
    if citizen in GENERATING.values():
        assert isinstance(model.get_output_embeddings(), nn.Linear)


def tied(citizen):
    config = citizen.config()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    return citizen.build(config=config)


@torch.no_grad()
@models(WITH_TEXT)
def test_embeddings_are_resized_with_the_head_and_come_back(citizen, tmp_path):
    check_resizing(citizen, citizen.build(), tmp_path, head_is_tied=False)


@torch.no_grad()
@models(GENERATING)
def test_tied_embeddings_are_resized_and_stay_tied(citizen, tmp_path):
    check_resizing(citizen, tied(citizen), tmp_path, head_is_tied=True)


def check_resizing(citizen, model, folder, head_is_tied):
    size, expected = model.config.text_config.vocab_size, citizen.result(model)
    before = model.get_input_embeddings().weight.clone()
    for change in (10, -1):
        returned = model.resize_token_embeddings(size + change)
        assert returned is model.get_input_embeddings() and returned.num_embeddings == size + change
        assert model.config.text_config.vocab_size == size + change
        kept = min(size, size + change)
        assert torch.equal(returned.weight[:kept], before[:kept])
        found = citizen.result(model)
        if citizen in GENERATING.values():
            head = model.get_output_embeddings()
            assert head.weight.shape[0] == size + change == found.shape[-1]
            assert (head.weight is returned.weight) == head_is_tied
        assert_close(found[..., :kept], expected[..., :kept])
        model.save_pretrained(folder / str(change))
        again = citizen.kind.from_pretrained(folder / str(change))
        assert torch.equal(citizen.result(again), found)
    assert model.resize_token_embeddings(size, pad_to_multiple_of=64).num_embeddings % 64 == 0


@torch.no_grad()
@models(GENERATING)
def test_a_tied_head_is_one_tensor_is_not_saved_and_is_not_missing(citizen, tmp_path):
    model = tied(citizen)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    again, found = citizen.kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(citizen.result(again), citizen.result(model))
    again.tie_weights()
    twin = copy.deepcopy(again)
    assert twin.get_output_embeddings().weight is twin.get_input_embeddings().weight
    untied = citizen.build()
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
