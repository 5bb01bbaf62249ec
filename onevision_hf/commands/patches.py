"""`onevision patches SRC DST`: codec patchification of a corpus into shards that a training reads.

onevision patches clips/ out/patches --workers 8
onevision patches out/shards/video out/patches --num-patches 1024
onevision patches clips/ out/patches --engine ray --ray-address 10.0.0.1:6379 --workers 200
"""

import argparse
import json
import os
from pathlib import Path

from .report import readable_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a folder, parquet, webdataset tars, hf:NAME:SPLIT, or a folder of `cluster pack`",
    )
    parser.add_argument(
        "out", metavar="DST", type=Path, help="folder of the shards; goes on where it stopped"
    )
    parser.add_argument("--num-frames", type=int, default=64, help="frames sampled of a clip (%(default)s)")
    parser.add_argument("--num-patches", type=int, help="patches kept of a clip (2048)")
    parser.add_argument("--keep-ratio", type=float, help="share of the patches kept instead")
    parser.add_argument("--size", type=int, default=224, help="shorter side in pixels (%(default)s)")
    parser.add_argument("--patch-size", type=int, default=14, help="pixels (%(default)s)")
    parser.add_argument(
        "--preset", choices=("auto", "published", "bits"), default="auto", help="what counts (%(default)s)"
    )
    parser.add_argument(
        "--camera",
        choices=("none", "median", "similarity", "affine"),
        help="what is taken off the vectors (the preset's)",
    )
    parser.add_argument(
        "--whole-frame", action="store_true", help="not the middle square, which training takes"
    )
    parser.add_argument("--shard-items", type=int, default=256, help="clips a shard (%(default)s)")
    parser.add_argument("--media-column", help="the column of parquet or of a dataset that holds the media")
    add_engine(parser)
    add_errors(parser)
    parser.add_argument("--redo", action="store_true", help="empty a folder that was made otherwise")
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON")


def add_errors(parser: argparse.ArgumentParser) -> None:
    """What becomes of media that cannot be read whole."""
    parser.add_argument(
        "--errors",
        choices=("skip", "partial"),
        default="skip",
        help="leave out what cannot be read whole, or use what is there of truncated videos (%(default)s)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options that say where the work is done; they change nothing in the result."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or Ray (%(default)s)",
    )
    parser.add_argument(
        "--ray-address", metavar="HOST:PORT", help="of a Ray cluster; without it one is started here"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes or actors (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    from onevision_hf.data.patch_extraction import extract_patches
    from onevision_hf.modeling.patch_selection import check_budget
    from onevision_hf.modeling.patchify_config import PatchifyConfig

    check_budget(args.num_patches, args.keep_ratio)
    neither = args.num_patches is None and args.keep_ratio is None
    config = PatchifyConfig.from_dict(
        {
            "num_frames": args.num_frames,
            "size": args.size,
            "patch_size": args.patch_size,
            "num_patches": 2048 if neither else args.num_patches,
            "keep_ratio": args.keep_ratio,
            "preset": args.preset,
            "camera": args.camera,
            "do_center_crop": not args.whole_frame,
        }
    )
    summary = extract_patches(
        args.source,
        args.out,
        config,
        shard_items=args.shard_items,
        media_column=args.media_column,
        engine=args.engine,
        workers=args.workers,
        address=args.ray_address,
        redo=args.redo,
        errors=args.errors,
    )
    if args.json:
        print(json.dumps(summary))
        return
    print(
        f"{args.out}: {summary['items']} clips in {summary['shards']} shards, "
        f"{summary['patches']:,} patches, {readable_bytes(summary['pixel_bytes'])} of pixels"
    )
    if summary.get("partial"):
        print(f"{summary['partial']} clips are truncated, and used in part: {args.out / 'partial.jsonl'}")
    if summary["rejected"]:
        print(f"{summary['rejected']} clips could not be used: {args.out / 'rejected.jsonl'}")
