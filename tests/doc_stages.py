"""What the Python blocks of a page find when they run: the files and names that the page takes for granted.

Every page runs in a folder of its own that has clip.mp4, the bundled clip. Its blocks run in
order, in one scope.
"""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import moving_scene, write_clip
from PIL import Image
from vae import tiny_vae
from vl_tiny import tiny_model, tiny_processor

from onevision_hf import (
    OneVisionConfig,
    OneVisionForVideoClassification,
    OneVisionImageProcessor,
    OneVisionModel,
    OneVisionVideoProcessor,
    bundled_clip,
)
from onevision_hf.cli import main

FIXTURES = Path(__file__).with_name("fixtures")
# Names by the number of the block before which they appear.
Names = dict[int, dict[str, Any]]


def prepare(page: str, folder: Path) -> Names:
    """Lay out the folder of a page and return the names of its blocks."""
    shutil.copy(bundled_clip(), folder / "clip.mp4")
    return STAGES.get(page, lambda folder: {})(folder)


def _encoder(folder: Path) -> OneVisionModel:
    torch.manual_seed(0)
    model = OneVisionModel(OneVisionConfig.tiny()).eval()
    model.save_pretrained(folder)
    return model


def _llava_onevision2(folder: Path) -> Names:
    """A published folder of random weights, under the name that the page downloads to."""
    shutil.copytree(FIXTURES / "llava_onevision2", folder / "ov2")
    return {}


def _cluster_loss(folder: Path) -> Names:
    from onevision_hf.objectives import ClusterDiscriminationLoss

    model = _encoder(folder / "encoder")
    ClusterDiscriminationLoss(100_000, model.config.hidden_size).save_centers(folder / "centers.safetensors")
    labels = torch.tensor([[3, 70_000, -100], [99_999, -100, -100]])
    heads = {name: ClusterDiscriminationLoss(500, 64) for name in ("image", "video")}
    several = {
        "losses": heads,
        "labels": {name: torch.randint(500, (4, 2)) for name in heads},
        "embeddings": {name: torch.randn(4, 64) for name in heads},
        "step": 7,
    }
    return {0: {"model": model, "images": torch.randn(2, 3, 56, 56), "labels": labels}, 1: several}


def _clustering(folder: Path) -> Names:
    shutil.copytree(FIXTURES / "onevision_tiny" / "object", folder / "out" / "shards" / "image")
    return {}


def _encoder_page(folder: Path) -> Names:
    _encoder(folder / "folder")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 56, 84, 3), np.uint8)
    torch.manual_seed(0)
    config = OneVisionConfig.tiny(id2label={0: "left", 1: "right"})
    OneVisionForVideoClassification(config).save_pretrained(folder / "classifier")
    OneVisionVideoProcessor(size=56, num_frames=8).save_pretrained(folder / "classifier")
    for name in ("folder", "classifier"):
        OneVisionImageProcessor(size=56).save_pretrained(folder / name)
    Image.fromarray(pixels[0]).save(folder / "picture.png")
    return {1: {"images": list(pixels)}}


def _faq(folder: Path) -> Names:
    _encoder(folder / "published")
    return {}


def _multimodal(folder: Path) -> Names:
    model = tiny_model()
    model.save_pretrained(folder / "out" / "vl")
    tiny_processor(model.config).save_pretrained(folder / "out" / "vl")
    Image.new("RGB", (56, 84), "teal").save(folder / "picture.png")
    shutil.copy(bundled_clip(), folder / "other.mp4")
    (folder / "frames").mkdir()
    for number in range(4):
        Image.new("RGB", (56, 84), (60 * number, 0, 0)).save(folder / "frames" / f"{number:03d}.png")
    return {}


def _openvision3(folder: Path) -> Names:
    (folder / "pictures").mkdir()
    Image.new("RGB", (256, 256), "teal").save(folder / "pictures" / "a.png")
    tiny_vae().save_pretrained(folder / "vae")
    words = ["latents", "pictures", "out/latents", "--vae", "vae", "--size", "256", "--json"]
    assert main(words) == 0
    return {}


def _recipes(folder: Path) -> Names:
    for number, name in enumerate(("left", "right", "left", "right")):
        (folder / "clips" / name).mkdir(parents=True, exist_ok=True)
        write_clip(folder / "clips" / name / f"{number}.mp4", moving_scene(12, 64, 96, seed=number))
    half_hour = moving_scene(450, 64, 64)  # a frame every four seconds
    write_clip(folder / "half-hour.mp4", half_hour, fps=Fraction(1, 4))
    for name in ("frames", "pictures"):
        (folder / name).mkdir()
    lines = []
    for number in range(8):
        picture = Image.fromarray(half_hour[number])
        picture.save(folder / "frames" / f"{number:03d}.png")
        picture.save(folder / "pictures" / f"{number}.png")
        lines.append(f'{{"file_name": "{number}.png", "text": "picture {number}"}}\n')
    picture.save(folder / "picture.png")
    (folder / "pictures.jsonl").write_text("".join(lines))
    return {}


STAGES: dict[str, Callable[[Path], Names]] = {
    "docs/cluster-loss.md": _cluster_loss,
    "docs/clustering.md": _clustering,
    "docs/encoder.md": _encoder_page,
    "docs/faq.md": _faq,
    "docs/llava-onevision2.md": _llava_onevision2,
    "docs/multimodal.md": _multimodal,
    "docs/openvision3.md": _openvision3,
    "docs/recipes.md": _recipes,
}
