"""The figure: accuracy over the motion families against the budget, with the spread over seeds as bands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...jobs.charts import INK, QUIET, RULE, new_figure
from .settings import INPUTS
from .summary import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "codec": "#1f5fa8",
    "codec_energy": "#13315c",
    "codec_shots": "#0b7285",
    "codec_published": "#5aa0d8",
    "codec_bits": "#2a9d8f",
    "difference_all": "#c2571a",
    "difference_few": "#e0a458",
    "positions": "#8a3d8f",
    "uniform": "#3a7d44",
    "random": "#9aa0a6",
}
PANELS = (("all", "all clips"), ("moving", "clips with camera motion"))


def draw(results: Results, budgets: Sequence[float]) -> "Figure":
    """Two panels, all clips and those with a moving camera, and a legend."""
    budgets = sorted(budgets)
    group, families = next(iter(results.groups().items()))
    with_moving = any(results.seeds(name, b, families, "moving") for name in COLOURS for b in budgets)
    panels = PANELS if with_moving else PANELS[:1]
    figure = new_figure(230 + 480 * len(panels), 480)
    rows = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (subset, title) in zip(rows[0], panels, strict=True):
        _panel(axes, results, budgets, families, subset)
        axes.set_title(f"{group} families, {title}" if group != "all" else "all clips", color=INK)
    rows[0][0].set_ylabel("accuracy", color=QUIET)
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _panel(
    axes: Any, results: Results, budgets: Sequence[float], families: tuple[str, ...], subset: str
) -> None:
    """Lines through the means over seeds, over bands from the lowest to the highest."""
    for name, colour in COLOURS.items():
        seeds = {b: found for b in budgets if (found := results.seeds(name, b, families, subset))}
        if seeds:
            axes.fill_between(
                [*seeds], [*map(min, seeds.values())], [*map(max, seeds.values())], color=colour, alpha=0.2
            )
            axes.plot([*seeds], [*map(np.mean, seeds.values())], "o-", color=colour, label=INPUTS[name])
    ceilings = {b: c for b in budgets if (c := results.ceiling(b, families, subset)) is not None}
    if ceilings:
        axes.plot(
            [*ceilings], [*ceilings.values()], "k--", marker="_", ms=14, label="what uniform frames\ncan hold"
        )
    axes.axhline(results.chance(families), color=QUIET, ls=":", label="chance")
    if dense := results.seeds("dense", 1.0, families, subset):
        axes.axhline(np.mean(dense), color="#7a1f1f", ls="-.", label="dense, every pixel")
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [f"{100 * budget:.3g} %" for budget in budgets])
    axes.set_xticks([], minor=True)
    axes.set(ylim=(0, 1), xlabel="patches kept, of all in a clip")
    axes.grid(axis="y", color=RULE)
    axes.spines[["top", "right", "left"]].set_visible(False)
