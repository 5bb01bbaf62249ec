"""`onevision nearest CLIP`: the drawn clips that a clip is most like, and the motion that is found in it.

    onevision nearest bundled --out nearest.png
    onevision nearest a.mp4 --count 8 --json

Likeness is that of the encoder's pooled features. The direction is read off its tokens in a coarse grid of
time and space by a linear map fitted on drawn clips of one moving sprite: for other clips it is a guess.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from onevision_hf.assets import TINY, model_folder

from .report import clip_path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP", help="a video file; `bundled` is the package's clip")
    parser.add_argument(
        "--model",
        default=TINY,
        metavar="FOLDER",
        help="an encoder with a bank of drawn clips (default: tiny, the one in the package)",
    )
    parser.add_argument("--count", type=int, default=4, help="neighbours (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="F.png", help="draw them there")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(args: argparse.Namespace) -> None:
    import torch

    from onevision_hf.eval.bank import Bank

    from .encode import load_encoder

    bank = Bank.load(model_folder(args.model))
    if not 1 <= args.count <= len(bank.pooled):
        raise ValueError(f"--count is 1 to {len(bank.pooled)}, the clips of the bank; found {args.count}")
    if args.out and args.out.suffix != ".png":
        raise ValueError(f"{args.out}: the picture is written as .png, found '{args.out.suffix}'")
    encoder, processor, _ = load_encoder(args.model)
    path = clip_path(args.clip)
    inputs = processor(str(path), return_tensors="pt").to(encoder.device)
    with torch.inference_mode():
        outputs = encoder(**inputs)
    directions = bank.directions(outputs.last_hidden_state, inputs["patch_positions"])
    found = bank.nearest(outputs.pooler_output, args.count)
    clips = [bank.clip(number) for number, _ in found]
    neighbours = [
        {"number": number, "likeness": round(cosine, 4), "scene": clip.scene, "labels": _told(clip)}
        for (number, cosine), clip in zip(found, clips, strict=True)
    ]
    report: dict[str, Any] = {
        "clip": args.clip,
        "model": args.model,
        "direction": max(directions, key=lambda name: directions[name]),
        "directions": {name: round(score, 4) for name, score in directions.items()},
        "neighbours": neighbours,
        "out": str(args.out) if args.out else None,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        _sheet(args.clip, path, directions, neighbours, clips, len(bank.pooled)).save(args.out)
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{args.clip}: moves {report['direction']}, as a linear map of the tokens reads it")
    for neighbour in neighbours:
        labels = ", ".join(f"{name} {label}" for name, label in neighbour["labels"].items())
        print(f"  {neighbour['likeness']:.2f}  {neighbour['scene']}: {labels}")
    if args.out:
        print(args.out)


def _told(clip: Any) -> dict[str, str]:
    """The labels that tell of the clip; everything has a ground."""
    return {name: label for name, label in clip.labels.items() if label and name != "ground"}


def _sheet(
    word: str, path: Path, directions: dict[str, float], neighbours: list[dict], clips: list, drawn: int
) -> Any:
    from onevision_hf.modeling.video_reader import VideoReader
    from onevision_hf.view.neighbours import Row, neighbours_sheet

    with VideoReader(path) as reader:
        ids = np.linspace(0, len(reader) - 1, 5).round().astype(int)
        side = min(reader.width, reader.height)
        left, top = (reader.width - side) // 2, (reader.height - side) // 2
        shown = [frame.rgb(reader.width, reader.height) for frame in reader.frames(np.unique(ids))]
    frames = np.stack([picture[top : top + side, left : left + side] for picture in shown])
    best = max(directions, key=lambda name: directions[name])
    rows = [Row(frames, word, ["the middle square, as it is encoded", f"moves {best}"], directions)]
    for neighbour, clip in zip(neighbours, clips, strict=True):
        lines = [f"{name.replace('_', ' ')}: {label}" for name, label in neighbour["labels"].items()]
        rows.append(Row(clip.frames, f"{neighbour['likeness']:.2f}  {neighbour['scene']}", lines[:5], {}))
    note = "Right: how much speaks for each direction, by a linear map fitted on drawn clips."
    return neighbours_sheet(rows, f"The most alike of {drawn} drawn clips", note)
