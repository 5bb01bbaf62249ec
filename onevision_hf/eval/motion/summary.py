"""From the results of trials to one document: accuracy over seeds, means over families, the goals."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .settings import FAMILIES, INPUTS, MOTION, NEED_PIXELS, SUBSETS, SUSTAINED, SuiteSettings

GROUPS = {
    "motion": MOTION,
    "sustained": SUSTAINED,
    "other": tuple(name for name in FAMILIES if name not in MOTION + SUSTAINED),
}
GOAL_BUDGET = 1 / 16
MARGIN = 0.10

Table = dict[str, dict[str, dict[str, float | None]]]


class Results:
    """What the trials of a run found.

    Args:
        families: names with their labels.
        trials: results as stored.
        ceilings: by budget, family and subset.
    """

    def __init__(self, families: dict[str, tuple[str, ...]], trials: Sequence[dict], ceilings: Table):
        self.families, self.trials, self.ceilings = families, trials, ceilings

    def groups(self) -> dict[str, tuple[str, ...]]:
        found = {name: tuple(f for f in some if f in self.families) for name, some in GROUPS.items()}
        return {name: some for name, some in found.items() if some} or {"all": tuple(self.families)}

    def chance(self, families: Iterable[str]) -> float:
        return float(np.mean([1 / len(self.families[name]) for name in families]))

    def ceiling(self, budget: float, families: Iterable[str], subset: str = "all") -> float | None:
        """What an observer of as many whole frames could score; None where that is not known.

        Args:
            budget: fraction of all patches.
            families: whose mean it is.
            subset: of the clips, one of `SUBSETS`.
        """
        known = [self.ceilings[f"{budget:g}"][name][subset] for name in families]
        values = [value for value in known if value is not None]
        return float(np.mean(values)) if len(values) == len(known) else None

    def seeds(
        self, name: str, budget: float, families: Iterable[str], subset: str = "all", mode: str = "scratch"
    ) -> list[float]:
        """The mean accuracy over families of each seed; an empty list where no such trial ran.

        Args:
            name: of the input.
            budget: fraction of all patches.
            families: whose mean it is.
            subset: of the clips, one of `SUBSETS`.
            mode: "scratch" or "frozen".
        """
        found = []
        for result in self.trials:
            trial = result["settings"]["trial"]
            if (trial["mode"], trial["input"]) != (mode, name):
                continue
            if name != "dense" and trial["budget"] != budget:
                continue
            values = [result["accuracy"][family][subset] for family in families]
            if all(value is not None for value in values):
                found.append(float(np.mean(values)))
        return found

    def mean(self, name: str, budget: float, families: Iterable[str], subset: str = "all") -> float | None:
        """The mean of `seeds`, None where no such trial ran.

        Args:
            name: of the input.
            budget: fraction of all patches.
            families: whose mean it is.
            subset: of the clips, one of `SUBSETS`.
        """
        found = self.seeds(name, budget, tuple(families), subset)
        return float(np.mean(found)) if found else None

    def patches_of(self, name: str, budget: float) -> list[dict[str, float]]:
        """Of an input whose clips have patches of their own numbers: how many, a list entry a seed."""
        found = []
        for result in self.trials:
            trial = result["settings"]["trial"]
            if "patches" in result and (trial["input"], trial["budget"]) == (name, budget):
                found.append(result["patches"])
        return found

    def interventions(self, budget: float) -> dict[str, list[dict]]:
        """Accuracies of codec trials, as they are and under each intervention, a list entry a seed."""
        found: dict[str, list[dict]] = {}
        for result in self.trials:
            if "interventions" in result and result["settings"]["trial"]["budget"] == budget:
                found.setdefault("as it is", []).append(result["accuracy"])
                for name, accuracy in result["interventions"].items():
                    found.setdefault(name, []).append(accuracy)
        return found


def goals(results: Results) -> list[dict[str, Any]]:
    """What the suite set out to show, at 6.25 %: the figure, what it should be, and whether it is."""
    found: list[dict[str, Any]] = []

    def add(goal: str, value: float | None, wanted: float) -> None:
        met = None if value is None else bool(value >= wanted)
        found.append(
            {"goal": goal, "value": None if value is None else round(value, 4), "wanted": wanted, "met": met}
        )

    def gap(name: str, other: float | None, families: Iterable[str], subset: str = "all") -> float | None:
        mine = results.mean(name, GOAL_BUDGET, families, subset)
        return None if mine is None or other is None else mine - other

    if f"{GOAL_BUDGET:g}" not in results.ceilings or not set(MOTION) <= set(results.families):
        return found
    add(
        "codec over the ceiling of uniform frames, motion families",
        gap("codec", results.ceiling(GOAL_BUDGET, MOTION), MOTION),
        MARGIN,
    )
    add(
        "codec over the difference of all frames, motion families, moving camera",
        gap("codec", results.mean("difference_all", GOAL_BUDGET, MOTION, "moving"), MOTION, "moving"),
        MARGIN,
    )
    for family in NEED_PIXELS:
        add(
            f"codec over positions only, {family}",
            gap("codec", results.mean("positions", GOAL_BUDGET, (family,)), (family,)),
            MARGIN,
        )
    means = {f: results.mean("uniform", GOAL_BUDGET, (f,)) for f in MOTION + SUSTAINED}
    above = [f for f, mean in means.items() if mean is not None and mean >= results.chance((f,)) + MARGIN]
    if any(mean is not None for mean in means.values()):
        add("motion families on which uniform frames are ten points above chance", float(len(above)), 3)
    return found


def summarise(
    settings: SuiteSettings, families: dict[str, tuple[str, ...]], trials: Sequence[dict], ceilings: Table
) -> dict[str, Any]:
    """The document of a run: settings, families with their chance, ceilings, means, goals, and every trial.

    Args:
        settings: of the run.
        families: name -> its answers.
        trials: their results.
        ceilings: by budget, family and subset.
    """
    results = Results(families, trials, ceilings)
    means = []
    for group, names in results.groups().items():
        for budget in settings.budgets:
            row: dict[str, Any] = {
                "group": group,
                "budget": budget,
                "chance": round(results.chance(names), 4),
                "ceiling": results.ceiling(budget, names),
            }
            for mode in ("scratch", "frozen"):
                row[mode] = {
                    name: {subset: results.seeds(name, budget, names, subset, mode) for subset in SUBSETS}
                    for name in INPUTS
                    if results.seeds(name, budget, names, "all", mode)
                }
            means.append(row)
    return {
        "settings": asdict(settings),
        "families": {name: list(answers) for name, answers in families.items()},
        "chance": {name: 1 / len(answers) for name, answers in families.items()},
        "ceilings": ceilings,
        "means": means,
        "goals": goals(results),
        "trials": list(trials),
    }
