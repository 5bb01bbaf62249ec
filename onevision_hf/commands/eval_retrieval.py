"""`onevision eval retrieval SRC --model M`: the text of each picture, and the picture of each text: R@1, 5,
10.

onevision eval retrieval karpathy-test/ --model M
onevision eval retrieval drawn --model M --caption 0 --limit 1000 --json
"""

import argparse

from .unified_options import add_common, add_model, check_common, finish


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="pictures with captions: tars, parquet, hf:NAME:SPLIT, or drawn images"
    )
    add_model(parser)
    parser.add_argument("--image-column", default="", help="of parquet and datasets")
    parser.add_argument("--caption-column", action="append", default=[], help="likewise; may be repeated")
    parser.add_argument(
        "--caption",
        type=int,
        metavar="N",
        help="of each picture's captions take number N, from 0 (default: all)",
    )
    add_common(parser, batch_size=64)


def run(args: argparse.Namespace) -> None:
    check_common(args)
    if args.caption is not None and args.caption < 0:
        raise ValueError(f"--caption counts from 0, found {args.caption}")
    from ..data.captions import open_pairs
    from ..eval.unified.models import open_model
    from ..eval.unified.retrieval import AT, measure_retrieval
    from ..jobs.progress import progress

    pairs = open_pairs(args.source, args.image_column, args.caption_column)
    opened = open_model(args.model, device=args.device, vae=args.vae, size=args.size)
    with progress("encoded", min(len(pairs), args.limit or len(pairs)), silent=args.json) as step:
        found = measure_retrieval(
            pairs,
            opened,
            name=args.source,
            caption=args.caption,
            limit=args.limit,
            batch_size=args.batch_size,
            workers=args.workers,
            step=step,
        )
    lines = [f"{found['pictures']} pictures, {found['texts']} different texts"]
    for way in ("image_to_text", "text_to_image"):
        figures = "  ".join(
            f"R@{k} {found[way][f'R@{k}']:.1%} (chance {found['by_chance'][way][f'R@{k}']:.1%})" for k in AT
        )
        lines.append(f"{way.replace('_', ' ')}: {figures}")
    if found["texts_cut"]:
        lines.append(f"{found['texts_cut']} texts were longer than the text encoder reads, and were cut")
    finish(args, {"model": args.model, "source": args.source, **found}, lines)
