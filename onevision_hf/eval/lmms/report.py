"""The report of a run of the suite: `report.md` for people, `report.json` for programs, `report.png`.

Ours stands on a scale of 0 to 100 beside the published columns, each row with what to think of before
comparing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...jobs.run_folder import canonical_json, write_atomically
from .published import SuiteTable, suite_table
from .results import Row
from .suite import PUBLISHED, SUITES

SHOWN_BROKEN = 40


@dataclass(frozen=True)
class Broken:
    """Media that could not be read, for one question.

    Attributes:
        media: the file, or "" where the task did not get so far as to name one.
        reason: what was wrong.
        counted: "wrong", or "skipped".
    """

    task: str
    doc_id: int
    media: str
    reason: str
    counted: str


@dataclass
class Report:
    """What a run measured.

    Attributes:
        model: the folder or name of the model.
        fingerprint: of its files.
        settings: of the run: selection, batching, number format.
        versions: of lmms-eval and what else may change a figure.
        rows: benchmarks with their figures.
        broken: questions whose media could not be read.
        limit: documents asked of each task, None for all.
    """

    model: str
    fingerprint: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: Sequence[Row]
    broken: Sequence[Broken] = ()
    limit: int | None = None
    tables: list[SuiteTable] = field(init=False)

    def __post_init__(self) -> None:
        names = {row.name for row in self.rows}
        self.tables = [
            suite_table(name)
            for name, benchmarks in PUBLISHED.items()
            if names & {benchmark.name for benchmark in benchmarks}
        ]

    def rows_of(self, table: SuiteTable) -> list[Row]:
        return [row for row in self.rows if row.name in table.rows]

    def broken_in(self, row: Row) -> list[Broken]:
        task = row.benchmark.task
        group = f"{task}_" if task == "mvbench" else None
        return [b for b in self.broken if b.task == task or (group and b.task.startswith(group))]

    def short(self, row: Row) -> bool:
        """Whether fewer questions were there than the data set's card says; those left out were there."""
        skipped = sum(item.counted == "skipped" for item in self.broken_in(row))
        return row.documents + skipped < row.benchmark.documents

    def published_of(self, table: SuiteTable, row: Row) -> list[float]:
        """On 0 to 100."""
        return [row.benchmark.published(value) for value in table.rows[row.name]]

    def means(self, table: SuiteTable) -> list[tuple[str, float, list[float]]]:
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
                keys = [f"{column.group}: {column.name}" for column in table.columns]
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
                        "published_source": table.source,
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
        }

    def as_markdown(self) -> str:
        lines = [f"# Benchmarks of {Path(self.model).name or self.model}", ""]
        lines += [f"- model: `{self.model}`, fingerprint `{self.fingerprint[:16]}`"]
        lines += [f"- {name}: {_listed(values)}" for name, values in
                  (("settings", self.settings), ("versions", self.versions))]  # fmt: skip
        if self.limit is not None:
            lines += [
                "",
                f"**The first {self.limit} questions of each task only: not comparable with anything.**",
            ]
        short = sum(map(self.short, self.rows))
        if short and self.limit is None:
            lines += [
                "",
                f"**{short} of {len(self.rows)} rows are of data sets that are not whole: not comparable "
                "with anything.** `onevision eval prepare` says what is missing.",
            ]
        if self.broken:
            lines += [
                "",
                f"**{len(self.broken)} questions had broken media** ({_counted(self.broken)}): see below.",
            ]
        for table in self.tables:
            lines += ["", f"## {table.title}", "", *self._table(table)]
            lines += ["", f"Scale: ours and the published columns on 0 to 100. A dash: not "
                      f"measured. Source: {table.source}"]  # fmt: skip
            lines += ["", "Before comparing:", ""]
            lines += [
                f"- {row.name} (`{row.benchmark.task}`, {row.benchmark.split}, `{row.benchmark.metric}`)"
                + (f": {row.benchmark.caution}" if row.benchmark.caution else "")
                for row in self.rows_of(table)
            ]
            lines += ["", "Of the published numbers:", "", *[f"- {note}" for note in table.notes]]
        if self.broken:
            lines += [
                "",
                "## Broken media",
                "",
                "| task | question | file | reason | counted |",
                "|---|---|---|---|---|",
            ]
            for item in self.broken[:SHOWN_BROKEN]:
                cells = (item.task, str(item.doc_id), item.media, item.reason, item.counted)
                lines.append(
                    "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"
                )
            if len(self.broken) > SHOWN_BROKEN:
                lines.append(f"\nand {len(self.broken) - SHOWN_BROKEN} more, in report.json.")
        return "\n".join([*lines, ""])

    def _table(self, table: SuiteTable) -> Iterable[str]:
        unique = len({column.name for column in table.columns}) == len(table.columns)
        names = [c.name if unique else f"{c.name}, {c.group}" for c in table.columns]
        yield "| | **this model** | " + " | ".join(names) + " | questions | broken |"
        yield "|---|" + "---:|" * (len(names) + 3)
        for row in self.rows_of(table):
            ours = "-" if row.figure is None else f"**{row.figure:.1f}**"
            published = " | ".join(f"{value:.1f}" for value in self.published_of(table, row))
            broken = len(self.broken_in(row)) or ""
            asked = f"{row.documents}" + (f" of {row.benchmark.documents}" if self.short(row) else "")
            yield f"| {row.name} | {ours} | {published} | {asked} | {broken} |"
        for name, mean, values in self.means(table):
            published = " | ".join(f"{value:.1f}" for value in values)
            yield f"| *{name}* | **{mean:.1f}** | {published} | | |"


def write_report(report: Report, folder: Path) -> list[Path]:
    """`report.md`, `report.json` and `report.png` in `folder`; the paths."""
    from .picture import draw_report

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", canonical_json(report.as_json()))
    draw_report(report).save(folder / ".report.png.tmp", format="PNG")
    (folder / ".report.png.tmp").replace(folder / "report.png")
    write_atomically(folder / "report.md", report.as_markdown())
    return [folder / f"report.{kind}" for kind in ("md", "json", "png")]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _counted(broken: Sequence[Broken]) -> str:
    return ", ".join(f"{count} counted as {how}" if how == "wrong" else f"{count} {how}"
                     for how, count in Counter(item.counted for item in broken).items())  # fmt: skip
