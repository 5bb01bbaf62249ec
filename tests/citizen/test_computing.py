"""However a model is asked, it computes the same: as object or tuple, in a batch or alone, with every
attention, compiled, checkpointed, and with its weights elsewhere.

Run: python -m pytest -m citizen tests/citizen/test_computing.py
"""

import pytest
import torch
from citizens import CITIZENS, GENERATING, ROWS, TOWERS, WITH_TEXT, assert_close, models, parts_of
from torch import nn

# Names that the oldest supported transformers knows.
pytestmark = [pytest.mark.citizen, pytest.mark.filterwarnings("ignore::FutureWarning")]
LOSSES = "it gives losses, not states"
ONE_ATTENTION = {"UnifiedForPreTraining": "its text towers call torch's attention themselves"}
WHOLE_BATCH = {"UnifiedForPreTraining": "its contrastive loss is of the whole batch"}


@torch.no_grad()
@models()
def test_the_same_call_gives_the_same(citizen):
    model = citizen.build()
    assert torch.equal(citizen.result(model), citizen.result(model))


@torch.no_grad()
@models(without={"UnifiedForPreTraining": "its output is a dataclass of its own"})
def test_a_tuple_holds_what_the_object_holds(citizen):
    model = citizen.build()
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = model(**citizen.inputs(), **asked)
    as_tuple = model(**citizen.inputs(), **asked, return_dict=False)
    assert isinstance(as_tuple, tuple)
    same(as_tuple, output.to_tuple())


def same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        assert type(one) is type(other)


@torch.no_grad()
@models(without={"UnifiedForPreTraining": LOSSES})
def test_hidden_states_lead_from_the_first_layers_input_to_the_output(citizen):
    model = citizen.build()
    output = model(**citizen.inputs(), output_hidden_states=True)
    config = model.config.get_text_config() if citizen in WITH_TEXT.values() else model.config
    states = output.hidden_states
    assert len(states) == config.num_hidden_layers + 1
    assert {state.shape for state in states} == {(ROWS, states[0].shape[1], config.hidden_size)}
    assert_close(citizen.closing(model, states[-1]), output[citizen.output])
    assert citizen.result(model, output_hidden_states=False) is not None
    assert model(**citizen.inputs()).hidden_states is None
    for part in {id(part): part for part in (model.config, config)}.values():
        part.output_hidden_states = True
    by_config = model(**citizen.inputs()).hidden_states
    same(tuple(by_config), tuple(states))


@torch.no_grad()
@models(without={"UnifiedForPreTraining": LOSSES})
def test_attentions_are_shares_of_what_a_place_sees(citizen):
    model = citizen.build()
    model.set_attn_implementation("eager")
    output = model(**citizen.inputs(), output_attentions=True)
    config = model.config.get_text_config() if citizen in WITH_TEXT.values() else model.config
    length = model(**citizen.inputs(), output_hidden_states=True).hidden_states[0].shape[1]
    assert len(output.attentions) == config.num_hidden_layers
    for weights in output.attentions:
        assert weights.shape == (ROWS, config.num_attention_heads, length, length)
        real = citizen.inputs().get("attention_mask", torch.ones(ROWS, length)).bool()
        torch.testing.assert_close(
            weights.transpose(1, 2)[real].sum(-1), torch.ones(int(real.sum()), weights.shape[1])
        )
        if citizen in WITH_TEXT.values():  # nothing of what comes after, and nothing of the padding
            assert not weights.triu(1)[real[:, None].expand(weights.shape[:3])].any()
            assert not weights[0, :, 2:, :2].any()


@models(without={"UnifiedForPreTraining": LOSSES})
def test_gradients_of_states_and_attentions_are_kept_when_asked(citizen):
    model = citizen.build()
    model.set_attn_implementation("eager")
    output = model(**citizen.inputs(), output_hidden_states=True, output_attentions=True)
    kept = (output.hidden_states[0], output.attentions[0])
    for value in kept:
        value.retain_grad()
    output[citizen.output].flatten()[-1].backward()
    assert all(value.grad is not None for value in kept)


# -- attention --


@torch.no_grad()
@models(without=ONE_ATTENTION)
def test_attention_implementations_agree_and_change_at_run_time(citizen, tmp_path):
    model = citizen.build()
    expected = citizen.result(model)
    assert {part.config._attn_implementation for part in parts_of(model)} == {"sdpa"}
    model.set_attn_implementation("eager")
    assert {part.config._attn_implementation for part in parts_of(model)} == {"eager"}
    compare(citizen, citizen.result(model), expected)
    model.set_attn_implementation("sdpa")
    assert torch.equal(citizen.result(model), expected)
    model.save_pretrained(tmp_path)
    loaded = citizen.kind.from_pretrained(tmp_path, attn_implementation="eager")
    assert {part.config._attn_implementation for part in parts_of(loaded)} == {"eager"}
    compare(citizen, citizen.result(loaded), expected)


def compare(citizen, found, expected, tolerance=2e-5):
    mask = citizen.inputs().get("attention_mask")
    if mask is not None and expected.ndim == 3:  # what padding gives means nothing
        found, expected = found[mask.bool()], expected[mask.bool()]
    assert_close(found, expected, tolerance)


@torch.no_grad()
@models(WITH_TEXT)
def test_each_part_may_have_an_attention_of_its_own(citizen):
    model = citizen.build()
    expected = citizen.result(model)
    first, *others = model.config.sub_configs
    model.set_attn_implementation({first: "eager", "": "sdpa"})
    assert getattr(model.config, first)._attn_implementation == "eager"
    assert {getattr(model.config, name)._attn_implementation for name in others} == {"sdpa"}
    compare(citizen, citizen.result(model), expected)


# One of each kind of layer: the library compiles flex attention, also on the CPU.
FLEX = ("OneVisionModel", "OpenVision3Model", "OneVisionVLForConditionalGeneration")


@torch.no_grad()
@pytest.mark.slow
@models({name: CITIZENS[name] for name in FLEX})
def test_flex_attention_agrees(citizen):
    model = citizen.build()
    expected = citizen.result(model)
    # Of a multimodal model the tower: transformers' own Qwen3 errs under it, padded, on the CPU.
    tower = {"": "sdpa", "text_config": "sdpa", "vision_config": "flex_attention"}
    model.set_attn_implementation(tower if model.config.sub_configs else "flex_attention")
    compare(citizen, citizen.result(model), expected)


# -- batches --


@torch.no_grad()
@models(TOWERS, without=WHOLE_BATCH)
def test_a_row_of_a_batch_is_what_it_is_alone(citizen):
    model = citizen.build()
    inputs = citizen.inputs()
    together = model(**inputs)
    for row in range(ROWS):
        alone = model(**{name: value[row : row + 1] for name, value in inputs.items()})
        for name, value in together.items():
            assert_close(alone[name], value[row : row + 1])


@torch.no_grad()
@models(WITH_TEXT)
def test_a_prompt_is_the_same_alone_and_padded_on_the_left_in_a_batch(citizen):
    model = citizen.build()
    inputs = citizen.inputs()
    together = citizen.result(model)
    whole = inputs["attention_mask"].sum(1).tolist()
    patches = len(inputs["pixel_values"])
    for row, own in ((0, slice(0, patches // 3)), (1, slice(patches // 3, patches))):
        alone = {"input_ids": inputs["input_ids"][row : row + 1, -whole[row] :]}
        alone["pixel_values"] = inputs["pixel_values"][own]
        for name in ("image_patch_positions", "patch_positions"):
            if name in inputs:
                alone[name] = inputs[name][own]
        if "image_grid_thw" in inputs:
            alone["image_grid_thw"] = inputs["image_grid_thw"][row : row + 1]
        else:
            alone["image_cu_seqlens"] = torch.tensor([0, own.stop - own.start], dtype=torch.int32)
        assert_close(together[row : row + 1, -whole[row] :], getattr(model(**alone), citizen.output))


@torch.no_grad()
@models(WITH_TEXT)
def test_embeddings_do_what_their_tokens_do(citizen):
    model = citizen.build()
    words = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    embedded = {"inputs_embeds": model.get_input_embeddings()(words["input_ids"])}
    found, expected = (getattr(model(**given), citizen.output) for given in (embedded, words))
    assert torch.equal(found, expected)


@torch.no_grad()
@models(WITH_TEXT)
def test_features_of_images_are_those_that_the_prompt_reads(citizen):
    model = citizen.build()
    inputs = citizen.inputs()
    media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    features = model.get_image_features(**media, output_hidden_states=True)
    assert [len(own) for own in features.pooler_output] == [
        int((ids == model.config.image_token_id).sum()) for ids in inputs["input_ids"]
    ]
    assert {own.shape[-1] for own in features.pooler_output} == {model.config.text_config.hidden_size}
    assert features.last_hidden_state.shape == (
        len(inputs["pixel_values"]),
        model.config.vision_config.hidden_size,
    )
    assert torch.equal(
        features.hidden_states[-1].reshape(features.last_hidden_state.shape), features.last_hidden_state
    )
    same(model.get_image_features(**media, return_dict=False)[:2], features.to_tuple()[:2])
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    found = getattr(model(**words, mm_encoder_outputs={"image": features}), citizen.output)
    assert torch.equal(found, citizen.result(model))


@torch.no_grad()
@models(GENERATING)
def test_logits_are_kept_of_as_many_places_as_asked(citizen):
    model = citizen.build()
    every = citizen.result(model)
    assert_close(citizen.result(model, logits_to_keep=1), every[:, -1:])
    assert_close(citizen.result(model, logits_to_keep=torch.tensor([2, 5])), every[:, [2, 5]])


@models(GENERATING)
def test_a_loss_is_of_the_next_tokens_and_leaves_out_what_has_no_label(citizen):
    model = citizen.build()
    ids = citizen.inputs()["input_ids"]
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < 5, -100)
    output = model(**citizen.inputs(), labels=labels)
    expected = nn.functional.cross_entropy(output.logits[:, 4:-1].flatten(0, 1), ids[:, 5:].flatten())
    torch.testing.assert_close(output.loss, expected)


# -- learning --


def gradients(citizen, model):
    model.zero_grad()
    citizen.scalar(model).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


# Not read: the tower stops at the layer that is, its head and the head's norm are of other uses.
UNREAD = ("vision_tower.encoder.layers.1", "vision_tower.head", "vision_tower.layernorm_post")


@pytest.mark.parametrize("use_reentrant", [False, True])
@models()
def test_every_weight_learns_and_checkpointing_changes_no_gradient(citizen, use_reentrant):
    model = citizen.build().train()
    assert model.supports_gradient_checkpointing and not model.is_gradient_checkpointing
    expected = gradients(citizen, model)
    unread = UNREAD if model.config.model_type == "onevision_vl" else UNREAD[1:]
    for name, parameter in model.named_parameters():
        assert name in expected or name.startswith(unread) or not parameter.requires_grad, name
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    counted = counting(model)
    found = gradients(citizen, model)
    assert counted and all(calls == 2 for calls in counted.values()), "layers are computed again"
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def counting(model):
    """How often the attention of each layer is called, by its name."""
    calls = {}
    for name, module in model.named_modules():
        if name.endswith("self_attn"):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    return calls


# -- weights elsewhere, and compiled --


@torch.no_grad()
@models()
def test_weights_may_lie_on_the_cpu_and_on_disk(citizen, tmp_path):
    pytest.importorskip("accelerate")
    model = citizen.build()
    expected = citizen.result(model)
    model.save_pretrained(tmp_path / "saved")
    size = sum(value.nbytes for value in model.parameters())
    largest = {"cpu": int(0.5 * size)}
    children = [name for name, _ in model.named_children()]
    some = {name: "disk" if number % 2 else "cpu" for number, name in enumerate(children)}
    some |= {name: "cpu" for name, _ in model.named_parameters(recurse=False)}
    for number, how in enumerate(
        (
            {"device_map": "cpu"},
            {"device_map": "auto"},
            {"device_map": some, "offload_folder": tmp_path / "some"},
            {"device_map": "auto", "max_memory": largest, "offload_folder": tmp_path / "auto"},
        )
    ):
        placed = citizen.kind.from_pretrained(tmp_path / "saved", **how)
        if number > 1:
            assert "disk" in set(placed.hf_device_map.values()), number
            assert any(value.is_meta for value in placed.parameters())
        assert_close(citizen.result(placed), expected)


@torch.no_grad()
@models(
    TOWERS, without={"UnifiedForPreTraining": "it promises no whole graph: its losses are summed by name"}
)
def test_the_whole_graph_compiles(citizen):
    model = citizen.build()
    assert model._can_compile_fullgraph
    expected = citizen.result(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(getattr(compiled(**citizen.inputs()), citizen.output), expected)
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.slow  # the language model is traced piece by piece
@models({name: GENERATING[name] for name in GENERATING if name == "OneVisionVLForConditionalGeneration"})
def test_the_graph_compiles_in_parts_where_lengths_of_media_are_read(citizen):
    model = citizen.build()
    assert not model._can_compile_fullgraph
    compiled = torch.compile(model, backend="eager")
    compare(citizen, getattr(compiled(**citizen.inputs()), citizen.output), citizen.result(model))
    torch._dynamo.reset()
