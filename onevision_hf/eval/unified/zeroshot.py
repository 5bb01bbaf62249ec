"""Naming pictures that were never labelled for it: the class whose texts are nearest.

    measure_zeroshot(open_classes("val/"), open_model("M"), templates=("a photo of a {}.",))

A class is the mean of the features of its names in every template, each of length 1 (arXiv 2103.00020,
section 3.1.4). Nothing is trained, and the logit scale changes no order.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...data.media import open_picture
from ...data.sources import open_source
from .models import OpenedModel
from .pictures import Pictures, none_left
from .tokens import classes_of

# Sets of prompts. `simple`: the seven that CLIP's authors found to do most of the work of eighty.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "simple": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}
TOP = 5


def class_names(classes: Sequence[str], file: str | Path | None = None) -> dict[str, list[str]]:
    """Folder -> how its class is called: the folder's name with spaces for `-` and `_`, or what a JSON file
    says, `{"n01440764": ["tench", "Tinca tinca"], ...}`.

    Raises ValueError for a file that is no such object, or leaves out a class.
    """
    if file is None:
        return {name: [name.replace("-", " ").replace("_", " ")] for name in classes}
    try:
        given = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the names of the classes could not be read from {file}: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{file} is no JSON object of folder -> name or list of names")
    lacking = [name for name in classes if not given.get(name)]
    if lacking:
        raise ValueError(f"{file} names no class for {len(lacking)} folders: {', '.join(lacking[:5])}")
    return {name: [given[name]] if isinstance(given[name], str) else list(given[name]) for name in classes}


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError unless each has one place for the name, `{}`."""
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ValueError(f"a template holds {{}} once, where the name goes; found {wrong or 'none'}")
    return tuple(templates)


def class_features(
    opened: OpenedModel, names: Mapping[str, Sequence[str]], templates: Sequence[str]
) -> Tensor:
    """(classes, E) of length 1, in the order of `names`.

    Args:
        opened: the model.
        names: folder -> how its class is called.
        templates: with `{}` where the name goes.
    """
    tokenizer = opened.tokenizer()
    # `replace`, not `format`: a name may hold braces.
    prompts = [[t.replace("{}", name) for name in called for t in templates] for called in names.values()]
    flat = opened.text_features([text for own in prompts for text in own], tokenizer)
    means = [part.mean(0) for part in flat.split([len(own) for own in prompts])]
    return normalize(torch.stack(means), dim=-1)


@dataclass
class LabelledPictures:
    """Pictures, the number of each one's class, and the classes' names: those of their folders."""

    pictures: Pictures
    labels: list[int]
    classes: list[str]


def open_classes(folder: str, limit: int | None = None) -> LabelledPictures:
    """A folder with one of pictures for each class; at most `limit` pictures, spread evenly over the sorted
    list.

    Raises ValueError for fewer than two such folders.
    """
    source = open_source(folder)
    items = [item for item in source.items if item.kind == "image"]
    classes = classes_of(items)
    if len(classes) < 2:
        raise ValueError(
            f"{folder}: expected one folder of pictures for each class, found {len(items)} pictures in "
            f"{len(classes)} such folders"
        )
    if limit is not None and limit < len(items):
        items = [items[number * len(items) // limit] for number in range(limit)]
    numbers = {name: number for number, name in enumerate(classes)}
    keys = [item.key for item in items]
    pictures = Pictures(folder, keys, lambda number: open_picture(source.open(items[number])))
    return LabelledPictures(pictures, [numbers[key.partition("/")[0]] for key in keys], classes)


def measure_zeroshot(
    labelled: LabelledPictures,
    opened: OpenedModel,
    *,
    templates: Sequence[str] = TEMPLATES["photo"],
    names: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 4,
    step: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Top-1 and top-5 over the pictures, and by class, with chance and the fraction of the largest class.

    Args:
        labelled: pictures with their classes.
        opened: the model.
        templates: with `{}` where the name goes.
        names: a JSON file for `class_names`.
        batch_size: pictures at once.
        workers: threads that decode.
        step: called with the number of pictures that are done.

    Raises:
        ValueError: a wrong template or file of names, nothing that can be read.
    """
    templates = check_templates(templates)
    pictures, classes = labelled.pictures, labelled.classes
    names_of = class_names(classes, names)
    texts = class_features(opened, names_of, templates)
    labels: list[int] = []
    best: list[Tensor] = []
    top = min(TOP, len(classes))
    for batch in pictures.batches(batch_size, workers, step):
        features = opened.image_features([picture for _, picture in batch])
        best.append((features @ texts.T).topk(top, dim=1).indices)
        labels += [labelled.labels[number] for number, _ in batch]
    if not labels:
        raise none_left(pictures)
    truth = torch.tensor(labels)
    hits = torch.cat(best) == truth[:, None]
    counts = torch.bincount(truth, minlength=len(classes))
    own = torch.zeros(len(classes)).index_add_(0, truth, hits[:, 0].float())
    return {
        "accuracy": hits[:, 0].float().mean().item(),
        f"top{top}": hits.any(1).float().mean().item(),
        "chance": 1 / len(classes),
        "majority": (counts.max() / counts.sum()).item(),
        "pictures": len(labels),
        "classes": {
            name: {"pictures": int(counts[n]), "accuracy": (own[n] / counts[n]).item() if counts[n] else None}
            for n, name in enumerate(classes)
        },
        "names": names_of,
        "templates": list(templates),
        "rejected": pictures.rejected,
    }
