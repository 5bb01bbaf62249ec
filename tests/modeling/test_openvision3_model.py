"""OpenVision3Model against recorded tensors of the published tower, and as a citizen of transformers.

Run: python -m pytest tests/modeling/test_openvision3_model.py
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import fresh
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel

from onevision_hf import OpenVision3Config, OpenVision3Model
from onevision_hf.conversion import convert
from onevision_hf.modeling.modeling_openvision3 import sincos_position_table

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "openvision3"


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(PUBLISHED / "reference.safetensors")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvision3") / "converted"
    convert("openvision3", PUBLISHED, folder)
    return folder


@pytest.fixture
def model() -> OpenVision3Model:
    torch.manual_seed(0)
    # Wide weights, so that attention is far from uniform and a wrong position shows.
    return OpenVision3Model(OpenVision3Config.tiny(initializer_range=0.2, num_attention_heads=2)).eval()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_recorded_tokens_and_pooled_vector_of_the_published_tower_are_reproduced(
    converted, recorded, attention
):
    model = AutoModel.from_pretrained(converted, attn_implementation=attention)
    output = model(latents=recorded["latents"])
    assert relative_difference(output.last_hidden_state, recorded["tokens"]) <= 1e-5
    assert relative_difference(output.pooler_output, recorded["pooled"]) <= 1e-5
    assert torch.equal(model.get_image_features(latents=recorded["latents"]), output.pooler_output)


@pytest.mark.parametrize(
    ("preset", "parameters", "table"), [("base", 85_695_744, 257 * 768), ("large", 303_426_560, 257 * 1024)]
)
def test_presets_have_the_published_sizes_once_the_fixed_table_is_counted(preset, parameters, table):
    with torch.device("meta"):
        model = OpenVision3Model(getattr(OpenVision3Config, preset)())
    published = {"base": 85_893_120, "large": 303_689_728}[preset]
    assert sum(p.numel() for p in model.parameters()) == parameters == published - table
    assert not list(model.buffers())


@torch.no_grad()
def test_the_encoder_is_the_pre_norm_transformer_of_the_paper(model):
    """Every step written out from the paper and section 1.2's formula, in float64."""
    model = model.double()
    state, heads, width = model.state_dict(), model.config.num_attention_heads, model.config.hidden_size
    latents = torch.randn(2, 16, 4, 6, dtype=torch.float64)

    y, x = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")
    omega = 1 / 10000 ** (torch.arange(width // 4) / (width // 4 - 1))
    angles = [axis.reshape(-1, 1) * omega for axis in (x, y)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(value, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    patches = latents.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 64)
    tokens = patches @ state["embeddings.patch_embedding.weight"].reshape(width, -1).T + table
    h = torch.cat([state["embeddings.class_embedding"].expand(2, 1, -1), tokens], dim=1)
    for layer in range(model.config.num_hidden_layers):
        block = f"encoder.layers.{layer}"
        normed = norm(f"{block}.layer_norm1", h)
        q, k, v = (
            linear(f"{block}.self_attn.{n}_proj", normed).reshape(2, 7, heads, -1).transpose(1, 2)
            for n in "qkv"
        )
        attended = (q @ k.mT / (width // heads) ** 0.5).softmax(-1) @ v
        h = h + linear(f"{block}.self_attn.out_proj", attended.transpose(1, 2).reshape(2, 7, width))
        h = h + linear(
            f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.layer_norm2", h)))
        )
    pooled = linear("visual_projection", norm("post_layernorm", h[:, 1:].mean(1)))

    output = model(latents=latents)
    # The table is evaluated in float32.
    assert relative_difference(output.last_hidden_state, h[:, 1:]) <= 1e-6
    assert relative_difference(output.pooler_output, pooled) <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(128, 128), (224, 224), (256, 256), (320, 192), (16, 48)])
def test_every_even_latent_grid_is_encoded_with_one_token_per_16_pixels(model, height, width):
    output = model(latents=torch.randn(1, 16, height // 8, width // 8))
    assert output.last_hidden_state.shape == (1, height * width // 256, 64)
    assert output.last_hidden_state.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([8, 64, 768]),
)
def test_a_position_has_the_same_row_on_every_grid(h1, w1, h2, w2, dim):
    first = sincos_position_table(h1, w1, dim).view(h1, w1, dim)
    second = sincos_position_table(h2, w2, dim).view(h2, w2, dim)
    h, w = min(h1, h2), min(w1, w2)
    assert torch.equal(first[:h, :w], second[:h, :w])


@torch.no_grad()
def test_positions_matter(model):
    latents = torch.randn(1, 16, 4, 4)
    shifted = latents.roll(2, dims=3)
    tokens = model(latents=latents).last_hidden_state.view(2, 2, -1)
    moved = model(latents=shifted).last_hidden_state.view(2, 2, -1).roll(1, dims=1)
    assert relative_difference(moved, tokens) > 0.01


@torch.no_grad()
@pytest.mark.gpu
def test_flash_attention_agrees_in_bfloat16(model):
    pytest.importorskip("flash_attn", reason="needs flash-attn")
    latents = torch.randn(2, 16, 8, 4, device="cuda", dtype=torch.bfloat16)
    model = model.to("cuda", torch.bfloat16)
    expected = model(latents=latents).pooler_output.float()
    model.set_attn_implementation("flash_attention_2")
    found = model(latents=latents).pooler_output.float()
    assert F.cosine_similarity(found, expected).min() > 0.999


def test_without_the_kernel_flash_attention_is_refused_by_the_library(model):
    if importlib.util.find_spec("flash_attn"):
        pytest.skip("flash-attn is installed")
    with pytest.raises((ImportError, ValueError), match=r"(?i)flash"):
        model.set_attn_implementation("flash_attention_2")


def test_new_weights_have_the_published_spread():
    torch.manual_seed(0)
    state = OpenVision3Model(OpenVision3Config(num_hidden_layers=1)).state_dict()
    layer = "encoder.layers.0."
    for name in ("self_attn.q_proj.weight", "mlp.fc1.weight"):
        assert state[layer + name].std().item() == pytest.approx(0.02, rel=0.02)
    # Drawn wider, then cut at two deviations.
    assert 0.04 < state[layer + "mlp.fc2.weight"].abs().max() <= 2 * 0.02 / 0.8796 + 1e-6
    assert state[layer + "mlp.fc2.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    bound = (16 * 2 * 2) ** -0.5
    assert 0.99 * bound < state["embeddings.patch_embedding.weight"].abs().max() <= bound
    assert 0 < state["embeddings.class_embedding"].abs().max() < 1e-4
    assert not state[layer + "mlp.fc2.bias"].any()


def test_impossible_sizes_are_refused_with_their_numbers():
    with pytest.raises(StrictDataclassClassValidationError, match=r"multiple of 4.* found 66"):
        OpenVision3Config(hidden_size=66, num_attention_heads=1)
    with pytest.raises(StrictDataclassClassValidationError, match="768 cannot be split over 7"):
        OpenVision3Config(num_attention_heads=7)
    with pytest.raises(StrictDataclassClassValidationError, match="latent_scaling must not be 0"):
        OpenVision3Config(latent_scaling=0)
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        OpenVision3Config(hidden_size="wide")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "exactly one of them; found neither"),
        ({"pixel_values": torch.zeros(1, 3, 16, 16), "latents": torch.zeros(1, 16, 2, 2)}, "found both"),
        ({"latents": torch.zeros(1, 16, 5, 4)}, r"multiples of the patch, 2; found \(5, 4\)"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, r"\(B, 16, h, w\), found \(1, 4, 4, 4\)"),
        ({"latents": torch.zeros(16, 4, 4)}, r"\(B, 16, h, w\), found \(16, 4, 4\)"),
    ],
)
def test_wrong_inputs_are_refused_with_what_was_found(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_a_converted_folder_runs_in_a_fresh_process_where_the_package_is_not_installed(
    converted, recorded, tmp_path
):
    script = f"""
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onevision_hf", "diffusers"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel
recorded = load_file({str(PUBLISHED / "reference.safetensors")!r})
model = AutoModel.from_pretrained({str(converted)!r}, trust_remote_code=True)
output = model(latents=recorded["latents"])
for name, found in (("tokens", output.last_hidden_state), ("pooled", output.pooler_output)):
    assert (found - recorded[name]).abs().max() / recorded[name].abs().max() <= 1e-5
processor = AutoImageProcessor.from_pretrained({str(converted)!r}, trust_remote_code=True)
pixels = processor(Image.new("RGB", (90, 70)), return_tensors="pt").pixel_values
assert pixels.shape == (1, 3, 64, 64) and pixels.eq(-1).all()
try:
    model(pixel_values=pixels)
except OSError as error:
    assert ".[openvision]" in str(error) and "set_vae" in str(error), error
model.save_pretrained({str(tmp_path / "again")!r})
assert "onevision_hf" not in sys.modules
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = fresh(script, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert {"modeling_openvision3.py", "configuration_openvision3.py", "vae_openvision3.py"} <= {
        path.name for path in (tmp_path / "again").iterdir()
    }
