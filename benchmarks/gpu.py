"""What a GPU makes of the models and of the trainings, as shares of its own square matrix products.

    make bench-gpu                                       # 8 minutes at most; tables into docs/benchmarks.md
    python benchmarks/gpu.py --only large training       # some parts
    python benchmarks/gpu.py --tiny --out out/gpu-tiny   # goes all ways in seconds on a processor

A part stands alone. What it found is in OUT/PART.json once it is done, and a part that is there is not run
again: after an interruption, a failure or the end of its time the same command goes on with what is missing.
The parts are in `gpu_parts.py`. Nothing is downloaded: weights are random, clips are the bundled one.
"""

import argparse
import contextlib
import datetime
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from codec_table import write_between_markers
from gpu_parts import PARTS, TINY, Row, Sizes

from onevision_hf.jobs.run_folder import write_atomically

MINUTES = 7.5  # of eight: imports and the end of a part take some seconds
AGAIN = 0.25  # seconds
START, END = "<!-- gpu: written by `make bench-gpu` -->", "<!-- /gpu -->"
PAINTED = "Painted fields are computed in NumPy on the processor, so nothing of them runs on a GPU."


class OutOfTime(BaseException):
    """Raised where a part is; no `except Exception` of a library takes it for its own."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: what is raised while a finalizer or a callback runs is printed, and lost.
    left, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, left)  # of whoever limits us


def machine(tiny: bool) -> dict[str, Any]:
    """What figures of one folder have in common."""
    device = "processor" if tiny else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__, "tiny": tiny}


def stored(out: Path, name: str, where: dict[str, Any]) -> dict[str, Any] | None:
    """What a part found before, or None.

    Args:
        out: the folder.
        name: of the part.
        where: this machine.

    Raises:
        ValueError: it was found on another machine.
    """
    path = out / f"{name}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if there := {key: found.get(key) for key in where if found.get(key) != where[key]}:
        here = {key: where[key] for key in there}
        raise ValueError(f"{path} is of {there}, this is {here}: give another --out, or remove the file")
    return found


def measure(name: str, sizes: Sizes, where: dict[str, Any]) -> dict[str, Any]:
    """Run a part; what it prints besides its rows goes to stderr."""
    gc.collect()  # what the part before has left, one that ran out of memory above all
    torch.compiler.reset()
    torch.cuda.empty_cache()
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        rows = PARTS[name].run(sizes)
    date = datetime.date.today().isoformat()
    return {**where, "date": date, "seconds": time.perf_counter() - began, "rows": rows}


def run_parts(names: list[str], sizes: Sizes, out: Path, ends: float) -> dict[str, dict[str, Any]]:
    """All parts of the folder by name, after the missing ones of `names` were run.

    One that fails is told, and the next one goes on.

    Args:
        names: of the parts that are wanted.
        sizes: of what they measure.
        out: the folder.
        ends: when none may run any more, by `time.monotonic`.
    """
    where = machine(sizes.tiny)
    found = {name: part for name in PARTS if (part := stored(out, name, where))}
    try:
        for name in names:
            if name in found:
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                with time_limit(ends - time.monotonic()):
                    part = measure(name, sizes, where)
            except Exception:
                traceback.print_exc()
                continue
            write_atomically(out / f"{name}.json", json.dumps(part, indent=1) + "\n")
            found[name] = part
    except OutOfTime:
        print(f"the time is over; the same command goes on with {name}", file=sys.stderr)
    return {name: found[name] for name in PARTS if name in found}


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(found: dict[str, dict[str, Any]]) -> str:
    """The tables, with where and when they were made, and what is missing."""
    if not found:
        return "Nothing was measured."
    one = next(iter(found.values()))
    dates = sorted({part["date"] for part in found.values()})
    size = ", tiny sizes in place of the titles', which say nothing of speed" if one["tiny"] else ""
    blocks = [f"{one['device']}, torch {one['torch']}, {' and '.join(dates)}{size}."]
    for name, part in found.items():
        blocks += [f"{PARTS[name].title}; {part['seconds']:.0f} s:", table(part["rows"])]
    if missing := [name for name in PARTS if name not in found]:
        blocks.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join([*blocks, PAINTED])


def main(argv: list[str] | None = None) -> int:
    """Status 0 when all wanted parts are there and every attention agrees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="what was found (%(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="at most (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a processor, tiny sizes, nothing is compiled")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the page that has the markers")
    args = parser.parse_args(argv)
    if args.tiny and args.write:
        parser.error("--write with --tiny: a page is for figures of a GPU")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("no GPU was found; --tiny checks the script on a processor")
    args.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * args.minutes
    # Tiny models go through what is compiled, and no compiler takes minutes for it.
    with torch.compiler.set_stance("force_eager") if args.tiny else contextlib.nullcontext():
        try:
            found = run_parts(args.only, TINY if args.tiny else Sizes(), args.out, ends)
        except ValueError as error:
            parser.error(str(error))
    tables = report(found)
    print(tables)
    if args.write:
        write_between_markers(args.write, tables, START, END)
    disagree = any(row.get("agrees") is False for part in found.values() for row in part["rows"])
    return int(disagree or not found.keys() >= set(args.only))


if __name__ == "__main__":
    sys.exit(main())
