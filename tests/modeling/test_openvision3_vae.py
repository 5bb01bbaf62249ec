"""The VAE beside OpenVision3Model: when it is loaded, what it is kept out of, and what it is given.

Run: python -m pytest tests/modeling/test_openvision3_vae.py
"""

import copy
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from vae import ShuffleVAE, tiny_vae

from onevision_hf import MissingVAEError, OpenVision3Config, OpenVision3Model
from onevision_hf.conversion import convert

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "openvision3"


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def model() -> OpenVision3Model:
    torch.manual_seed(0)
    return OpenVision3Model(OpenVision3Config.tiny(vae_name_or_path=None)).eval()


@pytest.fixture(scope="module")
def vae() -> nn.Module:
    pytest.importorskip("diffusers", reason='needs the extra: pip install ".[openvision]"')
    return tiny_vae()


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_weights_on_disk_leave_the_vae_where_it_is(model, pixels, tmp_path):
    pytest.importorskip("accelerate")
    model.save_pretrained(tmp_path / "saved")
    on_disk = OpenVision3Model.from_pretrained(
        tmp_path / "saved", device_map={"": "disk"}, offload_folder=tmp_path / "offload"
    )
    for one in (model, on_disk):
        one.set_vae(ShuffleVAE())
    found, expected = (one(pixel_values=pixels).pooler_output for one in (on_disk, model))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_pixels_that_a_vae_takes_to_the_recorded_latents_give_the_recorded_tokens(tmp_path):
    recorded = load_file(PUBLISHED / "reference.safetensors")
    convert("openvision3", PUBLISHED, tmp_path / "converted")
    model = OpenVision3Model.from_pretrained(tmp_path / "converted")
    vae = ShuffleVAE(gain=20.0)
    model.set_vae(vae)
    pixels = vae.decode(recorded["latents"] / 0.3611).sample
    assert pixels.abs().max() <= 1
    output = model(pixel_values=pixels)
    assert relative_difference(output.last_hidden_state, recorded["tokens"]) <= 1e-5
    assert relative_difference(output.pooler_output, recorded["pooled"]) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("scaling", "shift"), [(0.3611, 0.0), (0.5, 0.1159)])
def test_latents_are_the_scaled_and_shifted_posterior_mean_of_diffusers_vae(vae, pixels, scaling, shift):
    config = OpenVision3Config.tiny(vae_name_or_path=None, latent_scaling=scaling, latent_shift=shift)
    model = OpenVision3Model(config).eval()
    model.set_vae(vae)
    latents = scaling * (vae.encode(pixels).latent_dist.mean - shift)
    assert latents.shape == (2, 16, 6, 4)
    assert torch.allclose(model.encode_pixels(pixels), latents, atol=1e-6)
    found, expected = model(pixel_values=pixels), model(latents=latents)
    assert relative_difference(found.pooler_output, expected.pooler_output) <= 1e-5
    assert torch.allclose(
        model.decode_latents(latents), vae.decode(latents / scaling + shift).sample, atol=1e-5
    )


def test_the_vae_is_neither_saved_nor_trained(model, vae, pixels, tmp_path):
    names = set(model.state_dict())
    model.set_vae(vae)
    model.train()
    assert set(model.state_dict()) == names == {name for name, _ in model.named_parameters()}
    assert not vae.training and not any(p.requires_grad for p in vae.parameters())
    output = model(pixel_values=pixels)
    # Not inference mode: its tensors could not take part in the encoder's backward pass.
    assert not model.encode_pixels(pixels).is_inference() and not model.encode_pixels(pixels).requires_grad
    output.pooler_output.sum().backward()
    assert all(p.grad is None for p in vae.parameters())
    assert model.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == names


def test_gradients_reach_latents_through_the_frozen_decoder(model, vae):
    model.set_vae(vae)
    latents = torch.randn(1, 16, 4, 4, requires_grad=True)
    model.decode_latents(latents).square().sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is None for p in vae.parameters())


def test_the_vae_follows_the_model_but_never_into_float16(model):
    vae = ShuffleVAE()
    model.set_vae(vae)
    holder = nn.ModuleDict({"encoder": model})
    assert holder.to(torch.bfloat16)["encoder"].vae.gain.dtype == torch.bfloat16
    assert holder.to("meta")["encoder"].vae.gain.device.type == "meta"

    vae = ShuffleVAE(gain=1 / 3)
    half = OpenVision3Model(OpenVision3Config.tiny(vae_name_or_path=None)).half()
    half.set_vae(vae)
    half.half()
    assert vae.gain.dtype == torch.float32 and vae.gain.item() == torch.tensor(1 / 3).item()
    assert half.encode_pixels(torch.zeros(1, 3, 16, 16, dtype=torch.float16)).dtype == torch.float32
    assert copy.deepcopy(half).vae is not vae


@torch.no_grad()
def test_a_bfloat16_model_encodes_in_bfloat16_and_autocast_does_not_touch_a_float32_vae(model, vae, pixels):
    model.set_vae(vae)
    expected = model.encode_pixels(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.encode_pixels(pixels), expected)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half.encode_pixels(pixels.bfloat16()).dtype == torch.bfloat16
    assert half(pixel_values=pixels.bfloat16()).pooler_output.dtype == torch.bfloat16


@torch.no_grad()
def test_the_vae_that_the_config_names_is_loaded_at_the_first_pixels_and_not_before(vae, pixels, tmp_path):
    folder, named = tmp_path / "model", tmp_path / "vae"
    OpenVision3Model(OpenVision3Config.tiny(vae_name_or_path=str(named))).save_pretrained(folder)
    model = OpenVision3Model.from_pretrained(folder)  # the VAE's folder does not even exist yet
    model(latents=torch.randn(1, 16, 4, 4))
    assert model._vae is None
    with pytest.raises(
        MissingVAEError, match=r"vae' \(the config's vae_name_or_path\) could not be loaded.*set_vae"
    ):
        model(pixel_values=pixels)
    vae.save_pretrained(named)
    loaded = model(pixel_values=pixels).pooler_output
    first = model.vae
    assert model(pixel_values=pixels) and model.vae is first
    model.set_vae(vae)
    assert torch.equal(model(pixel_values=pixels).pooler_output, loaded)


def test_what_to_install_or_to_pass_is_said_when_there_is_no_vae(model, pixels, monkeypatch):
    with pytest.raises(MissingVAEError, match=r"names none.*model\.set_vae\(vae\), or pass latents"):
        model(pixel_values=pixels)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    named = OpenVision3Model(OpenVision3Config.tiny())
    with pytest.raises(MissingVAEError, match=r'pip install "\.\[openvision\]".*set_vae'):
        named(pixel_values=pixels)


def test_a_vae_of_another_width_or_of_no_kind_is_refused(model, vae):
    with pytest.raises(ValueError, match="4 latent channels, the encoder reads 16"):
        model.set_vae(tiny_vae(latent_channels=4))
    with pytest.raises(TypeError, match="found Identity"):
        model.set_vae(nn.Identity())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 40, 32), r"multiples of 16 \(VAE 8 x patch 2\), found \(40, 32\)"),
        ((1, 4, 32, 32), r"\(B, 3, H, W\), found \(1, 4, 32, 32\)"),
        ((3, 32, 32), r"\(B, 3, H, W\), found \(3, 32, 32\)"),
    ],
)
def test_pixels_of_a_wrong_shape_are_refused_with_what_was_found(model, shape, message):
    model.set_vae(ShuffleVAE())
    with pytest.raises(ValueError, match=message):
        model(pixel_values=torch.zeros(shape))


def test_pixels_outside_their_range_are_warned_about_with_the_range(model):
    model.set_vae(ShuffleVAE())
    with pytest.warns(UserWarning, match=r"range from 0 to 255; the VAE expects \[-1, 1\]"):
        model(pixel_values=torch.linspace(0, 255, 3 * 256).view(1, 3, 16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(pixel_values=torch.linspace(-1, 1, 3 * 256).view(1, 3, 16, 16))


def test_the_script_that_trains_a_vae_puts_transparency_on_white(vae, tmp_path):
    """As everything else that reads pictures does."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train_vae.py"))
    for name, alpha in (("clear", 0), ("whole", 255), ("half", 128)):
        Image.new("RGBA", (24, 16), (0, 0, 0, alpha)).save(tmp_path / f"{name}.png")
    found = script["read"]([str(tmp_path / f"{name}.png") for name in ("clear", "whole", "half")], 8)
    assert found.shape == (3, 3, 8, 8) and found.dtype == torch.uint8
    assert [set(picture.flatten().tolist()) for picture in found] == [{255}, {0}, {127}]
