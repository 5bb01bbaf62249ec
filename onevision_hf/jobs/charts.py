"""Charts of what jobs found, by matplotlib: imported when a chart is drawn, never through its global state.

figure = new_figure(1200, 600)
figure.subplots().plot(...)
save_figure(figure, folder / "report.png")
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .run_folder import atomic_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
INK, QUIET, RULE = "#1b1f27", "#6b7280", "#e3e6eb"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, laid out so that nothing overlaps.

    Args:
        width: pixels.
        height: pixels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'charts need matplotlib: pip install ".[train]" in a clone (or [eval]), or pip install matplotlib'
        ) from error
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained", facecolor="white")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG; what was there is replaced when all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files(path) as (partial,):
        figure.savefig(partial, format="png")
