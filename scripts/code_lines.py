"""Lines of code of the package, room by room: without docstrings, comments and blank lines.

python scripts/code_lines.py
"""

import ast
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "onevision_hf"


def code_lines(path: Path) -> int:
    """Lines of a Python file that hold code."""
    source = path.read_text(encoding="utf-8")
    numbered = enumerate(map(str.lstrip, source.splitlines()), 1)
    code = {number for number, line in numbered if line and not line.startswith("#")}
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr):  # a blank line within a string is one of code
            code |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(code - docstrings)


def lines_by_room(package: Path = PACKAGE) -> Counter[str]:
    """Room (a folder, or a file right in the package) -> lines of code."""
    found: Counter[str] = Counter()
    for path in sorted(package.rglob("*.py")):
        found[path.relative_to(package).parts[0]] += code_lines(path)
    return found


def main() -> None:
    found = lines_by_room(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    for room, count in sorted(found.items(), key=lambda pair: -pair[1]):
        print(f"{room:16} {count:6}")
    print(f"{'all':16} {sum(found.values()):6}")


if __name__ == "__main__":
    main()
