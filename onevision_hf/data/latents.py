"""Pictures -> the latents that OpenVision 3 reads, once for all epochs: the VAE is frozen and costs most of
a step.

    onevision latents pictures/ out/latents --vae /folder/of/the/vae --size 256

Shard `latents-00000.safetensors` holds `latents` (rows, C, h, w), `keys-00000.json` the key of each row.
What could not be decoded is in no shard, but in `rejected.jsonl` with its reason. `LatentShards` reads any
row alone.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..jobs.progress import progress
from ..jobs.run_folder import FinishedRun, RunFolder, digest_of, json_lines
from ..modeling.configuration_openvision3 import OpenVision3Config
from ..modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from ..modeling.vae_openvision3 import VAE, check_vae, encode_pixels, vae_stride
from .decoding import decoded_batches
from .media import open_picture
from .sources import Item, Source
from .tar_shards import ShardedExamples
from .tensor_files import checked_rows

STAGE = "latents"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def cache_latents(
    source: Source,
    out: str | Path,
    vae: VAE,
    config: OpenVision3Config,
    *,
    size: int = 256,
    dtype: str = "float16",
    batch_size: int = 8,
    workers: int = 2,
    shard_items: int = 1024,
    redo: bool = False,
) -> dict[str, Any]:
    """Encode every picture of `source`, resized and cropped to `size`, into shards; a run that was stopped
    goes on.

    The latents are `latent_scaling * (posterior mean - latent_shift)` with `config`'s numbers, computed in
    the dtype that `vae` has and stored as `dtype`. The weights of the VAE are part of the plan: a folder
    that was made with others is refused, or begun anew with `redo`.

    Args:
        source: of the pictures.
        out: the folder to fill.
        vae: a diffusers AutoencoderKL.
        config: of the model that reads the latents.
        size: shorter side and crop, pixels.
        dtype: of the stored latents.
        batch_size: pictures that the VAE takes at once; changes results by rounding only.
        workers: threads that decode ahead of the VAE.
        shard_items: pictures of a shard.
        redo: empty a folder that was made otherwise, instead of refusing it.

    Returns:
        The summary: `items`, `rejected`, `shards`, `rows` (of each shard), `shape` (C, h, w).

    Raises:
        ValueError: there are no pictures, none could be decoded, a size that is not a multiple of 16, another
        dtype, a VAE with other channels, or `out` was made from something else.
    """
    items = pictures_of(source, dtype)
    check_vae(vae, config)
    crop = {"height": size, "width": size}
    processor = OpenVision3ImageProcessor(size={"shortest_edge": size}, crop_size=crop)
    parameter = next(vae.parameters())
    settings = {
        "size": size,
        "dtype": dtype,
        "precision": str(parameter.dtype).removeprefix("torch."),
        "latent_scaling": config.latent_scaling,
        "latent_shift": config.latent_shift,
        "vae": digest_of_weights(vae),
        "shard_items": shard_items,
    }
    shape = (config.latent_channels, size // vae_stride(vae), size // vae_stride(vae))

    def prepare(item: Item) -> torch.Tensor:
        return processor(open_picture(source.open(item)), return_tensors="pt").pixel_values[0]

    def encode(batch: Sequence[tuple[Item, torch.Tensor]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([pixels for _, pixels in batch]).to(parameter.device)
        return {"latents": encode_pixels(vae, pixels, config).to(DTYPES[dtype]).cpu()}

    with RunFolder(out, stage=STAGE, settings=settings, sources=source.digest, redo=redo) as run:
        none = {"latents": torch.empty(0, *shape, dtype=DTYPES[dtype])}
        found = fill_shards(run, items, prepare, encode, none, batch_size=batch_size, workers=workers)
        return run.finish({**found, "shape": list(shape)})


def pictures_of(source: Source, dtype: str) -> list[Item]:
    """The pictures among the items of a source, to be stored as `dtype`. Raises ValueError: another dtype, or
    no pictures."""
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    items = [item for item in source.items if item.kind == "image"]
    if not items:
        raise ValueError(f"the source has {len(source.items)} items, but no pictures")
    return items


def fill_shards(
    run: RunFolder,
    items: Sequence[Item],
    prepare: Callable[[Item], Any],
    encode: Callable[[Sequence[tuple[Item, Any]]], dict[str, torch.Tensor]],
    none: dict[str, torch.Tensor],
    *,
    batch_size: int,
    workers: int,
    noun: str = "latents",
    prefix: str = STAGE,
    join: Callable[[Sequence[str], Sequence[dict[str, torch.Tensor]]], dict[str, torch.Tensor]] | None = None,
    beside: tuple[str, Callable[[Sequence[str], dict[str, torch.Tensor]], bytes]] | None = None,
) -> dict[str, Any]:
    """Encode media into the shards that a run lacks; rows with values that are not finite are rejected.

    Args:
        run: the folder; its settings name `shard_items` and `dtype`.
        items: the media.
        prepare: what threads make of an item.
        encode: what is stored of a batch of (item, what was prepared), a row for each: tensors, or lists of
            tensors of unequal shapes.
        none: what a shard holds of which nothing could be used.
        batch_size: items at once.
        workers: threads.
        noun: what is encoded, in the progress and in reasons.
        prefix: of the shards' names.
        join: the tensors of a shard from the keys and rows of its items; by default rows are stacked.
        beside: a name with `{}` for the shard's number, and what is kept there of its keys and tensors.

    Returns:
        `items`, `rejected`, `shards`, `rows` (of each shard).
    """
    size, dtype = run.plan["settings"]["shard_items"], run.plan["settings"]["dtype"]
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    names = [shard_name(i, prefix) for i in range(len(parts))]
    missing = run.missing(names)
    with progress(noun, sum(len(parts[i]) for i in missing)) as step:
        for index in missing:
            keys: list[str] = []
            rows: list[dict[str, torch.Tensor]] = []
            rejected: list[dict[str, str]] = []
            for batch in decoded_batches(prepare, parts[index], batch_size, workers, step, rejected):
                found = encode(batch)
                for place, (item, _) in enumerate(batch):
                    row = {name: tensor[place] for name, tensor in found.items()}
                    if all(value.isfinite().all() for value in row.values()):
                        keys.append(item.key)
                        rows.append(row)
                    else:
                        rejected.append({"key": item.key, "reason": f"its {noun} are not finite in {dtype}"})
            tensors = (join or _stacked)(keys, rows) if rows else none
            others = [f"keys-{index:05d}.json", f"rejected-{index:05d}.jsonl"]
            others += [beside[0].format(f"{index:05d}")] if beside else []
            with run.shard(names[index], *others) as (path, keys_path, rejected_path, *more):
                save_file(tensors, path, metadata={"plan": run.digest})
                keys_path.write_text(json.dumps(keys, ensure_ascii=False))
                rejected_path.write_text(json_lines(rejected))
                if beside:
                    more[0].write_bytes(beside[1](keys, tensors))
    things = "pictures" if all(item.kind == "image" for item in items) else "items"
    count = run.gather_rejected(len(parts), len(items), things)
    lengths = [len(json.loads(run.file(f"keys-{i:05d}.json").read_text())) for i in range(len(parts))]
    return {"items": sum(lengths), "rejected": count, "shards": len(parts), "rows": lengths}


def _stacked(keys: Sequence[str], rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def shard_name(index: int, prefix: str = STAGE) -> str:
    return f"{prefix}-{index:05d}.safetensors"


def digest_of_weights(module: torch.nn.Module) -> str:
    """Of every tensor's name, dtype and bytes: equal for the same weights, wherever they lie."""

    def parts() -> Any:
        for name, tensor in sorted(module.state_dict().items()):
            yield [name, str(tensor.dtype)]
            yield tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()

    return digest_of(parts())


class LatentShards(ShardedExamples):
    """The latents of a finished folder, by number; no file is kept open, so workers may use one object.

    Args:
        path: the folder that `onevision latents` wrote.

    Attributes:
        keys: of each item.
        shape: (C, h, w).
        settings: size, dtype, scaling, shift, ...

    Raises:
        ValueError: the folder is not a finished run of `onevision latents`.
    """

    def __init__(self, path: str | Path):
        self._run = run = FinishedRun(path, STAGE)
        super().__init__(run.path, run.summary["rows"])
        self.settings = run.settings
        self.shape: tuple[int, ...] = tuple(run.summary["shape"])
        self.keys: list[str] = [
            key
            for index in range(run.summary["shards"])
            for key in json.loads(self._run.file(f"keys-{index:05d}.json").read_text())
        ]

    def __getitem__(self, number: int) -> torch.Tensor:
        """Row `number`, (C, h, w), in the stored dtype. Raises IndexError, or DamagedError."""
        shard, row = self.place(number)
        rows = {"latents": (row, self.shard_rows[shard])}
        with safe_open(checked_rows(self._run, shard_name(shard), rows), "pt") as file:
            return file.get_slice("latents")[row]
