"""`onevision eval motion`: what codec input tells of what moves, against whole frames at the same budget.

onevision eval motion                                    # small: 30 minutes on two free cores
onevision eval motion --profile full --json motion.json  # three seeds, four budgets: hours, a GPU 8 minutes
onevision eval motion --steps 6000 2000 --seeds 1        # readers that were trained longer
onevision eval motion --codec av1 --budgets 0.0625       # drawn clips as AV1
onevision eval motion --grounds FOOTAGE                  # shapes over footage that has its own camera
onevision eval motion --shots --inputs codec,codec_shots,uniform --work runs/shots --out shots.md
onevision eval motion --clips CLIPS --out mine.md        # a folder of labelled folders instead of drawn clips

The same command goes on where an interrupted one stopped.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

from typer import Option as Opt

from .groups import OpenEndedOptions
from .options import Device, JsonOrFile, at_least_one, fractions, words


class COMMAND_CLASS(OpenEndedOptions):
    optional = ("--json",)


def run(
    profile: Annotated[
        Literal["small", "full"], Opt(help="one seed at 6.25 and 12.5 %, or three at 3.1 to 25 %")
    ] = "small",
    model: Annotated[
        str,
        Opt(
            metavar="M",
            help="an encoder whose frozen tokens are probed: a folder, a name on the Hub, `tiny` for the "
            "package's own, `none` to leave it out",
        ),
    ] = "tiny",
    seeds: Annotated[
        int | None, Opt(metavar="N", help="classifiers of each kind (default: the profile's)")
    ] = None,
    steps: Annotated[
        tuple[int, int] | None,
        Opt(
            metavar="MIXED OWN",
            help="updates of a classifier, on a mixture of inputs, then on its own (default: the profile's)",
        ),
    ] = None,
    inputs: Annotated[
        str | None, Opt(metavar="A,B,...", help="compare these alone (default: those of the profile)")
    ] = None,
    clips: Annotated[
        Path | None, Opt(metavar="DIR", help="labelled clips, DIR/<label>/<clip>, instead")
    ] = None,
    budgets: Annotated[
        tuple | None,
        Opt(
            parser=fractions,
            metavar="A,B,...",
            help="fractions of all patches, 0.0625 alone (default: the profile's)",
        ),
    ] = None,
    codec: Annotated[
        str, Opt(metavar="NAME", help="of the drawn clips: h264, hevc, hevc10, vp9, av1, mpeg4")
    ] = "h264",
    grounds: Annotated[
        Path | None, Opt(metavar="DIR", help="draw over these videos or pictures, each with its own camera")
    ] = None,
    shots: Annotated[
        bool, Opt("--shots", help="clips of four scenes, cut one after the other, and what each shows")
    ] = False,
    work: Annotated[Path, Opt(metavar="DIR", help="pooled clips and finished results, to go on with")] = Path(
        "runs/motion"
    ),
    out: Annotated[Path, Opt(metavar="F.md", help="the page")] = Path("docs/motion-suite.md"),
    as_json: JsonOrFile = None,
    redo: Annotated[bool, Opt("--redo", help="empty a --work folder that holds other clips")] = False,
    device: Device = None,
    workers: Annotated[
        int | None, Opt(metavar="N", help="processes, one thread each (default: one a core)")
    ] = None,
) -> None:
    from onevision_hf.assets import model_folder
    from onevision_hf.eval.motion import PROFILES, run_suite
    from onevision_hf.eval.motion.report import write

    at_least_one(workers=workers, seeds=seeds, steps=steps and min(steps))
    began = time.perf_counter()

    def report(line: str) -> None:
        print(f"[{time.perf_counter() - began:7.0f} s] {line}", file=sys.stderr, flush=True)

    settings = PROFILES[profile].changed(seeds, steps, inputs and words(inputs), budgets)
    document = run_suite(
        settings,
        work,
        model=None if model == "none" else model_folder(model),
        clips=clips,
        codec=codec,
        grounds=grounds,
        shots=shots,
        workers=workers,
        device=device,
        redo=redo,
        report=report,
    )
    document["profile"] = profile
    printed = as_json == Path("-")
    written = write(document, settings, out, None if printed else as_json)
    if printed:
        print(json.dumps(document))
        return
    for goal in document["goals"]:
        found = "not run" if goal["value"] is None else f"{goal['value']:.3g}"
        print(f"{goal['goal']}: {found} (wanted: {goal['wanted']:g})")
    print(*written, sep="\n")
