"""`onevision synth clips|images|questions --out DIR --count N`: draw media whose truth is known.

onevision synth clips --out drawn --count 2000 --seed 0 --family direction --preview
onevision synth images --out pictures --count 500 --split train
onevision synth questions --out asked --count 300 --codec hevc --bframes 2

The same command goes on where an interrupted one stopped. A manifest.parquet is written last.
"""

import argparse
import json
import time
from pathlib import Path

from huggingface_hub.utils import tqdm

from onevision_hf.synthetic.clips import ClipSettings
from onevision_hf.synthetic.encoding import CODECS, EncodingSettings
from onevision_hf.synthetic.families import BACKGROUNDS, CLIP_FAMILIES, IMAGE_FAMILIES
from onevision_hf.synthetic.folder import Job, produce
from onevision_hf.synthetic.images import ImageSettings
from onevision_hf.synthetic.preview import save_preview


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="clips|images|questions", required=True)
    for kind, about in (
        ("clips", "moving scenes with boxes, masks and velocity"),
        ("images", "images with captions and words"),
        ("questions", "clips with multiple-choice questions and their answers"),
    ):
        _configure_kind(kinds.add_parser(kind, help=about, description=about), kind)


def _configure_kind(parser: argparse.ArgumentParser, kind: str) -> None:
    families = IMAGE_FAMILIES if kind == "images" else CLIP_FAMILIES
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder; made if needed")
    parser.add_argument("--count", type=int, required=True, metavar="N", help=f"how many {kind}")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another world (default: 0)")
    parser.add_argument(
        "--family",
        metavar="NAME",
        help=f"ask one question of all, with a folder for each answer: {', '.join(families)}",
    )
    parser.add_argument("--size", type=int, help="pixels a side (default: 128 for images, 64 for clips)")
    if kind == "images":
        parser.add_argument(
            "--split",
            default="all",
            help="`train` or `held-out`: draw objects of one part only (default: all)",
        )
    else:
        parser.add_argument("--num-frames", type=int, default=64, help="frames of a clip (default: 64)")
        parser.add_argument("--background", metavar="NAME", help=f"always this: {', '.join(BACKGROUNDS)}")
        parser.add_argument(
            "--sweeps", type=int, default=1, help="how often a pan or zoom goes its way (default: 1)"
        )
        parser.add_argument("--codec", default="h264", help=f"{', '.join(CODECS)} (default: h264)")
        parser.add_argument("--gop", type=int, default=32, help="frames between keyframes (default: 32)")
        parser.add_argument(
            "--bframes", type=int, default=0, help="B-pictures between references (default: 0)"
        )
        parser.add_argument("--quality", type=int, help="the codec's own scale, 1 is best")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--preview", action="store_true", help="a contact sheet too: DIR/preview.png")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(args: argparse.Namespace) -> None:
    job = _job(args)
    start = time.perf_counter()
    report = produce(
        job,
        args.out,
        args.count,
        workers=args.workers,
        progress=lambda media, total: tqdm(
            media, "synth", total, leave=False, unit="file", disable=args.json or None
        ),
    )
    report["seconds"] = round(time.perf_counter() - start, 3)
    report["preview"] = str(save_preview(job, args.out, args.count)) if args.preview else None
    if args.json:
        print(json.dumps(report, indent=2))
        return
    kept = f", {report['kept']:,} were there" if report["kept"] else ""
    made = f"{report['made']:,} files made in {report['seconds']:.1f} s"
    print(f"{args.out}: {report['items']:,} {args.kind}, {made}{kept}")
    if report["preview"]:
        print(report["preview"])


def _job(args: argparse.Namespace) -> Job:
    if args.kind == "images":
        side = 128 if args.size is None else args.size
        return Job("images", args.seed, args.family, image=ImageSettings(side, side, args.split))
    side = 64 if args.size is None else args.size
    return Job(
        args.kind,
        args.seed,
        args.family,
        clip=ClipSettings(args.num_frames, side, side, args.background, args.sweeps),
        encoding=EncodingSettings(args.codec, args.gop, args.bframes, args.quality),
    )
