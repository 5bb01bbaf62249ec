"""Published LLaVA-OneVision-2 and Mage-VL folders load as they are, and compute what the authors' code does.

The folder in fixtures/llava_onevision2 and its outputs were recorded from EvolvingLMMs-Lab/LLaVA-OneVision-2
@ 2c3c25e with random weights (transformers 5.7.0, float32).

Run: python -m pytest tests/modeling/test_llava_onevision2.py
"""

import json
import shutil

import pytest
import torch
from ov2_recorded import CASES, PUBLISHED, RECORDED
from processes import fresh
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

import onevision_hf
from onevision_hf import (
    LlavaOnevision2Config,
    LlavaOnevision2ForConditionalGeneration,
    LlavaOnevision2Model,
    MageVLConfig,
    OneVisionConfig,
    OneVisionModel,
    OneVisionVLForConditionalGeneration,
    OneVisionVLModel,
)
from onevision_hf.cli import main
from onevision_hf.conversion.llava_onevision2 import convert_llava_onevision2
from onevision_hf.conversion.tower import extract_encoder
from onevision_hf.modeling.configuration_llava_onevision2 import our_config, published_config

TINY = {
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1,
        "image_size": 112, "out_hidden_size": 16, "spatial_merge_size": 2, "initializer_range": 0.1,
    },
    "text_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64, "max_position_embeddings": 512,
        "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1,
    },
    "image_token_id": 2, "video_token_id": 3,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def recorded(case: str, name: str) -> torch.Tensor:
    value = torch.from_numpy(RECORDED[f"{case}.{name}"])
    return value.long() if value.dtype == torch.int16 else value


def inputs_of(case: str) -> dict[str, torch.Tensor]:
    pictures = RECORDED[f"{case}.raw_0"]
    pictures = pictures if pictures.ndim == 4 else pictures[None]
    resize = AutoImageProcessor.from_pretrained(PUBLISHED)  # transformers' own
    return {
        "input_ids": recorded(case, "input_ids"),
        "pixel_values": resize(images=list(pictures), return_tensors="pt")["pixel_values"],
        "image_grid_thw": recorded(case, "image_grid_thw"),
        "patch_positions": recorded(case, "patch_positions"),
    }


def tiny(kind: str = "llava_onevision2", merge: int = 2, **vision):
    """A published model of random weights, a row of two blocks for it, and the names of its folder."""
    torch.manual_seed(0)
    settings = {**TINY["vision_config"], "spatial_merge_size": merge, **vision}
    text = TINY["text_config"] | (EXPERTS if kind.endswith("moe") else {})
    config = AutoConfig.for_model(kind, **{**TINY, "vision_config": settings, "text_config": text})
    return AutoModelForImageTextToText.from_config(config).eval()


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(PUBLISHED)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_a_recorded_case_comes_out(model, case):
    inputs = inputs_of(case)
    media = {name: value for name, value in inputs.items() if name != "input_ids"}
    merged = torch.cat(list(model.get_image_features(**media).pooler_output))
    step = 8 if case == "codec" else 4
    torch.testing.assert_close(merged[::step], recorded(case, "merged"), rtol=0, atol=3e-5)
    logits = model(**inputs).logits[0, -1]
    torch.testing.assert_close(logits, recorded(case, "last_logits"), rtol=0, atol=2e-4)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    generated = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(generated, recorded(case, "generated"))


@torch.no_grad()
def test_our_names_and_the_published_ones_are_the_same_call_and_windows_matter(model):
    inputs = inputs_of("codec")
    ours = {
        "input_ids": inputs["input_ids"],
        "pixel_values": inputs["pixel_values"],
        "image_patch_positions": inputs["patch_positions"],
        "image_cu_seqlens": torch.tensor([0, 240, 480], dtype=torch.int32),  # two groups of four canvases
    }
    logits = model(**inputs).logits
    assert torch.equal(model(**ours).logits, logits)
    one = {**ours, "image_cu_seqlens": torch.tensor([0, 480], dtype=torch.int32)}
    assert (model(**one).logits - logits).abs().max() > 0.1


@pytest.mark.parametrize("trust", [False, True])
def test_every_auto_class_gives_the_published_model(trust):
    config = AutoConfig.from_pretrained(PUBLISHED, trust_remote_code=trust)
    assert type(config) is LlavaOnevision2Config and config.merge_size == 2
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
        found = auto.from_pretrained(PUBLISHED, trust_remote_code=trust)
        assert type(found) is LlavaOnevision2ForConditionalGeneration
    assert type(AutoModel.from_pretrained(PUBLISHED, trust_remote_code=trust)) is LlavaOnevision2Model


def test_a_published_folder_is_saved_as_it_was(model, tmp_path):
    model.save_pretrained(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (PUBLISHED, tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"].keys() >= (
        json.loads((PUBLISHED / "config.json").read_text())["vision_config"].keys()
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llava_onevision2", "llava_onevision2_moe", "mage_vl"])
@pytest.mark.parametrize("merge", [2, 3])
def test_every_model_type_is_saved_under_both_namings_and_loads(kind, merge, tmp_path):
    model = tiny(kind, merge, layer_norm_eps=1e-4, frame_windows_size=2)
    assert model.connector.norm.eps == 1e-4 and model.connector.block == merge**2
    patch = model.config.vision_config.patch_size
    places = [(y, x) for y in range(merge) for x in range(merge)]
    positions = torch.tensor([(70 + t, y, x) for t in range(3) for y, x in places])
    inputs = {
        "input_ids": torch.tensor([[5, 2, 2, 2, 7]]),
        "pixel_values": torch.randn(len(positions), 3 * patch**2),
        "image_grid_thw": torch.tensor([[3, merge, merge]]),
        "patch_positions": positions,
    }
    logits = model(**inputs).logits
    for original in (True, False):
        folder = tmp_path / str(original)
        model.save_pretrained(folder, save_original_format=original, max_shard_size="20KB")
        names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert any(name.endswith("self_attn.qkv.weight") for name in names) == original
        assert any(name.startswith("model.visual.") for name in names) == original
        again = AutoModelForImageTextToText.from_pretrained(folder)
        assert type(again) is type(model)
        torch.testing.assert_close(again(**inputs).logits, logits, rtol=1e-6, atol=1e-6)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path / "True", dtype=torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


def test_a_published_folder_without_all_weights_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.visual.encoder.layers.0.self_attn.qkv.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 3 weights .*vision_tower\.encoder\.layers\.0\.self_attn\.k_proj"
    ):
        AutoModelForImageTextToText.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks"):
        OneVisionVLForConditionalGeneration.from_pretrained(PUBLISHED)
    with pytest.raises(ValueError, match="lacks"):
        OneVisionModel.from_pretrained(PUBLISHED, config=OneVisionConfig.tiny())


def test_our_own_classes_keep_their_names(tmp_path):
    model = OneVisionVLForConditionalGeneration(our_config(tiny().config))
    model.save_pretrained(tmp_path / "whole")
    model.vision_tower.save_pretrained(tmp_path / "tower")
    for folder in ("whole", "tower"):
        names = load_file(tmp_path / folder / "model.safetensors")
        assert any(name.endswith("self_attn.q_proj.weight") for name in names)
        assert not any("qkv" in name or "visual" in name for name in names)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["onevision_encoder", "mage_vl_vision"])
def test_a_tower_that_stands_alone_is_told_by_its_fused_weights(kind, tmp_path):
    """Mage-ViT, and the authors' encoder folder for transformers 5."""
    mage = kind == "mage_vl_vision"
    tower = tiny("mage_vl" if mage else "llava_onevision2").vision_tower
    tower.save_pretrained(tmp_path)
    assert any("self_attn.qkv" in name for name in load_file(tmp_path / "model.safetensors"))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, OneVisionModel)
    pixels = torch.randn(1, 3, *[2 * tower.config.patch_size] * 2)
    assert torch.equal(again(pixels).last_hidden_state, tower(pixels).last_hidden_state)
    if not mage:
        again.save_pretrained(tmp_path / "again")
        assert torch.equal(OneVisionModel.from_pretrained(tmp_path / "again")(pixels)[0], again(pixels)[0])


@pytest.mark.parametrize("kind", ["whole", "tower"])
def test_a_model_that_was_unpickled_where_none_was_made_is_saved_with_its_published_names(kind, tmp_path):
    model = tiny()
    torch.save(model if kind == "whole" else model.vision_tower, tmp_path / "model.pt")
    code = """
        import sys, torch
        torch.load(sys.argv[1], weights_only=False).save_pretrained(sys.argv[2])
        """
    done = fresh(code, tmp_path / "model.pt", tmp_path)
    assert done.returncode == 0, done.stderr
    names = load_file(tmp_path / "model.safetensors")
    assert any(name.endswith("self_attn.qkv.weight") for name in names)
    assert any(name.startswith("model.visual.") for name in names) == (kind == "whole")


def test_the_configuration_is_translated_both_ways():
    assert LlavaOnevision2Config().vision_config.out_hidden_size == 4096  # that of the default text part
    config = AutoConfig.from_pretrained(PUBLISHED)
    assert (config.connector, config.vision_feature_layer, config.frame_windows_size) == (
        "patch_merger",
        -1,
        4,
    )
    assert config.vision_config.rope_temporal_size is None and config.takes_codec_input
    ours = our_config(config)
    assert type(ours).__name__ == "OneVisionVLConfig" and ours.vision_start_token_id == 259
    back = published_config(ours)
    of_folder = ("auto_map", "architectures", "transformers_version", "_name_or_path")
    said = [{k: v for k, v in one.to_dict().items() if k not in of_folder} for one in (back, config)]
    assert said[0] == said[1]
    ours.vision_feature_layer = -2
    with pytest.raises(ValueError, match="the layer that is read is 4, llava_onevision2 has 5"):
        published_config(ours)


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_head", True), ("temporal_patch_size", 2), ("use_patch_position_encoding", True)],
)
def test_what_the_released_models_do_not_have_is_refused_by_name(field, value):
    with pytest.raises(Exception, match=field):
        MageVLConfig(**{**TINY, "vision_config": TINY["vision_config"] | {field: value}})


def test_a_folder_is_converted_and_back_bit_for_bit(tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(PUBLISHED, source)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (source / name).unlink()
    made = convert_llava_onevision2(str(source), str(tmp_path / "ours"))
    assert (made["from"], made["to"]) == ("llava_onevision2", "onevision_vl")
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert type(ours) is OneVisionVLForConditionalGeneration
    assert type(AutoModel.from_pretrained(tmp_path / "ours")) is OneVisionVLModel
    inputs = inputs_of("image")
    torch.testing.assert_close(
        ours(**inputs).logits[0, -1], recorded("image", "last_logits"), rtol=0, atol=2e-4
    )
    words = ["convert", "llava_onevision2", str(tmp_path / "ours"), str(tmp_path / "back")]
    assert main([*words, "--to", "published"]) == 0
    assert "back: llava_onevision2; config.json" in capsys.readouterr().out
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="has these names already"):
        convert_llava_onevision2(str(source), str(tmp_path / "again"), "published")


@torch.no_grad()
def test_the_tower_is_taken_out_under_its_own_names(model, tmp_path):
    config, count = extract_encoder(PUBLISHED, tmp_path / "tower")
    tower = OneVisionModel.from_pretrained(tmp_path / "tower")
    assert type(tower) is OneVisionModel and config.rope_temporal_size is None
    assert count == sum(parameter.numel() for parameter in model.vision_tower.parameters())
    pixels = torch.randn(1, 3, 28, 28)
    assert torch.equal(tower(pixels).last_hidden_state, model.vision_tower(pixels).last_hidden_state)


def test_the_public_names_are_there():
    assert onevision_hf.MageVLForConditionalGeneration.config_class is MageVLConfig


def test_a_folder_of_another_network_is_refused_by_name(tmp_path):
    """The released folders were not seen: what differs from the code that was is said, never passed over."""
    shutil.copytree(PUBLISHED, tmp_path / "more")
    tensors = load_file(PUBLISHED / "model.safetensors")
    tensors["model.visual.extra.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "more" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is not the model that LlavaOnevision2.*extra\.weight"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "more")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "more", allow_missing=True)
    config = json.loads((PUBLISHED / "config.json").read_text())
    config["vision_config"] |= {"text_hidden_size": 48, "num_registers": 4}
    (tmp_path / "more" / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match=r"not known here, \{'num_registers': 4\}"):
        AutoConfig.from_pretrained(tmp_path / "more")
