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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...data.decoding import decoded_batches
from ...data.items import Item, Source
from ...data.latents import DTYPES, digest_of_weights, shard_name
from ...data.media import open_picture
from ...jobs.progress import progress
from ...jobs.run_folder import FinishedRun, RunFolder, json_lines
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
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    items = [item for item in source.items if item.kind == "image"]
    if not items:
        raise ValueError(f"the source has {len(source.items)} items, but no pictures")
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

    def encode(part: Sequence[Item], step: Callable[[int], None]) -> tuple[list[str], dict, list]:
        keys: list[str] = []
        labels: list[int] = []
        rows: list[Tensor] = []
        flipped: list[Tensor] = []
        rejected: list[dict[str, str]] = []

        def prepare(item: Item) -> Any:
            return open_picture(source.open(item))

        for batch in decoded_batches(prepare, part, batch_size, workers, step, rejected):
            pixels = opened.pixels([picture for _, picture in batch])
            found = tokens_of(pixels)
            mirrored = tokens_of(pixels.flip(-1)) if mirror else found
            for (item, _), own, other in zip(batch, found, mirrored, strict=True):
                if own.isfinite().all() and other.isfinite().all():
                    keys.append(item.key)
                    labels.append(numbers[item.key.partition("/")[0]] if classes else 0)
                    rows.append(own)
                    flipped.append(other)
                else:
                    rejected.append({"key": item.key, "reason": f"its tokens are not finite in {dtype}"})
        if not rows:
            return keys, {"labels": torch.zeros(0, dtype=torch.int64)}, rejected
        tensors = {"latents": torch.stack(rows), "labels": torch.tensor(labels)}
        if mirror:
            tensors["latents_flip"] = torch.stack(flipped)
        return keys, tensors, rejected

    with RunFolder(out, stage=STAGE, settings=settings, sources=source.digest, redo=redo) as run:
        parts = [items[i : i + shard_items] for i in range(0, len(items), shard_items)]
        names = [shard_name(i) for i in range(len(parts))]
        missing = run.missing(names)
        with progress("tokens", sum(len(parts[i]) for i in missing)) as step:
            for index in missing:
                keys, tensors, rejected = encode(parts[index], step)
                others = (f"keys-{index:05d}.json", f"rejected-{index:05d}.jsonl", f"moments-{index:05d}.npz")
                with run.shard(names[index], *others) as (path, keys_path, rejected_path, moments_path):
                    save_file(tensors, path, metadata={"plan": run.digest})
                    keys_path.write_text(json.dumps(keys, ensure_ascii=False))
                    rejected_path.write_text(json_lines(rejected))
                    with open(moments_path, "wb") as file:
                        np.savez(file, **_moments(tensors))  # type: ignore[arg-type]
        count = run.gather_rejected(len(parts), len(items), "pictures")
        total, mean, var = _merged([run.path / f"moments-{i:05d}.npz" for i in range(len(parts))])
        run.write(STAT, _saved({"mean": mean.float(), "var": var.float()}))
        # Of a channel over all positions: the mean of the variances and the variance of the means.
        centre = mean.mean((1, 2))
        spread = (var.mean((1, 2)) + mean.var((1, 2), correction=0)).sqrt()
        shaped = {"mean": centre.float()[None, :, None, None], "std": spread.float()[None, :, None, None]}
        run.write(CHANNEL_STAT, _saved(shaped))
        run.write(CLASSES, json.dumps(classes, ensure_ascii=False, indent=1) + "\n")
        lengths = [len(json.loads((run.path / f"keys-{i:05d}.json").read_text())) for i in range(len(parts))]
        return run.finish(
            {
                "items": sum(lengths),
                "rejected": count,
                "shards": len(parts),
                "rows": lengths,
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
        self.classes: list[str] = json.loads((run.path / CLASSES).read_text())
        stat = torch.load(run.path / STAT, map_location="cpu", weights_only=True)
        self.mean, self.var = stat["mean"], stat["var"]
        found: dict[str, list[Tensor]] = {"latents": [], "latents_flip": [], "labels": []}
        for index in range(run.summary["shards"]):
            with safe_open(run.path / shard_name(index), "pt") as file:
                for name in file.keys():  # noqa: SIM118 - safetensors' file is no mapping
                    found[name].append(file.get_tensor(name))
        labels = torch.cat(found["labels"])
        self.latents = torch.cat(found["latents"] + found["latents_flip"])
        self.labels = labels.repeat(len(self.latents) // max(1, len(labels)))


def _moments(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Count, mean and summed squares about it of a shard's rows, in float64."""
    rows = [tensors[name] for name in ("latents", "latents_flip") if name in tensors]
    if not rows:
        return {"count": np.array(0)}
    values = torch.cat(rows).double()
    mean = values.mean(0)
    return {
        "count": np.array(len(values)),
        "mean": mean.numpy(),
        "squares": (values - mean).square().sum(0).numpy(),
    }


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
