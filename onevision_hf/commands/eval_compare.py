"""`onevision eval compare`: codec input against whole frames at one budget, paired question by question.

onevision eval compare --model runs/vl/model --sampling codec,frames --budget 2048 --root data
"""

import argparse
from pathlib import Path

from .suite_options import add_run_options, model_arguments, positive


def configure(parser: argparse.ArgumentParser) -> None:
    add_run_options(parser, tasks="video")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/compare-MODEL")
    parser.add_argument(
        "--sampling", default="codec,frames", metavar="A,B", help="the inputs (default: codec,frames)"
    )
    parser.add_argument(
        "--budget",
        "--num-patches",
        dest="budget",
        type=positive,
        default=2048,
        metavar="N",
        help="patches of a video (default: 2048)",
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as one document of JSON")


def run(args: argparse.Namespace) -> int:
    from ..eval.lmms.compare import as_markdown, compare
    from ..eval.lmms.settings import SAMPLINGS
    from ..eval.lmms.suite import select

    samplings = [name.strip() for name in args.sampling.split(",") if name.strip()]
    unknown = [name for name in samplings if name not in SAMPLINGS]
    if unknown:
        raise ValueError(f"no sampling is called {unknown[0]!r}; there are {', '.join(SAMPLINGS)}")
    out = args.out or Path("runs") / f"compare-{Path(args.model).name}"
    rows = compare(
        select(args.tasks),
        out,
        model_arguments(args),
        samplings,
        args.budget,
        limit=args.limit,
        root=args.root,
    )
    if rows is not None:
        if args.json:
            print((out / "comparison.json").read_text(encoding="utf-8"))
        else:
            print(as_markdown(rows, samplings, args.budget, args.limit))
            print(out / "comparison.md")
    return 0
