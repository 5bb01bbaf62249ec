"""Docstrings name the parameters, and a parameter without a line would be seen."""

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from docstring_coverage import coverage, named_under_args, parameters_of, shown_names  # noqa: E402

WANTED = 0.95


@functools.cache
def counted():
    return coverage()


def test_95_of_100_parameters_of_public_functions_have_a_line():
    entries = counted()
    missing = [f"{e.path}:{e.line} {e.name}: {', '.join(e.missing)}" for e in entries if e.missing]
    count = sum(len(entry.parameters) for entry in entries)
    having = count - sum(len(entry.missing) for entry in entries)
    assert count > 500
    assert having >= WANTED * count, "\n".join([f"{having} of {count} parameters have a line", *missing])


def test_the_public_names_and_those_of_the_reference_are_counted_whatever_their_size():
    names = {entry.name for entry in counted()}
    without_parameters = {"__version__", "MissingVAEError", "bundled_clip", "Selection"}
    assert shown_names() - names <= without_parameters


@pytest.mark.parametrize(
    ("docstring", "names"),
    [
        (
            "One.\n\nArgs:\n    a: (B, D).\n    *b: more,\n        c: not a name.\n\nReturns:\n    d: no.",
            {"a", "b"},
        ),
        ("One.\n\nArgs:\n    size (`int` or `dict`, *optional*): pixels.\n\nAfter:\n    e: no.", {"size"}),
        ("One. a: prose.", set()),
        (None, set()),
    ],
)
def test_only_lines_under_args_count(docstring, names):
    assert named_under_args(docstring) == names


def test_parameters_are_all_but_self_and_private_ones():
    function = ast.parse("def f(self, a, /, b=1, *c, d, _e, **g): pass").body[0]
    assert parameters_of(function) == ("a", "b", "d", "c", "g")
