"""A newcomer finds his way: the picture of the rooms is of the code, and every path named is there."""

import functools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import draw_architecture as drawing  # noqa: E402

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
imports_now = functools.cache(drawing.imports_between_rooms)  # it parses the whole package


def changes():
    """The lines of the table of changes, as cells."""
    table = CONTRIBUTING.split("## Ten changes")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return lines[1:]


def named_paths(text):
    """What is written like a path of the repository, between backticks."""
    found = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", text)
    return [path for path in found if "/" in path or re.search(r"\.(md|py|toml|yml)$", path)]


def test_the_picture_of_the_rooms_is_of_these_imports():
    assert drawing.imports_of_picture() == imports_now(), (
        "the imports have changed: run `python scripts/draw_architecture.py`, and look at the picture"
    )


def test_the_picture_is_what_the_script_draws():
    assert drawing.PICTURE.read_text(encoding="utf-8") == drawing.draw(imports_now())


def test_every_room_is_on_the_page():
    rooms = {room for room in imports_now() if room != drawing.TOP}
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE))


def test_an_import_inside_a_function_and_a_relative_one_are_seen(tmp_path):
    for file, text in {
        "low.py": "",
        "middle/a.py": "from ..low import x\n",
        "high/b.py": "def f():\n    import onevision_hf.middle.a\n",
        "commands/c.py": "from onevision_hf import high\n",
    }.items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert drawing.imports_between_rooms(tmp_path) == {
        drawing.TOP: ["high"], "high": ["middle"], "low": [], "middle": ["low"],
    }  # fmt: skip


def test_a_line_is_left_out_where_another_way_leads_there():
    imports = {"a": ["b", "c"], "b": ["c"], "c": []}
    assert drawing.lines(imports) == [("a", "b"), ("b", "c")]
    assert drawing.levels(imports) == [["c"], ["b"], ["a"]]


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="a, b import one another in a circle"):
        drawing.levels({"a": ["b"], "b": ["a", "c"], "c": []})


def test_ten_kinds_of_change_are_listed_with_files_and_tests():
    assert len(changes()) == 10
    for what, files, tests in changes():
        assert named_paths(files) and named_paths(tests), what


@pytest.mark.parametrize("path", sorted({*named_paths(CONTRIBUTING), *named_paths(PAGE)}))
def test_named_paths_are_there(path):
    inside = [ROOT / path, ROOT / "onevision_hf" / path]
    assert any(place.exists() for place in inside), path


def test_names_in_the_table_are_in_their_files():
    """`file` (`NAME`, ...) says where a name is; it is."""
    for path, names in re.findall(r"`(onevision_hf/[\w/]+\.py)` \(([^)]*)\)", CONTRIBUTING):
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert name in text, f"{path}: {name}"
