"""`onevision train`: one process of training; more with `accelerate launch -m onevision_hf.training`."""

import json
import os
from typing import Annotated

import typer
from typer import Option as Opt

from .options import Json, Overrides


def run(
    config: Annotated[
        str, Opt(metavar="NAME|FILE", help="a name in onevision_hf/training/configs, or a YAML file")
    ],
    overrides: Overrides = None,
    dry_run: Annotated[bool, Opt("--dry-run", help="print the plan, take two steps, keep nothing")] = False,
    as_json: Json = False,
    processes: Annotated[
        int | None, Opt(metavar="N", help="with --dry-run: plan for N processes (default: those running)")
    ] = None,
    max_steps: Annotated[int | None, Opt(metavar="N", help="stop and save after step N")] = None,
    export: Annotated[
        int | None, Opt(metavar="STEP", help="train nothing: a model folder out of this step's checkpoint")
    ] = None,
) -> int:
    if dry_run and as_json:
        raise typer.BadParameter("--json goes with a training, not with --dry-run")
    if export is not None and (dry_run or as_json or max_steps):
        raise typer.BadParameter("--export trains nothing: leave out --dry-run, --json and --max-steps")
    from onevision_hf.training.config import load_config
    from onevision_hf.training.dry_run.plan import dry_run as plan
    from onevision_hf.training.loop import Trainer, TrainingError, close
    from onevision_hf.training.report import summary

    loaded = load_config(config, overrides or [])
    # One process is the ordinary case on a laptop; accelerate would warn about what is fine there.
    os.environ.setdefault("ACCELERATE_USE_CPU", str(loaded.device == "cpu").lower())
    try:
        if dry_run:
            status = plan(loaded, processes)
        elif export is not None:
            trainer, status = Trainer(loaded), 0
            target = trainer.export_step(export)
            if trainer.rank == 0:
                print(f"{target} loads with {trainer.task.auto_class}.from_pretrained")
        else:
            trainer = Trainer(loaded, max_steps=max_steps)
            status = trainer.fit()
            if as_json and trainer.rank == 0:
                print(json.dumps(summary(loaded.out)))
    except TrainingError as error:
        raise ValueError(str(error)) from error
    close()  # not after an error: the others wait for what will not come, and the launcher ends them
    return status
