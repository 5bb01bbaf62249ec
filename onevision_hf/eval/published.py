"""Published tables as data, each with its source: `published/NAME.json`.

    published_table("attentive_probe").rows[0].values["ssv2"]

A file has `title`, `source`, `note`, `unit`, `metric`, `columns`, perhaps `notes` (what contradicts what in
it), and `rows` of `model`, `input` (codec, frames), where they are known `frames` and `patches`, perhaps an
`intervention` and the `label` and `group` of the model in reports, and `values` by column.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

FOLDER = files("onevision_hf.eval") / "published"
PROBE_TABLES = ("attentive_probe", "attentive_probe_budgets")


@dataclass(frozen=True)
class PublishedRow:
    model: str
    input: str
    values: dict[str, float]
    frames: int | None = None
    patches: int | None = None
    intervention: str | None = None
    label: str = ""
    group: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """`more`: what else the file says (labels of the columns, which of them are videos)."""

    name: str
    title: str
    source: str
    note: str
    unit: str
    metric: str
    columns: list[str]
    rows: list[PublishedRow]
    notes: list[str]
    more: dict[str, Any]

    def by_label(self) -> dict[str, list[float]]:
        """Label of each column -> its value in each row."""
        return {self.more["labels"][name]: [row.values[name] for row in self.rows] for name in self.columns}


def published_names() -> list[str]:
    return sorted(path.name.removesuffix(".json") for path in FOLDER.iterdir() if path.name.endswith(".json"))


def published_table(name: str) -> PublishedTable:
    """Raises ValueError, naming those there are, for a table that does not exist."""
    if name not in published_names():
        raise ValueError(f"no published table {name!r}: choose one of {', '.join(published_names())}")
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    known = ("title", "source", "note", "unit", "metric", "columns")
    rows = [PublishedRow(**row) for row in content.pop("rows")]
    own = {key: content.pop(key) for key in known}
    return PublishedTable(name=name, rows=rows, notes=content.pop("notes", []), more=content, **own)


def published_probes(
    dataset: str, patches: int, intervention: str | None = None
) -> list[tuple[str, str, float]]:
    """(model, source, percent) of each published probe on a data set at a patch budget, once each.

    Args:
        dataset: a column of the tables.
        patches: of a clip.
        intervention: None for none.
    """
    names = PROBE_TABLES if intervention is None else ("attentive_probe_interventions",)
    found: dict[str, tuple[str, str, float]] = {}
    for name in names:
        table = published_table(name)
        for row in table.rows:
            if row.patches == patches and row.intervention == intervention and dataset in row.values:
                found.setdefault(row.model, (row.model, table.source, row.values[dataset]))
    return list(found.values())
