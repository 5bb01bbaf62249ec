"""The picture of the rooms in docs/architecture.md, drawn from the package's own imports.

python scripts/draw_architecture.py            # writes docs/images/architecture.svg
python scripts/draw_architecture.py --check    # status 1 where the picture is of other imports

A room is a folder right in the package. What sits on top of all of them (the commands, the page of the demo,
the public names) is one box. A line goes from a room to one that it imports; where a room is reached through
another one too, the line is left out, so that the lines can be followed. The file holds the whole table of
imports in its `<metadata>`, which a test compares with the code.
"""

import argparse
import ast
import html
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/architecture.svg"
PACKAGE = "onevision_hf"
TOP = "commands, demo"
ON_TOP = {"__init__", "__main__", "cli", "commands", "demo", "installation", "registration"}

BOX_WIDTH, BOX_HEIGHT, GAP, LEVEL, MARGIN = 160, 56, 24, 116, 24  # units of the picture
SWEEPS = 24  # after so many the order of the boxes stays
# What a room is for, under its name; the rooms themselves come from the code.
PURPOSE = {
    TOP: "parse, call, print",
    "modeling": "reader to encoder",
    "objectives": "losses",
    "jobs": "what survives a kill",
    "synthetic": "drawn media",
    "assets": "a clip, a tiny encoder",
    "pretraining": "OpenVision 3's heads",
    "data": "media and samples",
    "clustering": "features to labels",
    "streaming": "live windows",
    "conversion": "published and back",
    "view": "pictures of patches",
    "serving": "vLLM's plugin",
    "training": "loop and tasks",
    "eval": "benchmarks, probes",
}
Imports = dict[str, list[str]]


def imports_between_rooms(package: Path = ROOT / PACKAGE) -> Imports:
    """Room -> the other rooms that any of its files imports, wherever in the file."""
    found: dict[str, set[str]] = {}
    rooms = {path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")}
    for path in package.rglob("*.py"):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        here = [PACKAGE, *inside.parent.parts]
        # A module that `python -m` runs starts a command: it is on top too, wherever it lies.
        on_top = room in ON_TOP or inside.name == "__main__.py"
        used = found.setdefault(TOP if on_top else room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = here[: len(here) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                names = [f"{module}.{alias.name}" for alias in node.names]
            for name in names:
                first, _, rest = name.partition(".")
                if first == PACKAGE and rest and rest.split(".")[0] in rooms:
                    used.add(rest.split(".")[0])
    return {
        room: sorted({TOP if other in ON_TOP else other for other in used} - {room})
        for room, used in sorted(found.items())
    }


def levels(imports: Imports) -> list[list[str]]:
    """Rooms from the bottom up: each stands one above the highest that it imports."""
    height: dict[str, int] = {}
    while left := imports.keys() - height.keys():
        free = {room for room in left if all(other in height for other in imports[room])}
        if not free:
            raise ValueError(f"{', '.join(sorted(left))} import one another in a circle")
        height |= {room: 1 + max((height[other] for other in imports[room]), default=-1) for room in free}
    return [sorted(room for room in imports if height[room] == at) for at in range(max(height.values()) + 1)]


def lines(imports: Imports) -> list[tuple[str, str]]:
    """The imports that are drawn: those that no other way leads to."""

    def below(room: str) -> set[str]:
        return {deeper for other in imports[room] for deeper in {other, *below(other)}}

    return [
        (room, other)
        for room in imports
        for other in imports[room]
        if not any(other in below(between) for between in imports[room] if between != other)
    ]


def _chains(imports: Imports) -> list[list[str]]:
    """Each line as the places that it passes, a box or a gap between boxes (`a>b@level`) on every level."""
    level = {room: at for at, row in enumerate(levels(imports)) for room in row}
    return [
        [room, *(f"{room}>{other}@{at}" for at in range(level[room] - 1, level[other], -1)), other]
        for room, other in lines(imports)
    ]


def _places(imports: Imports) -> dict[str, tuple[float, float]]:
    """Middle of each box and gap; on its level each stands near the mean of those that it is joined to."""
    joined: dict[str, set[str]] = {room: set() for room in imports}
    for chain in _chains(imports):
        for upper, lower in pairwise(chain):
            joined.setdefault(upper, set()).add(lower)
            joined.setdefault(lower, set()).add(upper)
    rows = levels(imports)
    for name in sorted(joined.keys() - imports.keys()):
        rows[int(name.rpartition("@")[2])].append(name)

    widths = {name: BOX_WIDTH if name in imports else GAP for name in joined}
    widest = max(sum(widths[name] + GAP for name in row) for row in rows)
    across = {name: widest / 2 for name in joined}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            mean = {name: sum(across[o] for o in joined[name]) / max(len(joined[name]), 1) for name in row}
            row.sort(key=lambda name: (mean[name], name))
            spare = (widest - sum(widths[name] + GAP for name in row)) / (len(row) + 1)
            left = spare
            for name in row:
                across[name] = left + (widths[name] + GAP) / 2
                left += widths[name] + GAP + spare
    return {
        name: (MARGIN + across[name], MARGIN + (len(rows) - 1 - at) * LEVEL + BOX_HEIGHT / 2)
        for at, row in enumerate(rows)
        for name in row
    }


def _path(chain: list[str], places: dict[str, tuple[float, float]]) -> str:
    """A line through a chain's places, upright wherever it passes one."""
    steps = [f"M{places[chain[0]][0]:.0f} {places[chain[0]][1] + BOX_HEIGHT / 2:.0f}"]
    for upper, lower in pairwise(chain):
        (x0, y0), (x1, y1) = places[upper], places[lower]
        y0, y1 = y0 + BOX_HEIGHT / 2, y1 - BOX_HEIGHT / 2
        bend = (y0 + y1) / 2
        steps.append(f"C{x0:.0f} {bend:.0f} {x1:.0f} {bend:.0f} {x1:.0f} {y1:.0f}")
        if lower != chain[-1]:
            steps.append(f"V{y1 + BOX_HEIGHT:.0f}")
    return " ".join(steps)


def draw(imports: Imports) -> str:
    """The picture as SVG, the same for the same imports."""
    places = _places(imports)
    width = max(x for x, _ in places.values()) + BOX_WIDTH / 2 + MARGIN
    height = max(y for _, y in places.values()) + BOX_HEIGHT / 2 + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
        f"<title>The rooms of {PACKAGE} and what they import</title>",
        f"<metadata>{html.escape(json.dumps(imports), quote=False)}</metadata>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#8a8a8a"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    parts += [
        f'<path d="{_path(chain, places)}" fill="none" stroke="#8a8a8a" stroke-width="1.4" '
        'marker-end="url(#tip)"/>'
        for chain in _chains(imports)
    ]
    for room in imports:
        x, y = places[room]
        left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
        parts += [
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7" '
            'fill="#fff4ec" stroke="#d9541e" stroke-width="1.5"/>',
            f'<text x="{x:.0f}" y="{y - 3:.0f}" font-size="16" fill="#1a1a1a">{html.escape(room)}</text>',
            f'<text x="{x:.0f}" y="{y + 16:.0f}" font-size="11.5" fill="#555555">'
            f"{html.escape(PURPOSE[room])}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def imports_of_picture(path: Path = PICTURE) -> Imports:
    """The imports that a picture was drawn from."""
    found = re.search("<metadata>(.*?)</metadata>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{path} was not drawn by this script"
    return json.loads(html.unescape(found[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare the picture with the code")
    options = parser.parse_args()
    imports = imports_between_rooms()
    if options.check:
        sys.exit(0 if imports_of_picture() == imports else f"{PICTURE} is of other imports: draw it again")
    PICTURE.write_text(draw(imports), encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
