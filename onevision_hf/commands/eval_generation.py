"""`onevision eval generation --samples DIR|npz --reference DIR|npz`: a set of generated pictures against
another.

onevision eval generation --samples samples.npz --reference VIRTUAL_imagenet256_labeled.npz
onevision eval generation --samples out/generated/samples.npz --reference drawn/ --size 64 --metrics gfid,is

gFID, Inception score, precision and recall. A reference .npz with `mu` and `sigma` is compared by those.
"""

import argparse

from .unified_options import add_common, add_inception, check_common, finish, metrics_of


def configure(parser: argparse.ArgumentParser) -> None:
    for name in ("samples", "reference"):
        parser.add_argument(
            f"--{name}",
            required=True,
            metavar="DIR|npz",
            help="pictures, or an .npz of uint8 (count, H, W, 3)",
        )
    parser.add_argument("--size", type=int, help="bring the middle square of every picture to so many pixels")
    parser.add_argument(
        "--metrics", default="gfid,is,precision,recall", help="of these, those to compute (%(default)s)"
    )
    add_inception(parser)
    add_common(parser, batch_size=64)


def run(args: argparse.Namespace) -> None:
    check_common(args)
    if args.size is not None and args.size < 1:
        raise ValueError(f"--size must be at least 1, found {args.size}")
    from ..eval.unified.backbones import load_inception
    from ..eval.unified.generation import METRICS, measure_generation
    from ..eval.unified.pictures import open_pictures
    from ..eval.unified.reconstruction import check_metrics
    from ..eval.unified.reference_tables import notes, published_json, published_lines
    from ..jobs.devices import pick_device
    from ..jobs.progress import progress

    metrics = check_metrics(metrics_of(args), METRICS)
    inception = load_inception(args.inception, metrics[0]).to(pick_device(args.device))
    samples, reference = (open_pictures(spec, args.limit) for spec in (args.samples, args.reference))
    with progress("looked at", len(samples) + len(reference), silent=args.json) as step:
        found = measure_generation(
            samples,
            reference,
            inception,
            metrics=metrics,
            size=args.size,
            batch_size=args.batch_size,
            workers=args.workers,
            step=step,
        )
    report = {
        "samples_from": args.samples,
        "reference_from": args.reference,
        **found,
        "published": published_json("generation"),
        "notes": list(notes("generation")),
    }
    figures = "  ".join(f"{name} {value:.4g}" for name, value in found["figures"].items())
    lines = [
        figures,
        f"{found['samples']} samples against {found['reference_statistics']} ({args.reference}); published "
        "figures are of 50,000 samples",
        *published_lines("generation"),
    ]
    finish(args, report, lines)
