"""A published LLaVA-OneVision-2 folder is talked with and evaluated as any other: in batches as one by one.

Run: python -m pytest tests/eval/test_published_folders.py
"""

import json
import shutil

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from ov2_recorded import PUBLISHED
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from onevision_hf.cli import main
from onevision_hf.conversion.multimodal import load_multimodal
from onevision_hf.eval.lmms.answering import Answering
from onevision_hf.eval.lmms.questions import Question
from onevision_hf.eval.lmms.settings import Settings
from onevision_hf.eval.video_input import video_input
from onevision_hf.modeling.quantization import QUANTIZATIONS, quantized

SHORT = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("talk") / "clip.mp4", moving_scene(48, 112, 168), gop=16)


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForImageTextToText.from_pretrained(PUBLISHED), AutoProcessor.from_pretrained(PUBLISHED)


def conversation(*parts):
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0], part[0]: part[1]}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--video-mode", "codec", "--max-canvases", "8"], "8 canvases, 768 patches, 192 tokens"),
        (["--video-mode", "frames", "--max-pixels", "6272"], "4 frames, "),  # one a second, four at least
        (["--num-frames", "3", "--max-pixels", "6272"], "3 frames, "),
    ],
    ids=["codec", "frames", "its own"],
)
def test_one_talks_about_a_clip(clip, capsys, words, shown):
    assert main(["chat", str(PUBLISHED), str(clip), "--ask", "What?", "--max-new-tokens", "3", *words]) == 0
    said = capsys.readouterr().out
    assert f"clip.mp4: {shown}" in said and "visual +" in said and "3 out" in said


def test_pictures_follow_the_bound_of_the_call(tmp_path, capsys):
    Image.new("RGB", (280, 280), "red").save(tmp_path / "a.png")
    command = ["chat", str(PUBLISHED), str(tmp_path / "a.png"), "--ask", "What?", "--max-new-tokens", "2"]
    for more, tokens in (([], 25), (["--max-pixels", "12544"], 16)):
        main([*command, *more])
        assert f"a.png: {tokens} tokens" in capsys.readouterr().out


def test_what_such_a_model_cannot_be_shown_is_refused(clip, loaded, capsys):
    assert main(["chat", str(PUBLISHED), str(clip), "--video-mode", "both"]) == 1
    assert "are shown codec or frames of a video, not 'both'" in capsys.readouterr().err
    assert main(["chat", str(PUBLISHED), str(clip), "--keep-ratio", "0.1"]) == 1
    assert "keep_ratio" in capsys.readouterr().err
    cpu = torch.device("cpu")
    for wrong, match in (
        ({"sampling": "dense"}, "not 'dense'"),
        ({"num_patches": 64}, "num_patches"),
        ({"num_frames": 8}, "num_frames cannot be followed where canvases are"),
        ({"sampling": "frames", "frame_positions": "t"}, "frame_positions must be one of"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            Settings.parse({"pretrained": "it", **wrong}).load(PUBLISHED, cpu)
    with pytest.raises(ValueError, match="max_canvases is a setting of sampling=codec"):
        Settings.parse({"pretrained": "it", "sampling": "frames", "max_canvases": 8})


@pytest.mark.parametrize(
    "given", [{"max_canvases": 4}, {"sampling": "frames", "max_frames": 2, "max_pixels": 6272}]
)
def test_batches_answer_as_single_prompts_do(loaded, clip, given):
    """Clips, pictures and both in one prompt, put together by a token budget and encoded once."""
    model, processor = loaded
    settings = Settings.parse({"pretrained": "it", **given})
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    picture, video = ("image", Image.fromarray(pixels)), ("video", str(clip))
    asked = {
        "a": conversation(video, "What?"),
        "b": conversation(video, "And then?" * 3),
        "c": conversation(picture, "Which?"),
        "d": conversation(picture, "Is it in ", video, "?"),
    }
    questions = [
        Question(lambda told=told: told, SHORT, tag=name, videos=(str(clip),) if name != "c" else ())
        for name, told in asked.items()
    ]
    found = {}
    answering = Answering(model, processor, settings)
    answering.answer(questions, lambda outcomes: found.update({q.tag: a for q, a in outcomes}))
    assert answering.statistics.encoded == 2 and answering.statistics.batches < 4
    for name, told in asked.items():
        inputs = processor.apply_chat_template(
            told, tokenize=True, return_dict=True, add_generation_prompt=True,
            processor_kwargs=settings.processor_kwargs(processor),
        )  # fmt: skip
        with torch.inference_mode():
            output = model.generate(**inputs, **SHORT)[0, inputs["input_ids"].shape[1] :]
        assert found[name].prompt_tokens == inputs["input_ids"].shape[1]
        alone = processor.tokenizer.decode(output, skip_special_tokens=True)
        assert found[name].text == "".join(letter for letter in alone if letter >= " " or letter in "\t\n\r")


SMALL = ("--quantization int8", "--quantization nf4")
# Qwen3's text configurations, whose sizes are public; the second is tied.
LARGE = {
    "8B": ({"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}, 8_190_735_360),
    "4B": ({"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}, 4_022_468_096),
}


@pytest.mark.parametrize("size", LARGE)
def test_memory_is_planned_from_the_configuration_alone(size, clip, tmp_path, capsys):
    text, parameters = LARGE[size]
    for file in PUBLISHED.iterdir():
        if file.suffix == ".json":
            shutil.copy(file, tmp_path / file.name)
    config = json.loads((PUBLISHED / "config.json").read_text())
    config |= {"dtype": "bfloat16", "tie_word_embeddings": text["tie_word_embeddings"]}
    config["text_config"] |= {
        **text, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "vocab_size": 151936, "layer_types": None,
    }  # fmt: skip
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    config["vision_config"] |= {**large, "num_attention_heads": 16, "out_hidden_size": text["hidden_size"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["chat", str(tmp_path), str(clip), "--video-mode", "codec", "--max-canvases", "8", "--dry-run"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"{parameters / 1e6:.1f} M in the language model" in said and "192 tokens" in said
    rows = dict(line.strip().rsplit("  ", 1) for line in said.splitlines() if line.endswith("GiB"))
    sizes = {name.strip(): float(value.split()[0]) for name, value in rows.items()}
    bfloat16, int8, nf4 = (sizes[f"weights, {name}"] for name in ("bfloat16", *SMALL))
    assert bfloat16 > 2 * parameters / 2**30 and int8 < 0.7 * bfloat16 and nf4 < 0.5 * bfloat16
    assert sizes["keys and values of 448 tokens"] == round(448 * 36 * 2 * 8 * 128 * 2 / 2**30, 2)


def test_quantization_names_what_is_to_be_installed(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in (("int8", "torchao"), ("nf4", "bitsandbytes")):
        assert main(["chat", str(PUBLISHED), "--ask", "?", "--quantization", name]) == 1
        assert f"pip install {package}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="quantization is int8 or nf4, not 'int3'"):
        quantized("int3", "cpu")


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_quantized_language_model_answers_nearly_alike(name, loaded):
    pytest.importorskip(QUANTIZATIONS[name][0])
    model = load_multimodal(str(PUBLISHED), **quantized(name, "cpu"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        found, wanted = (one(input_ids=ids).logits.float() for one in (model, loaded[0]))
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=-1).mean() > (
        0.99 if name == "int8" else 0.7
    )
    kept = model.vision_tower.encoder.layers[0].self_attn.q_proj.weight
    assert torch.equal(kept, loaded[0].vision_tower.encoder.layers[0].self_attn.q_proj.weight)
    settings = Settings.parse({"pretrained": "it", "quantization": name, "sampling": "frames"})
    assert type(settings.load(PUBLISHED, torch.device("cpu"))[0]) is type(model)
    assert settings.answer_settings(loaded[1])["quantization"] == name


def test_the_word_for_what_is_shown_is_one_for_all_models(loaded):
    assert video_input(loaded[1], "codec") == {"preset": "ov2"}
    assert video_input(loaded[1], "frames")["frame_sampling"] == "lmms_eval"
    assert video_input(object(), "codec") == {"video_mode": "codec"}
