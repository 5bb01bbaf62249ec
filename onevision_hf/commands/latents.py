"""`onevision latents SRC DST`: cache what OpenVision 3's VAE makes of pictures; a stopped run goes on."""

from typing import Annotated, Literal

from typer import Option as Opt

from . import options
from .printing import pick_device, rejected, say, stored


def run(
    source: options.Source,
    out: options.ShardsOut,
    model: Annotated[
        str | None,
        Opt(metavar="ID", help="an OpenVision 3 encoder, whose config names the VAE and the scaling"),
    ] = None,
    vae: options.Vae = None,
    size: Annotated[int, Opt(metavar="N", help="side in pixels after resize and crop")] = 256,
    media_column: options.MediaColumn = None,
    precision: Annotated[Literal["float32", "bfloat16"], Opt(help="of the VAE")] = "float32",
    dtype: options.StoredType = "float16",
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 2,
    shard_items: options.ShardItems = 1024,
    device: options.Device = None,
    redo: options.Redo = False,
    as_json: options.Json = False,
) -> None:
    options.at_least_one(size=size, batch_size=batch_size, workers=workers, shard_items=shard_items)
    import torch

    from onevision_hf import OpenVision3Config
    from onevision_hf.data.latents import cache_latents
    from onevision_hf.data.sources import open_source
    from onevision_hf.modeling.vae_openvision3 import load_vae

    media = open_source(source, media_column=media_column)
    config = OpenVision3Config.from_pretrained(model) if model else OpenVision3Config()
    if config.model_type != OpenVision3Config.model_type:
        raise ValueError(f"{model} is a {config.model_type}, expected {OpenVision3Config.model_type}")
    if vae is not None:
        config.vae_name_or_path = vae
    loaded = torch.nn.Module.to(
        load_vae(config), torch.device(pick_device(device)), getattr(torch, precision)
    )
    summary = cache_latents(
        media,
        out,
        loaded,
        config,
        size=size,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        shard_items=shard_items,
        redo=redo,
    )
    say(summary, as_json, stored(out, summary, dtype), rejected(out, summary))
