"""accelerate launch -m onevision_hf.training --config cluster_smoke [--dry-run] [key=value ...]"""

import argparse
import os
import sys
from collections.abc import Sequence


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `onevision train`, `python -m onevision_hf.training` and `train.py`."""
    parser.add_argument(
        "--config", required=True, help="a name in onevision_hf/training/configs, or a YAML file"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="fields of the config, for instance optim.lr=5e-5"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, take two steps, keep nothing")
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="with --dry-run: plan for N processes (default: those running)",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop and save after step N")


def run(args: argparse.Namespace) -> int:
    from .config import load_config
    from .loop import Trainer, close
    from .plan import dry_run

    config = load_config(args.config, args.overrides)
    # One process is the ordinary case on a laptop; accelerate would warn about what is fine there.
    os.environ.setdefault("ACCELERATE_USE_CPU", str(config.device == "cpu").lower())
    if args.dry_run:
        status = dry_run(config, args.processes)
    else:
        status = Trainer(config, max_steps=args.max_steps).fit()
    # Not after an error: the others wait for what will not come, and the launcher ends them.
    close()
    return status


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
