"""Pages that jobs leave for people, from Jinja templates: HTML and Markdown stand in files of their own."""

from pathlib import Path
from typing import Any

from jinja2 import Template


def render(template: Path, **values: Any) -> str:
    """The page of a template; what goes into HTML is escaped.

    Args:
        template: its file; lines with nothing but a statement leave none.
        **values: what it names.
    """
    text = template.read_text(encoding="utf-8")
    page = Template(
        text,
        autoescape=template.suffix == ".html",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return page.render(**values)
