"""`onevision eval reconstruction --images DIR --model M`: how well a unified model rebuilds pictures.

onevision eval reconstruction --images val --model M --out out/rebuilt
onevision eval reconstruction --images val --model M --metrics psnr,ssim --limit 500 --json

PSNR, SSIM and LPIPS of each picture, rFID against these same pictures, for the model and for its VAE alone.
--out gets grid.png (originals, VAE, model), per_picture.jsonl and figures.json.
"""

from typing import Annotated, Literal

from typer import Option as Opt

from .options import BatchSize, Inception, Metrics, PictureRun, UnifiedModel, at_least_one, words
from .printing import print_figures


def run(
    images: Annotated[str, Opt(metavar="DIR", help="a folder, parquet, tars, or hf:NAME:SPLIT")],
    unified: UnifiedModel,
    how: PictureRun,
    metrics: Metrics = "psnr,ssim,lpips,rfid",
    lpips_net: Annotated[Literal["alex", "vgg"], Opt(help="the network of LPIPS")] = "alex",
    lpips_weights: Annotated[
        str | None, Opt(metavar="FILE", help="torchvision's (default: looked for in torch.hub's folder)")
    ] = None,
    inception: Inception = None,
    no_vae: Annotated[bool, Opt("--no-vae", help="do not measure the VAE alone too")] = False,
    batch_size: BatchSize = 32,
) -> None:
    at_least_one(limit=how.limit, batch_size=batch_size, workers=how.workers)
    from onevision_hf.eval.unified.backbones import load_inception, load_lpips_metric
    from onevision_hf.eval.unified.pictures import open_pictures
    from onevision_hf.eval.unified.reconstruction import (
        METRICS,
        check_metrics,
        grid_picture,
        measure_reconstruction,
    )
    from onevision_hf.eval.unified.reference_tables import notes, published_json, published_lines
    from onevision_hf.jobs.progress import progress
    from onevision_hf.jobs.run_folder import json_lines, write_atomically

    chosen = check_metrics(words(metrics), METRICS)
    # What may be missing is looked for before anything is computed.
    lpips = load_lpips_metric(lpips_net, lpips_weights) if "lpips" in chosen else None
    network = load_inception(inception) if "rfid" in chosen else None
    pictures = open_pictures(images, how.limit)
    opened = unified.open()
    with progress("rebuilt", len(pictures), silent=how.as_json) as step:
        found = measure_reconstruction(
            pictures,
            opened,
            metrics=chosen,
            lpips=lpips,
            inception=network,
            with_vae=not no_vae,
            batch_size=batch_size,
            workers=how.workers,
            step=step,
        )
    report = {
        "model": unified.model,
        "images": images,
        "pictures": found.pictures,
        "size": found.size,
        "figures": found.figures,
        "lpips_net": lpips_net if lpips is not None else None,
        "rfid_reference": "the measured pictures themselves" if network is not None else None,
        "rejected": found.rejected,
        "published": published_json("reconstruction"),
        "notes": list(notes("reconstruction")),
    }
    lines = [f"{found.pictures} pictures of {found.size} x {found.size}"]
    for name, values in found.figures.items():
        lines.append(f"{name:<6} " + "  ".join(f"{metric} {value:.4g}" for metric, value in values.items()))
    if network is not None:
        lines.append("rFID: against the measured pictures themselves, cropped alike")
    lines += published_lines("reconstruction")
    if how.out is not None:
        how.out.mkdir(parents=True, exist_ok=True)
        grid_picture(found.rows).save(how.out / "grid.png")
        write_atomically(how.out / "per_picture.jsonl", json_lines(found.per_picture))
        lines.append(str(how.out / "grid.png"))
    print_figures(report, lines, how.out, how.as_json)
