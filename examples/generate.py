"""Generate pictures from the tokens of a unified model: a small diffusion transformer, minutes on one GPU.

    onevision synth images --out smoke/drawn --count 12000 --size 64 --split train --family object
    onevision export-tokens smoke/drawn smoke/tokens --model runs/unified_drawn/model --no-mirror
    python examples/generate.py smoke/tokens --model runs/unified_drawn/model --out smoke/generated
    python examples/generate.py smoke/tokens --model M --width 64 --layers 1 --steps 20  # CPU

The encoder that understands is the tokenizer of the generator: noise is turned into its tokens, and its own
decoder turns those into a picture. The parts are diffusers': `DiTTransformer2DModel` (patches of one token, a
class for each folder of pictures), `FlowMatchEulerDiscreteScheduler`, `EMAModel`. What follows representation
autoencoders (RAE, arXiv 2510.11690), whose recipe OpenVision 3's generation figures use:

- tokens are scaled by the mean and variance of each of their numbers (stat.pt);
- the transformer is at least as wide as a token, or it cannot take the noise off (`--width`);
- noise levels are logit-normal and shifted by sqrt(numbers of a picture's tokens / 4096): the more numbers
  carry the picture, the more noise it takes to hide it;
- sampling is 50 Euler steps from noise. Guidance (`--guidance`) needs the picture without a class, so every
  tenth label is hidden in training.

The published generator is a DiT with a wide second head, in 1400 epochs of ImageNet; this one shows that the
path works. Written to --out: samples.png (a row for each class, at its left a drawn picture through the same
decoder), samples.npz (`arr_0` (count, H, W, 3) uint8 and `labels`, as `onevision eval generation` reads),
pictures/CLASS/ with the same samples, loss.png, figures.json, transformer/. Does the encoder see the class
that was asked for?

    onevision eval zeroshot smoke/generated/pictures --model runs/unified_drawn/model --templates name
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler
from diffusers.models.embeddings import LabelEmbedding
from diffusers.training_utils import EMAModel
from PIL import Image

from onevision_hf.eval.unified.models import OpenedModel, open_model
from onevision_hf.eval.unified.tokens import TokenShards
from onevision_hf.jobs.devices import pick_device
from onevision_hf.training.curves import draw_curves

EPS = 1e-5  # RAE's, under the root
NOISE_STEPS = 1000  # what diffusers counts a noise level of 1 as
SHOWN = 10  # samples of a class in the grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", help="a folder of `onevision export-tokens`")
    parser.add_argument("--model", required=True, help="the model whose tokens they are; its decoder draws")
    parser.add_argument("--out", type=Path, default=Path("out/generated"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--width", type=int, default=384, help="of the transformer (%(default)s)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8, help="of each class (%(default)s)")
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=1.5, help="1 is none (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ... (cuda when there is one)")
    args = parser.parse_args()
    device = pick_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    shards = TokenShards(args.tokens)
    opened = open_model(args.model, device=str(device), size=shards.settings["size"])
    torch.manual_seed(args.seed)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")

    mean, deviation = shards.mean.to(device), (shards.var + EPS).sqrt().to(device)
    tokens = (shards.latents.to(device).float() - mean) / deviation
    labels = shards.labels.to(device)
    classes = shards.classes or ["all"]
    width, grid = tokens.shape[1], tuple(tokens.shape[2:])
    if grid[0] != grid[1]:
        raise SystemExit(f"tokens on a grid of {grid}: diffusers' DiT reads square ones")
    shift = max(1.0, (tokens[0].numel() / 4096) ** 0.5)
    model = make_transformer(width, grid[0], len(classes), args.width, args.layers).to(device)
    size = sum(p.numel() for p in model.parameters())
    print(f"{len(tokens)} rows of {width} x {grid[0]} x {grid[1]}, {len(classes)} classes; {size} parameters")
    if args.width < width:
        print(f"width {args.width} is below the token's {width}: the noise cannot be taken off fully")

    began = time.perf_counter()
    curve = fit(model, tokens, labels, len(classes), shift, args)
    seconds = time.perf_counter() - began
    model.save_pretrained(args.out / "transformer")

    asked = torch.arange(len(classes), device=device).repeat_interleave(args.samples)
    found = sample(model, asked, (width, *grid), len(classes), shift, args)
    pictures = decode(opened, found * deviation + mean)
    np.savez_compressed(args.out / "samples.npz", arr_0=pictures, labels=asked.cpu().numpy())
    examples = [int((labels == number).nonzero()[0]) for number in range(len(classes))]
    real = decode(opened, tokens[examples] * deviation + mean)
    save_grid(real, pictures, args.samples, args.out / "samples.png")
    for number, picture in enumerate(pictures):
        folder = args.out / "pictures" / classes[number // args.samples]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number % args.samples:04d}.png")
    draw_curves([("loss", {"loss": curve})], args.out / "loss.png")
    figures = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "rows": len(tokens),
        "shape": [width, *grid],
        "classes": classes,
        "parameters": size,
        "shift": shift,
        "first_loss": curve[0][1],
        "last_loss": curve[-1][1],
        "rms_of_samples": found.square().mean().sqrt().item(),
        "nearest_training_row": nearest(found, tokens),
        "seconds_of_training": seconds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{args.out / 'samples.png'}: loss {curve[0][1]:.4f} -> {curve[-1][1]:.4f} in {seconds:.0f} s")


def make_transformer(
    channels: int, side: int, classes: int, width: int, layers: int
) -> DiTTransformer2DModel:
    model = DiTTransformer2DModel(
        num_attention_heads=max(1, width // 64),
        attention_head_dim=min(64, width),
        in_channels=channels,
        num_layers=layers,
        sample_size=side,
        patch_size=1,
        num_embeds_ada_norm=classes,
    )
    for module in model.modules():
        if isinstance(module, LabelEmbedding):
            # Each block would hide labels by itself, so that hardly a row had none: `fit` hides them for all.
            module.dropout_prob = 0.0
    for block in (
        model.transformer_blocks
    ):  # a block begins as the identity, and the output as zero (DiT, section 3.2)
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
    for layer in (model.proj_out_1, model.proj_out_2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return model


def fit(model, tokens, labels, classes: int, shift: float, args) -> list[tuple[float, float]]:
    """Train; gives (step, loss), the mean over the steps since the last point. `model` gets the averaged
    weights.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0)
    warmup = max(1, min(200, args.steps // 10))
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 1 - 0.9 * step / args.steps)
    )
    average = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True)
    average.to(tokens.device)
    every, sums, curve = max(1, args.steps // 60), torch.zeros((), device=tokens.device), []
    for step in range(1, args.steps + 1):
        rows = torch.randint(len(tokens), (args.batch,), device=tokens.device)
        clean = tokens[rows]
        level = torch.sigmoid(torch.randn(len(rows), device=tokens.device))
        level = shift * level / (1 + (shift - 1) * level)
        noise = torch.randn_like(clean)
        mixed = torch.lerp(clean, noise, level[:, None, None, None])
        hidden = torch.rand(len(rows), device=tokens.device) < 0.1
        asked = torch.where(hidden, classes, labels[rows])
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.device.type == "cuda"):
            velocity = model(mixed, timestep=NOISE_STEPS * level, class_labels=asked).sample
        loss = (velocity.float() - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        falling.step()
        average.step(model.parameters())
        sums += loss.detach()
        if step % every == 0:
            curve.append((step, sums.item() / every))
            sums.zero_()
            if len(curve) % 10 == 0:
                print(f"step {step}  loss {curve[-1][1]:.4f}", flush=True)
    average.copy_to(model.parameters())
    return curve


@torch.no_grad()
def sample(model, asked, shape: tuple[int, ...], classes: int, shift: float, args) -> torch.Tensor:
    """Scaled tokens (len(asked), *shape) of the classes `asked`."""
    model.eval()
    scheduler = FlowMatchEulerDiscreteScheduler(NOISE_STEPS, shift=shift)
    scheduler.set_timesteps(args.sampling_steps, device=asked.device)
    generator = torch.Generator("cpu").manual_seed(args.seed)  # the same noise on any device
    found = torch.randn(len(asked), *shape, generator=generator).to(asked.device)
    for time_ in scheduler.timesteps:
        at = time_.expand(len(asked))
        velocity = model(found, timestep=at, class_labels=asked).sample
        if args.guidance != 1:
            free = model(found, timestep=at, class_labels=torch.full_like(asked, classes)).sample
            velocity = free + args.guidance * (velocity - free)
        found = scheduler.step(velocity, time_, found).prev_sample
    return found


@torch.no_grad()
def decode(opened: OpenedModel, grids: torch.Tensor, batch: int = 64) -> np.ndarray:
    """Tokens (B, D, gh, gw) -> pictures (B, H, W, 3) uint8."""
    rows = []
    for part in grids.split(batch):
        images = opened.model.decode(part.flatten(2).transpose(1, 2), tuple(part.shape[2:]))
        rows.append(((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu())
    return torch.cat(rows).numpy()


def nearest(found: torch.Tensor, tokens: torch.Tensor) -> dict[str, float]:
    """RMS difference from the nearest training row: of the samples, and of training rows among themselves. A
    sample that is much nearer than they are is a copy.
    """
    flat = tokens.flatten(1)

    def least(rows: torch.Tensor, place: int) -> float:
        apart = torch.cdist(rows.flatten(1), flat) / flat.shape[1] ** 0.5
        return apart.topk(place, dim=1, largest=False).values[:, -1].mean().item()

    return {"samples": least(found[:256], 1), "training_rows": least(tokens[:256], 2)}


def save_grid(real: np.ndarray, pictures: np.ndarray, samples: int, path: Path, zoom: int = 2) -> None:
    """A row for each class: a drawn picture through the decoder, a gap, its samples."""
    rows = []
    for number, example in enumerate(real):
        own = pictures[number * samples : (number + 1) * samples][:SHOWN]
        gap = np.full((example.shape[0], 8, 3), 255, np.uint8)
        rows.append(np.concatenate([example, gap, *own], axis=1))
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
