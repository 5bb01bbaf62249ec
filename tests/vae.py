"""Small VAEs for the tests of OpenVision 3: one of diffusers, and one whose latents can be prescribed."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


def tiny_vae(latent_channels: int = 16) -> nn.Module:
    """A diffusers AutoencoderKL with random weights: stride 8, 40 thousand parameters."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[4, 4, 8, 8],
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=2,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


class ShuffleVAE(nn.Module):
    """Latents are 16 of the 192 values of each 8 x 8 block of pixels, times `gain`: pixels can be made for
    latents.
    """

    def __init__(self, gain: float = 20.0):
        super().__init__()
        self.config = SimpleNamespace(latent_channels=16, block_out_channels=[1, 1, 1, 1])
        self.gain = nn.Parameter(torch.tensor(gain))

    def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
        mean = F.pixel_unshuffle(pixels, 8)[:, :16] * self.gain
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        blocks = F.pad(latents / self.gain, (0, 0, 0, 0, 0, 176))
        return SimpleNamespace(sample=F.pixel_shuffle(blocks, 8))
