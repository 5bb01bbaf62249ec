"""`onevision eval reconstruction --images DIR --model M`: how well a unified model rebuilds pictures.

onevision eval reconstruction --images val --model M --out out/rebuilt
onevision eval reconstruction --images val --model M --metrics psnr,ssim --limit 500 --json

PSNR, SSIM and LPIPS of each picture, rFID against these same pictures, for the model and for its VAE alone.
--out gets grid.png (originals, VAE, model), per_picture.jsonl and figures.json.
"""

import argparse

from .unified_options import add_common, add_inception, add_model, check_common, finish, metrics_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="a folder, parquet, tars, or hf:NAME:SPLIT"
    )
    add_model(parser)
    parser.add_argument(
        "--metrics", default="psnr,ssim,lpips,rfid", help="of these, those to compute (%(default)s)"
    )
    parser.add_argument("--lpips-net", choices=("alex", "vgg"), default="alex", help="(%(default)s)")
    parser.add_argument(
        "--lpips-weights", metavar="FILE", help="torchvision's (default: looked for in torch.hub's folder)"
    )
    add_inception(parser)
    parser.add_argument("--no-vae", action="store_true", help="do not measure the VAE alone beside the model")
    add_common(parser, batch_size=32)


def run(args: argparse.Namespace) -> None:
    check_common(args)
    from ..eval.unified.backbones import load_inception, load_lpips_metric
    from ..eval.unified.models import open_model
    from ..eval.unified.pictures import open_pictures
    from ..eval.unified.reconstruction import METRICS, check_metrics, grid_picture, measure_reconstruction
    from ..eval.unified.reference_tables import notes, published_json, published_lines
    from ..jobs.progress import progress
    from ..jobs.run_folder import json_lines, write_atomically

    metrics = check_metrics(metrics_of(args), METRICS)
    # What may be missing is looked for before anything is computed.
    lpips = load_lpips_metric(args.lpips_net, args.lpips_weights) if "lpips" in metrics else None
    inception = load_inception(args.inception) if "rfid" in metrics else None
    pictures = open_pictures(args.images, args.limit)
    opened = open_model(args.model, device=args.device, vae=args.vae, size=args.size)
    with progress("rebuilt", len(pictures), silent=args.json) as step:
        found = measure_reconstruction(
            pictures,
            opened,
            metrics=metrics,
            lpips=lpips,
            inception=inception,
            beside_vae=not args.no_vae,
            batch_size=args.batch_size,
            workers=args.workers,
            step=step,
        )
    report = {
        "model": args.model,
        "images": args.images,
        "pictures": found.pictures,
        "size": found.size,
        "figures": found.figures,
        "lpips_net": args.lpips_net if lpips is not None else None,
        "rfid_reference": "the measured pictures themselves" if inception is not None else None,
        "rejected": found.rejected,
        "published": published_json("reconstruction"),
        "notes": list(notes("reconstruction")),
    }
    lines = [f"{found.pictures} pictures of {found.size} x {found.size}"]
    for name, values in found.figures.items():
        lines.append(f"{name:<6} " + "  ".join(f"{metric} {value:.4g}" for metric, value in values.items()))
    if inception is not None:
        lines.append("rFID: against the measured pictures themselves, cropped alike")
    lines += published_lines("reconstruction")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        grid_picture(found.rows).save(args.out / "grid.png")
        write_atomically(args.out / "per_picture.jsonl", json_lines(found.per_picture))
        lines.append(str(args.out / "grid.png"))
    finish(args, report, lines)
