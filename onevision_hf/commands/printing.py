"""What several commands print: seconds of stages, and the figures of an evaluation."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Stages(dict[str, float]):
    """Seconds of each stage, by name, in the order in which they ran."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start

    def __str__(self) -> str:
        return "   ".join(f"{name} {seconds:.2f} s" for name, seconds in self.items())


def quiet_loading(quiet: bool = False) -> None:
    """No bars of transformers while weights are loaded, for scripts and logs."""
    from transformers.utils import logging

    if quiet or not sys.stderr.isatty():
        logging.disable_progress_bar()


def pick_device(name: str | None = None) -> str:
    """`name`, or the accelerator of this machine, or the CPU.

    Raises:
        ValueError: a device that is not here.
    """
    from onevision_hf.jobs import devices

    return str(devices.pick_device(name))


def say(document: Any, as_json: bool, *lines: str | None) -> None:
    """Print a document as JSON, or lines for people.

    Args:
        document: of what JSON knows.
        as_json: whether `--json` was given.
        lines: what people read instead; None is left out.
    """
    print(json.dumps(document) if as_json else "\n".join(filter(None, lines)))


def print_figures(report: dict[str, Any], lines: list[str], out: Path | None, as_json: bool) -> None:
    """Write figures.json into `out`, and print the report or the lines.

    Args:
        report: all figures; `rejected` lists what could not be used.
        lines: the same for a person.
        out: a folder, made if needed; None writes nothing.
        as_json: print the report.
    """
    from onevision_hf.jobs.run_folder import canonical_json, write_atomically

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "figures.json", canonical_json(report))
    left_out = report["rejected"]
    lines += [f"rejected: {record['key']}: {record['reason']}" for record in left_out[:5]]
    more = f"and {len(left_out) - 5} more could not be used" if len(left_out) > 5 else None
    say(report, as_json, *lines, more)


def stored(out: Path, summary: dict[str, Any], dtype: str) -> str:
    """A line on shards of arrays, one a picture.

    Args:
        out: their folder.
        summary: with `items`, `shape` and `shards`.
        dtype: of the arrays.
    """
    shape = " x ".join(map(str, summary["shape"]))
    return f"{out}: {summary['items']} pictures, {shape} {dtype}, {summary['shards']} shards"


def rejected(out: Path, summary: dict[str, Any], noun: str = "") -> str | None:
    """A line on how many things could not be used and where they are listed, if there are any.

    Args:
        out: the folder of the run.
        summary: with `rejected`, how many.
        noun: what they are called, in the plural and with a space behind it.
    """
    if not summary["rejected"]:
        return None
    return f"{summary['rejected']} {noun}could not be used: {out / 'rejected.jsonl'}"
