"""A language model out of a GGUF file: what is assembled with it answers as what transformers reads of it."""

import sys
import zipfile

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from onevision_hf import OneVisionConfig, OneVisionImageProcessor, OneVisionModel
from onevision_hf.conversion.language_model import load_language_model
from onevision_hf.conversion.multimodal import assemble

gguf = pytest.importorskip("gguf", reason='needs the extra: pip install ".[gguf]"')

SIZE, LAYERS, HEADS, WIDE = 32, 2, 2, 64
TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A llama of two layers, quantised to Q8_0 as far as GGUF can."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokens = [*sorted(ByteLevel.alphabet()), "ab", *TURNS]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(SIZE // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - len(TURNS)) + [3] * len(TURNS))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)
    draw = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (len(tokens), SIZE), "output_norm": (SIZE,)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {f"{block}attn_{part}": (SIZE, SIZE) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}ffn_{part}": (WIDE, SIZE) for part in ("gate", "up")}
        shapes |= {f"{block}ffn_down": (SIZE, WIDE)}
        shapes |= {f"{block}{part}_norm": (SIZE,) for part in ("attn", "ffn")}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=draw).numpy()
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    config = OneVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1)
    OneVisionModel(config).save_pretrained(folder)
    OneVisionImageProcessor().save_pretrained(folder)
    return folder


def test_an_assembled_folder_has_the_weights_and_tokens_of_the_file(file, encoder, tmp_path):
    assemble(encoder, f"gguf:{file}", tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    ids = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)("a cat", return_tensors="pt")
    assert torch.equal(tokenizer("a cat", return_tensors="pt").input_ids, ids.input_ids)
    with torch.inference_mode():
        expected = theirs(**ids).logits
        found = model(**ids).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert str(file.parent) not in (tmp_path / "out" / "README.md").read_text()
    assert not hasattr(model.language_model.config, "quantization_config")


def test_a_folder_and_a_wheel_carry_one_and_an_installed_package_too(file, tmp_path, monkeypatch):
    package = tmp_path / "llm_tiny"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tiny.gguf").write_bytes(file.read_bytes())
    with zipfile.ZipFile(tmp_path / "llm_tiny-1.whl", "w") as wheel:
        wheel.write(package / "tiny.gguf", "llm_tiny/tiny.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = load_language_model(f"gguf:{file}")[0].state_dict()
    for place in (package, tmp_path / "llm_tiny-1.whl", "llm-tiny"):
        found = load_language_model(f"gguf:{place}")[0].state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_is_no_file_is_named(file, tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match="gguf:no-such: no-such is no file, no folder and no installed"
    ):
        load_language_model("gguf:no-such")
    with pytest.raises(
        FileNotFoundError, match="typing_extensions is no file"
    ):  # a module that is no package
        load_language_model("gguf:typing_extensions")
    with pytest.raises(ValueError, match=r"one \.gguf file is wanted there, found none"):
        load_language_model(f"gguf:{tmp_path}")
    for name in "ab":
        (tmp_path / f"{name}.gguf").touch()
    with pytest.raises(ValueError, match=r"a\.gguf, .*b\.gguf: name the file"):
        load_language_model(f"gguf:{tmp_path}")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install gguf"):
        load_language_model(f"gguf:{file}")
