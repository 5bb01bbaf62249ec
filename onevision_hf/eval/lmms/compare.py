"""Inputs against each other at one budget of patches: the table of the paper's kind, with what chance allows.

    compare(benchmarks, out, {"pretrained": "DIR"}, samplings=("codec", "frames"), budget=2048)

Both see frames of the same size. `frames` spends the budget on eight whole ones, `codec` on the patches of 64
frames where something happens. Differences are paired by question and resampled by video.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...jobs.pages import render
from ...jobs.run_folder import canonical_json, write_atomically
from .. import markdown
from ..published import published_table
from .report import SuiteReport
from .run import ANSWERS, SAMPLES, SuiteJob, run_suite
from .scores import Scores, difference, read_scores
from .suite import Benchmark

# What `frames` spends the budget on, and what the others choose from: the published numbers.
WHOLE_FRAMES, LOOKED_AT = 8, 64
# The published columns that differ in the input alone.
PAPER = {"codec": "OV-Encoder (codec)", "frames": "OV-Encoder (frames)"}


@dataclass(frozen=True)
class Compared:
    """A row: figures by input, and the difference of the first two with its 95 % interval."""

    benchmark: Benchmark
    figures: dict[str, float]
    tokens: dict[str, float]
    questions: int
    change: tuple[float, float, float]
    published_change: float | None


def arguments_of(sampling: str, budget: int, patch_size: int) -> dict[str, Any]:
    """The model's arguments for one input: at most `budget` patches of a video, the same frame size for all.

    Args:
        sampling: "codec" or "frames".
        budget: patches of a video.
        patch_size: pixels along a patch.

    Raises:
        ValueError: a budget below one patch a frame; "dense", whose budget is no choice.
    """
    if sampling == "dense":
        raise ValueError(
            "dense keeps every patch of 64 frames: it has no equal budget, compare codec and frames"
        )
    if budget < WHOLE_FRAMES:
        raise ValueError(
            f"a budget of {budget} patches is less than a patch for each of {WHOLE_FRAMES} frames"
        )
    shared = {"sampling": sampling, "max_pixels": budget // WHOLE_FRAMES * patch_size**2}
    if sampling == "frames":
        return {**shared, "num_frames": WHOLE_FRAMES}
    return {**shared, "num_frames": LOOKED_AT, "num_patches": budget}


def compare(
    benchmarks: Sequence[Benchmark],
    out: Path,
    arguments: Mapping[str, Any],
    samplings: Sequence[str],
    budget: int,
    *,
    limit: int | None = None,
    root: Path | None = None,
) -> list[Compared] | None:
    """Run the suite for each input, into `out/SAMPLING-BUDGET`, and write `comparison.md` and `.json`.

    Args:
        benchmarks: rows of the suite.
        out: the folder of the runs and of the comparison.
        arguments: of the model, see `Settings`.
        samplings: the inputs, two or more.
        budget: patches of a video.
        limit: documents of each task; None for all.
        root: where data lie; None for where the Hugging Face libraries keep them.

    Raises:
        ValueError: fewer than two inputs, and what `run_suite` and `arguments_of` raise.
    """
    if len(set(samplings)) != len(samplings) or len(samplings) < 2:
        raise ValueError(f"name two different inputs, found {','.join(samplings) or 'none'}")
    patch_size = patch_size_of(str(arguments["pretrained"]))
    each = {name: {**arguments, **arguments_of(name, budget, patch_size)} for name in samplings}
    reports: dict[str, SuiteReport | None] = {}
    folders = {name: out / f"{name}-{budget}" for name in samplings}
    for name, given in each.items():
        reports[name] = run_suite(SuiteJob(benchmarks, folders[name], given, limit, root))
    if any(report is None for report in reports.values()):
        return None  # not the first process
    rows = [_compared(row, folders) for row in benchmarks]
    write_atomically(out / "comparison.json", canonical_json([_as_json(row, samplings) for row in rows]))
    write_atomically(out / "comparison.md", as_markdown(rows, samplings, budget, limit))
    return rows


def as_markdown(rows: Sequence[Compared], samplings: Sequence[str], budget: int, limit: int | None) -> str:
    """The comparison as a page.

    Args:
        rows: a benchmark each.
        samplings: the inputs.
        budget: patches of a video.
        limit: documents of each task; None for all.
    """
    first, second, *_ = samplings
    header = ["", *samplings, f"{first} - {second} [95 %]", "published, OV-Encoder"]
    header += ["tokens a question", "questions"]
    found = []
    for row in rows:
        mean, low, high = row.change
        printed = "" if row.published_change is None else f"{row.published_change:+.1f}"
        tokens = " / ".join(f"{row.tokens[name]:.0f}" for name in samplings)
        figures = [f"{row.figures[name]:.1f}" for name in samplings]
        change = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        found.append([row.benchmark.name, *figures, change, printed, tokens, row.questions])
    table = markdown.table(header, found, right=True)
    values = {"samplings": samplings, "budget": budget, "limit": limit, "table": table}
    return render(markdown.PAGES / "comparison.md", **values)


def patch_size_of(model: str) -> int:
    """Pixels along a patch of the model's tower."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(model).vision_patch_size)


def _compared(row: Benchmark, folders: Mapping[str, Path]) -> Compared:
    samplings = list(folders)
    scores = {name: read_scores(row, read_samples(folders[name] / SAMPLES, row)) for name in samplings}
    first, second = (scores[name] for name in samplings[:2])
    published = None
    table = published_table("lmm_probe")
    values = table.by_label()
    if row.name in values and set(samplings[:2]) <= set(PAPER):
        names = [column.label for column in table.rows]
        mine, other = (values[row.name][names.index(PAPER[name])] for name in samplings[:2])
        published = row.published(mine) - row.published(other)
    return Compared(
        row,
        {name: found.figure() for name, found in scores.items()},
        {name: _tokens(folders[name] / ANSWERS, row) for name in samplings},
        _in_common(first, second),
        difference(first, second),
        published,
    )


def read_samples(folder: Path, row: Benchmark) -> dict[str, list[dict[str, Any]]]:
    """The samples of a row's tasks, as a run wrote them."""
    names = f"{row.task}_*.jsonl" if row.task == "mvbench" else f"{row.task}.jsonl"
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(folder.glob(names))
    }


def _tokens(folder: Path, row: Benchmark) -> float:
    """Mean tokens of a prompt of this row."""
    counts = []
    for path in folder.glob("answers-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["task"] == row.task or (row.task == "mvbench" and entry["task"].startswith("mvbench_")):
                counts.append(entry["tokens"][0])
    return sum(counts) / len(counts) if counts else float("nan")


def _in_common(first: Scores, second: Scores) -> int:
    return len(set(first.units) & set(second.units))


def _as_json(row: Compared, samplings: Sequence[str]) -> dict[str, Any]:
    mean, low, high = row.change
    return {
        "name": row.benchmark.name,
        "task": row.benchmark.task,
        "figures": row.figures,
        "tokens": row.tokens,
        "questions": row.questions,
        "difference": {"of": list(samplings[:2]), "mean": mean, "low": low, "high": high},
        "published_difference": row.published_change,
    }
