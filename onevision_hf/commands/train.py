"""`onevision train`: one process of training; more with `accelerate launch -m onevision_hf.training`."""

from typing import Annotated

import typer
from typer import Argument as Arg
from typer import Option as Opt

from .options import Json


def run(
    config: Annotated[
        str, Opt(metavar="NAME|FILE", help="a name in onevision_hf/training/configs, or a YAML file")
    ],
    overrides: Annotated[
        list[str] | None,
        Arg(metavar="key=value", help="fields of the config, for instance optim.lr=5e-5"),
    ] = None,
    dry_run: Annotated[bool, Opt("--dry-run", help="print the plan, take two steps, keep nothing")] = False,
    as_json: Json = False,
    processes: Annotated[
        int | None, Opt(metavar="N", help="with --dry-run: plan for N processes (default: those running)")
    ] = None,
    max_steps: Annotated[int | None, Opt(metavar="N", help="stop and save after step N")] = None,
) -> int:
    if dry_run and as_json:
        raise typer.BadParameter("--json goes with a training, not with --dry-run")
    from onevision_hf.training.__main__ import train
    from onevision_hf.training.loop import TrainingError

    try:
        return train(
            config,
            overrides or [],
            dry_run=dry_run,
            as_json=as_json,
            processes=processes,
            max_steps=max_steps,
        )
    except TrainingError as error:
        raise ValueError(str(error)) from error
