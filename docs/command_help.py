"""A hook of the docs site: puts the help of every command into reference/commands.md, from its parser.

The page has one line, `<!-- help of every command -->`, in its place.
"""

import argparse
import os
from collections.abc import Iterator

MARK = "<!-- help of every command -->"


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, "\n".join(sections())) if MARK in markdown else markdown


def sections() -> Iterator[str]:
    """A heading and the help of each command, and of each of its stages."""
    from onevision_hf.cli import COMMANDS, build_parser

    os.environ["COLUMNS"] = "100"  # argparse asks it for the width
    for name in COMMANDS:
        commands = _stages(build_parser())[name], _stages(build_parser(name))[name]
        yield f"## {name}\n\n{commands[0].description}\n"
        for parser in (commands[1], *_stages(commands[1]).values()):
            yield f"```text\n{parser.format_help().rstrip()}\n```\n"


def _stages(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
