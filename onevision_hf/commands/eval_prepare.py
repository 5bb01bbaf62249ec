"""`onevision eval prepare`: the data of the benchmarks, where they have to lie, whether they are there.

onevision eval prepare --tasks video --root data
onevision eval prepare --tasks docvqa_val --root data --fetch
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from typer import Option as Opt

from .options import Tasks

HUB = "https://huggingface.co/datasets"


def run(
    root: Annotated[Path, Opt(metavar="DIR", help="where the data are, or will be")],
    tasks: Tasks = "all16",
    fetch: Annotated[bool, Opt("--fetch", help="download what is missing from the Hub")] = False,
    as_json: Annotated[bool, Opt("--json", help="print one line of JSON for each data set")] = False,
) -> int:
    from onevision_hf.eval.lmms.data import describe, hub_size, inspect
    from onevision_hf.eval.lmms.data import fetch as fetch_data
    from onevision_hf.eval.lmms.suite import select

    benchmarks = select(tasks)
    failed: dict[str, str] = {}
    if fetch:
        incomplete = [state.benchmark for state in inspect(benchmarks, root) if state.missing]
        failed = fetch_data(incomplete, root) if incomplete else {}
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    missing = 0
    for state in inspect(benchmarks, root, None if offline else hub_size):
        missing += bool(state.missing)
        print(json.dumps(describe(state)) if as_json else "\n".join(_lines(describe(state), root)))
    for task, reason in failed.items():
        print(f"not fetched: {task}: {reason}")
    if not as_json:
        rest = "" if fetch else ", or add --fetch to this command"
        print(
            f"\n{missing} not ready: see above for what to put under {root}{rest}"
            if missing
            else f"\neverything is there: run the suite with --root {root}"
        )
    return 1 if failed or missing else 0


def _lines(state: dict[str, Any], root: Path) -> list[str]:
    size = (
        "size not known (the Hub cannot be reached)"
        if state["gigabytes"] is None
        else f"{state['gigabytes']:.1f} GB"
    )
    config = f", {state['config']}" if state["config"] else ""
    ready = "ready" if not state["missing"] else f"not ready: {'; '.join(state['missing'])}"
    expected = f"{state['expected']} questions"
    questions = (
        f"{expected} expected" if state["questions"] is None else f"{state['questions']} of {expected}"
    )
    lines = [
        f"{state['name']} ({state['task']}): {ready}",
        f"  {HUB}/{state['dataset']} ({state['revision']}{config}, {state['split']}), {size}",
        f"  tables in {state['tables_at']}: {questions}",
    ]
    if state["videos_at"]:
        lines.append(
            f"  videos in {root / state['videos_at']}: {state['videos']}, {state['decoded']} read from"
        )
    return lines
