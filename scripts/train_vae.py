"""Train a small VAE on pictures, for runs where the published one cannot be had: minutes on one core.

    onevision synth images out/drawn --count 4000 --size 64
    python scripts/train_vae.py out/drawn out/vae --size 64 --steps 3000

It has the form of FLUX.1's (diffusers' AutoencoderKL, 8 pixels a side to a latent, 16 channels) in 0.3 M
parameters, and learns L1 with a slight pull of its posterior to N(0, I); no perceptual and no adversarial
loss. `latent_scaling`, which is printed and stored as the VAE's `scaling_factor`, brings the deviation of its
latents to about 1.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from onevision_hf.clustering.sources import open_source


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
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


def read(folder: str, size: int) -> torch.Tensor:
    """All pictures (count, 3, size, size) uint8."""
    rows = []
    for item in open_source(folder).items:
        with Image.open(item.path) as picture:
            rows.append(np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def fit(
    vae: AutoencoderKL,
    pictures: torch.Tensor,
    steps: int,
    batch: int = 16,
    lr: float = 2e-3,
    pull: float = 1e-4,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train on pictures (count, 3, H, W) uint8; `pull` weighs the posterior's distance to N(0, I)."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    for step in range(1, steps + 1):
        images = pictures[torch.randint(len(pictures), (batch,))].float() / 127.5 - 1
        posterior = vae.train().encode(images).latent_dist
        loss = (vae.decode(posterior.sample()).sample - images).abs().mean()
        loss = loss + pull * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        falling.step()
        report(step, loss.item())
    vae.zero_grad(set_to_none=True)
    vae.eval()


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[float, float]:
    """Mean PSNR of pictures uint8 through the posterior's mean, and the deviation of that mean."""
    vae.eval()
    errors, found = [], []
    for part in pictures.split(50):
        images = part.float() / 127.5 - 1
        found.append(vae.encode(images).latent_dist.mean)
        rebuilt = vae.decode(found[-1]).sample.clamp(-1, 1)
        errors.append((rebuilt - images).square().mean((1, 2, 3)) / 4)
    return (-10 * torch.cat(errors).log10()).mean().item(), torch.cat(found).std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    torch.manual_seed(0)
    pictures = read(args.images, args.size)
    held = max(1, len(pictures) // 20)
    vae = make_vae()
    parameters = sum(p.numel() for p in vae.parameters())
    print(f"{len(pictures) - held} pictures, {held} held out; {parameters} parameters", flush=True)
    began = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 250 == 0 or step == args.steps:
            decibel, deviation = measure(vae, pictures[:held])
            print(
                f"step {step}  loss {loss:.4f}  held-out PSNR {decibel:.2f} dB  deviation of the latents "
                f"{deviation:.3f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )

    fit(vae, pictures[held:], args.steps, report=report)
    vae.register_to_config(scaling_factor=round(1 / measure(vae, pictures[:held])[1], 4), shift_factor=0.0)
    vae.save_pretrained(args.out)
    print(f"{args.out}: latent_scaling {vae.config.scaling_factor}")


if __name__ == "__main__":
    main()
