"""Evidence: with a VAE that was trained for seconds, sixteen images are learned by heart by every loss."""

import copy

import pytest
import torch
from small import TEXT, VOCABULARY

from onevision_hf import OpenVision3Config, UnifiedForPreTraining, UnifiedPreTrainingConfig

IMAGES, SIDE, STEPS = 16, 32, 150
WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def smooth_images():
    """(16, 3, 32, 32) in [-1, 1]: waves of one direction, length and phase in each colour."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    a, b, phase = torch.rand(3, IMAGES, 3, 1, 1, generator=generator) * 6.3
    return torch.sin(a * x + b * y + phase) * 0.8


def captions():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (IMAGES, 12), generator=generator)
    ids[:, 0], ids[:, -1] = 1, 2
    return ids


@pytest.fixture(scope="module")
def trained_vae():
    """A VAE, and the scaling that brings its latents to a deviation of 1."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 16, 32, 32],
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    images = smooth_images()
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (vae.decode(vae.encode(images).latent_dist.mean).sample - images).abs().mean()
        loss.backward()
        optimizer.step()
    vae.zero_grad(set_to_none=True)
    with torch.no_grad():
        return vae, 1 / vae.encode(images).latent_dist.mean.std().item()


def psnr(found, images):
    """Mean over the images, in decibel; the range is 2."""
    return (10 * (4 / (found - images).square().mean((1, 2, 3))).log10()).mean().item()


@pytest.mark.slow
def test_sixteen_images_are_rebuilt_described_and_told_apart(trained_vae):
    torch.manual_seed(0)
    images, ids = smooth_images(), captions()
    vae, scaling = trained_vae
    model = UnifiedForPreTraining(
        UnifiedPreTrainingConfig(
            OpenVision3Config.tiny(**WIDE, projection_dim=32, latent_scaling=scaling),
            decoder_config=WIDE,
            text_config=TEXT | WIDE,
            caption_config=TEXT | WIDE,
            vocab_size=VOCABULARY,
        )
    )
    model.set_vae(vae)
    held = copy.deepcopy(vae.state_dict())
    batch = {"pixel_values": images, "input_ids": ids}

    def measure():
        with torch.no_grad():
            output = model.eval()(**batch)
        losses = {name: loss.item() for name, loss in output.losses.items()}
        accuracy = output.metrics["contrastive_accuracy"].item()
        return losses | {"psnr": psnr(model.reconstruct(images), images), "accuracy": accuracy}

    before = measure()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    after = measure()
    print(before, after)
    assert after["psnr"] - before["psnr"] >= 10
    assert after["latent"] <= 0.4 * before["latent"]
    assert after["caption"] <= 0.1 * before["caption"]
    assert after["accuracy"] >= 0.9
    assert all(torch.equal(held[name], tensor) for name, tensor in vae.state_dict().items())
    # And what is described is what was learned.
    written = model.generate_caption(images, max_new_tokens=11)
    assert (written == ids).float().mean() > 0.95
