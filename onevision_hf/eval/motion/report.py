"""The results as a page: a table a budget, the goals, the interventions, the frozen encoder."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...jobs.charts import save_figure
from ...jobs.run_folder import write_atomically
from ..markdown import table
from .figure import draw
from .settings import CODEC_INPUTS, INPUTS, SUBSETS, SuiteSettings
from .summary import Results

BEGIN, END = "<!-- results of `onevision eval motion` -->", "<!-- end of results -->"
ORDER = ("positions", "random", "uniform", "difference_few", "difference_all", *CODEC_INPUTS, "dense")


def write(
    document: dict[str, Any], settings: SuiteSettings, out: Path, json_path: Path | None = None
) -> list[Path]:
    """Write the results into a page, the figure into images/ next to it, and the document as JSON.

    What the page holds outside of its two marks stays. Returns the files.

    Args:
        document: see `summary.summarise`.
        settings: of the run.
        out: the page.
        json_path: where the document goes; None writes none.
    """
    results = _results(document)
    figure = out.parent / "images" / f"{out.stem}.png"
    save_figure(draw(results, settings.budgets), figure)
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    write_atomically(out, into_page(text, page(document, settings, f"images/{figure.name}")))
    if json_path is None:
        return [out, figure]
    write_atomically(json_path, json.dumps(document) + "\n")
    return [out, figure, json_path]


def page(document: dict[str, Any], settings: SuiteSettings, figure: str | None) -> str:
    """The results as Markdown.

    Args:
        document: see `summary.summarise`.
        settings: of the run.
        figure: its path from the page; None leaves it out.
    """
    results = _results(document)
    parts = [_heading(document, settings)]
    if document["goals"]:
        parts.append(_goals(document["goals"]))
    if figure:
        parts.append(f"![Accuracy over the motion families against the budget]({figure})")
    for budget in sorted(settings.budgets, key=lambda b: (b != 1 / 16, b)):
        k = settings.patches(budget)
        parts.append(f"### {100 * budget:.3g} %: {k} patches, {settings.frames(budget)} whole frames")
        parts.append(_accuracies(results, budget, "scratch"))
    for budget in settings.budgets:
        if interventions := results.interventions(budget):
            parts.append(_interventions(results, interventions, budget))
    for budget in settings.budgets:
        if _inputs_of(results, budget, "frozen"):
            model = document.get("model")
            parts.append(f"### A probe on the tokens of `{model}`, frozen, {100 * budget:.3g} %")
            parts.append(_accuracies(results, budget, "frozen"))
    return "\n\n".join(parts) + "\n"


def into_page(text: str, results: str) -> str:
    """A page with what stands between its two marks replaced; without marks they go at the end."""
    block = f"{BEGIN}\n\n{results}\n{END}\n"
    if BEGIN in text and END in text:
        before, rest = text.split(BEGIN, 1)
        return before + block + rest.split(END, 1)[1].lstrip("\n")
    return text + ("\n" if text else "") + block


def _results(document: dict[str, Any]) -> Results:
    families = {name: tuple(answers) for name, answers in document["families"].items()}
    return Results(families, document["trials"], document["ceilings"])


def _heading(document: dict[str, Any], settings: SuiteSettings) -> str:
    clips, trials = document["clips"], document["trials"]
    spent = sum(trial["cpu_seconds"] for trial in trials)
    devices = " and ".join(sorted({trial["device"] for trial in trials}))
    text = (
        f"{clips['train']} clips to train on, {clips['test']} to test with; {len(trials)} trials, "
        f"{spent / 60:.0f} minutes of one core in all (device: {devices}); classifiers trained for "
        f"{settings.mixing.steps} + {settings.training.steps} steps; "
        f"seeds {', '.join(map(str, settings.seeds))}."
    )
    if clips["rejected"]:
        text += f" {len(clips['rejected'])} clips could not be read and were left out."
    return text


def _goals(goals: Sequence[dict[str, Any]]) -> str:
    rows = []
    for goal in goals:
        whole = goal["wanted"] >= 1
        value = (
            "not run"
            if goal["value"] is None
            else f"{goal['value']:.0f}"
            if whole
            else _signed(goal["value"])
        )
        wanted = f"{goal['wanted']:.0f}" if whole else _signed(goal["wanted"])
        met = {None: "", True: "yes", False: "**no**"}[goal["met"]]
        rows.append([goal["goal"], wanted, value, met])
    return table(["goal, at 6.25 %", "wanted", "found", "met"], rows)


def _signed(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _inputs_of(results: Results, budget: float, mode: str) -> list[str]:
    """The inputs that trials of a mode ran on at a budget."""
    first = tuple(results.families)[:1]
    return [name for name in ORDER if results.seeds(name, budget, first, "all", mode)]


def _accuracies(results: Results, budget: float, mode: str) -> str:
    names = _inputs_of(results, budget, mode)
    header = ["family", "chance", "ceiling of uniform", *(INPUTS[name] for name in names)]
    rows = []
    for group, families in results.groups().items():
        for family in families:
            rows.append(_row(results, family, budget, (family,), "all", names, mode))
        for subset in SUBSETS if group == "motion" and mode == "scratch" else ("all",):
            named = {"all": "", "still": ", still camera", "moving": ", moving camera"}
            title = f"**mean, {group}{named.get(subset, f', {subset}')}**"
            row = _row(results, title, budget, families, subset, names, mode)
            if any(row[2:]):  # footage neither pans nor zooms nor shakes
                rows.append(row)
    told = [
        f"{INPUTS['codec_energy']}: `keep_energy={own['keep_energy']:.3g}`, {own['mean']:.1f} patches of a "
        f"test clip on average, {own['least']:.0f} to {own['most']:.0f}."
        for own in results.patches_of("codec_energy", budget)[:1]
        if mode == "scratch"
    ]
    return "\n\n".join([table(header, rows), *told])


def _row(
    results: Results,
    title: str,
    budget: float,
    families: Iterable[str],
    subset: str,
    names: Sequence[str],
    mode: str = "scratch",
) -> list[str]:
    families = tuple(families)
    ceiling = results.ceiling(budget, families, subset)
    trials = [_spread(results.seeds(name, budget, families, subset, mode)) for name in names]
    return [title, f"{results.chance(families):.3f}", "" if ceiling is None else f"{ceiling:.3f}", *trials]


def _spread(values: Sequence[float]) -> str:
    """The mean over seeds and, of several, their standard deviation."""
    if not values:
        return ""
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def _interventions(results: Results, interventions: dict[str, list[dict]], budget: float) -> str:
    names = list(interventions)
    rows = []
    for group, families in results.groups().items():
        shown = [(f, (f,)) for f in families] if group != "other" else []
        for title, some in [*shown, (f"**mean, {group}**", families)]:
            trials = []
            for name in names:
                values = [[accuracy[f]["all"] for f in some] for accuracy in interventions[name]]
                trials.append(_spread([float(np.mean(v)) for v in values if None not in v]))
            rows.append([*_row(results, title, budget, some, "all", ("positions",)), *trials])
    header = ["family", "chance", "ceiling of uniform", INPUTS["positions"]]
    header += [name.replace("_", " ") for name in names]
    return f"### Interventions on the codec's input, {100 * budget:.3g} %\n\n" + table(header, rows)
