"""Published tables, kept as data in `published/` with their sources and their contradictions.

table = read_published("lmm_probe")
table.columns[0].name, table.rows["VideoMME"], table.notes
"""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("published")


@dataclass(frozen=True)
class Column:
    """One model of a table; `group` is what it shares with its neighbours."""

    key: str
    name: str
    group: str


@dataclass(frozen=True)
class PublishedTable:
    """A table as printed: `rows` by benchmark, a value a column, on the paper's own scale."""

    title: str
    source: str
    language_model: str
    scale: str
    columns: tuple[Column, ...]
    rows: dict[str, list[float]]
    notes: tuple[str, ...]


def read_published(name: str) -> PublishedTable:
    """The table of `published/NAME.json`.

    Raises:
        ValueError: a row has another number of values than there are columns.
    """
    fields = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    columns = tuple(Column(**column) for column in fields.pop("columns"))
    table = PublishedTable(**fields | {"columns": columns, "notes": tuple(fields["notes"])})
    for row, values in table.rows.items():
        if len(values) != len(columns):
            raise ValueError(f"{name}: {row} has {len(values)} values for {len(columns)} columns")
    return table
