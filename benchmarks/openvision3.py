"""OpenVision 3: what the encoder costs, what its VAE costs before it, and what caching latents saves.

    make bench-openvision3                             # about three minutes on two cores
    python benchmarks/openvision3.py --size 128 --repeats 5

Random weights in the published shapes: the base encoder, and an AutoencoderKL with FLUX.1-dev's
configuration. The variants are timed in turn, round after round; figures are medians, comparisons are
ratios of one run.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from onevision_hf import OpenVision3Config, OpenVision3Model


def flux_vae() -> torch.nn.Module:
    """An AutoencoderKL of FLUX.1-dev's shape, 83.8 M parameters, random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def medians(variants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each variant, all run once a round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=2, help="pictures at once (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds (%(default)s)")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, side = args.batch_size, args.size
    model = OpenVision3Model(OpenVision3Config.base(vae_name_or_path=None)).eval().to(device)
    eager = OpenVision3Model(OpenVision3Config.base(vae_name_or_path=None)).eval().to(device)
    eager.set_attn_implementation("eager")
    model.set_vae(flux_vae())
    pixels = torch.rand(batch, 3, side, side, device=device) * 2 - 1
    latents = model.encode_pixels(pixels)

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "latents.safetensors"
        save_file({"latents": latents.half().cpu()}, path)

        def read() -> torch.Tensor:
            with safe_open(path, "pt") as file:
                return file.get_tensor("latents").to(device, torch.float32)

        seconds = medians(
            {
                "pixels": lambda: model(pixel_values=pixels),
                "vae": lambda: model.encode_pixels(pixels),
                "encoder": lambda: model(latents=latents),
                "encoder, eager attention": lambda: eager(latents=latents),
                "cached": lambda: model(latents=read()),
            },
            args.repeats,
        )
    model.train()

    def step(**inputs: torch.Tensor) -> Callable[[], object]:
        def run() -> None:
            model.zero_grad()
            model(**inputs).pooler_output.square().mean().backward()

        return run

    trained = medians(
        {"step on pixels": step(pixel_values=pixels), "step on latents": step(latents=latents)}, args.repeats
    )
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{where}; {batch} pictures of {side} x {side}, float32, base encoder ({side * side // 256} tokens)"
    )
    print(f"{'what':<28}{'ms a picture':>14}")
    for name, found in (seconds | trained).items():
        print(f"{name:<28}{1000 * found / batch:>14.1f}")
    both = seconds | trained
    ratios = {
        "share of the VAE in a forward pass on pixels": both["vae"] / both["pixels"],
        "forward pass, pixels over cached latents": both["pixels"] / both["cached"],
        "training step, pixels over latents": both["step on pixels"] / both["step on latents"],
        "encoder alone, eager over sdpa attention": both["encoder, eager attention"] / both["encoder"],
        "a cached picture in float16, KiB": latents[0].numel() * 2 / 1024,
    }
    for name, ratio in ratios.items():
        print(f"{name:<46}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
