"""What a model of `unified_smoke` or `unified_drawn` has learned, on drawn images that it never saw.

    python benchmarks/unified_drawn.py runs/unified_smoke/model --out out/drawn
    python benchmarks/unified_drawn.py runs/unified_drawn/model --size 64 --device cuda

Reconstruction: PSNR beside the VAE's own, and a grid (originals, the VAE, the model). Zero-shot: which object
is large, by the nearest of texts, for the 12 objects that were drawn for training (in images of another seed)
and the 4 that were not; among those alone, and among all 16. Captions: of the first eight images of either
kind, beside the truth. All of it is in figures.json too.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from onevision_hf import UnifiedForPreTraining
from onevision_hf.pretraining.tokenizer import CaptionTokenizer, load_tokenizer
from onevision_hf.synthetic.families import OBJECTS, TEXTURES
from onevision_hf.synthetic.images import ImageSettings, draw_image

SEED = 1  # the training's is 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("out/drawn"))
    parser.add_argument("--images", type=int, default=400, help="of each split")
    parser.add_argument("--size", type=int, default=32, help="pixels a side that the model sees")
    parser.add_argument(
        "--drawn", type=int, default=64, help="pixels a side that are drawn, as in its training"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = UnifiedForPreTraining.from_pretrained(args.model).eval().to(args.device)
    tokenizer = CaptionTokenizer(load_tokenizer(args.model), model.config.text_config.max_positions)
    texts = class_features(model, tokenizer)
    figures = {}
    for split in ("train", "held-out"):
        settings = ImageSettings(args.drawn, args.drawn, split)
        drawn = [draw_image(SEED, index, settings=settings) for index in range(args.images)]
        pictures = [
            Image.fromarray(image.pixels).resize((args.size,) * 2, Image.Resampling.BICUBIC)
            for image in drawn
        ]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
        pixels = pixels / 127.5 - 1
        rebuilt, by_vae, features = [], [], []
        with torch.no_grad():
            for part in pixels.split(50):
                latents = model.encode_pixels(part.to(args.device))
                rebuilt.append(model.reconstruct(latents=latents).cpu())
                by_vae.append(model.decode_latents(latents).clamp(-1, 1).cpu())
                features.append(model.get_image_features(latents=latents).cpu())
        decibel, ceiling = psnr(torch.cat(rebuilt), pixels), psnr(torch.cat(by_vae), pixels)
        print(f"{split}: PSNR {decibel:.2f} dB, the VAE's own {ceiling:.2f} dB")
        labels = torch.tensor([OBJECTS.index(image.labels["object"]) for image in drawn])
        cosine = F.normalize(torch.cat(features), dim=-1) @ texts.T
        ours = torch.tensor([OBJECTS.index(name) for name in settings.objects])
        among = (ours[cosine[:, ours].argmax(1)] == labels).float().mean()
        all_of_them = (cosine.argmax(1) == labels).float().mean()
        print(
            f"{split}: zero-shot {among:.1%} among its {len(ours)} objects (chance {1 / len(ours):.1%}), "
            f"{all_of_them:.1%} among all {len(OBJECTS)} (chance {1 / len(OBJECTS):.1%})"
        )
        name = split.replace("-", "_")
        grid([pixels, torch.cat(by_vae), torch.cat(rebuilt)], args.out / f"reconstruction_{name}.png")
        written = model.generate_caption(pixels[:8].to(args.device), tokenizer=tokenizer.tokenizer)
        for image, said in zip(drawn[:8], written, strict=True):
            print(f"  {said!r} for {image.captions[0]!r}")
        figures[split] = {
            "images": len(drawn),
            "psnr": decibel,
            "psnr_of_the_vae": ceiling,
            "zero_shot_among_its_own": among.item(),
            "own_objects": len(ours),
            "zero_shot_among_all": all_of_them.item(),
            "all_objects": len(OBJECTS),
            "captions": [
                {"written": said, "true": image.captions} for image, said in zip(drawn, written, strict=False)
            ],
        }
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


@torch.no_grad()
def class_features(model: UnifiedForPreTraining, tokenizer: CaptionTokenizer) -> torch.Tensor:
    """(16, E): each object's mean over the texts that name it."""
    rows = []
    for name in OBJECTS:
        colour, shape = name.split("-")
        prompts = [f"{colour} {shape}", *(f"a {texture} {colour} {shape}" for texture in TEXTURES)]
        given = {key: value.to(model.device) for key, value in tokenizer(prompts).items()}
        rows.append(F.normalize(model.get_text_features(**given), dim=-1).mean(0))
    return F.normalize(torch.stack(rows), dim=-1).cpu()


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean over the images; values are in [-1, 1]."""
    return (10 * (4 / (found - expected).square().mean((1, 2, 3))).log10()).mean().item()


def grid(rows: list[torch.Tensor], path: Path, count: int = 10, zoom: int = 4) -> None:
    """One row for each of several versions of the same images."""
    picture = torch.cat([torch.cat(list(row[:count]), dim=2) for row in rows], dim=1)
    values = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(values)
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)
    print(path)


if __name__ == "__main__":
    main()
