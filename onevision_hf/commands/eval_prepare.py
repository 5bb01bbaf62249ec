"""`onevision eval prepare`: the data of the benchmarks, where they have to lie, whether they are there.

onevision eval prepare --tasks video --root data
onevision eval prepare --tasks docvqa_val --root data --fetch
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

HUB = "https://huggingface.co/datasets"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", default="all16", metavar="NAMES", help="as of eval suite (default: all16)")
    parser.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="where the data are, or will be"
    )
    parser.add_argument("--fetch", action="store_true", help="download what is missing from the Hub")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each data set")


def run(args: argparse.Namespace) -> int:
    from ..eval.lmms.data import describe, fetch, hub_size, inspect
    from ..eval.lmms.suite import select

    benchmarks = select(args.tasks)
    failed: dict[str, str] = {}
    if args.fetch:
        incomplete = [state.benchmark for state in inspect(benchmarks, args.root) if state.missing]
        failed = fetch(incomplete, args.root) if incomplete else {}
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    missing = 0
    for state in inspect(benchmarks, args.root, None if offline else hub_size):
        missing += bool(state.missing)
        print(json.dumps(describe(state)) if args.json else "\n".join(_lines(describe(state), args.root)))
    for task, reason in failed.items():
        print(f"not fetched: {task}: {reason}")
    if not args.json:
        print(
            f"\n{f'{missing} not ready' if missing else 'everything is there'}: "
            f"run the suite with --root {args.root}"
        )
    return 1 if failed or missing else 0


def _lines(state: dict[str, Any], root: Path) -> list[str]:
    size = (
        "size not known (the Hub cannot be asked)"
        if state["gigabytes"] is None
        else f"{state['gigabytes']:.1f} GB"
    )
    config = f", {state['config']}" if state["config"] else ""
    lines = [
        f"{state['name']} ({state['task']}): "
        + ("ready" if not state["missing"] else f"not ready: {'; '.join(state['missing'])}"),
        f"  {HUB}/{state['dataset']} ({state['revision']}{config}, {state['split']}), {size}",
        f"  tables in {state['tables_at']}: "
        + (f"{state['questions']} of {state['expected']} questions" if state["questions"] is not None else
           f"{state['expected']} questions expected"),
    ]  # fmt: skip
    if state["videos_at"]:
        lines.append(
            f"  videos in {root / state['videos_at']}: {state['videos']}, {state['decoded']} read from"
        )
    return lines
