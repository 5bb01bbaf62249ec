"""Do understanding and generation help one another? The directions of arXiv 2601.15369, section 5.1, small.

    make ablation-unified                     # minutes on one core; out/ablation/curves.png
    python benchmarks/unified_ablation.py --steps 200 --images 64

Three trainings from the same weights on the same batches of drawn images of 32 pixels. `semantic`: the
decoder is a probe on tokens that lead no gradient back (`detach_reconstruction`). `generative`: the text
heads are (`detach_understanding`). `joint`: nothing is. Losses are of images that were not trained on,
without noise. At this size they check the machinery and the directions; they are no evidence for the
paper's claims.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from train_vae import fit, make_vae, measure

from onevision_hf import OpenVision3Config, UnifiedForPreTraining, UnifiedPreTrainingConfig
from onevision_hf.commands.plot import draw
from onevision_hf.pretraining.tokenizer import CaptionTokenizer, load_tokenizer
from onevision_hf.synthetic.images import ImageSettings, draw_image

ARMS = {
    "joint": {},
    "semantic": {"detach_reconstruction": True},
    "generative": {"detach_understanding": True},
}
LOSSES = ("pixel", "latent", "caption", "contrastive")
TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
SIDE, HELD = 32, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024, help="drawn to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--every", type=int, default=50, help="steps between two points of a curve")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    settings = ImageSettings(SIDE, SIDE)
    images = [draw_image(0, index, settings=settings) for index in range(args.images + HELD)]
    pictures = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2).contiguous()
    tokenizer = CaptionTokenizer(load_tokenizer(), 48)
    texts = tokenizer([image.captions[1] for image in images])
    torch.manual_seed(0)
    vae = make_vae()
    fit(vae, pictures[HELD:], 2 * args.steps)
    decibel, deviation = measure(vae, pictures[:HELD])
    print(f"VAE: {decibel:.2f} dB on images it was not trained on; deviation of the latents {deviation:.3f}")

    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, flags in ARMS.items():
        curves[name] = train(args, vae, 1 / deviation, pictures, texts, flags)
        last = "  ".join(f"{loss} {curves[name][loss][-1][1]:.4f}" for loss in (*LOSSES, "token RMS"))
        print(f"{name:<11}{last}", flush=True)
    panels = [
        (loss, {name: found[loss] for name, found in curves.items()}) for loss in (*LOSSES, "token RMS")
    ]
    draw(panels).save(args.out / "curves.png")
    say(curves)
    print(args.out / "curves.png")


def train(args, vae, scaling, pictures, texts, flags):
    """Loss -> [(step, value on the held-out images)]."""
    torch.manual_seed(1)
    config = UnifiedPreTrainingConfig(
        OpenVision3Config.tiny(**TOWER, projection_dim=64, latent_scaling=scaling),
        decoder_config=TOWER,
        text_config=TOWER | {"max_positions": 48},
        caption_config=TOWER | {"max_positions": 48},
        vocab_size=len(load_tokenizer()),
        **flags,
    )
    model = UnifiedForPreTraining(config)
    model.set_vae(vae)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=args.steps, pct_start=0.1)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*LOSSES, "token RMS")}

    def batch(rows):
        return {
            "pixel_values": pictures[rows].float() / 127.5 - 1,
            "input_ids": texts["input_ids"][rows],
            "attention_mask": texts["attention_mask"][rows],
        }

    for step in range(args.steps + 1):
        if step % args.every == 0 or step == args.steps:
            with torch.no_grad():
                output = model.eval()(**batch(torch.arange(HELD)))
            for name in LOSSES:
                found[name].append((step, output.losses[name].item()))
            found["token RMS"].append((step, output.metrics["token_rms"].item()))
        if step < args.steps:
            optimizer.zero_grad()
            model.train()(**batch(HELD + torch.randint(len(pictures) - HELD, (args.batch,)))).loss.backward()
            optimizer.step()
            falling.step()
    return found


def say(curves) -> None:
    """The four directions of section 5.1, each with the two numbers that it compares."""

    def last(arm, loss):
        return curves[arm][loss][-1][1]

    def first(arm, loss):
        return curves[arm][loss][0][1]

    compared = [
        (
            "semantic training alone lowers the latent loss of a probe",
            first("semantic", "latent"),
            last("semantic", "latent"),
        ),
        (
            "semantic training alone lowers its pixel loss",
            first("semantic", "pixel"),
            last("semantic", "pixel"),
        ),
        (
            "generative training alone lowers the caption loss of a probe",
            first("generative", "caption"),
            last("generative", "caption"),
        ),
        (
            "contrast needs the semantic gradient",
            last("generative", "contrastive"),
            last("joint", "contrastive"),
        ),
        (
            "adding the semantic loss lowers the pixel loss",
            last("generative", "pixel"),
            last("joint", "pixel"),
        ),
        (
            "adding reconstruction does not harm captions (5 %)",
            1.05 * last("semantic", "caption"),
            last("joint", "caption"),
        ),
        (
            "adding reconstruction does not harm contrast (5 %)",
            1.05 * last("semantic", "contrastive"),
            last("joint", "contrastive"),
        ),
    ]
    for claim, without, beside in compared:
        print(f"{'yes' if beside <= without else 'no ':<4}{claim}: {without:.4f} -> {beside:.4f}")


if __name__ == "__main__":
    main()
