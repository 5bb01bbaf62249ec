"""The house keeps its rules: who may import whom, how long a file is, and that it names no machine."""

import ast
import functools
import re
import runpy
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "onevision_hf"
MAX_LINES = 450  # "about 400"
MAX_CODE_LINES = 37_200

# Room -> the rooms it may import. A room is a folder or a file right in the package. This is the paragraph
# "Which way it depends": modeling and objectives know nothing of the rest, nothing imports upwards.
MAY_IMPORT: dict[str, set[str]] = {
    "modeling": set(),
    "objectives": set(),
    "jobs": set(),  # whatever must survive a kill; knows no media and no model
    "synthetic": {"jobs"},
    "assets": set(),
    "pretraining": {"modeling", "objectives"},
    "data": {"modeling", "jobs", "synthetic"},
    "clustering": {"modeling", "data", "jobs"},
    "streaming": {"modeling"},
    "conversion": {"modeling", "assets"},
    "view": {"modeling", "assets"},
    "serving": {"modeling"},
    "training": {"modeling", "objectives", "pretraining", "synthetic", "data", "jobs"},
    "eval": {
        *("modeling", "objectives", "pretraining", "synthetic", "assets"),
        *("data", "clustering", "jobs", "training"),
    },
}
# These sit on top and may import every room; no room may import them.
ON_TOP = {"cli", "commands", "demo", "registration", "installation", "__init__", "__main__"}


class File(NamedTuple):
    """What the rules look at in a file of the package, read once for all of them."""

    newlines: int
    docstring: str | None
    imports: set[str]  # absolute names, wherever in the file
    typed_only: set[str]  # those that stand under `if TYPE_CHECKING` and nowhere else
    unpicklers: list[str]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def read(path: Path) -> File:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    package = ["onevision_hf", *path.relative_to(PACKAGE).parent.parts]
    nodes = list(ast.walk(tree))
    hidden = {
        id(inner)
        for node in nodes
        if isinstance(node, ast.If) and "TYPE_CHECKING" in vars(node.test).values()
        for line in node.body
        for inner in ast.walk(line)
    }
    seen: set[str] = set()
    typed: set[str] = set()
    for node in nodes:
        names = typed if id(node) in hidden else seen
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return File(text.count("\n"), ast.get_docstring(tree), seen | typed, typed - seen, unpicklers(nodes))


def module_of(path: Path) -> str:
    parts = ["onevision_hf", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph() -> dict[str, set[str]]:
    """File -> the files of the package that it imports, in functions too; not what only type checkers see."""
    files = {module_of(path): path for path in sources()}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for name in read(path).imports - read(path).typed_only:
            while name and name not in files:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {"", module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of files of which each can be reached from each."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reached[start] = seen
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return [set(group) for group in groups]


def rooms_in(names: set[str], existing: set[str]) -> set[str]:
    """The rooms among imported names; the package itself (`from onevision_hf import ...`) is the top."""
    rooms = set()
    for name in names:
        first, *rest = name.split(".")
        if first == "onevision_hf" and rest:
            rooms.add(rest[0] if rest[0] in existing else "__init__")
    return rooms


def test_no_room_imports_what_it_may_not():
    rooms = {room_of(path) for path in sources()}
    wrong = [
        f"{path.relative_to(ROOT)} imports {room}"
        for path in sources()
        if room_of(path) not in ON_TOP and path.name != "__main__.py"  # a way to start a command
        for room in sorted(rooms_in(read(path).imports, rooms) - {room_of(path)} - MAY_IMPORT[room_of(path)])
    ]
    assert not wrong


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in sources()} <= MAY_IMPORT.keys() | ON_TOP


def test_the_table_has_no_circles():
    left = dict(MAY_IMPORT)
    while left:
        free = {room for room, needs in left.items() if not needs & left.keys()}
        assert free, f"circle among {sorted(left)}"
        left = {room: needs for room, needs in left.items() if room not in free}


def test_no_circles_between_files():
    assert circles(import_graph()) == []


def test_a_circle_would_be_seen(tmp_path, monkeypatch):
    """Through a function, a package's `__init__` and a third file; what only type checkers see is none."""
    files = {
        "room/__init__.py": "from .one import f",
        "room/one.py": "from typing import TYPE_CHECKING\ndef f():\n    from .two import g",
        "room/two.py": "from onevision_hf.room import f",
        "room/three.py": "from . import one\nif TYPE_CHECKING:\n    from .four import h",
        "room/four.py": "from .three import x",
    }
    (tmp_path / "room").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (circle,) = circles(import_graph())
    assert circle == {"onevision_hf.room", "onevision_hf.room.one", "onevision_hf.room.two"}


def test_nothing_imports_the_commands():
    """The command line is on top of the package: `cli` names their modules and imports only their groups."""
    graph = import_graph()
    commands = {module for module in graph if module.startswith("onevision_hf.commands")}
    users = {(module, name) for module in graph.keys() - commands for name in graph[module] & commands}
    assert users == {("onevision_hf.cli", "onevision_hf.commands.groups")}
    for folder in ("benchmarks", "scripts", "examples"):
        for path in (ROOT / folder).iterdir():
            if path.suffix in (".py", ".ipynb"):
                text = path.read_text(encoding="utf-8")
                assert not re.search(r"onevision_hf\.commands|import commands", text), path


def test_modeling_is_flat_and_its_files_import_one_another_by_from_dot_name():
    """The Hub's exporter of remote code follows `from .name import x` in one folder and nothing else."""
    folder = PACKAGE / "modeling"
    assert not [path for path in folder.rglob("*.py") if path.parent != folder]
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and (node.level == 0 or node.module), f"{path.name}:{node.lineno}"
                assert not (node.module or "").startswith("onevision_hf"), f"{path.name}:{node.lineno}"
            elif isinstance(node, ast.Import):
                assert not any(a.name.startswith("onevision_hf") for a in node.names), (
                    f"{path.name}:{node.lineno}"
                )


def test_a_wrong_import_would_be_seen(tmp_path, monkeypatch):
    """The checker itself: an upward import, hidden in a function and relative, is found."""
    (tmp_path / "modeling").mkdir()
    (tmp_path / "view.py").write_text("")
    bad = tmp_path / "modeling" / "bad.py"
    bad.write_text("def f():\n    from ..view import ClipView\n    from onevision_hf import select_patches\n")
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    assert rooms_in(read(bad).imports, {"modeling", "view"}) == {"view", "__init__"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path):
    assert read(path).newlines <= MAX_LINES
    assert read(path).docstring, "a module opens with what it is"


def test_the_package_does_not_grow_unnoticed():
    """Whoever needs more lines cuts others first, or raises the limit on purpose."""
    counted = runpy.run_path(str(ROOT / "scripts" / "code_lines.py"))["lines_by_room"](PACKAGE)
    assert sum(counted.values()) <= MAX_CODE_LINES, dict(counted)


# Between a driver and the workers that it started itself.
OWN_PICKLES = {"jobs/ray_pool.py"}


def unpicklers(nodes: list[ast.AST]) -> list[str]:
    """Calls that would run what a file says: every way to unpickle that is not told to read data only."""
    found = []
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        words = {word.arg for word in node.keywords}
        if getattr(node.func, "attr", "") not in ("load", "loads", "open") and "allow_pickle" not in words:
            continue  # the rest is slow to write out
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"{name} without weights_only=True")
        elif name.endswith("dcp.load") and not given.get("storage_reader", "").startswith("Reader("):
            found.append(f"{name} with torch's own reader")
        elif given.get("allow_pickle") == "True":
            found.append(f"{name} with allow_pickle")
        elif re.fullmatch(r"(pickle|dill|cloudpickle|joblib|marshal|shelve)\.(loads?|open)", name):
            found.append(name)
    return found


def test_nothing_unpickles_what_it_is_given():
    wrong = {str(path.relative_to(PACKAGE)): read(path).unpicklers for path in sources()}
    assert {name: calls for name, calls in wrong.items() if calls and name not in OWN_PICKLES} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "pickle.load(file)", "pickle.loads(text)",
        "np.load(path, allow_pickle=True)", "dcp.load(tensors, storage_reader=FileSystemReader(path))",
    ],
)  # fmt: skip
def test_an_unpickler_would_be_seen(line):
    assert unpicklers(list(ast.walk(ast.parse(line))))


def test_no_file_of_the_repository_names_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    machine = re.compile(r"(?<![\w.~$}])/(?:home|root|Users|work|mnt|srv)/\w")
    named = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".json", "") and path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if machine.search(line):
                    named.append(f"{name}:{number}: {line.strip()}")
    assert not named
