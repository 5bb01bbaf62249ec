"""`onevision nearest CLIP`: the drawn clips that a clip is most like, and the motion that is found in it.

    onevision nearest bundled --out nearest.png
    onevision nearest a.mp4 --count 8 --json

Likeness is that of the encoder's pooled features. The direction is read off its tokens in a coarse grid of
time and space by a linear map fitted on drawn clips of one moving sprite: for other clips it is a guess.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onevision_hf.assets import TINY, model_folder

from .report import clip_path

CLEAR = 0.15  # by how much a direction has to beat the next


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
    if args.out and args.out.suffix != ".png":
        raise ValueError(f"{args.out}: the picture is written as .png, found '{args.out.suffix}'")
    found = find_nearest(clip_path(args.clip), args.model, args.count)
    report: dict[str, Any] = {
        "clip": args.clip,
        "model": args.model,
        "direction": best_of(found.directions),
        "directions": {name: round(score, 4) for name, score in found.directions.items()},
        "neighbours": found.neighbours,
        "out": str(args.out) if args.out else None,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        found.sheet(args.clip).save(args.out)
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{args.clip}: {say(found.directions)}")
    for neighbour in found.neighbours:
        labels = ", ".join(f"{name} {label}" for name, label in neighbour["labels"].items())
        print(f"  {neighbour['likeness']:.2f}  {neighbour['scene']}: {labels}")
    if args.out:
        print(args.out)


@dataclass(frozen=True)
class Found:
    """What a clip is like.

    path: the clip. directions: how much speaks for each. neighbours: number, likeness, scene and labels of
    the drawn clips most like it, in order. clips, ways: those clips, and the directions found in them (empty
    where not one thing moves all the time). count: clips in the bank.
    """

    path: Path
    directions: dict[str, float]
    neighbours: list[dict[str, Any]]
    clips: list[Any]
    ways: list[dict[str, float]]
    count: int

    def sheet(self, title: str) -> Any:
        """A picture of the clip, called `title`, and its neighbours."""
        drawn = list(zip(self.neighbours, self.clips, self.ways, strict=True))
        return _sheet(title, self.path, self.directions, drawn, self.count)


def find_nearest(path: Path, model: str = TINY, count: int = 4) -> Found:
    """The drawn clips of the bank beside `model` that the clip at `path` is most like.

    Raises:
        VideoReadError: the clip cannot be read. ValueError: `count` is more than the bank has.
        FileNotFoundError: there is no bank.
    """
    import torch

    from onevision_hf.eval.bank import Bank
    from onevision_hf.synthetic import encode

    from .encode import load_encoder

    bank = Bank.load(model_folder(model))
    if not 1 <= count <= len(bank.pooled):
        raise ValueError(f"--count is 1 to {len(bank.pooled)}, the clips of the bank; found {count}")
    encoder, processor, _ = load_encoder(model)

    def look(clip: str | bytes) -> tuple[Any, dict[str, float]]:
        inputs = processor(clip, return_tensors="pt").to(encoder.device)
        with torch.inference_mode():
            outputs = encoder(**inputs)
        states, positions = outputs.last_hidden_state, inputs["patch_positions"]
        return outputs.pooler_output, bank.directions(states, positions)

    pooled, directions = look(str(path))
    found = bank.nearest(pooled, count)
    clips = [bank.clip(number) for number, _ in found]
    # Of neighbours in which one thing moves all the time: what is found in them, beside what is true.
    ways = [look(encode(clip.frames))[1] if clip.labels["direction"] else {} for clip in clips]
    neighbours: list[dict[str, Any]] = [
        {"number": number, "likeness": round(cosine, 4), "scene": clip.scene, "labels": _told(clip)}
        for (number, cosine), clip in zip(found, clips, strict=True)
    ]
    return Found(path, directions, neighbours, clips, ways, len(bank.pooled))


def best_of(directions: dict[str, float]) -> str:
    return max(directions, key=lambda name: directions[name])


def say(directions: dict[str, float]) -> str:
    """The direction in words, if one stands out."""
    best, next_best = sorted(directions, key=lambda name: -directions[name])[:2]
    if directions[best] - directions[next_best] >= CLEAR:
        return f"moves {best} ({directions[best]:.2f})"
    return f"no clear direction ({best} {directions[best]:.2f}, {next_best} {directions[next_best]:.2f})"


def _told(clip: Any) -> dict[str, str]:
    """The labels that tell of the clip; everything has a ground."""
    return {name: label for name, label in clip.labels.items() if label and name != "ground"}


def _sheet(word: str, path: Path, directions: dict[str, float], neighbours: list[tuple], drawn: int) -> Any:
    from onevision_hf.modeling.video_reader import VideoReader
    from onevision_hf.view.neighbours import Row, neighbours_sheet

    with VideoReader(path) as reader:
        ids = np.linspace(0, len(reader) - 1, 5).round().astype(int)
        side = min(reader.width, reader.height)
        left, top = (reader.width - side) // 2, (reader.height - side) // 2
        shown = [frame.rgb(reader.width, reader.height) for frame in reader.frames(np.unique(ids))]
    frames = np.stack([picture[top : top + side, left : left + side] for picture in shown])
    told = say(directions).replace(" (", "\n(").splitlines()
    rows = [Row(frames, word, ["the middle square, as it is encoded", *told], directions)]
    for neighbour, clip, way in neighbours:
        lines = [f"{name.replace('_', ' ')}: {label}" for name, label in neighbour["labels"].items()]
        rows.append(Row(clip.frames, f"{neighbour['likeness']:.2f}  {neighbour['scene']}", lines[:5], way))
    note = "Right: what speaks for each direction, by a linear map fitted on drawn clips; the circle is 1."
    return neighbours_sheet(rows, f"The most alike of {drawn} drawn clips", note)
