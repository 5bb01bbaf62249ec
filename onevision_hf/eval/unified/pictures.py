"""What is measured: pictures of a folder (or any source), or of an .npz of samples, in order, a batch at a
time.

    for batch in open_pictures("samples.npz").batches(64, workers=4, step=step): ...
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.decoding import decoded_batches
from ...data.media import open_picture
from ...data.sources import open_source


@dataclass
class Pictures:
    """`keys` of all; `rejected`, of those that were read so far, with their reasons. `more`: what else an
    .npz holds (`mu` and `sigma` of a reference, `labels`).
    """

    name: str
    keys: list[str]
    read: Callable[[int], Image.Image]
    more: dict[str, np.ndarray] = field(default_factory=dict)
    rejected: list[dict[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def batches(
        self, batch_size: int, workers: int, step: Callable[[int], None]
    ) -> Iterator[list[tuple[int, Image.Image]]]:
        """(number, RGB picture) of every one that can be decoded, in batches; the others go to `rejected`.

        Args:
            batch_size: pictures of a batch.
            workers: threads that decode.
            step: called with 1 for every picture.
        """
        numbers, key = range(len(self)), self.keys.__getitem__
        return decoded_batches(self.read, numbers, batch_size, workers, step, self.rejected, key)


def open_pictures(spec: str, limit: int | None = None) -> Pictures:
    """A folder, parquet, tars, `hf:NAME:SPLIT`, or an .npz with an array of uint8 (count, H, W, 3), as
    diffusion trainers write them; the first `limit`.

    Raises:
        ValueError: there are none; an .npz holds no such array, or several and none named `arr_0`.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the number of pictures is at least 1, found {limit}")
    if spec.endswith(".npz"):
        return _of_npz(spec, limit)
    source = open_source(spec)
    items = [item for item in source.items if item.kind == "image"][:limit]
    if not items:
        raise ValueError(f"{spec} has {len(source.items)} items, but no pictures")
    return Pictures(
        spec, [item.key for item in items], lambda number: open_picture(source.open(items[number]))
    )


def _of_npz(spec: str, limit: int | None) -> Pictures:
    if not Path(spec).is_file():
        raise ValueError(f"{spec} does not exist")
    try:
        with np.load(spec) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{spec} is not a readable .npz: {error}") from error
    shown = {
        name: a for name, a in arrays.items() if a.ndim == 4 and a.shape[-1] == 3 and a.dtype == np.uint8
    }
    name = "arr_0" if "arr_0" in shown else next(iter(shown), "")
    if not shown or (len(shown) > 1 and name != "arr_0"):
        found = ", ".join(f"{key} {value.dtype} {value.shape}" for key, value in arrays.items())
        raise ValueError(
            f"{spec}: expected one array of pictures, uint8 (count, H, W, 3), or `arr_0` among several; it "
            f"holds {found or 'nothing'}"
        )
    pictures = shown.pop(name)[:limit]
    if not len(pictures):
        raise ValueError(f"{spec}: {name} holds no pictures")
    more = {key: value for key, value in arrays.items() if key != name}
    keys = [f"{number:07d}" for number in range(len(pictures))]
    return Pictures(spec, keys, lambda number: Image.fromarray(pictures[number]), more)


def as_bytes(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size -> (B, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).contiguous()


def middle(picture: Image.Image, size: int) -> Image.Image:
    """The central square, its side brought to `size` pixels: halved by boxes while it is at least twice as
    large, then bicubic, as the reference sets of class-conditional ImageNet are made (ADM).
    """
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    wide, high = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return picture.crop((left, top, left + size, top + size))


def none_left(pictures: Pictures) -> ValueError:
    """The error for a source of which nothing could be decoded."""
    first: dict[str, Any] = pictures.rejected[0]
    return ValueError(
        f"none of the {len(pictures)} pictures of {pictures.name} could be read; the first: {first['key']}: "
        f"{first['reason']}"
    )
