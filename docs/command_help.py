"""A hook of the docs site: puts the help of every command into reference/commands.md, from its own options.

The page has one line, `<!-- help of every command -->`, in its place.
"""

import os
from collections.abc import Iterator

MARK = "<!-- help of every command -->"


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, "\n".join(sections())) if MARK in markdown else markdown


def sections() -> Iterator[str]:
    """A heading for each command, its help and that of each of its stages."""
    from typer.main import get_command

    from onevision_hf.cli import COMMANDS, app
    from onevision_hf.commands.groups import walk

    os.environ["COLUMNS"] = "102"  # the width of help
    top = get_command(app)
    for command, context in walk(top, top.context_class(top, info_name="onevision", **top.context_settings)):
        if context.parent.parent is None:
            yield f"## {context.info_name}\n\n{COMMANDS[context.info_name]}\n"
        yield f"```text\n{command.get_help(context).rstrip()}\n```\n"
