"""How many parameters of the public functions have a line under `Args:`; what has none, by file.

python scripts/docstring_coverage.py            # one line a room
python scripts/docstring_coverage.py --missing  # and what is missing, with file and line

Counted are the functions and methods of three or more parameters whose name, and whose class's name, has no
leading underscore; and of what `onevision_hf.__all__` and docs/reference name, functions whatever their size,
the fields of dataclasses and the arguments of constructors. An option of a command has its line in its
annotation, as `help=`, where `--help` reads it. The source is read, not imported.
"""

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
AT_LEAST = 3  # parameters
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Documented:
    """A function or class that is counted.

    Args:
        path: its file, from the root of the repository.
        line: the line that it starts on.
        name: its name, `Class.method` for a method.
        parameters: the names of its parameters, without `self`.
        missing: those without a line under `Args:`.
    """

    path: Path
    line: int
    name: str
    parameters: tuple[str, ...]
    missing: tuple[str, ...]


def shown_names(root: Path = ROOT) -> set[str]:
    """Last parts of the public names of `onevision_hf` and of those that docs/reference shows."""
    tree = ast.parse((root / "onevision_hf/__init__.py").read_text(encoding="utf-8"))
    imported = [
        alias
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    names = {alias.name for alias in imported if not (alias.asname or "").startswith("_")}
    for page in (root / "docs/reference").glob("*.md"):
        shown = re.findall(r"^::: onevision_hf\.([\w.]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        names |= {name.rsplit(".", 1)[-1] for name in shown}
    return names


def parameters_of(function: Function) -> tuple[str, ...]:
    """Names of a function's parameters, without `self`, `cls` and what begins with an underscore."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    starred = [word for word in (arguments.vararg, arguments.kwarg) if word]
    names = [word.arg for word in [*named, *starred]]
    return tuple(name for name in names if name not in ("self", "cls") and not name.startswith("_"))


def fields_of(node: ast.ClassDef) -> tuple[str, ...]:
    """Names of a class's annotated fields that its constructor takes."""
    fields = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            hidden = item.target.id.startswith("_") or "ClassVar" in ast.unparse(item.annotation)
            if not hidden and "init=False" not in ast.unparse(item).replace(" ", ""):
                fields.append(item.target.id)
    return tuple(fields)


def named_under_args(docstring: str | None) -> set[str]:
    """Names with a line under `Args:` (`Attributes:` counts too)."""
    names: set[str] = set()
    margin: int | None = None
    inside = False
    for line in (docstring or "").expandtabs().splitlines():
        if re.fullmatch(r"\s*(Args|Arguments|Attributes):\s*", line):
            inside, margin = True, None
            continue
        if not inside or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        margin = indent if margin is None else margin
        if indent < margin or margin == 0:
            inside = False
        elif indent == margin and (found := re.match(r"\*{0,2}(\w+)( \(.*\))?:(\s|$)", line.strip())):
            names.add(found.group(1))
    return names


def _constructor(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> tuple[tuple[str, ...], str]:
    """What a class is made from, and the docstrings that may say it.

    A constructor that takes `**kwargs` takes the fields of the class, or, in a processor,
    those of its `valid_kwargs`.
    """
    text = ast.get_docstring(node) or ""
    settings = fields_of(node)
    for item in node.body:
        if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "valid_kwargs":
            named = classes.get(ast.unparse(item.value))
            settings += fields_of(named) if named else ()
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            names = parameters_of(item)
            names += settings if item.args.kwarg else ()
            return names, f"{text}\n\n{ast.get_docstring(item) or ''}"
    return settings, text


def _helped(body: list[ast.stmt]) -> set[str]:
    """Names of a file's annotations and classes that carry the help text of a command's options."""
    named: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.Assign):
            named |= {ast.unparse(target): node for target in node.targets}
        elif isinstance(node, ast.ClassDef):
            named[node.name] = node
    return {name for name, node in named.items() if "help=" in ast.unparse(node)}


def _options(function: Function, helped: set[str]) -> set[str]:
    """Parameters of a command whose help text stands in their annotation, where `--help` reads it."""
    found = set()
    for word in [*function.args.args, *function.args.kwonlyargs]:
        text = ast.unparse(word.annotation) if word.annotation else ""
        if "help=" in text or helped & set(re.findall(r"\w+", text)):
            found.add(word.arg)
    return found


def counted(path: Path, shown: set[str], root: Path = ROOT) -> Iterator[Documented]:
    """What is counted in one file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    helped: set[str] = set()
    if path.parent.name == "commands":
        for other in path.parent.glob("*.py"):
            helped |= _helped(ast.parse(other.read_text(encoding="utf-8")).body)

    def entry(node: Function | ast.ClassDef, name: str, parameters: tuple[str, ...], text: str) -> Documented:
        listed = named_under_args(text)
        if path.parent.name == "commands" and isinstance(node, Function):
            listed |= _options(node, helped)
        missing = tuple(word for word in parameters if word not in listed)
        return Documented(path.relative_to(root), node.lineno, name, parameters, missing)

    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            parameters = parameters_of(node)
            if len(parameters) >= AT_LEAST or node.name in shown:
                yield entry(node, node.name, parameters, ast.get_docstring(node) or "")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if node.name in shown:
                yield entry(node, node.name, *_constructor(node, classes))
            for item in node.body:
                if isinstance(item, Function) and not item.name.startswith("_"):
                    parameters = parameters_of(item)
                    if len(parameters) >= AT_LEAST:
                        text = ast.get_docstring(item) or ""
                        yield entry(item, f"{node.name}.{item.name}", parameters, text)


def coverage(root: Path = ROOT) -> list[Documented]:
    """Everything that is counted in the package, file by file."""
    shown = shown_names(root)
    return [
        entry
        for path in sorted((root / "onevision_hf").rglob("*.py"))
        for entry in counted(path, shown, root)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--missing", action="store_true", help="list what has no line")
    parser.add_argument("rooms", nargs="*", help="only these rooms (folders or files of the package)")
    options = parser.parse_args()
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for entry in coverage():
        room = entry.path.parts[1]
        if options.rooms and room not in options.rooms:
            continue
        totals[room][0] += len(entry.parameters) - len(entry.missing)
        totals[room][1] += len(entry.parameters)
        if options.missing and entry.missing:
            print(f"{entry.path}:{entry.line}: {entry.name}: {', '.join(entry.missing)}")
    totals["all"] = [sum(column) for column in zip(*totals.values(), strict=True)]
    for room, (having, whole) in totals.items():
        print(f"{room:16} {having:5} of {whole:5}  {100 * having / max(whole, 1):5.1f} %")


if __name__ == "__main__":
    main()
