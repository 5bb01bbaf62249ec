"""Tiny trainings of the multimodal model, for the tests and the processes that they start."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 220)}
BASE = {
    "task": "vl", "max_steps": 6, "dataloader_num_workers": 0, "logging_steps": 1, "save_steps": 100,
    "report_to": [], "seed": 3, "device": "cpu",
    "optim": {"learning_rate": 1e-3, "warmup_steps": 1, "max_grad_norm": 1.0},
    "vl": {"token_budget": 260, "batch_size": 4},
}  # fmt: skip


def write_sources(folder: Path, items: int = 24) -> Path:
    """A tiny assembled model, and conversations about coloured pictures, one of words alone among four."""
    from vl_tiny import tiny_config, tiny_model, tiny_processor

    model = tiny_model("patch_merger")
    model.save_pretrained(folder / "vl")
    tiny_processor(tiny_config("patch_merger")).save_pretrained(folder / "vl")
    rng = np.random.default_rng(0)
    records = []
    for number in range(items):
        name, colour = list(COLOURS.items())[number % 3]
        side = (28, 56)[number % 2]
        Image.fromarray(np.full((side, 56, 3), colour, np.uint8)).save(folder / f"{number}.png")
        asked = "What colour?" if number % 4 else "<image>\nWhat colour is this?"
        record = {
            "id": f"item{number}",
            "conversations": [
                {"from": "human", "value": asked},
                {"from": "gpt", "value": name},
                {"from": "human", "value": "Really?" * int(rng.integers(1, 4))},
                {"from": "gpt", "value": "Yes."},
            ],
        }
        if number % 4 == 0:
            record["image"] = f"{number}.png"
        records.append(record)
    (folder / "asked.json").write_text(json.dumps(records))
    return folder


def make_config(folder: Path, out: Path, **changes):
    from training_workers import merged

    from onevision_hf.training.config import from_dict

    places = {"vl": {"model": str(folder / "vl"), "source": str(folder / "asked.json")}, "out": str(out)}
    return from_dict(merged(merged(BASE, places), changes))


def train(folder: Path, out: Path, stop_at=None, **changes):
    """Train (on), and give the losses logged and everything that is saved."""
    from onevision_hf.training.loop import Trainer
    from onevision_hf.training.report import read_lines

    trainer = Trainer(make_config(folder, out, **changes), max_steps=stop_at)
    status = trainer.fit()
    return {
        "status": status,
        "log": [line["loss"] for line in read_lines(Path(out) / "log.jsonl")],
        "tensors": {
            name: (t.full_tensor() if hasattr(t, "full_tensor") else t).clone()
            for name, t in trainer.tensors().items()
        },
    }
