"""Train a small VAE on pictures, for runs where the published one cannot be had: minutes on one core.

onevision synth images out/drawn --count 4000 --size 64
python scripts/train_vae.py out/drawn out/vae --size 64 --steps 3000

It has the form of FLUX.1's (diffusers' AutoencoderKL, 8 pixels a side to a latent, 16 channels) in 0.2 M
parameters, and learns L1 with a slight pull of its posterior to N(0, I); no perceptual and no adversarial
loss. `latent_scaling`, which is printed and stored as the VAE's `scaling_factor`, brings the deviation of its
latents to about 1.
"""

import argparse
import time
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
    source = open_source(folder)
    rows = []
    for item in source.items:
        with Image.open(item.path) as picture:
            rows.append(np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--pull", type=float, default=1e-4, help="weight of the posterior's distance to N(0, I)"
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    pictures = read(args.images, args.size)
    held = max(1, len(pictures) // 20)
    trained, tested = pictures[held:], pictures[:held].float() / 127.5 - 1
    vae = make_vae()
    print(f"{len(trained)} pictures, {held} held out; {sum(p.numel() for p in vae.parameters())} parameters")
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.05)
    began = time.perf_counter()
    for step in range(1, args.steps + 1):
        batch = trained[torch.randint(len(trained), (args.batch,))].float() / 127.5 - 1
        posterior = vae.encode(batch).latent_dist
        loss = (vae.decode(posterior.sample()).sample - batch).abs().mean()
        loss = loss + args.pull * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        falling.step()
        if step % 250 == 0 or step == args.steps:
            decibel, deviation = measure(vae, tested)
            print(
                f"step {step}  loss {loss.item():.4f}  held-out PSNR {decibel:.2f} dB  "
                f"deviation of the latents {deviation:.3f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    vae.register_to_config(scaling_factor=round(1 / deviation, 4), shift_factor=0.0)
    vae.eval().save_pretrained(args.out)
    print(f"{args.out}: latent_scaling {vae.config.scaling_factor}")


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[float, float]:
    """Mean PSNR of pictures in [-1, 1] through the posterior's mean, and the deviation of that mean."""
    vae.eval()
    found = [vae.encode(part).latent_dist.mean for part in pictures.split(50)]
    errors = [
        (vae.decode(mean).sample.clamp(-1, 1) - part).square().mean((1, 2, 3)) / 4
        for mean, part in zip(found, pictures.split(50), strict=True)
    ]
    vae.train()
    return (-10 * torch.cat(errors).log10()).mean().item(), torch.cat(found).std().item()


if __name__ == "__main__":
    main()
