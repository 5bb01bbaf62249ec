"""`onevision eval suite`: the 16 benchmarks of the paper through lmms-eval, and a report with its columns.

    onevision eval suite --model runs/vl/model --num-patches 2048 --root data --out runs/suite
    onevision eval suite --model runs/vl/model --tasks videomme,docvqa_val --limit 50
    python -m torch.distributed.run --nproc_per_node 8 -m onevision_hf.cli eval suite --model ...

A run that was stopped goes on when it is started again: questions whose answers are in OUT/answers are
not put again.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from typer import Option as Opt

from .options import (
    EvaluatedModel,
    Json,
    KeepEnergy,
    KeepRatio,
    MaxCanvases,
    MaxPixels,
    Questions,
    Tasks,
    pairs,
)


def run(
    evaluated: EvaluatedModel,
    questions: Questions,
    tasks: Tasks = "all16",
    out: Annotated[
        Path | None, Opt(metavar="DIR", help="of report and answers (default: runs/suite-MODEL)")
    ] = None,
    sampling: Annotated[Literal["codec", "frames", "dense"], Opt(help="what of a video is shown")] = "codec",
    num_frames: Annotated[
        int | None, Opt(metavar="N", min=1, help="of a video (default: 64; 8 of frames)")
    ] = None,
    num_patches: Annotated[int | None, Opt(metavar="N", min=1, help="budget of a video (codec)")] = None,
    keep_ratio: KeepRatio = None,
    keep_energy: KeepEnergy = None,
    preset: Annotated[str | None, Opt(metavar="NAME", help="which signals of the codec count")] = None,
    max_pixels: MaxPixels = None,
    max_canvases: MaxCanvases = None,
    processor: Annotated[
        str | None, Opt(metavar="A=1,B=C", help="other settings of the model's processor")
    ] = None,
    as_json: Json = False,
) -> None:
    from onevision_hf.eval.lmms.run import SuiteJob, run_suite
    from onevision_hf.eval.lmms.suite import select

    arguments = evaluated.arguments(
        sampling=sampling,
        num_frames=num_frames,
        num_patches=num_patches,
        keep_ratio=keep_ratio,
        keep_energy=keep_energy,
        preset=preset,
        max_pixels=max_pixels,
        max_canvases=max_canvases,
        processor=pairs(processor) if processor else None,
    )
    out = out or Path("runs") / f"suite-{Path(evaluated.model).name}"
    report = run_suite(SuiteJob(select(tasks), out, arguments, questions.limit, questions.root))
    if report is None:
        return
    if as_json:
        print(json.dumps(report.as_json()))
        return
    for row in report.rows:
        figure = "-" if row.figure is None else f"{row.figure:.1f}"
        print(f"{row.name:28} {figure:>6}  {row.documents} questions")
    for item in report.broken:
        print(
            f"broken media, {item.counted}: {item.task} {item.doc_id}: {item.media} {item.reason}",
            file=sys.stderr,
        )
    print(f"{out / 'report.md'}, {out / 'report.png'}")
