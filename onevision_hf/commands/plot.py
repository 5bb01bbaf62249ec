"""`onevision plot`: the curves of a training run as one picture.

onevision plot runs/cluster_smoke --out curves.png
"""

import json
from pathlib import Path
from typing import Annotated

from typer import Argument as Arg
from typer import Option as Opt

from .options import Json


def run(
    folder: Annotated[Path, Arg(metavar="RUN", help="the folder of a run, with log.jsonl")],
    out: Annotated[
        Path | None, Opt(metavar="FILE", help="the picture to write (default: RUN/curves.png)")
    ] = None,
    as_json: Json = False,
) -> None:
    from onevision_hf.training.curves import draw_curves, run_curves

    summary = run_curves(folder)
    out = out or folder / "curves.png"
    draw_curves(summary.pop("panels"), out)
    summary = {"out": str(out), **summary}
    line = f"{out}: loss {summary['first_loss']:.4f} -> {summary['last_loss']:.4f}"
    print(json.dumps(summary) if as_json else line)
