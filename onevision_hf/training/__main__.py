"""accelerate launch -m onevision_hf.training --config cluster_smoke [--dry-run] [key=value ...]"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(
    config: str,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    as_json: bool = False,
    processes: int | None = None,
    max_steps: int | None = None,
) -> int:
    """Train, or plan a training.

    Args:
        config: a name in onevision_hf/training/configs, or a YAML file.
        overrides: `key=value`, fields of the config.
        dry_run: print the plan and take two steps.
        as_json: print the last figures as one line of JSON.
        processes: plan for so many (default: those running).
        max_steps: stop and save after this step.

    Returns:
        The exit status.
    """
    from .config import load_config
    from .dry_run.plan import dry_run as plan
    from .loop import Trainer, close

    loaded = load_config(config, overrides)
    # One process is the ordinary case on a laptop; accelerate would warn about what is fine there.
    os.environ.setdefault("ACCELERATE_USE_CPU", str(loaded.device == "cpu").lower())
    if dry_run:
        status = plan(loaded, processes)
    else:
        trainer = Trainer(loaded, max_steps=max_steps)
        status = trainer.fit()
        if as_json and trainer.rank == 0:
            print(json.dumps(summary(loaded.out)))
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
    """Launched by accelerate or torchrun; the options are those of `onevision train`."""
    parser = argparse.ArgumentParser(prog="onevision_hf.training", description=__doc__)
    parser.add_argument(
        "--config", required=True, help="a name in onevision_hf/training/configs, or a YAML file"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="fields of the config, for instance optim.lr=5e-5"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--dry-run", action="store_true", help="print the plan, take two steps, keep nothing")
    either.add_argument("--json", action="store_true", help="print the last figures as one line of JSON")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="with --dry-run: plan for N processes (default: those running)",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop and save after step N")
    args = parser.parse_intermixed_args(argv)
    from .loop import TrainingError

    try:
        return train(
            args.config,
            args.overrides,
            dry_run=args.dry_run,
            as_json=args.json,
            processes=args.processes,
            max_steps=args.max_steps,
        )
    except (ValueError, OSError, ImportError, TrainingError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        # Other threads and the process group may be waiting for what will not come.
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
