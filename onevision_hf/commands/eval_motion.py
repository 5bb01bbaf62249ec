"""`onevision eval motion`: what codec input tells of what moves, against whole frames at the same budget.

onevision eval motion                                    # small: 30 minutes on two free cores
onevision eval motion --profile full --json motion.json  # three seeds, four budgets: hours, a GPU 8 minutes
onevision eval motion --steps 6000 2000 --seeds 1        # readers that were trained longer
onevision eval motion --clips CLIPS --out mine.md        # a folder of labelled folders instead of drawn clips

The same command goes on where an interrupted one stopped.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onevision_hf.eval.motion import SuiteSettings

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
    parser.add_argument("--seeds", type=int, metavar="N", help="readers a cell (default: the profile's)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        metavar=("MIXED", "OWN"),
        help="updates of a reader, on a mixture of inputs and then on its own (default: the profile's)",
    )
    parser.add_argument(
        "--inputs", metavar="A,B,...", help="compare these alone (default: those of the profile)"
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

    settings = _settings(args, PROFILES[args.profile])
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


def _settings(args: argparse.Namespace, settings: "SuiteSettings") -> "SuiteSettings":
    """The profile's settings with what was asked for instead."""
    if args.seeds is not None:
        if args.seeds < 1:
            raise ValueError(f"--seeds is at least 1, found {args.seeds}")
        settings = replace(settings, seeds=tuple(range(args.seeds)))
    if args.steps is not None:
        if min(args.steps) < 1:
            raise ValueError(f"--steps are at least 1, found {args.steps[0]} and {args.steps[1]}")
        mixed, own = args.steps
        settings = replace(
            settings,
            mixing=replace(settings.mixing, steps=mixed),
            training=replace(settings.training, steps=own),
        )
    if args.inputs is not None:
        settings = replace(settings, inputs=tuple(args.inputs.split(",")))
    return settings


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
