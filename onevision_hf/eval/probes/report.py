"""What a probe came to, for people and for programs: result.json, report.md, confusion.png.

Fractions from 0 to 1 in JSON, percent in the report. Last and best epoch are both given: published figures
are the best epoch on the test set, which is a choice made with the answers in hand.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from ...jobs.charts import INK, QUIET, new_figure, save_figure
from ...jobs.pages import render
from ...jobs.run_folder import canonical_json, write_atomically
from ..markdown import PAGES, table
from ..published import published_probes
from .clip_lists import ProbeClips
from .clip_transform import InputSettings, shown_size
from .config import ProbeConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT = "result.json"
# Classes whose names, and whose counts, are readable in the confusion matrix; mistakes that are listed.
NAMED, COUNTED, LISTED = 40, 12, 12


def write_report(
    config: ProbeConfig, settings: InputSettings, clips: ProbeClips, broken: list[dict[str, str]]
) -> dict[str, Any]:
    """Gather the seeds' results and write them.

    Args:
        config: of the probe.
        settings: how clips are shown.
        clips: of both lists.
        broken: records of clips that gave no cached features.
    """
    out = Path(config.out)
    seeds = [json.loads((out / f"seed-{seed}" / RESULT).read_text()) for seed in config.seeds]
    measures = [name for name in seeds[0]["last"] if name not in ("step", "epoch")]
    classes = _per_class(out, config.seeds, clips.names)
    result = {
        "dataset": config.dataset,
        "model": config.model,
        "input": config.input.kind,
        "num_patches": None if settings.kind == "dense" else settings.num_patches,
        "processor": settings.identity(),
        "head": "published" if config.head.position is None else f"probe at {config.head.position}",
        "classes": len(clips.names),
        "chance": 1 / len(clips.names),
        "train_clips": len(clips.train),
        "test_clips": len(clips.test),
        "missing": len(clips.missing),
        "broken": [*broken, *seeds[0]["broken_test"]],
        "seeds": config.seeds,
        "last": {name: _spread([seed["last"][name] for seed in seeds]) for name in measures},
        "best": {name: _spread([seed["best"][name] for seed in seeds]) for name in measures}
        | {"epochs": [seed["best"]["epoch"] for seed in seeds]},
        "interventions": {
            name: {
                which: _spread([seed["interventions"][name][which]["accuracy"] for seed in seeds])
                for which in ("last", "best")
            }
            for name in config.intervene
        },
        "published": _published(config, settings),
        "per_class": classes,
    }
    counts = _counts(out, config.seeds, len(clips.names))
    title = (
        f"{config.dataset or Path(config.out).name}: last epoch, {len(config.seeds)} seed(s), "
        f"{counts.sum() // len(config.seeds):,} test clips; top-1 {100 * counts.trace() / counts.sum():.1f} %"
    )
    save_figure(draw_confusion(counts, clips.names, title), out / "confusion.png")
    write_atomically(out / "report.md", _markdown(config, settings, result))
    write_atomically(out / RESULT, canonical_json(result))
    return result


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (None of one seed), and each."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def _published(config: ProbeConfig, settings: InputSettings) -> list[dict[str, Any]]:
    if not config.dataset or settings.kind == "dense" or settings.num_patches is None:
        return []
    return [
        {"model": model, "source": source, "accuracy": percent / 100, "intervention": name}
        for name in (None, *config.intervene)
        for model, source, percent in published_probes(config.dataset, settings.num_patches, name)
    ]


def _counts(out: Path, seeds: list[int], classes: int) -> np.ndarray:
    """(C, C) of all seeds: the row is the true class, the column the predicted one."""
    from sklearn.metrics import confusion_matrix

    found = [np.load(out / f"seed-{seed}" / "predictions-last.npz") for seed in seeds]
    every = range(classes)
    return np.sum([confusion_matrix(p["labels"], p["predicted"], labels=every) for p in found], axis=0)


def draw_confusion(counts: np.ndarray, names: list[str], title: str) -> "Figure":
    """A confusion matrix in shades of each row's fractions, and the most frequent mistakes.

    Args:
        counts: (C, C), the row is the true class, the column the predicted one.
        names: of the classes; they are shown where there are few.
        title: above.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    classes = len(names)
    figure = new_figure(1300, 900)
    axes, side = figure.subplots(1, 2, width_ratios=(3, 1))
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(fractions, display_labels=names if classes <= NAMED else None)
    display.plot(ax=axes, include_values=classes <= COUNTED, cmap="Blues", colorbar=False)
    if display.text_ is not None:
        for text, count in zip(display.text_.flat, counts.flat, strict=True):
            text.set_text(str(count) if count else "")
    if classes > NAMED:
        ticks = range(0, classes, max(10, round(classes / 80) * 10))
        axes.set(xticks=ticks, yticks=ticks, xticklabels=ticks, yticklabels=ticks)
    axes.tick_params(axis="x", rotation=90 if classes > 4 else 0)
    figure.suptitle(title, color=INK, fontsize=15)
    side.axis("off")
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    mistakes = [f"{names[true]} as {names[taken]}: {wrong[true, taken]}"
                for true, taken in pairs if wrong[true, taken]]  # fmt: skip
    if mistakes:
        side.text(0, 1, "most frequent mistakes", va="top", color=INK, fontsize=12)
        side.text(0, 0.95, "\n".join(mistakes), va="top", color=QUIET, fontsize=11, linespacing=1.6)
    return figure


def _per_class(out: Path, seeds: list[int], names: list[str]) -> list[dict[str, Any]]:
    counts = _counts(out, seeds, len(names))
    rows = []
    for number, name in enumerate(names):
        clips, hits, taken = counts[number].sum(), counts[number, number], counts[:, number].sum()
        wrong = counts[number].copy()
        wrong[number] = 0
        rows.append(
            {
                "class": name,
                "test_clips": int(clips) // len(seeds),
                "recall": float(hits / clips) if clips else None,
                "precision": float(hits / taken) if taken else None,
                "taken_for": names[int(wrong.argmax())] if wrong.any() else None,
            }
        )
    return rows


def _markdown(config: ProbeConfig, settings: InputSettings, result: dict[str, Any]) -> str:
    changed = result["interventions"]
    measures = [(_NAMES[n], _spelled(result["last"][n]), _spelled(result["best"][n])) for n in result["last"]]
    measures += [(f"top-1, {n}", _spelled(v["last"]), _spelled(v["best"])) for n, v in changed.items()]
    best, last = (_spelled(result[which]["accuracy"]) for which in ("best", "last"))
    published = [(row["model"], _percent(row["accuracy"]), row["source"]) for row in result["published"]]
    published += [("**ours, best epoch**", best, "this run"), ("**ours, last epoch**", last, "this run")]
    classes = [
        (c["class"], c["test_clips"], _percent(c["recall"]), _percent(c["precision"]), c["taken_for"] or "")
        for c in result["per_class"]
    ]
    header = ["class", "test clips", "recall", "precision", "most often taken for"]
    return render(
        PAGES / "probe.md",
        config=config,
        settings=settings,
        result=result,
        name=config.dataset or Path(config.out).name,
        budget="every patch" if settings.kind == "dense" else settings.budget(),
        side=shown_size(settings.config),
        percent=_percent,
        measures=table(["measure", "last epoch", "best epoch"], measures),
        published=table(["model", "top-1", "source"], published),
        classes=table(header, classes),
    )


_NAMES = {
    "accuracy": "top-1",
    "top5": "top-5",
    "class_accuracy": "top-1, mean over classes",
    "mean_average_precision": "mean average precision",
}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _spelled(spread: dict[str, Any]) -> str:
    deviation = "" if spread["std"] is None else f" ± {_percent(spread['std'])}"
    return _percent(spread["mean"]) + deviation
