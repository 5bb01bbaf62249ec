"""What the probe's tests read: clips of a square that goes one of two ways, drawn in a moment, and encoders
with random weights.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from clips import write_clip

from onevision_hf import OneVisionConfig, OneVisionModel

CLASSES = ("left", "right")
FRAMES, SIDE, PATCH = 10, 56, 14


def draw(path: Path, label: int, seed: int, frames: int = FRAMES) -> Path:
    """A bright square that goes left or right on a ground of the class's colour: any encoder can tell."""
    rng = np.random.default_rng(seed)
    clip = np.full((frames, SIDE, SIDE, 3), (60, 60, 60), np.uint8)
    clip[..., 2 * label] = 150
    clip = clip + rng.integers(0, 12, (1, SIDE, SIDE, 3), dtype=np.uint8)
    top = int(rng.integers(0, SIDE - 16))
    for t in range(frames):
        at = 4 * t if label else SIDE - 16 - 4 * t
        clip[t, top : top + 16, at : at + 16] = 240
    return write_clip(path, clip, gop=frames, bframes=0)


def draw_folder(folder: Path, each: int) -> Path:
    """folder/left/0.mp4 ...: `each` clips a class."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            draw(folder / name / f"{number}.mp4", label, seed=10 * number + label)
    return folder


def save_encoder(folder: Path, **changes) -> Path:
    torch.manual_seed(0)
    config = OneVisionConfig.tiny(num_hidden_layers=1, patch_size=PATCH, **changes)
    OneVisionModel(config).save_pretrained(folder)
    return folder


def write_list(path: Path, lines: list[tuple[str, object]], header: bool = False) -> Path:
    head = ["path,label"] if header else []
    path.write_text("\n".join([*head, *(f"{name},{label}" for name, label in lines)]) + "\n")
    return path


SETTINGS = {
    "epochs": 3, "batch_size": 6, "seeds": [1], "dataloader_num_workers": 0, "logging_steps": 1,
    "device": "cpu",
    "input": {"num_patches": 40, "num_frames": 8, "size": SIDE, "augment": False},
    "optim": {"learning_rate": 2e-3, "final_lr_scale": 1e-3, "weight_decay": 0.0},
}  # fmt: skip


def make_config(model, train, out, **changes):
    """A small probe; keys with a point reach into the sections."""
    from onevision_hf.eval.probes.config import ProbeConfig, _check
    from onevision_hf.training.schema import build

    values = {k: dict(v) if isinstance(v, dict) else v for k, v in SETTINGS.items()}
    values |= {"model": str(model), "out": str(out), "data": {"train": str(train), "max_missing": 0.0}}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (values.setdefault(section, {}) if section else values)[name] = value
    config = build(ProbeConfig, values)
    _check(config)
    return config


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))
