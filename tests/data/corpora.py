"""Corpora of small clips, and what the tests of patch shards ask of a folder."""

import hashlib
import json
from pathlib import Path

from clips import moving_scene, write_clip

from onevision_hf.modeling.patchify_config import PatchifyConfig

SETTINGS = PatchifyConfig.from_dict({"num_frames": 6, "size": 56, "num_patches": 40, "do_center_crop": True})
WORDS = ["--num-frames", "6", "--size", "56", "--num-patches", "40"]
CLASSES = ("left", "right", "up")


def write_corpus(folder: Path, each: int = 3, frames: int = 12, side: int = 64) -> Path:
    """`each` clips of three classes, one too short for the budget, one cut off, one that is text."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for clip in range(each):
            scene = moving_scene(frames, side, side + 32, seed=10 * number + clip)
            write_clip(folder / name / f"{clip}.mp4", scene, gop=6)
    write_clip(folder / "left" / "short.mp4", moving_scene(2, side, side + 32, seed=99))
    whole = (folder / "right" / "0.mp4").read_bytes()
    (folder / "right" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "up" / "text.mp4").write_text("no video\n" * 50)
    return folder


def contents(folder: Path) -> dict[str, str]:
    """name -> digest of everything in a folder but the lock."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".lock")
    }


def rejected(folder: Path) -> dict[str, str]:
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {record["key"]: record["reason"] for record in map(json.loads, lines)}
