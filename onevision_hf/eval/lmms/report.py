"""The report of a run of the suite: `report.md` for people, `report.json` for programs, `report.png`.

Figures are on a scale of 0 to 100, next to the published columns, each row with what to think of before
comparing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...jobs.charts import INK, QUIET, RULE, new_figure, save_figure
from ...jobs.pages import render
from ...jobs.run_folder import canonical_json, write_atomically
from .. import markdown
from ..published import PublishedTable, published_table
from .questions import BrokenQuestion
from .scores import Result
from .suite import PUBLISHED, SUITES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_BROKEN = 40
OURS = "#d1495b"
# Okabe and Ito's colours, apart from ours; a marker's form is its group's.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#56b4e9", "#7a5195", "#8c6d31", "#4d4d4d", "#94a3b8")
BAR = {"marker": "|", "ms": 18, "mew": 4}


@dataclass
class SuiteReport:
    """What a run measured.

    Attributes:
        model: the folder or name of the model.
        fingerprint: of its files.
        settings: of the run: selection, batching, number format.
        versions: of lmms-eval and what else may change a figure.
        rows: benchmarks with their figures.
        broken: questions whose media could not be read.
        limit: documents of each task that were used, None for all.
        reported: published tables of what the model is, whose benchmarks are mostly not the suite's.
    """

    model: str
    fingerprint: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: Sequence[Result]
    broken: Sequence[BrokenQuestion] = ()
    limit: int | None = None
    reported: Sequence[str] = ()
    tables: list[PublishedTable] = field(init=False)

    def __post_init__(self) -> None:
        names = {row.name for row in self.rows}
        self.tables = [
            published_table(name)
            for name, benchmarks in PUBLISHED.items()
            if names & {benchmark.name for benchmark in benchmarks}
        ]

    def rows_of(self, table: PublishedTable) -> list[Result]:
        return [row for row in self.rows if row.name in table.by_label()]

    def broken_in(self, row: Result) -> list[BrokenQuestion]:
        task = row.benchmark.task
        group = f"{task}_" if task == "mvbench" else None
        return [b for b in self.broken if b.task == task or (group and b.task.startswith(group))]

    def short(self, row: Result) -> bool:
        """Whether fewer questions were there than the data set's card says; those left out were there."""
        skipped = sum(item.counted == "skipped" for item in self.broken_in(row))
        return row.documents + skipped < row.benchmark.documents

    def published_of(self, table: PublishedTable, row: Result) -> list[float]:
        """On 0 to 100."""
        return [row.benchmark.published(value) for value in table.by_label()[row.name]]

    def means(self, table: PublishedTable) -> list[tuple[str, float, list[float]]]:
        """(name, ours, published) over the seven video and the nine image rows, where all were measured."""
        found = []
        for name in ("video", "image"):
            wanted = {benchmark.name for benchmark in SUITES[name]}
            rows = [row for row in self.rows_of(table) if row.name in wanted]
            figures = [row.figure for row in rows if row.figure is not None]
            if len(figures) == len(wanted):
                columns = zip(*[self.published_of(table, row) for row in rows], strict=True)
                means = [sum(column) / len(wanted) for column in columns]
                found.append((f"mean of {len(wanted)} {name}", sum(figures) / len(figures), means))
        return found

    def as_json(self) -> dict[str, Any]:
        rows = []
        for table in self.tables:
            for row in self.rows_of(table):
                keys = [f"{column.group}: {column.label}" for column in table.rows]
                rows.append(
                    {
                        "name": row.name,
                        "task": row.benchmark.task,
                        "metric": row.benchmark.metric,
                        "split": row.benchmark.split,
                        "figure": row.figure,
                        "raw": row.raw,
                        "documents": row.documents,
                        "documents_published": row.benchmark.documents,
                        "broken": len(self.broken_in(row)),
                        "published": dict(zip(keys, self.published_of(table, row), strict=True)),
                        "published_source": f"{table.source}. {table.note}",
                        "caution": row.benchmark.caution,
                    }
                )
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "limit": self.limit,
            "rows": rows,
            "means": {name: ours for table in self.tables for name, ours, _ in self.means(table)},
            "broken": [vars(item) for item in self.broken],
            "reported": [
                {"title": table.title, "source": table.source, "rows": self._reported(table)}
                for table in map(published_table, self.reported)
            ],
        }

    def _reported(self, table: PublishedTable) -> list[dict[str, Any]]:
        """Each benchmark of a table with its conditions, and ours where it is a row of the suite."""
        ours = {row.name: row.figure for row in self.rows}
        return [
            {
                "name": name,
                "figure": ours.get(name),
                "published": values[0],
                **table.more["conditions"][column],
            }
            for column, (name, values) in zip(table.columns, table.by_label().items(), strict=True)
        ]

    def as_markdown(self) -> str:
        header = ["task", "question", "file", "reason", "counted"]
        shown = [(b.task, b.doc_id, b.media, b.reason, b.counted) for b in self.broken[:SHOWN_BROKEN]]
        return render(
            markdown.PAGES / "suite.md",
            report=self,
            name=Path(self.model).name or self.model,
            short=sum(map(self.short, self.rows)),
            counted=Counter(item.counted for item in self.broken),
            reported=list(map(published_table, self.reported)),
            broken=markdown.table(header, shown),
            more=len(self.broken) - SHOWN_BROKEN,
        )

    def reported_table(self, table: PublishedTable) -> str:
        rows = []
        for row in self._reported(table):
            name, figure, published, *_ = row.values()
            said = [f"{key} {str(value).lower()}" for key, value in list(row.items())[3:]]
            rows.append([name, "-" if figure is None else f"**{figure:.1f}**", published, ", ".join(said)])
        return markdown.table(["", "**this model**", table.rows[0].model, "conditions"], rows)

    def table(self, table: PublishedTable) -> str:
        unique = len({column.label for column in table.rows}) == len(table.rows)
        names = [c.label if unique else f"{c.label}, {c.group}" for c in table.rows]
        rows = []
        for row in self.rows_of(table):
            ours = "-" if row.figure is None else f"**{row.figure:.1f}**"
            published = [f"{value:.1f}" for value in self.published_of(table, row)]
            count = f"{row.documents}" + (f" of {row.benchmark.documents}" if self.short(row) else "")
            rows.append([row.name, ours, *published, count, len(self.broken_in(row)) or ""])
        for name, mean, values in self.means(table):
            rows.append([f"*{name}*", f"**{mean:.1f}**", *[f"{value:.1f}" for value in values], "", ""])
        header = ["", "**this model**", *names, "questions", "broken"]
        return markdown.table(header, rows, right=True)


def write_report(report: SuiteReport, folder: Path) -> list[Path]:
    """`report.md`, `report.json` and `report.png` in `folder`; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", canonical_json(report.as_json()))
    save_figure(draw_report(report), folder / "report.png")
    write_atomically(folder / "report.md", report.as_markdown())
    return [folder / f"report.{kind}" for kind in ("md", "json", "png")]


def draw_report(report: SuiteReport) -> "Figure":
    """The tables one below the other: a line a benchmark, this model as a disc, the published as marks."""
    heights = [len(report.rows_of(table)) + 5 for table in report.tables]
    figure = new_figure(1200, 44 * sum(heights))
    panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for axes, table in zip(panels, report.tables, strict=True):
        _draw_table(axes, report, table)
    return figure


def _draw_table(axes: Any, report: SuiteReport, table: PublishedTable) -> None:
    rows = report.rows_of(table)
    groups = list(dict.fromkeys(column.group for column in table.rows))
    places = range(len(rows))
    for number, column in enumerate(table.rows):
        values = [report.published_of(table, row)[number] for row in rows]
        look = {"marker": "D", "ms": 9, "mec": "white"} if groups.index(column.group) else BAR
        label = f"{column.label}, {column.group}"
        axes.plot(values, places, **look, ls="", color=COLOURS[number], label=label)
    measured = [(row.figure, place) for place, row in enumerate(rows) if row.figure is not None]
    if measured:
        at = zip(*measured, strict=True)
        axes.plot(*at, "o", ms=13, mec="white", color=OURS, label="this model", clip_on=False, zorder=3)
    for place, row in enumerate(rows):
        text, colour = ("not run", QUIET) if row.figure is None else (f"{row.figure:.1f}", OURS)
        axes.annotate(text, (101.5, place), color=colour, fontsize=13, va="center", annotation_clip=False)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5), xlabel="0 to 100, higher is better")
    axes.set_yticks(places, [row.name for row in rows], fontsize=13, color=INK)
    axes.tick_params(length=0, pad=12)
    axes.grid(color=RULE)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title(table.title, loc="left", fontsize=16, color=INK)
    below = {"loc": "upper center", "bbox_to_anchor": (0.45, 0), "borderaxespad": 4.5}
    axes.legend(**below, ncols=3, frameon=False, markerscale=0.7)
