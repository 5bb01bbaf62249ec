"""Tables of the reports, in Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import Path

PAGES = Path(__file__).parent / "pages"  # templates of the reports


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: bool = False) -> str:
    """A table.

    Args:
        header: of the columns.
        rows: a value a column; what would end a column or a row is replaced.
        right: columns but the first are set to the right.
    """
    marks = ["---", *["---:" if right else "---"] * (len(header) - 1)]
    plain = ([str(value).replace("|", "/").replace("\n", " ") for value in row] for row in rows)
    return "\n".join(f"| {' | '.join(columns)} |" for columns in (header, marks, *plain))
