"""Do understanding and generation help one another? The directions of arXiv 2601.15369, section 5.1, small.

    make ablation-unified                     # minutes on one core; out/ablation/curves.png
    python benchmarks/unified_ablation.py --steps 200 --images 64
    python benchmarks/unified_ablation.py --source smoke/drawn --vae smoke/vae --size 64      # what is there

Three trainings from the same weights on the same batches of drawn images of 32 pixels. `semantic`: the
decoder is a probe on tokens that lead no gradient back (`detach_reconstruction`). `generative`: the text
heads are (`detach_understanding`). `joint`: nothing is. Losses are of images that were not trained on,
without noise. At this size they check the machinery and the directions; they are no evidence for the
paper's claims. Beside the picture stands figures.json with the curves and what was compared.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from train_vae import fit, make_vae, measure, read

from onevision_hf import OpenVision3Config, UnifiedForPreTraining, UnifiedPreTrainingConfig
from onevision_hf.data.captions import open_pairs
from onevision_hf.pretraining.tokenizer import CaptionTokenizer, load_tokenizer
from onevision_hf.synthetic.images import ImageSettings, draw_image
from onevision_hf.training.curves import draw_curves

ARMS = {
    "joint": {},
    "semantic": {"detach_reconstruction": True},
    "generative": {"detach_understanding": True},
}
LOSSES = ("pixel", "latent", "caption", "contrastive")
HELD = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024, help="drawn to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--every", type=int, default=50, help="steps between two points of a curve")
    parser.add_argument("--size", type=int, default=32, help="pixels a side (%(default)s)")
    parser.add_argument("--source", help="a folder of `onevision synth images` instead of drawing now")
    parser.add_argument("--vae", help="a trained one, instead of training one first")
    parser.add_argument("--width", type=int, default=64, help="of every tower (%(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="of every tower (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, captions = images_and_captions(args)
    tokenizer = CaptionTokenizer(load_tokenizer(), 48)
    texts = tokenizer(captions)
    pictures = pictures.to(args.device)
    texts = {name: rows.to(args.device) for name, rows in texts.items()}
    torch.manual_seed(0)
    if args.vae is not None:
        vae = AutoencoderKL.from_pretrained(args.vae).to(args.device)
    else:
        vae = make_vae().to(args.device)
        fit(vae, pictures[HELD:], 2 * args.steps)
    decibel, deviation = measure(vae, pictures[:HELD])
    print(f"VAE: {decibel:.2f} dB on the images held out here; deviation of the latents {deviation:.3f}")

    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, flags in ARMS.items():
        curves[name] = train(args, vae, 1 / deviation, pictures, texts, flags)
        last = "  ".join(f"{loss} {curves[name][loss][-1][1]:.4f}" for loss in (*LOSSES, "token RMS"))
        print(f"{name:<11}{last}", flush=True)
    panels = [
        (loss, {name: found[loss] for name, found in curves.items()}) for loss in (*LOSSES, "token RMS")
    ]
    draw_curves(panels, args.out / "curves.png")
    compared = compare(curves)
    for claim, without, beside in compared:
        print(f"{'yes' if beside <= without else 'no ':<4}{claim}: {without:.4f} -> {beside:.4f}")
    figures = {
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "vae_psnr": decibel,
        "curves": curves,
        "compared": [
            {"claim": claim, "holds": beside <= without, "from": without, "to": beside}
            for claim, without, beside in compared
        ],
    }
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(args.out / "curves.png")


def images_and_captions(args) -> tuple[torch.Tensor, list[str]]:
    """(images + HELD, 3, size, size) uint8, and of each the caption of middle length."""
    count = args.images + HELD
    if args.source is None:
        settings = ImageSettings(args.size, args.size)
        images = [draw_image(0, index, settings=settings) for index in range(count)]
        pictures = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2)
        return pictures.contiguous(), [image.captions[1] for image in images]
    rows = open_pairs(args.source)
    if len(rows) < count:
        raise SystemExit(f"{args.source} holds {len(rows)} images, --images {args.images} needs {count}")
    found = [rows[index] for index in range(count)]
    return read([row.media for row in found], args.size), [row.captions[1] for row in found]


def train(args, vae, scaling, pictures, texts, flags):
    """Loss -> [(step, value on the held-out images)]."""
    torch.manual_seed(1)
    tower = {
        "hidden_size": args.width,
        "intermediate_size": 4 * args.width,
        "num_hidden_layers": args.layers,
        "num_attention_heads": 4,
    }
    config = UnifiedPreTrainingConfig(
        OpenVision3Config.tiny(**tower, projection_dim=64, latent_scaling=scaling),
        decoder_config=tower,
        text_config=tower | {"max_positions": 48},
        caption_config=tower | {"max_positions": 48},
        vocab_size=len(load_tokenizer()),
        **flags,
    )
    model = UnifiedForPreTraining(config).to(args.device)
    model.set_vae(vae)
    kind = torch.device(args.device).type
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
            rows = HELD + torch.randint(len(pictures) - HELD, (args.batch,))
            optimizer.zero_grad()
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                loss = model.train()(**batch(rows.to(args.device))).loss
            loss.backward()
            optimizer.step()
            falling.step()
    return found


def compare(curves) -> list[tuple[str, float, float]]:
    """The directions of section 5.1, each with the two numbers that it compares."""

    def last(arm, loss):
        return curves[arm][loss][-1][1]

    def first(arm, loss):
        return curves[arm][loss][0][1]

    return [
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


if __name__ == "__main__":
    main()
