"""A multimodal model out of parts, whole when it is there, and its tower taken out again.

Run: python -m pytest tests/conversion/test_assemble.py
"""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import fresh
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoVideoProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Siglip2Config,
    Siglip2Model,
)
from vl_tiny import prompt, tiny_text_config, tiny_tokenizer, user

from onevision_hf import (
    OneVisionConfig,
    OneVisionImageProcessor,
    OneVisionModel,
    OneVisionVLForConditionalGeneration,
    OneVisionVLProcessor,
    OpenVision3Config,
    OpenVision3Model,
    bundled_clip,
)
from onevision_hf.cli import main
from onevision_hf.conversion.checkpoint import CheckpointError
from onevision_hf.conversion.multimodal import assemble
from onevision_hf.conversion.tower import load_tower

CLIP = str(bundled_clip())
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save_llm(folder: Path, kind: str = "qwen3", special=("<|endoftext|>",), **overrides) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(tiny_text_config(kind, vocab_size=257, **overrides))
    model.save_pretrained(folder)
    tiny_tokenizer(list(special)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The parts, and a model of them with the 2 x 2 connector, made by the command."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    OneVisionModel(OneVisionConfig.tiny(initializer_range=0.1)).save_pretrained(root / "encoder")
    OneVisionImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(root / "encoder")
    save_llm(root / "llm", tie_word_embeddings=True)
    parts = {"encoder": root / "encoder", "llm": root / "llm", "vl": root / "vl"}
    command = ["assemble", "--encoder", parts["encoder"], "--llm", parts["llm"], "--out", parts["vl"]]
    assert main([*map(str, command), "--connector", "patch_merger"]) == 0
    return parts


@torch.no_grad()
def test_both_parts_keep_their_weights_and_the_tokens_are_added(folders):
    model = AutoModelForImageTextToText.from_pretrained(folders["vl"])
    processor = AutoProcessor.from_pretrained(folders["vl"])
    assert type(model) is OneVisionVLForConditionalGeneration and type(processor) is OneVisionVLProcessor
    encoder = AutoModel.from_pretrained(folders["encoder"])
    llm = AutoModelForCausalLM.from_pretrained(folders["llm"])
    for part, whole in ((model.vision_tower, encoder), (model.language_model, llm)):
        for name, tensor in whole.state_dict().items():
            assert torch.equal(part.state_dict()[name][: len(tensor)], tensor), name
    assert model.config.connector == "patch_merger"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # stays tied
    for token, number in (("<|image_pad|>", model.config.image_token_id), ("<|im_end|>", 258)):
        assert processor.tokenizer.convert_tokens_to_ids(token) == number
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer) == 261
    assert model.generation_config.eos_token_id == [256, 258]
    assert processor.tokenizer.model_max_length == 4096
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert processor.video_processor.merge_size == processor.merge_size == 2

    words = processor.tokenizer("Only words.", return_tensors="pt")["input_ids"]
    own, whole = llm(words).logits, model(words).logits
    torch.testing.assert_close(whole[..., :257], own)
    card = (folders["vl"] / "README.md").read_text()
    assert "# encoder + llm" in card and str(folders["vl"].parent) not in card


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip2", "qwen3_vl", "openvision3"])
def test_towers_come_out_of_whole_models_with_their_own_colours(name, folders, tmp_path):
    torch.manual_seed(2)
    vision = {**SMALL, "patch_size": 14, "image_size": 28}
    if name == "clip":
        text = {**SMALL, "vocab_size": 32, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 0}
        whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
        tower, mean = whole.vision_model, [0.3, 0.2, 0.1]
        CLIPImageProcessor(image_mean=mean).save_pretrained(tmp_path / "whole")
    elif name == "siglip2":
        vision = {**SMALL, "patch_size": 16, "num_patches": 16}
        whole = Siglip2Model(Siglip2Config(text_config={**SMALL, "vocab_size": 32}, vision_config=vision))
        tower, mean = whole.vision_model, [0.5] * 3
    elif name == "qwen3_vl":
        vision = {
            "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "patch_size": 14,
            "out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
        }  # fmt: skip
        text = {**SMALL, "vocab_size": 64, "num_key_value_heads": 2, "head_dim": 16}
        whole = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision))
        tower, mean = whole.model.visual, [0.5] * 3
    else:
        whole = OpenVision3Model(OpenVision3Config.tiny(vae_name_or_path=None))
        tower, mean = whole, [0.5] * 3
    whole.save_pretrained(tmp_path / "whole")
    loaded = load_tower(tmp_path / "whole").state_dict()
    own = {key.removeprefix("vision_model."): value for key, value in tower.state_dict().items()}
    assert {key.removeprefix("vision_model.") for key in loaded} == set(own)
    for key, value in loaded.items():
        assert torch.equal(value, own[key.removeprefix("vision_model.")])
    made = assemble(tmp_path / "whole", folders["llm"], tmp_path / "vl")
    assert made.tower_parameters == sum(p.numel() for p in tower.parameters())
    processor = AutoProcessor.from_pretrained(tmp_path / "vl")
    assert list(processor.image_processor.image_mean) == mean
    assert processor.video_processor.video_mode == "frames"
    assert not processor.video_processor.takes_codec_input
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "vl").vision_tower.state_dict()
    assert again.keys() == loaded.keys()
    assert all(torch.equal(again[key], value) for key, value in loaded.items())


def test_a_language_model_with_turns_of_its_own_keeps_them(folders, tmp_path):
    save_llm(tmp_path / "llm", "llama")
    tokenizer = tiny_tokenizer(["<|endoftext|>"])
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "llm")
    made = assemble(folders["encoder"], tmp_path / "llm", tmp_path / "vl", dtype=torch.bfloat16)
    assert made.tokens_added == ["<|image_pad|>", "<|video_pad|>"]
    processor = AutoProcessor.from_pretrained(tmp_path / "vl")
    text = processor.apply_chat_template(user(("video", CLIP), "What?"))
    assert text == "[user] <|video_pad|>\nWhat?"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "vl")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_trained_connector_moves_to_parts_of_the_same_widths_only(folders, tmp_path):
    before = load_file(folders["vl"] / "model.safetensors")
    assemble(
        folders["encoder"], folders["llm"], tmp_path / "again",
        connector="patch_merger", connector_from=folders["vl"], seed=7,
    )  # fmt: skip
    after = load_file(tmp_path / "again" / "model.safetensors")
    for name in before:
        if name.startswith("connector."):
            assert torch.equal(before[name], after[name])
    save_llm(tmp_path / "wider", hidden_size=96)
    for llm, connector, needed in (
        (tmp_path / "wider", "patch_merger", "256 -> 96"),
        (folders["llm"], "mlp2x_gelu", "64 -> 64"),
    ):
        with pytest.raises(CheckpointError, match=rf"maps 256 -> 64, these parts need {needed}"):
            assemble(
                folders["encoder"], llm, tmp_path / "no", connector=connector, connector_from=folders["vl"]
            )
    assert not (tmp_path / "no").exists()


def test_parts_that_are_none_are_one_line_each(folders, tmp_path, capsys):
    def said(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 1
        return capsys.readouterr().err

    out = ["--out", tmp_path / "out"]
    assert "no vision transformer" in said(
        "assemble", "--encoder", folders["llm"], "--llm", folders["llm"], *out
    )
    assert "missing" in said("assemble", "--encoder", tmp_path / "missing", "--llm", folders["llm"], *out)
    assert "not an empty folder" in said(
        "assemble", "--encoder", folders["encoder"], "--llm", folders["llm"], "--out", folders["vl"]
    )
    for tower, words in (
        (
            OneVisionModel(OneVisionConfig.tiny()),
            "lacks 1 weights of OneVisionModel: encoder.layers.0.mlp.fc1",
        ),
        (CLIPVisionModel(CLIPVisionConfig(**SMALL)), "lacks 1 weights of its vision tower, such as"),
    ):
        broken = tmp_path / type(tower).__name__
        tower.save_pretrained(broken)
        state = load_file(broken / "model.safetensors")
        state.pop(next(name for name in state if name.endswith("layers.0.mlp.fc1.weight")))
        save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
        assert words in said("assemble", "--encoder", broken, "--llm", folders["llm"], *out)
    assert "is a onevision_encoder" in said("extract-encoder", folders["encoder"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_assembling_reports_as_json(folders, tmp_path, capsys):
    words = [
        "assemble",
        "--encoder",
        folders["vl"],
        "--llm",
        folders["llm"],
        "--out",
        tmp_path / "vl",
        "--json",
    ]
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["connector"] == "mlp2x_gelu" and report["tower_parameters"] == 138_176


def test_the_encoder_in_the_package_is_called_tiny(folders, tmp_path):
    out = tmp_path / "vl"
    assert main(["assemble", "--encoder", "tiny", "--llm", str(folders["llm"]), "--out", str(out)]) == 0
    assert AutoConfig.from_pretrained(out).vision_config.patch_size == 8


@torch.no_grad()
def test_the_tower_comes_out_as_an_encoder(folders, tmp_path):
    assert main(["extract-encoder", str(folders["vl"]), str(tmp_path / "encoder")]) == 0
    before, after = (AutoModel.from_pretrained(f).eval() for f in (folders["encoder"], tmp_path / "encoder"))
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    inputs = AutoVideoProcessor.from_pretrained(tmp_path / "encoder")(CLIP, num_frames=2, return_tensors="pt")
    assert torch.equal(before(**inputs).pooler_output, after(**inputs).pooler_output)
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "encoder").image_mean) == [0.1, 0.2, 0.3]


def test_chat_streams_and_says_what_was_spent(folders, tmp_path, capsys, monkeypatch):
    Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(tmp_path / "black.png")
    words = ["chat", folders["vl"], CLIP, tmp_path / "black.png", "--num-frames", 8, "--max-new-tokens", 3]
    calls = []
    encode = OneVisionVLForConditionalGeneration.encode_media
    monkeypatch.setattr(
        OneVisionVLForConditionalGeneration,
        "encode_media",
        lambda *a, **k: calls.append(1) or encode(*a, **k),
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\nAnd then?\n\nnever read\n"))
    assert main([str(word) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "valley.mp4: 8 frames, 448 of 3,584 patches (12.5 %), 112 tokens"
    assert lines[1] == "black.png: 4 tokens"
    spent = [line for line in lines if "tokens in" in line]
    assert len(spent) == 2 and spent[0].startswith("[116 visual + ") and ", 3 out, " in spent[0]
    assert len(calls) == 1  # the second question found the features of the first
    words = ["chat", str(folders["vl"]), CLIP, "--num-frames", "8", "--max-new-tokens", "1", "--ask", "What?"]
    assert main([*words, "--keep-energy", "0.2"]) == 0
    kept = capsys.readouterr().out.split(" patches")[0].split(" frames, ")[1]
    assert 448 <= int(kept.split(" of ")[0].replace(",", "")) < 896, (
        "the first frame at least, a quarter at most"
    )
    assert main(["chat", str(folders["vl"]), "--ask", "Hello?"]) == 0
    assert "[0 visual + " in capsys.readouterr().out
    assert main(["chat", str(folders["vl"]), str(tmp_path / "no.mp4")]) == 1
    assert "no such file" in capsys.readouterr().err


WITHOUT_PACKAGE = """
import sys
sys.modules["onevision_hf"] = None      # importing it fails, as where it is not installed
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, again, clip, picture, out = sys.argv[1:]
results = {}
for name, place in (("first", folder), ("again", again)):
    processor = AutoProcessor.from_pretrained(place, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(place, trust_remote_code=True)
    parts = (model, processor, processor.image_processor, processor.video_processor)
    assert all(type(part).__module__.startswith("transformers_modules.") for part in parts), parts
    content = [{"type": "video", "video": clip}, {"type": "image", "image": picture}]
    conversations = [[{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}],
                     [{"role": "user", "content": [{"type": "video", "video": f"{place}/config.json"}]}]]
    inputs = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, add_generation_prompt=True,
        processor_kwargs={"num_frames": 4, "errors": "skip"})
    assert [index for index, _ in inputs.pop("skipped")] == [1]
    with torch.no_grad():
        results[name] = model(**inputs).logits
        results[f"{name}.answer"] = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    if name == "first":
        for part in (model, processor):
            part.save_pretrained(again)
save_file(results, out)
"""


@torch.no_grad()
def test_what_is_saved_carries_its_code_and_keeps_it_when_saved_again(folders, tmp_path):
    Image.fromarray(np.full((56, 84, 3), 99, np.uint8)).save(tmp_path / "image.png")
    out, again, picture = (tmp_path / name for name in ("out.safetensors", "again", "image.png"))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub")}
    arguments = (folders["vl"], again, CLIP, picture, out)
    done = fresh(WITHOUT_PACKAGE, *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    results = load_file(out)
    processor = AutoProcessor.from_pretrained(folders["vl"])
    model = AutoModelForImageTextToText.from_pretrained(folders["vl"])
    inputs = prompt(processor, user(("video", CLIP), ("image", str(picture)), "What?"), num_frames=4)
    for name in ("first", "again"):
        torch.testing.assert_close(results[name], model(**inputs).logits, rtol=1e-5, atol=1e-5)
        answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(results[f"{name}.answer"], answer)
    assert {p.name for p in folders["vl"].glob("*.py")} == {p.name for p in again.glob("*.py")}
