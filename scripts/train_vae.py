"""Train a small VAE on pictures, for runs where the published one cannot be had: minutes on one core.

    onevision synth images --out out/drawn --count 4000 --size 64
    python scripts/train_vae.py out/drawn out/vae --size 64 --steps 3000
    python scripts/train_vae.py out/drawn out/vae --size 64 --width 64 --batch 64      # on a GPU

It has the form of FLUX.1's (diffusers' AutoencoderKL, 8 pixels a side to a latent, 16 channels) in 0.3 M
parameters, and learns L1 with a slight pull of its posterior to N(0, I); no perceptual and no adversarial
loss. `latent_scaling`, which is printed and stored as the VAE's `scaling_factor`, brings the deviation of its
latents to about 1. On a GPU it trains in bfloat16; what it is measured with is float32.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from onevision_hf.data.media import open_picture
from onevision_hf.data.sources import open_source


def make_vae(width: int = 16) -> AutoencoderKL:
    """`width` channels at full and at half resolution (a multiple of 8), twice as many below."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[width, width, 2 * width, 2 * width],
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def read(paths: Iterable[str], size: int) -> torch.Tensor:
    """Pictures (count, 3, size, size) uint8, as they are displayed, transparency on white."""
    bilinear = Image.Resampling.BILINEAR
    rows = [np.asarray(open_picture(path).resize((size, size), bilinear)) for path in paths]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def fit(
    vae: AutoencoderKL,
    pictures: torch.Tensor,
    steps: int,
    batch: int = 16,
    lr: float = 2e-3,
    pull: float = 1e-4,
    report: Callable[[int, torch.Tensor], None] = lambda step, loss: None,
) -> None:
    """Train on pictures (count, 3, H, W) uint8, where `vae` is; `pull` weighs the posterior's distance to
    N(0, I).
    """
    pictures = pictures.to(vae.device)
    low = vae.device.type == "cuda"
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    for step in range(1, steps + 1):
        rows = torch.randint(len(pictures), (batch,), device=vae.device)
        images = pictures[rows].float() / 127.5 - 1
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=low):
            posterior = vae.train().encode(images).latent_dist
            rebuilt = vae.decode(posterior.sample()).sample
        loss = (rebuilt.float() - images).abs().mean()
        loss = loss + pull * posterior.kl().float().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        falling.step()
        report(step, loss.detach())
    vae.zero_grad(set_to_none=True)
    vae.eval()


@torch.no_grad()
def measure(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[float, float]:
    """Mean PSNR of pictures uint8 through the posterior's mean, and the deviation of that mean."""
    vae.eval()
    errors, found = [], []
    for part in pictures.split(50):
        images = part.to(vae.device).float() / 127.5 - 1
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
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=16, help="channels at full resolution (%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--figures", type=Path, help="write what was measured into this JSON file too")
    args = parser.parse_args()
    torch.manual_seed(0)
    pictures = read((item.path for item in open_source(args.images).items), args.size)
    # A folder of classes lists one after the other.
    pictures = pictures[torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))]
    held = max(1, len(pictures) // 20)
    vae = make_vae(args.width).to(args.device)
    parameters = sum(p.numel() for p in vae.parameters())
    print(f"{len(pictures) - held} pictures, {held} held out; {parameters} parameters", flush=True)
    began = time.perf_counter()
    curve = []

    def report(step: int, loss: torch.Tensor) -> None:
        if step % 250 == 0 or step == args.steps:
            decibel, deviation = measure(vae, pictures[:held])
            curve.append({"step": step, "loss": loss.item(), "psnr": decibel, "deviation": deviation})
            print(
                f"step {step}  loss {loss.item():.4f}  held-out PSNR {decibel:.2f} dB  deviation of the "
                f"latents {deviation:.3f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )

    fit(vae, pictures[held:], args.steps, args.batch, args.lr, report=report)
    vae.register_to_config(scaling_factor=round(1 / curve[-1]["deviation"], 4), shift_factor=0.0)
    vae.save_pretrained(args.out)
    if args.figures is not None:
        found = {
            "parameters": parameters,
            "pictures": len(pictures) - held,
            "held_out": held,
            "latent_scaling": vae.config.scaling_factor,
            "seconds": time.perf_counter() - began,
            "device": str(vae.device),
            "curve": curve,
        }
        args.figures.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{args.out}: latent_scaling {vae.config.scaling_factor}")


if __name__ == "__main__":
    main()
