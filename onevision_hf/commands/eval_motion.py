"""`onevision eval motion`: what codec input tells of what moves, against whole frames at the same budget.

onevision eval motion                                    # small: 30 minutes on two free cores
onevision eval motion --profile full --json motion.json  # three seeds, four budgets: hours
onevision eval motion --clips CLIPS --out mine.md        # a folder of labelled folders instead of drawn clips

The same command goes on where an interrupted one stopped.
"""

import argparse
import json
import sys
import time
from pathlib import Path

TINY, NO_MODEL = "tiny", "none"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile",
        choices=("small", "full"),
        default="small",
        help="one seed at 6.25 and 12.5 %%, or three at 3.1 to 25 %% (default: small)",
    )
    parser.add_argument(
        "--model",
        default=TINY,
        metavar="M",
        help="an encoder for the second way of reading: a folder, a name on the Hub, `tiny` for the "
        "package's own, `none` to leave it out (default: tiny)",
    )
    parser.add_argument(
        "--clips", type=Path, metavar="DIR", help="labelled clips, DIR/<label>/<clip>, instead"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="pooled clips and finished cells, to go on with (default: runs/motion)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/motion-suite.md"),
        metavar="F.md",
        help="the page (default: %(default)s)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path("-"),
        metavar="F",
        help="print every cell as one JSON document instead of text; with F write it there",
    )
    parser.add_argument("--redo", action="store_true", help="empty a --work folder that holds other clips")
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (cuda when there is one)")
    parser.add_argument("--workers", type=int, help="processes, one thread each (default: one a core)")


def run(args: argparse.Namespace) -> None:
    from onevision_hf.eval.motion import PROFILES, run_suite
    from onevision_hf.eval.motion.report import write

    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers is at least 1, found {args.workers}")
    began = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - began:7.0f} s] {line}", file=sys.stderr, flush=True)

    settings = PROFILES[args.profile]
    document = run_suite(
        settings,
        args.work or Path("runs/motion"),
        model=_model(args.model),
        clips=args.clips,
        workers=args.workers,
        device=args.device,
        redo=args.redo,
        say=say,
    )
    document["profile"] = args.profile
    printed = args.json == Path("-")
    written = write(document, settings, args.out, None if printed else args.json)
    if printed:
        print(json.dumps(document))
        return
    for goal in document["goals"]:
        found = "not run" if goal["value"] is None else f"{goal['value']:.3g}"
        print(f"{goal['goal']}: {found} (wanted: {goal['wanted']:g})")
    print(*written, sep="\n")


def _model(name: str) -> str | None:
    if name == NO_MODEL:
        return None
    if name != TINY:
        return name
    import onevision_hf

    if not hasattr(onevision_hf, "tiny"):
        raise ValueError(
            "this build carries no tiny encoder: give a folder as --model, or `--model none` to leave out "
            "the second way of reading"
        )
    return str(onevision_hf.tiny())
