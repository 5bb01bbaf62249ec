"""What was measured: the rows of the suite out of lmms-eval's results, and what each document scored.

    rows = read_rows(results, benchmarks)                   # figures, 0 to 100
    scores = read_scores(row, {"videomme": samples})        # by question, so that two runs can be compared
    difference(ours, theirs)                                # (mean, low, high): paired, resampled by video

lmms-eval hands on whatever each task's aggregation reads: numbers, or a dictionary with a score in it, or
with an answer and the right one. A figure is a mean over groups (question types, MVBench's tasks) of means
over units.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .suite import Benchmark, row_of

RESAMPLES = 2000
# Where an item lies whose questions are no independent draws: several about one video.
CLUSTERS = ("videoID", "video", "video_name", "video_path", "video_id")
# MMBench repeats a question with its options turned, a million apart.
TURN = 1_000_000


@dataclass(frozen=True)
class Result:
    """What was measured of a benchmark.

    Attributes:
        figure: 0 to 100; None where no document was scored.
        documents: how many were used.
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
) -> list[Result]:
    """The rows of `benchmarks` out of what `simple_evaluate` returned.

    The mean over a group's tasks is taken here, since lmms-eval leaves the row of MVBench's group blank.

    Args:
        results: of `simple_evaluate`.
        benchmarks: rows of the suite.
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
        rows.append(Result(benchmark, figure, documents, raw))
    return rows


def subtasks(results: Mapping[str, Any], task: str) -> list[str]:
    """The tasks of a group that ran, or the task itself."""
    return [name for name in results["n-samples"] if name == task or row_of(name) is row_of(task)] or [task]


def metric_of(result: Mapping[str, Any], metric: str, task: str) -> float | None:
    """The value of `metric` whatever its filter is called; None where nothing was scored.

    Args:
        result: a task's results, "metric,filter" -> value.
        metric: without the filter.
        task: for the message.
    """
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


@dataclass
class Scores:
    """Scores of the units of one row, in the order of `units`.

    Attributes:
        units: names, the same for the same question in every run.
        values: (n,) 0 to 1.
        groups: (n,) number of the group that the unit's mean belongs to.
        clusters: (n,) number of the video that it is about, or a number of its own.
    """

    units: list[str]
    values: np.ndarray
    groups: np.ndarray
    clusters: np.ndarray

    def figure(self) -> float:
        """0 to 100."""
        return 100 * _mean_of_means(self.values, self.groups)


def read_scores(row: Benchmark, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Scores:
    """The scores of a row.

    Args:
        row: of the suite.
        samples: by task, as lmms-eval logs them: "doc_id", "doc", and what each metric was given.

    Raises:
        ValueError: nothing there has this row's metric.
    """
    units: dict[str, list[float]] = {}
    groups: dict[str, str] = {}
    clusters: dict[str, str] = {}
    for task, documents in samples.items():
        for sample in documents:
            found = sample.get(row.metric)
            if found is None:  # a document of another metric: MME has two, SeedBench three
                continue
            unit, group = _place(row, task, sample, found)
            units.setdefault(unit, []).append(_value(row, sample, found))
            groups[unit] = group
            clusters[unit] = _cluster(task, sample) or unit
    if not units:
        raise ValueError(f"no sample of {', '.join(samples) or 'no task'} has the metric {row.metric}")
    names = list(units)
    values = [_of_unit(row, units[name]) for name in names]
    return Scores(
        names, np.array(values), _numbers(groups[n] for n in names), _numbers(clusters[n] for n in names)
    )


def difference(ours: Scores, theirs: Scores, seed: int = 0) -> tuple[float, float, float]:
    """(mean, 2.5 %, 97.5 %) of ours minus theirs on 0 to 100, over the units that both have.

    Units are resampled by cluster: questions about one video are one draw.

    Args:
        ours: of one run.
        theirs: of the other.
        seed: of the resamples.

    Raises:
        ValueError: they have no unit in common.
    """
    place = {name: index for index, name in enumerate(theirs.units)}
    both = [(index, place[name]) for index, name in enumerate(ours.units) if name in place]
    if not both:
        raise ValueError("the two runs have no question in common")
    mine, other = (np.array(column) for column in zip(*both, strict=True))
    change = ours.values[mine] - theirs.values[other]
    groups, clusters = ours.groups[mine], ours.clusters[mine]
    mean = 100 * _mean_of_means(change, groups)

    _, cluster = np.unique(clusters, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    # Sums and counts of each cluster in each group: a resample is then a weighted sum of these rows.
    sums = np.zeros((cluster.max() + 1, group.max() + 1))
    counts = np.zeros_like(sums)
    np.add.at(sums, (cluster, group), change)
    np.add.at(counts, (cluster, group), 1)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        weights = np.bincount(random.integers(0, len(sums), len(sums)), minlength=len(sums))
        total, count = weights @ sums, weights @ counts
        means[index] = (total[count > 0] / count[count > 0]).mean()
    low, high = np.quantile(100 * means, [0.025, 0.975])
    return mean, float(low), float(high)


def _value(row: Benchmark, sample: Mapping[str, Any], found: Any) -> float:
    if isinstance(found, bool | int | float | np.number):
        return float(found)
    if row.task == "mmbench_en_dev_static":
        return float(_letter_of(found) == found["answer"])
    if "score" in found:
        return float(found["score"])
    if "correct" in found:
        return float(found["correct"])
    given = next(found[name] for name in ("pred_answer", "parsed_pred", "pred") if name in found)
    right = found["answer"]
    if row.task == "seedbench":
        return float(str(given).lower().strip() == str(right).lower().strip())
    return float(given == right)


def _letter_of(found: Mapping[str, Any]) -> str | None:
    """MMBench's letter, by the task's own evaluator."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    evaluator = MMBench_Evaluator()
    choices = {letter: found[letter] for letter in "ABCD" if found.get(letter) not in (None, "")}
    letter = evaluator.can_infer(found["prediction"], dict(choices))
    return letter or extract_mcq_answer(found["prediction"], choices=sorted(choices))


def _place(row: Benchmark, task: str, sample: Mapping[str, Any], found: Any) -> tuple[str, str]:
    """(unit, group) of a document."""
    name = f"{task} {sample['doc_id']}"
    if row.task == "mvbench":
        return name, task
    if row.task == "mlvu_dev":
        return name, found["task_type"]
    if row.task == "mmstar":
        return name, found["l2_category"]
    if row.task == "mme":
        return f"{found['category']} {found['question_id']}", found["category"]
    if row.task == "mmbench_en_dev_static":
        return f"{task} {int(found['index']) % TURN}", ""
    return name, ""


def _of_unit(row: Benchmark, values: list[float]) -> float:
    if row.task == "mmbench_en_dev_static":
        return min(values)  # right in every turn
    if row.task == "mme":
        return (sum(values) / len(values) + min(values)) / 2  # accuracy, and both questions of an image
    return sum(values) / len(values)


def _cluster(task: str, sample: Mapping[str, Any]) -> str | None:
    document = sample.get("doc") or {}
    return next((f"{task} {document[name]}" for name in CLUSTERS if document.get(name) is not None), None)


def _numbers(names: Iterable[str]) -> np.ndarray:
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names])


def _mean_of_means(values: np.ndarray, groups: np.ndarray) -> float:
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    return float((sums[counts > 0] / counts[counts > 0]).mean())
