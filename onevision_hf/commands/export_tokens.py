"""`onevision export-tokens SRC DST --model M`: the tokens of a unified model, for trainers of generators."""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a folder, parquet, webdataset tars, or hf:NAME:SPLIT")
    parser.add_argument("out", metavar="DST", help="folder of the shards and of their mean and variance")
    parser.add_argument("--model", required=True, help="a model of unified pre-training, folder or Hub id")
    parser.add_argument("--vae", help="a diffusers AutoencoderKL (folder or Hub id) instead of the config's")
    parser.add_argument("--size", type=int, help="side in pixels (default: the saved processor's)")
    parser.add_argument("--media-column", help="the column of pictures in parquet or a dataset")
    parser.add_argument(
        "--no-mirror", action="store_true", help="leave out latents_flip, of the mirrored pictures"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="of what is stored (%(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pictures encoded at once (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode (%(default)s)")
    parser.add_argument("--shard-items", type=int, default=1024, help="pictures of a shard (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (cuda when there is one)")
    parser.add_argument("--redo", action="store_true", help="empty a folder that was made otherwise")
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON")


def run(args: argparse.Namespace) -> None:
    for name in ("batch_size", "workers", "shard_items"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(args, name)}")
    from onevision_hf.data.sources import open_source
    from onevision_hf.eval.unified.models import open_model
    from onevision_hf.eval.unified.tokens import export_tokens

    source = open_source(args.source, media_column=args.media_column)
    opened = open_model(args.model, device=args.device, vae=args.vae, size=args.size)
    summary = export_tokens(
        source,
        args.out,
        opened,
        mirror=not args.no_mirror,
        dtype=args.dtype,
        batch_size=args.batch_size,
        workers=args.workers,
        shard_items=args.shard_items,
        redo=args.redo,
    )
    if args.json:
        print(json.dumps(summary))
        return
    shape = " x ".join(map(str, summary["shape"]))
    classes = f"{summary['classes']} classes" if summary["classes"] else "no folders of classes: labels are 0"
    print(f"{args.out}: {summary['items']} pictures, {shape} {args.dtype}, {summary['shards']} shards")
    print(classes)
    print("mean and variance: stat.pt (of each number), latents_stats.pt (of each channel)")
    if summary["rejected"]:
        print(f"{summary['rejected']} could not be used: {args.out}/rejected.jsonl")
