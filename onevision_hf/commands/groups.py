"""Commands that are listed by name and imported when one is called or its help is printed."""

import dataclasses
import functools
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

# Help is plain text, in which square brackets mean themselves; a fault of ours has Python's own traceback.
SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"max_content_width": 110, "help_option_names": ["-h", "--help"]},
}


class _FlagsAreFalse:
    """Flags that are not given are False: typer checks a None by pydantic, and importing that takes longer
    than all the rest of a `--help`."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return found


class QuickCommand(_FlagsAreFalse, TyperCommand):
    """A command whose help is printed at once."""


class QuickGroup(_FlagsAreFalse, TyperGroup):
    """A group whose help is printed at once."""


def group(prefix: str, commands: Mapping[str, str], **settings: Any) -> typer.Typer:
    """A group of commands, each in a module of its own that imports nothing large by itself.

    Args:
        prefix: what the names of the modules begin with; each has a function `run`, or its `app` is a group.
        commands: name -> help, in the order in which help lists them.
        settings: of `typer.Typer`, in addition to SETTINGS.
    """

    class Group(QuickGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, _, rest = super().resolve_command(ctx, args)
            return name, name and load(prefix + name.replace("-", "_"), commands[name]), rest

    app = typer.Typer(cls=Group, **SETTINGS | settings)
    for name, help in commands.items():
        app.command(name, short_help=help)(_listed)
    return app


def stages() -> typer.Typer:
    """A group of commands in one module, which has them as its `app`; `stage` adds one."""
    return typer.Typer(cls=QuickGroup, **SETTINGS)


def stage(app: typer.Typer, help: str, name: str | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Add a function to a group: its parameters are the options, as in `with_groups`.

    Args:
        app: what `stages` gave.
        help: one line.
        name: of the command (default: the function's).
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        app.command(name, help=help, short_help=help, cls=QuickCommand)(with_groups(run))
        return run

    return add


def _listed() -> None:
    """What stands in the list of a group until it is resolved."""


def load(name: str, help: str) -> Any:
    """Import the module `name` of a command: what typer makes of its signature."""
    module = importlib.import_module(name)
    if hasattr(module, "app"):
        module.app.info.help = help
        return typer.main.get_command(module.app)
    app = typer.Typer(**SETTINGS)
    app.command(help=help, cls=getattr(module, "COMMAND_CLASS", QuickCommand))(with_groups(module.run))
    return typer.main.get_command(app)


def with_groups(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function for typer: the fields of each parameter that is a dataclass are options of their own, which
    `run` gets together."""
    signature = inspect.signature(run)
    parameters: list[inspect.Parameter] = []
    holders: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        holder = parameter.annotation
        if isinstance(holder, type) and dataclasses.is_dataclass(holder):
            holders[parameter.name] = holder
            parameters += inspect.signature(holder).parameters.values()
        else:
            parameters.append(parameter)

    @functools.wraps(run)
    def command(**given: Any) -> Any:
        for name, holder in holders.items():
            given[name] = holder(
                **{field.name: given.pop(field.name) for field in dataclasses.fields(holder)}
            )
        return run(**given)

    by_keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__signature__ = signature.replace(parameters=by_keyword)  # type: ignore[attr-defined]
    return command


def walk(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Every command below a group with the context that its help and its parsing need, groups among them.

    Args:
        command: a group, as `typer.main.get_command` gives it.
        context: of that group.
    """
    for listed in getattr(command, "commands", {}):
        name, below, _ = command.resolve_command(context, [listed])
        inner = below.context_class(below, info_name=name, parent=context, **below.context_settings)
        yield below, inner
        yield from walk(below, inner)


class OpenEndedOptions(QuickCommand):
    """A command with options that take as many values as follow them, or none."""

    several: ClassVar[tuple[str, ...]] = ()  # `--signals a b` means `--signals a --signals b`
    optional: ClassVar[tuple[str, ...]] = ()  # `--json` alone means `--json -`

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        spread = ""
        for word, following in itertools.pairwise([*args, "-"]):
            if word.startswith("--"):
                spread = word if word in self.several else ""
            elif spread and words[-1] != spread:
                words.append(spread)
            words.append(word)
            if word in self.optional and following.startswith("-") and following != "-":
                words.append("-")
        if args and args[-1] in self.optional:
            words.append("-")
        return super().parse_args(ctx, words)
