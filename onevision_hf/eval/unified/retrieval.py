"""Finding the text of a picture, and the picture of a text, among all: recall at 1, 5 and 10.

    measure_retrieval(open_pairs("karpathy-test/"), open_model("M"))

Texts that are equal count as one, of every picture that has it: a picture is found by any of its texts, and a
text finds any of its pictures. Where no text repeats, that is the usual protocol of Flickr30k and COCO (five
texts a picture). The rank of what is right is the number of wrong ones that are as near or nearer, so ties
help nobody.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...data.media import open_picture
from .models import OpenedModel
from .pictures import Pictures, none_left

AT = (1, 5, 10)


def measure_retrieval(
    pairs: Any,
    opened: OpenedModel,
    *,
    name: str = "the pairs",
    caption: int | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    workers: int = 4,
    step: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Recall both ways, with what drawing blindly would give.

    Args:
        pairs: rows with `key`, `media`, `captions` (`training.pairs.open_pairs`).
        opened: the model.
        name: of the pairs, for messages.
        caption: take this one of each row's, counted from 0; all of them if left out.
        limit: take the first so many rows.
        batch_size: pictures at once.
        workers: threads that decode.
        step: called with the number of pictures that are done.

    Raises:
        ValueError: fewer than two pictures with a caption, or a row without caption number `caption`.
    """
    count = len(pairs) if limit is None else min(limit, len(pairs))
    captions: dict[int, list[str]] = {}
    keys = [f"{number:07d}" for number in range(count)]

    def read(number: int) -> Image.Image:
        row = pairs[number]
        keys[number] = row.key
        texts = list(dict.fromkeys(text for text in row.captions if text.strip()))
        if caption is not None:
            if caption >= len(row.captions) or not row.captions[caption].strip():
                raise ValueError(
                    f"{row.key} has {len(row.captions)} captions, none with the number {caption}"
                )
            texts = [row.captions[caption]]
        captions[number] = texts
        return open_picture(row.media) if isinstance(row.media, str | bytes) else row.media.convert("RGB")

    pictures = Pictures(name, keys, read)
    images: list[Tensor] = []
    taken: list[int] = []
    uncaptioned: list[dict[str, str]] = []
    for batch in pictures.batches(batch_size, workers, step):
        captioned = [(number, picture) for number, picture in batch if captions[number]]
        uncaptioned += [{"key": keys[n], "reason": "it has no caption"} for n, _ in batch if not captions[n]]
        if captioned:
            images.append(opened.image_features([picture for _, picture in captioned]))
            taken += [number for number, _ in captioned]
    if not taken:
        raise none_left(pictures) if pictures.rejected else ValueError(f"no picture of {name} has a caption")
    if len(taken) < 2:
        raise ValueError(f"{name} has one picture with a caption: there is nothing to choose among")
    tokenizer = opened.tokenizer()
    texts = list(dict.fromkeys(text for number in taken for text in captions[number]))
    place = {text: number for number, text in enumerate(texts)}
    features = opened.text_features(texts, tokenizer)
    of_image = [[place[text] for text in captions[number]] for number in taken]
    of_text: list[list[int]] = [[] for _ in texts]
    for image, own in enumerate(of_image):
        for text in own:
            of_text[text].append(image)
    matrix = torch.cat(images)
    return {
        "image_to_text": recall(ranks(matrix, features, of_image)),
        "text_to_image": recall(ranks(features, matrix, of_text)),
        "by_chance": {
            "image_to_text": {f"R@{k}": _chance(of_image, len(texts), k) for k in AT},
            "text_to_image": {f"R@{k}": _chance(of_text, len(taken), k) for k in AT},
        },
        "pictures": len(taken),
        "texts": len(texts),
        "texts_cut": tokenizer.cut,
        "rejected": [*pictures.rejected, *uncaptioned],
    }


def ranks(queries: Tensor, targets: Tensor, right: Sequence[Sequence[int]], batch: int = 1024) -> Tensor:
    """How many wrong targets are at least as near as the nearest right one, of each query.

    Args:
        queries: (Q, E), of length 1.
        targets: (T, E), of length 1.
        right: the targets of each query.
        batch: queries at once.
    """
    found = []
    for start in range(0, len(queries), batch):
        near = queries[start : start + batch] @ targets.T
        wrong = torch.ones_like(near, dtype=torch.bool)
        for row, own in enumerate(right[start : start + batch]):
            wrong[row, list(own)] = False
        best = near.masked_fill(wrong, -torch.inf).amax(1, keepdim=True)
        found.append(((near >= best) & wrong).sum(1))
    return torch.cat(found)


def recall(found: Tensor) -> dict[str, float]:
    return {f"R@{k}": (found < k).float().mean().item() for k in AT}


def _chance(right: Sequence[Sequence[int]], targets: int, k: int) -> float:
    """The mean chance that `k` different targets, drawn blindly, hold a right one."""
    total = 0.0
    for own in right:
        missed = 1.0
        for draw in range(min(k, targets)):
            missed *= max(0, targets - len(own) - draw) / (targets - draw)
        total += 1 - missed
    return total / len(right)
