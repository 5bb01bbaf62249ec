"""What the evaluations of a unified model have in common: how it is opened, how many pictures, what is
printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a model of unified pre-training, folder or Hub id")
    parser.add_argument("--vae", help="a diffusers AutoencoderKL (folder or Hub id) instead of the config's")
    parser.add_argument("--size", type=int, help="side in pixels (default: the saved processor's)")


def add_common(parser: argparse.ArgumentParser, batch_size: int) -> None:
    parser.add_argument("--limit", type=int, help="take so many pictures at most")
    parser.add_argument(
        "--batch-size", type=int, default=batch_size, help="pictures computed at once (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=4, help="threads that decode (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (cuda when there is one)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write figures.json and what else there is here"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def add_inception(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inception",
        metavar="FILE",
        help="torch-fidelity's weights (default: looked for in torch.hub's folder)",
    )


def check_common(args: argparse.Namespace) -> None:
    """Raises ValueError for a number below 1."""
    for name in ("limit", "batch_size", "workers"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {value}")


def metrics_of(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(name.strip() for name in args.metrics.split(",") if name.strip())


def finish(args: argparse.Namespace, report: dict[str, Any], lines: list[str]) -> None:
    """Write figures.json into --out, and print the report or the lines."""
    from ..jobs.run_folder import canonical_json, write_atomically

    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out / "figures.json", canonical_json(report))
    if args.json:
        print(json.dumps(report))
        return
    rejected = report["rejected"]
    lines += [f"rejected: {record['key']}: {record['reason']}" for record in rejected[:5]]
    if len(rejected) > 5:
        lines.append(f"and {len(rejected) - 5} more could not be used")
    print("\n".join(lines))
