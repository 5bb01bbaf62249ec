"""`onevision plot`: the curves of a training run as one picture.

onevision plot runs/cluster_smoke --out curves.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN = 640, 300, 52
COLOURS = ("#1f5fa8", "#c2571a", "#3a7d44", "#8a3d8f", "#777777")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run, with log.jsonl")
    parser.add_argument("--out", type=Path, help="the picture to write (default: RUN/curves.png)")
    parser.add_argument(
        "--json", action="store_true", help="print first and last figures as one line of JSON"
    )


def run(args: argparse.Namespace) -> int:
    from ..training.report import LOG, VALIDATION, read_lines

    log, validation = read_lines(args.folder / LOG), read_lines(args.folder / VALIDATION)
    if not log:
        raise ValueError(f"{args.folder} has no {LOG} with whole lines: give the folder of a training run")
    heads = sorted(key for key in log[0] if key.endswith("/loss"))
    panels = [
        ("loss", {name: points(log, name) for name in ["loss", *heads]}),
        ("gradient norm", {"grad_norm": points(log, "grad_norm")}),
        ("learning rate", {"lr": points(log, "lr")}),
    ]
    if validation:
        panels.insert(1, ("nearest-neighbour accuracy", {"accuracy": points(validation, "accuracy")}))
    out = args.out or args.folder / "curves.png"
    draw(panels).save(out)
    summary = {
        "out": str(out), "steps": log[-1]["step"], "first_loss": log[0]["loss"], "last_loss": log[-1]["loss"],
        "accuracy": validation[-1]["accuracy"] if validation else None,
    }  # fmt: skip
    print(json.dumps(summary) if args.json else f"{out}: loss {log[0]['loss']:.4f} -> {log[-1]['loss']:.4f}")
    return 0


def points(lines: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if key in line]


def draw(panels: list[tuple[str, dict[str, list[tuple[float, float]]]]]) -> Any:
    """Panels one below the other, each with its curves, its range on the left and its steps below."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for row, (title, curves) in enumerate(panels):
        top, bottom = row * HEIGHT + 30, (row + 1) * HEIGHT - 30
        everything = [point for curve in curves.values() for point in curve]
        x0, x1 = min(x for x, _ in everything), max(x for x, _ in everything)
        y0, y1 = min(y for _, y in everything), max(y for _, y in everything)
        pen.rectangle([MARGIN, top, WIDTH - 16, bottom], outline="#bbbbbb")
        pen.text((MARGIN, top - 22), title, "black", font)
        for y, at in ((y1, top - 6), (y0, bottom - 8)):
            pen.text((4, at), f"{y:.3g}", "black", font)
        for x, at in ((x0, MARGIN), (x1, WIDTH - 60)):
            pen.text((at, bottom + 4), f"{x:g}", "black", font)
        for number, (name, curve) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            scaled = [
                (
                    MARGIN + (x - x0) / max(x1 - x0, 1e-30) * (WIDTH - 16 - MARGIN),
                    bottom - (y - y0) / max(y1 - y0, 1e-30) * (bottom - top),
                )
                for x, y in curve
            ]
            if len(scaled) > 1:
                pen.line(scaled, colour, 2)
            for x, y in scaled if len(scaled) < 40 else ():
                pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
            if len(curves) > 1:
                pen.text((MARGIN + 120 + 110 * number, top - 22), name, colour, font)
    return image
