"""What a probe came to, for people and for programs: result.json, report.md, confusion.png.

Shares from 0 to 1 in JSON, percent in the report. Last and best epoch are both given: published figures are
the best epoch on the test set, which is a choice made with the answers in hand.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from ...jobs.run_folder import atomic_files, canonical_json, write_atomically
from ..published import published_probes
from .clip_lists import ProbeClips
from .clip_transform import ViewSettings, shown_size
from .config import ProbeConfig
from .confusion import confusion_counts, draw_confusion

RESULT = "result.json"


def write_report(
    config: ProbeConfig, settings: ViewSettings, clips: ProbeClips, broken: list[dict[str, str]]
) -> dict[str, Any]:
    """Gather the seeds' results. `broken`: clips that gave no cached features."""
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
    picture = draw_confusion(
        counts,
        clips.names,
        f"{config.dataset or Path(config.out).name}: what is taken for what",
        f"last epoch, {len(config.seeds)} seed(s), {counts.sum() // len(config.seeds):,} test clips; "
        f"top-1 {100 * counts.trace() / counts.sum():.1f} %",
    )
    with atomic_files(out / "confusion.png") as (path,), open(path, "wb") as file:
        picture.save(file, "PNG")
    write_atomically(out / "report.md", _markdown(config, settings, result))
    write_atomically(out / RESULT, canonical_json(result))
    return result


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (None of one seed), and each."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def _published(config: ProbeConfig, settings: ViewSettings) -> list[dict[str, Any]]:
    if not config.dataset or settings.kind == "dense" or settings.num_patches is None:
        return []
    return [
        {"model": model, "source": source, "accuracy": percent / 100, "intervention": name}
        for name in (None, *config.intervene)
        for model, source, percent in published_probes(config.dataset, settings.num_patches, name)
    ]


def _predictions(out: Path, seed: int) -> Any:
    return np.load(out / f"seed-{seed}" / "predictions-last.npz")


def _counts(out: Path, seeds: list[int], classes: int) -> np.ndarray:
    found = [_predictions(out, seed) for seed in seeds]
    return np.sum([confusion_counts(p["labels"], p["predicted"], classes) for p in found], axis=0)


def _per_class(out: Path, seeds: list[int], names: list[str]) -> list[dict[str, Any]]:
    counts = _counts(out, seeds, len(names))
    rows = []
    for number, name in enumerate(names):
        clips, hits, taken = (
            int(counts[number].sum()),
            int(counts[number, number]),
            int(counts[:, number].sum()),
        )
        wrong = counts[number].copy()
        wrong[number] = 0
        rows.append(
            {
                "class": name,
                "test_clips": clips // len(seeds),
                "recall": hits / clips if clips else None,
                "precision": hits / taken if taken else None,
                "taken_for": names[int(wrong.argmax())] if wrong.any() else None,
            }
        )
    return rows


def _markdown(config: ProbeConfig, settings: ViewSettings, result: dict[str, Any]) -> str:
    budget = "every patch" if settings.kind == "dense" else settings.budget()
    lines = [
        f"# Probe: {config.dataset or Path(config.out).name}",
        "",
        f"{config.model}, frozen; input {settings.kind}, {budget}, {shown_size(settings.config)} "
        "pixels; head: "
        f"{result['head']}. {result['train_clips']} clips to train on, {result['test_clips']} to test on, "
        f"{result['classes']} classes (chance {_percent(result['chance'])} %). Missing: {result['missing']}, "
        f"unreadable: {len(result['broken'])}.",
        "",
        "Percent; mean and standard deviation over seeds "
        + ", ".join(map(str, config.seeds))
        + ". `best` is the best epoch on the test set, which is how published figures are chosen; `last` is "
        "chosen by nothing.",
        "",
        "| measure | last epoch | best epoch |",
        "|---|---|---|",
        *(
            f"| {_NAMES[name]} | {_cell(result['last'][name])} | {_cell(result['best'][name])} |"
            for name in result["last"]
        ),
        *(
            f"| top-1, {name} | {_cell(values['last'])} | {_cell(values['best'])} |"
            for name, values in result["interventions"].items()
        ),
        "",
    ]
    if result["published"]:
        lines += [
            f"## Published, {settings.num_patches} patches",
            "",
            "Top-1, the best epoch on the test set.",
            "",
            "| model | top-1 | source |",
            "|---|---|---|",
            *(
                f"| {row['model']} | {_percent(row['accuracy'])} | {row['source']} |"
                for row in result["published"]
            ),
            f"| **ours, best epoch** | {_cell(result['best']['accuracy'])} | this run |",
            f"| **ours, last epoch** | {_cell(result['last']['accuracy'])} | this run |",
            "",
        ]
    lines += [
        "## Classes, last epoch",
        "",
        "![confusion](confusion.png)",
        "",
        "| class | test clips | recall | precision | most often taken for |",
        "|---|---|---|---|---|",
        *(
            f"| {row['class']} | {row['test_clips']} | {_percent(row['recall'])} | "
            f"{_percent(row['precision'])} | {row['taken_for'] or ''} |"
            for row in result["per_class"]
        ),
        "",
    ]
    return "\n".join(lines)


_NAMES = {
    "accuracy": "top-1",
    "top5": "top-5",
    "class_accuracy": "top-1, mean over classes",
    "mean_average_precision": "mean average precision",
}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _cell(spread: dict[str, Any]) -> str:
    deviation = "" if spread["std"] is None else f" ± {_percent(spread['std'])}"
    return _percent(spread["mean"]) + deviation
