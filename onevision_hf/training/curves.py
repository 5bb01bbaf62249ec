"""The curves of a training run, drawn by matplotlib: losses, gradient norm, learning rate, accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..jobs.charts import new_figure
from .report import LOG, VALIDATION, read_lines

Curve = Sequence[tuple[float, float]]
Panel = tuple[str, Mapping[str, Curve]]


def run_curves(folder: Path) -> dict[str, Any]:
    """What the folder of a run holds to be drawn.

    Returns:
        `panels` for `draw_curves`, and `steps`, `first_loss`, `last_loss`, `accuracy` (None where nothing was
        validated).

    Raises:
        ValueError: no log is there.
    """
    log, validation = read_lines(folder / LOG), read_lines(folder / VALIDATION)
    if not log:
        raise ValueError(f"{folder} has no {LOG} with whole lines: give the folder of a training run")
    losses = ["loss", *sorted(key for key in log[0] if key.endswith("/loss"))]
    panels: list[Panel] = [("loss", {name: _curve(log, name) for name in losses})]
    if validation:
        panels.append(("nearest-neighbour accuracy", {"accuracy": _curve(validation, "accuracy")}))
    panels += [
        ("gradient norm", {"grad_norm": _curve(log, "grad_norm")}),
        ("learning rate", {"lr": _curve(log, "lr")}),
    ]
    return {
        "panels": panels,
        "steps": log[-1]["step"],
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "accuracy": validation[-1]["accuracy"] if validation else None,
    }


def _curve(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if key in line]


def draw_curves(panels: Sequence[Panel], path: Path) -> None:
    """Panels one below the other, over the steps.

    Args:
        panels: (title, curves by name, each a list of (step, value)).
        path: the picture to write; its suffix says of what kind.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(640, 260 * len(panels))
    for axes, (title, curves) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for name, curve in curves.items():
            steps, values = zip(*curve, strict=True) if curve else ((), ())
            axes.plot(steps, values, label=name, marker="." if len(curve) < 40 else None)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=8)
    axes.set_xlabel("step")
    figure.savefig(path)
