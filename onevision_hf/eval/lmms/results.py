"""From lmms-eval's results to the rows of the suite, on a scale of 0 to 100."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .suite import Benchmark, row_of


@dataclass(frozen=True)
class Row:
    """A benchmark and what was measured.

    Attributes:
        figure: 0 to 100; None where no document was scored.
        documents: how many were asked.
        raw: what lmms-eval reported, on its own scale.
    """

    benchmark: Benchmark
    figure: float | None
    documents: int
    raw: float | None

    @property
    def name(self) -> str:
        return self.benchmark.name


def read_rows(
    results: Mapping[str, Any], benchmarks: Iterable[Benchmark], skipped: Iterable[tuple[str, int]] = ()
) -> list[Row]:
    """The rows of `benchmarks` out of what `simple_evaluate` returned.

    The mean over a group's tasks is taken here, since lmms-eval leaves the row of MVBench's group blank.

    Args:
        skipped: (task, document) of each question that was left out.

    Raises:
        ValueError: a task ran but its results have no such metric: another version of lmms-eval.
    """
    rows, missing = [], Counter(task for task, _ in skipped)
    for benchmark in benchmarks:
        parts = subtasks(results, benchmark.task)
        values, documents = [], 0
        for task in parts:
            documents += int(results["n-samples"][task]["effective"]) - missing[task]
            value = metric_of(results["results"].get(task, {}), benchmark.metric, task)
            if value is not None:
                values.append(value)
        raw = sum(values) / len(values) if values else None
        figure = None if raw is None else benchmark.figure(raw, documents)
        rows.append(Row(benchmark, figure, documents, raw))
    return rows


def subtasks(results: Mapping[str, Any], task: str) -> list[str]:
    """The tasks of a group that ran, or the task itself."""
    return [name for name in results["n-samples"] if name == task or row_of(name) is row_of(task)] or [task]


def metric_of(result: Mapping[str, Any], metric: str, task: str) -> float | None:
    """The value of `metric` whatever its filter is called; None where nothing was scored."""
    found = [key for key in result if key.split(",")[0] == metric]
    if found:
        return float(result[found[0]])
    if any("," in key for key in result):
        names = sorted({key.split(",")[0] for key in result if "," in key and "_stderr" not in key})
        raise ValueError(
            f"lmms-eval's results of {task} have no metric {metric!r}, only {', '.join(names)}: "
            "the table is of another version of lmms-eval"
        )
    return None
