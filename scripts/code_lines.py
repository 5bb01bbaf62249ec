"""Lines of code of the package, room by room: without docstrings, comments and blank lines.

python scripts/code_lines.py
"""

import ast
import sys
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "onevision_hf"
NOT_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def code_lines(path: Path) -> int:
    """Lines of a Python file that hold code."""
    with tokenize.open(path) as file:
        source = file.read()
    lines: set[int] = set()
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type not in NOT_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


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
