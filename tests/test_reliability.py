"""The table of docs/reliability.md names tests that exist, and has the figures that were recorded of them."""

import ast
import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "reliability_table.py"))


def test_every_test_that_holds_a_promise_exists():
    for test in SCRIPT["tests_of"](SCRIPT["PROMISES"]):
        name, _, function = test.partition("::")
        tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function in there if function else any(found.startswith("test_") for found in there), test


def test_the_page_has_the_figures_that_were_recorded_and_nothing_was_lost():
    results = json.loads(SCRIPT["RESULTS"].read_text(encoding="utf-8"))
    assert SCRIPT["make_table"](results) in SCRIPT["PAGE"].read_text(encoding="utf-8")
    assert [test for test, result in results.items() if result["lost"] or not result["trials"]] == []


def test_kills_are_counted_and_what_did_not_run_has_no_figures():
    promise = SCRIPT["PROMISES"][1]
    first, second = promise.tests
    table = SCRIPT["make_table"]({first: {"cases": 1, "trials": 14, "lost": 0}})
    assert f"| {promise.text} | `{first}`<br>`{second}` | - | - |" in table
    table = SCRIPT["make_table"]({test: {"cases": 1, "trials": 14, "lost": 1} for test in promise.tests})
    assert f"`{second}` | 28 | 2 |" in table
