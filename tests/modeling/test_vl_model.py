"""The multimodal model computes the same however its inputs are laid out.

Run: python -m pytest tests/modeling/test_vl_model.py
"""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM
from vl_tiny import LANGUAGE_MODELS, prompt, tiny_config, tiny_model, tiny_processor, user

from onevision_hf import OneVisionVLConfig, OneVisionVLForConditionalGeneration

CONNECTORS = ("mlp2x_gelu", "patch_merger")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module", params=CONNECTORS)
def parts(request):
    model = tiny_model(request.param)
    return model, tiny_processor(model.config)


@pytest.fixture(scope="module")
def conversations(clip):
    return [
        user(("image", picture(60, 90)), "What?"),
        user(("video", str(clip)), "And ", ("image", picture(30, 31)), ("image", picture(50, 20)), "now?"),
        user("Only words."),
    ]


@torch.no_grad()
@pytest.mark.parametrize("text", LANGUAGE_MODELS)
@pytest.mark.parametrize("connector", CONNECTORS)
def test_a_mixed_padded_batch_is_its_prompts_one_by_one(connector, text, conversations):
    model = tiny_model(connector, text)
    processor = tiny_processor(model.config)
    batch = prompt(processor, conversations, num_frames=8)
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"].all()  # left padding
    together = model(**batch).logits
    for row, conversation in enumerate(conversations):
        alone = model(**prompt(processor, conversation, num_frames=8)).logits[0]
        assert relative(together[row, -len(alone) :], alone) <= 1e-5


@torch.no_grad()
def test_generation_is_the_same_with_and_without_cache_in_a_batch_and_alone(parts, conversations):
    model, processor = parts
    batch = prompt(processor, conversations, num_frames=8)
    settings = {"max_new_tokens": 6, "do_sample": False}
    cached = model.generate(**batch, **settings)
    assert torch.equal(cached, model.generate(**batch, **settings, use_cache=False))
    for row, conversation in enumerate(conversations):
        alone = model.generate(**prompt(processor, conversation, num_frames=8), **settings)
        assert torch.equal(cached[row, -6:], alone[0, -6:])


@torch.no_grad()
def test_several_answers_to_a_prompt_keep_the_media_of_their_prompt(parts, conversations):
    model, processor = parts
    batch = prompt(processor, conversations, num_frames=8)
    settings = {"max_new_tokens": 4, "num_beams": 2, "num_return_sequences": 2, "do_sample": False}
    together = model.generate(**batch, **settings)
    assert len(together) == 2 * len(conversations)
    for row, conversation in enumerate(conversations):
        alone = model.generate(**prompt(processor, conversation, num_frames=8), **settings)
        assert torch.equal(together[2 * row : 2 * row + 2, -4:], alone[:, -4:])


@torch.no_grad()
def test_an_image_is_a_video_of_one_frame(parts):
    model, processor = parts
    frame = np.asarray(picture(56, 84))
    as_image = prompt(processor, user(("image", frame), "What?"), size={"height": 56, "width": 84})
    as_video = prompt(
        processor,
        user(("video", frame[None]), "What?"),
        size={"height": 56, "width": 84},
        video_mode="frames",
    )
    torch.testing.assert_close(as_image["pixel_values"], as_video["pixel_values_videos"])
    for ours, theirs in (("positions", "positions"), ("cu_seqlens", "cu_seqlens")):
        names = [f"image_{ours}", f"video_{theirs}"]
        names = [name.replace("_positions", "_patch_positions") for name in names]
        assert torch.equal(as_image[names[0]], as_video[names[1]])
    swapped = as_video["input_ids"].masked_fill(as_video["input_ids"] == 260, 259)
    assert torch.equal(swapped, as_image["input_ids"])
    torch.testing.assert_close(model(**as_image).logits, model(**as_video).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_all_patches_in_any_order_are_the_dense_clip(parts, clip):
    """Encoder features after un-permuting; and the processor's order gives the logits of whole frames."""
    model, processor = parts
    whole = prompt(processor, user(("video", str(clip)), "?"), num_frames=4, video_mode="frames")
    kept = prompt(processor, user(("video", str(clip)), "?"), num_frames=4, keep_ratio=1.0)
    for name in whole:
        torch.testing.assert_close(whole[name], kept[name])
    torch.testing.assert_close(model(**whole).logits, model(**kept).logits)

    names = ("pixel_values_videos", "video_patch_positions", "video_cu_seqlens")
    media = [whole[name] for name in names]
    block = model.config.merge_size**2
    blocks = torch.randperm(len(media[0]) // block, generator=torch.Generator().manual_seed(0))
    order = (blocks[:, None] * block + torch.arange(block)).flatten()
    dense = model.get_video_features(*media)
    mixed = model.get_video_features(media[0][order], media[1][order], media[2])
    torch.testing.assert_close(mixed.last_hidden_state, dense.last_hidden_state[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed.pooler_output[0], dense.pooler_output[0][blocks], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_permuting_the_items_of_a_pack_permutes_their_features_exactly(parts):
    model, processor = parts
    sizes = [(60, 90), (28, 28), (100, 40)]
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    names = ("pixel_values", "image_patch_positions", "image_cu_seqlens")

    def encode(order):
        inputs = prompt(processor, user(*(("image", images[i]) for i in order), "?"))
        return model.get_image_features(*(inputs[name] for name in names)).pooler_output

    straight, turned = encode([0, 1, 2]), encode([2, 0, 1])
    for place, item in enumerate([2, 0, 1]):
        assert torch.equal(turned[place], straight[item])


@torch.no_grad()
@pytest.mark.parametrize("text", LANGUAGE_MODELS)
def test_words_alone_are_the_language_models_and_leave_the_tower_alone(text, monkeypatch):
    model = tiny_model(text=text)
    processor = tiny_processor(model.config)
    monkeypatch.setattr(model.vision_tower, "forward", None)
    inputs = prompt(processor, user("Only words."))
    assert set(inputs) == {"input_ids", "attention_mask"}
    alone = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    alone.load_state_dict(model.language_model.state_dict())
    assert torch.equal(model(**inputs).logits, alone(**inputs).logits)


@torch.no_grad()
def test_features_are_computed_once_for_many_questions(parts, monkeypatch, clip):
    model, processor = parts
    read = processor.read_video(str(clip), num_frames=8)
    questions = ["What?", "And where does it go?"]
    plain = [prompt(processor, user(("video", str(clip)), question), num_frames=8) for question in questions]
    features = model.get_video_features(*(plain[0][n] for n in plain[0] if n.startswith(("pixel", "video"))))
    kept = features.pooler_output[0]
    expected = [model.generate(**inputs, max_new_tokens=4, do_sample=False) for inputs in plain]

    monkeypatch.setattr(model.vision_tower, "forward", None)
    batch = prompt(processor, [user(("video", read), question) for question in questions])
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    both = model.generate(
        **text, mm_encoder_outputs={"video": [kept, kept]}, max_new_tokens=4, do_sample=False
    )
    for row, alone in enumerate(expected):
        assert torch.equal(both[row, -4:], alone[0, -4:])
    alone = model.generate(
        input_ids=plain[0]["input_ids"], attention_mask=plain[0]["attention_mask"],
        mm_encoder_outputs={"video": features}, max_new_tokens=4, do_sample=False,
    )  # fmt: skip
    assert torch.equal(alone, expected[0])


def test_the_tower_stops_at_the_layer_that_is_read():
    model = tiny_model()
    inputs = prompt(tiny_processor(model.config), user(("image", picture(56, 56)), "?"))
    media = [inputs[name] for name in ("pixel_values", "image_patch_positions", "image_cu_seqlens")]
    states = model.vision_tower(
        pixel_values=media[0], patch_positions=media[1], cu_seqlens=media[2], output_hidden_states=True
    ).hidden_states
    for layer in range(-3, 3):
        model.config.vision_feature_layer = layer
        found = model.get_image_features(*media).last_hidden_state
        assert torch.equal(found, states[layer])
    with pytest.raises(ValueError, match="num_layers is 3, the encoder has 2"):
        model.vision_tower(torch.zeros(1, 3, 28, 28), num_layers=3)


# -- bad input --


def test_other_numbers_of_tokens_and_features_are_an_error_with_both(parts):
    model, processor = parts
    inputs = dict(prompt(processor, user(("image", picture(56, 56)), "?")))
    tokens = int((inputs["input_ids"] == 259).sum())
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[259]])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with pytest.raises(ValueError, match=rf"has {tokens + 1} image tokens and the images give {tokens} "):
        model(**inputs)
    with pytest.raises(ValueError, match=rf"has {tokens + 1} image tokens and the images give 0 "):
        model(input_ids=inputs["input_ids"])


def test_more_tokens_than_the_context_are_an_error_with_the_numbers(parts):
    model, processor = parts
    inputs = prompt(processor, user(("image", picture(56, 56)), "?"))
    model.config.text_config.max_position_embeddings, before = 20, 4096
    try:
        length, visual = inputs["input_ids"].shape[1], int((inputs["input_ids"] == 259).sum())
        with pytest.raises(
            ValueError, match=rf"{length} tokens, {visual} of them visual.*context of 20.*lower"
        ):
            model(**inputs)
        packed = torch.arange(length)[None] % 20  # several short prompts in a row are none that is too long
        model(**{n: t for n, t in inputs.items() if n != "attention_mask"}, position_ids=packed)
    finally:
        model.config.text_config.max_position_embeddings = before


def test_parts_that_do_not_fit_are_errors():
    model = tiny_model()
    inputs = dict(prompt(tiny_processor(model.config), user(("image", picture(56, 56)), "?")))
    with pytest.raises(ValueError, match="pixel_values came without image_cu_seqlens"):
        model(**{name: value for name, value in inputs.items() if name != "image_cu_seqlens"})
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, mm_encoder_outputs={"image": []})
    with pytest.raises(ValueError, match="found neither"):
        model()
    with pytest.raises(ValueError, match="media need input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 64), pixel_values=inputs["pixel_values"])
    model.connector.linear_2 = torch.nn.Linear(64, 48)
    with pytest.raises(ValueError, match="embeddings of 48 numbers, the language model's have 64"):
        model(**inputs)


def test_rows_that_are_no_blocks_are_an_error():
    model = tiny_model("patch_merger")
    processor = tiny_processor(tiny_config("mlp2x_gelu"))
    inputs = prompt(processor, user(("image", picture(56, 84)), "?"))
    with pytest.raises(ValueError, match="merge_size=2"):
        model.get_image_features(*(inputs[n] for n in inputs if n.startswith(("pixel", "image"))))


def test_a_configuration_says_what_it_does_not_know():
    with pytest.raises(Exception, match="mlp2x_gelu or patch_merger, got 'linear'"):
        OneVisionVLConfig(connector="linear")
    with pytest.raises(Exception, match=r"has 25 hidden states, -25\.\.24"):
        OneVisionVLConfig(vision_feature_layer=25)
    with pytest.raises(ValueError, match="'nothing' is none that transformers knows"):
        OneVisionVLConfig(text_config={"model_type": "nothing"})
    default = OneVisionVLConfig()
    assert (default.text_config.model_type, default.vision_config.model_type) == (
        "qwen3",
        "onevision_encoder",
    )
    assert (default.connector, default.vision_feature_layer) == ("mlp2x_gelu", -2)


def test_llava_next_names_load_through_the_mapping(tmp_path):
    from safetensors.torch import load_file, save_file

    from onevision_hf.modeling.modeling_onevision_vl import LLAVA_NEXT_KEY_MAPPING

    for connector in CONNECTORS:
        model = tiny_model(connector)
        folder = tmp_path / connector
        model.save_pretrained(folder)
        middle = "mlp." if connector == "patch_merger" else ""
        published = {
            "vision_tower.": "model.vision_tower.vision_tower.",
            "connector.norm.": "model.mm_projector.ln_q.",
            "connector.linear_1.": f"model.mm_projector.{middle}0.",
            "connector.linear_2.": f"model.mm_projector.{middle}2.",
            "language_model.model.": "model.",
            "language_model.lm_head.": "lm_head.",
        }
        state = {}
        for name, tensor in load_file(folder / "model.safetensors").items():
            beginning = next(key for key in published if name.startswith(key))
            state[published[beginning] + name.removeprefix(beginning)] = tensor
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        loaded, info = OneVisionVLForConditionalGeneration.from_pretrained(
            folder, key_mapping=LLAVA_NEXT_KEY_MAPPING, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert all(torch.equal(tensor, model.state_dict()[n]) for n, tensor in loaded.state_dict().items())
        loaded.save_pretrained(tmp_path / f"{connector}-again")
        saved = load_file(tmp_path / f"{connector}-again" / "model.safetensors")
        assert saved.keys() == model.state_dict().keys()  # ours, so that it loads without a mapping


@torch.no_grad()
@pytest.mark.parametrize("kind", ["video", "image", "encoded"])
def test_an_assistant_prompt_lookup_and_a_static_cache_give_the_greedy_tokens(kind, parts, clip):
    """Whatever drafts the tokens, or where keys are kept: the model says what it says by itself."""
    model, processor = parts
    medium = ("image", picture(56, 84)) if kind == "image" else ("video", str(clip))
    inputs = dict(prompt(processor, user(medium, "What?"), num_frames=8))
    if kind == "encoded":
        inputs = {"input_ids": inputs["input_ids"], "mm_encoder_outputs": model.encode_media(**inputs)}
    settings = {"max_new_tokens": 12, "do_sample": False}
    greedy = model.generate(**inputs, **settings)
    other = tiny_model(model.config.connector, seed=7)
    config = tiny_config(model.config.connector)
    config.text_config.hidden_size, config.text_config.intermediate_size = 32, 64
    narrow = OneVisionVLForConditionalGeneration(config).eval()
    ways = [{"assistant_model": model}, {"prompt_lookup_num_tokens": 3}, {"cache_implementation": "static"}]
    for way in [*ways, {"assistant_model": other}, {"assistant_model": narrow}]:
        found = model.generate(**inputs, **settings, **way)
        # transformers 5.13's prompt lookup may give a token more than it was asked for.
        assert torch.equal(found[:, : greedy.shape[1]], greedy), way
    one_beam = model.generate(**inputs, **settings, num_beams=2, num_return_sequences=2)
    assert one_beam.shape[0] == 2
