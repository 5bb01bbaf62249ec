"""accelerate launch -m onevision_hf.training --config cluster_smoke [--dry-run] [key=value ...]"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `onevision train`, `python -m onevision_hf.training` and `train.py`."""
    parser.add_argument(
        "--config", required=True, help="a name in onevision_hf/training/configs, or a YAML file"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="fields of the config, for instance optim.learning_rate=5e-5",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--dry-run", action="store_true", help="print the plan, take two steps, keep nothing")
    output.add_argument("--json", action="store_true", help="print the last figures as one line of JSON")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="with --dry-run: plan for N processes (default: those running)",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop and save after step N")


def run(args: argparse.Namespace) -> int:
    from .config import load_config
    from .dry_run.plan import dry_run
    from .loop import Trainer, close

    config = load_config(args.config, args.overrides)
    # One process is the ordinary case on a laptop; accelerate would warn about what is fine there.
    os.environ.setdefault("ACCELERATE_USE_CPU", str(config.device == "cpu").lower())
    if args.dry_run:
        status = dry_run(config, args.processes)
    else:
        trainer = Trainer(config, max_steps=args.max_steps)
        status = trainer.fit()
        if args.json and trainer.rank == 0:
            print(json.dumps(summary(config.out)))
    # Not after an error: the others wait for what will not come, and the launcher ends them.
    close()
    return status


def summary(out: str) -> dict[str, Any]:
    """What a run has come to: its folder, the last step and loss that were logged, the last accuracy."""
    from .report import LOG, VALIDATION, read_lines

    log, validation = (read_lines(Path(out) / name) for name in (LOG, VALIDATION))
    return {
        "out": out,
        "step": log[-1]["step"] if log else 0,
        "loss": log[-1]["loss"] if log else None,
        "accuracy": validation[-1]["accuracy"] if validation else None,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="onevision_hf.training", description=__doc__)
    configure(parser)
    args = parser.parse_intermixed_args(argv)
    from .loop import TrainingError

    try:
        return run(args)
    except (ValueError, OSError, ImportError, TrainingError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        # Other threads and the process group may be waiting for what will not come.
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
