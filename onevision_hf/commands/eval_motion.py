"""`onevision eval motion`: what codec input tells of what moves, against whole frames at the same budget.

onevision eval motion                                    # small: 30 minutes on two free cores
onevision eval motion --profile full --json motion.json  # three seeds, four budgets: hours, a GPU 8 minutes
onevision eval motion --steps 6000 2000 --seeds 1        # readers that were trained longer
onevision eval motion --codec av1 --budgets 0.0625       # drawn clips as AV1
onevision eval motion --grounds FOOTAGE                  # shapes over footage that has its own camera
onevision eval motion --clips CLIPS --out mine.md        # a folder of labelled folders instead of drawn clips

The same command goes on where an interrupted one stopped.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option as Opt

from .groups import OpenEndedOptions
from .options import Device, JsonOrFile

if TYPE_CHECKING:
    from onevision_hf.eval.motion import SuiteSettings


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
        str | None,
        Opt(metavar="A,B,...", help="fractions of all patches, 0.0625 alone (default: the profile's)"),
    ] = None,
    codec: Annotated[
        str, Opt(metavar="NAME", help="of the drawn clips: h264, hevc, hevc10, vp9, av1, mpeg4")
    ] = "h264",
    grounds: Annotated[
        Path | None, Opt(metavar="DIR", help="draw over these videos or pictures, each with its own camera")
    ] = None,
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

    if workers is not None and workers < 1:
        raise ValueError(f"--workers is at least 1, found {workers}")
    began = time.perf_counter()

    def report(line: str) -> None:
        print(f"[{time.perf_counter() - began:7.0f} s] {line}", file=sys.stderr, flush=True)

    settings = _settings(PROFILES[profile], seeds, steps, inputs, budgets)
    document = run_suite(
        settings,
        work,
        model=None if model == "none" else model_folder(model),
        clips=clips,
        codec=codec,
        grounds=grounds,
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


def _settings(
    settings: "SuiteSettings",
    seeds: int | None,
    steps: tuple[int, int] | None,
    inputs: str | None,
    budgets: str | None,
) -> "SuiteSettings":
    """The profile's settings with those of the command line instead.

    Args:
        settings: of the profile.
        seeds: how many.
        steps: of the mixture and of one input.
        inputs: names with commas between.
        budgets: fractions with commas between.
    """
    if seeds is not None:
        if seeds < 1:
            raise ValueError(f"--seeds is at least 1, found {seeds}")
        settings = replace(settings, seeds=tuple(range(seeds)))
    if steps is not None:
        if min(steps) < 1:
            raise ValueError(f"--steps are at least 1, found {steps[0]} and {steps[1]}")
        settings = replace(
            settings,
            mixing=replace(settings.mixing, steps=steps[0]),
            training=replace(settings.training, steps=steps[1]),
        )
    if inputs is not None:
        settings = replace(settings, inputs=tuple(inputs.split(",")))
    if budgets is not None:
        try:
            fractions = tuple(float(part) for part in budgets.split(","))
        except ValueError:
            raise ValueError(f"--budgets are fractions with commas between, found {budgets!r}") from None
        settings = replace(settings, budgets=fractions)
    return settings
