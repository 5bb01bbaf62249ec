"""`onevision eval suite`: the 16 benchmarks of the paper through lmms-eval, and a report beside its columns.

    onevision eval suite --model runs/vl/model --num-patches 2048 --root data --out runs/suite
    onevision eval suite --model runs/vl/model --tasks videomme,docvqa_val --limit 50
    python -m torch.distributed.run --nproc_per_node 8 -m onevision_hf.cli eval suite --model ...

A run that was stopped goes on when it is started again: answers that are in OUT/answers are not asked for
again.
"""

import argparse
import json
import sys
from pathlib import Path

from .suite_options import add_run_options, model_arguments, positive


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser, tasks="all16")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="of report and answers (default: runs/suite-MODEL)"
    )
    parser.add_argument(
        "--sampling", choices=("codec", "frames", "dense"), default="codec", help="default: codec"
    )
    parser.add_argument("--num-frames", type=positive, metavar="N", help="default: 64; 8 of frames")
    parser.add_argument("--num-patches", type=positive, metavar="N", help="budget of a video (codec)")
    parser.add_argument("--keep-ratio", type=float, metavar="R", help="or the budget as a share (codec)")
    parser.add_argument("--preset", metavar="NAME", help="which signals of the codec count")
    parser.add_argument(
        "--max-pixels", type=positive, metavar="N", help="larger images and frames are made smaller"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")


def run(args: argparse.Namespace) -> int:
    from ..eval.lmms.run import SuiteJob, run_suite
    from ..eval.lmms.suite import select

    chosen = ("sampling", "num_frames", "num_patches", "keep_ratio", "preset", "max_pixels")
    arguments = model_arguments(args) | {
        name: getattr(args, name) for name in chosen if getattr(args, name) is not None
    }
    out = args.out or Path("runs") / f"suite-{Path(args.model).name}"
    report = run_suite(SuiteJob(select(args.tasks), out, arguments, args.limit, args.root))
    if report is None:
        return 0
    if args.json:
        print(json.dumps(report.as_json()))
        return 0
    for row in report.rows:
        figure = "-" if row.figure is None else f"{row.figure:.1f}"
        print(f"{row.name:28} {figure:>6}  {row.documents} questions")
    for item in report.broken:
        print(
            f"broken media, {item.counted}: {item.task} {item.doc_id}: {item.media} {item.reason}",
            file=sys.stderr,
        )
    print(f"{out / 'report.md'}, {out / 'report.png'}")
    return 0
