"""The command line taken apart without running anything: every command, and what a line of words means."""

from collections.abc import Iterator
from typing import Any

import typer

from onevision_hf.cli import app
from onevision_hf.commands.groups import walk


def top() -> tuple[Any, Any]:
    """`onevision` itself and its context."""
    command: Any = typer.main.get_command(app)
    return command, command.context_class(command, info_name="onevision", **command.context_settings)


def every_command() -> Iterator[tuple[str, Any]]:
    """("eval knn", command), ... of every command and of each of its stages."""
    for command, context in walk(*top()):
        yield context.command_path.removeprefix("onevision "), command


def parse(words: list[str]) -> dict[str, Any]:
    """The options that a command line sets, by the names of its function's parameters.

    Raises:
        ValueError: the command line is refused; with its reason.
    """
    command, context = top()
    name = "onevision"
    try:
        while hasattr(command, "resolve_command") and words and not words[0].startswith("-"):
            name, command, words = command.resolve_command(context, words)
            context = command.context_class(command, info_name=name, parent=context)
        return command.make_context(name, words, parent=context.parent).params
    except typer.Exit:  # --help and --version end here
        return {}
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise ValueError(f"refused: {error.format_message()}") from error
