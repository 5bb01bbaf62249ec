"""Pictures -> the tokens of a unified model, for trainers of generators: what is denoised, and how it is
scaled.

    onevision export-tokens drawn/ out/tokens --model runs/unified_drawn/model

| file | holds |
|---|---|
| `latents-00000.safetensors`, ... | `latents`, `latents_flip` (rows, D, gh, gw), `labels` (rows,) int64 |
| `stat.pt` | `mean`, `var` (D, gh, gw) float32: what RAE's `normalization_stat_path` reads |
| `latents_stats.pt` | `mean`, `std` (1, D, 1, 1) float32: of each channel, as LightningDiT's readers want |
| `classes.json` | the name of each label |
| `keys-00000.json`, `rejected.jsonl` | the row's pictures; what could not be decoded, and why |

The tokens are those of the encoder's last block, without norm and without noise, on their grid.
`latents_flip` are those of the mirrored picture. RAE (bytetriper/RAE at 34b0679) encodes while it trains, so
shards are in the layout of LightningDiT's readers (hustvl/LightningDiT), whose transformer it carries: every
`*.safetensors` of a folder.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ...data.items import Item, Source
from ...data.latents import DTYPES, digest_of_weights, fill_shards, pictures_of, shard_name
from ...data.media import open_picture
from ...jobs.run_folder import FinishedRun, RunFolder
from ...modeling.configuration_openvision3 import OpenVision3Config
from .models import OpenedModel

STAGE = "export-tokens"
STAT, CHANNEL_STAT, CLASSES = "stat.pt", "latents_stats.pt", "classes.json"


def export_tokens(
    source: Source,
    out: str | Path,
    opened: OpenedModel,
    *,
    mirror: bool = True,
    dtype: str = "float16",
    batch_size: int = 32,
    workers: int = 2,
    shard_items: int = 1024,
    redo: bool = False,
) -> dict[str, Any]:
    """Encode every picture of `source` into shards, then write their mean and variance; a run that was
    stopped goes on.

    Labels are the first folders of a folder of folders, in alphabetical order; of any other source they are
    0, and `classes` of the summary is 0. Mean and variance are those of what is stored, mirrored rows
    included.

    Args:
        source: of the pictures.
        out: the folder.
        opened: the model.
        mirror: encode mirrored pictures too.
        dtype: of the tokens.
        batch_size: pictures at once.
        workers: threads that decode.
        shard_items: pictures of a shard.
        redo: empty a folder that was made from something else.

    Returns:
        The summary: `items`, `rejected`, `shards`, `rows` (of each shard), `shape` (D, gh, gw), `classes`.

    Raises:
        ValueError: there are no pictures, none could be decoded, another dtype, or `out` was made from
        something else. MissingVAEError: the encoder reads latents and there is no VAE.
    """
    items = pictures_of(source, dtype)
    classes = classes_of(items)
    numbers = {name: number for number, name in enumerate(classes)}
    model = opened.model
    reads_latents = isinstance(model.config.encoder_config, OpenVision3Config)
    settings = {
        "size": opened.size,
        "dtype": dtype,
        "mirror": mirror,
        "model": digest_of_weights(model),
        "vae": digest_of_weights(model.vae) if reads_latents else None,
        "shard_items": shard_items,
    }

    @torch.no_grad()
    def tokens_of(pixels: Tensor) -> Tensor:
        encoded = model.encode(pixels)
        grid = encoded.tokens.transpose(1, 2).unflatten(2, encoded.grid)  # (B, N, D) -> (B, D, gh, gw)
        return grid.to(DTYPES[dtype]).cpu().contiguous()

    def prepare(item: Item) -> Any:
        return open_picture(source.open(item))

    def encode(batch: Sequence[tuple[Item, Any]]) -> dict[str, Tensor]:
        pixels = opened.pixels([picture for _, picture in batch])
        labels = [numbers[item.key.partition("/")[0]] if classes else 0 for item, _ in batch]
        found = {"latents": tokens_of(pixels), "labels": torch.tensor(labels)}
        return found | ({"latents_flip": tokens_of(pixels.flip(-1))} if mirror else {})

    with RunFolder(out, stage=STAGE, settings=settings, sources=source.digest, redo=redo) as run:
        filled = fill_shards(
            run,
            items,
            prepare,
            encode,
            {"labels": torch.zeros(0, dtype=torch.int64)},
            batch_size=batch_size,
            workers=workers,
            noun="tokens",
            beside=("moments-{}.npz", _moments),
        )
        shards = range(filled["shards"])
        total, mean, var = _merged([run.file(f"moments-{i:05d}.npz") for i in shards])
        run.write(STAT, _saved({"mean": mean.float(), "var": var.float()}))
        # Of a channel over all positions: the mean of the variances and the variance of the means.
        centre = mean.mean((1, 2))
        spread = (var.mean((1, 2)) + mean.var((1, 2), correction=0)).sqrt()
        shaped = {"mean": centre.float()[None, :, None, None], "std": spread.float()[None, :, None, None]}
        run.write(CHANNEL_STAT, _saved(shaped))
        run.write(CLASSES, json.dumps(classes, ensure_ascii=False, indent=1) + "\n")
        return run.finish(
            {
                **filled,
                "shape": list(mean.shape),
                "classes": len(classes),
                "averaged": total,
                "token_rms": (var + mean.square()).mean().sqrt().item(),
            }
        )


def classes_of(items: Sequence[Item]) -> list[str]:
    """The first folders of a folder of folders, sorted; nothing where a picture lies in none."""
    names = {item.key.partition("/")[0] for item in items}
    plain = all("/" in item.key and Path(item.path).as_posix().endswith("/" + item.key) for item in items)
    return sorted(names) if plain else []


class TokenShards:
    """All rows of a finished folder of `onevision export-tokens`, read into memory.

    Attributes: `latents` (rows, D, gh, gw) in the stored dtype, mirrored rows after the others; `labels`
    (rows,); `classes`, their names; `mean`, `var` (D, gh, gw) float32.

    Raises:
        ValueError: the folder is not finished, or was made by something else.
    """

    def __init__(self, path: str | Path):
        run = FinishedRun(path, STAGE)
        self.path, self.settings = run.path, run.settings
        self.classes: list[str] = json.loads(run.file(CLASSES).read_text())
        stat = torch.load(run.file(STAT), map_location="cpu", weights_only=True)
        self.mean, self.var = stat["mean"], stat["var"]
        found: dict[str, list[Tensor]] = {"latents": [], "latents_flip": [], "labels": []}
        for index in range(run.summary["shards"]):
            with safe_open(run.file(shard_name(index)), "pt") as file:
                for name in file.keys():  # noqa: SIM118 - safetensors' file is no mapping
                    found[name].append(file.get_tensor(name))
        labels = torch.cat(found["labels"])
        self.latents = torch.cat(found["latents"] + found["latents_flip"])
        self.labels = labels.repeat(len(self.latents) // max(1, len(labels)))


def _moments(keys: Sequence[str], tensors: dict[str, Tensor]) -> bytes:
    """Number, mean and sum of squared deviations of a shard's rows, float64, as an .npz."""
    rows = [tensors[name] for name in ("latents", "latents_flip") if name in tensors]
    found: dict[str, Any] = {"count": np.array(0)}
    if rows:
        values = torch.cat(rows).double()
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        found = {"count": np.array(len(values)), "mean": mean.numpy(), "squares": squares.numpy()}
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    return buffer.getvalue()


def _merged(paths: Sequence[Path]) -> tuple[int, Tensor, Tensor]:
    """(rows, mean, variance) of all shards, by Chan's formula for pairs; the variance is the population's."""
    total, mean, squares = 0, None, None
    for path in paths:
        with np.load(path) as stored:
            count = int(stored["count"])
            if not count:
                continue
            own_mean, own_squares = torch.from_numpy(stored["mean"]), torch.from_numpy(stored["squares"])
        if mean is None or squares is None:
            total, mean, squares = count, own_mean, own_squares
            continue
        apart, both = own_mean - mean, total + count
        mean = mean + apart * (count / both)
        squares = squares + own_squares + apart.square() * (total * count / both)
        total = both
    assert mean is not None and squares is not None
    return total, mean, squares / total


def _saved(tensors: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()
