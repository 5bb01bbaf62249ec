"""The published figures of reconstruction and generation, and what contradicts what in them.

for table in reference_tables("reconstruction"): print(table.title, table.source)
notes("reconstruction")
"""

from ..published import PublishedTable, published_table

TABLES = {
    "reconstruction": ("openvision3_reconstruction", "openvision3_reconstruction_ablations"),
    "generation": ("openvision3_generation", "openvision3_generation_ablations"),
}
# Of the main tables: OpenVision 3, its VAE, and the best without its tokens.
SHOWN = ("OpenVision 3", "OpenVision 3 + RAE", "FLUX-VAE", "SD-VAE + SiT")


def reference_tables(evaluation: str) -> list[PublishedTable]:
    """The published tables of `reconstruction` or `generation`."""
    return [published_table(name) for name in TABLES[evaluation]]


def notes(evaluation: str) -> list[str]:
    return reference_tables(evaluation)[0].notes


def published_lines(evaluation: str) -> list[str]:
    """For a terminal: the rows of OpenVision 3 and of its ceiling, with their source."""
    lines = []
    for table in reference_tables(evaluation):
        lines.append(f"published, {table.source}: {table.title}")
        for row in table.rows:
            if table.name.endswith("ablations") or row.model in SHOWN:
                values = "  ".join(f"{table.more['labels'][c]} {v:g}" for c, v in row.values.items())
                lines.append(f"  {row.model}: {values}")
    return lines


def published_json(evaluation: str) -> list[dict]:
    """The same tables whole, for `--json`."""
    return [
        {
            "title": table.title,
            "source": table.source,
            "note": table.note,
            "rows": [{"model": row.model, **row.values} for row in table.rows],
        }
        for table in reference_tables(evaluation)
    ]
