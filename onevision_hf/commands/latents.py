"""`onevision latents SRC DST`: cache what OpenVision 3's VAE makes of pictures; a stopped run goes on."""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a folder, parquet, webdataset tars, or hf:NAME:SPLIT")
    parser.add_argument("out", metavar="DST", help="folder of the shards")
    parser.add_argument("--model", help="an OpenVision 3 encoder, whose config names the VAE and the scaling")
    parser.add_argument("--vae", help="a diffusers AutoencoderKL (folder or Hub id) instead of the config's")
    parser.add_argument(
        "--size", type=int, default=256, help="side in pixels after resize and crop (%(default)s)"
    )
    parser.add_argument("--media-column", help="the column of pictures in parquet or a dataset")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the VAE (%(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="of what is stored (%(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="pictures encoded at once (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that decode (%(default)s)")
    parser.add_argument("--shard-items", type=int, default=1024, help="pictures of a shard (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (cuda when there is one)")
    parser.add_argument("--redo", action="store_true", help="empty a folder that was made otherwise")
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON")


def run(args: argparse.Namespace) -> None:
    import torch

    from onevision_hf import OpenVision3Config
    from onevision_hf.data.latents import cache_latents
    from onevision_hf.data.sources import open_source
    from onevision_hf.modeling.vae_openvision3 import load_vae

    for name in ("size", "batch_size", "workers", "shard_items"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(args, name)}")
    source = open_source(args.source, media_column=args.media_column)
    config = OpenVision3Config.from_pretrained(args.model) if args.model else OpenVision3Config()
    if config.model_type != OpenVision3Config.model_type:
        raise ValueError(f"{args.model} is a {config.model_type}, expected {OpenVision3Config.model_type}")
    if args.vae is not None:
        config.vae_name_or_path = args.vae
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    vae = torch.nn.Module.to(load_vae(config), torch.device(device), getattr(torch, args.precision))
    summary = cache_latents(
        source,
        args.out,
        vae,
        config,
        size=args.size,
        dtype=args.dtype,
        batch_size=args.batch_size,
        workers=args.workers,
        shard_items=args.shard_items,
        redo=args.redo,
    )
    if args.json:
        print(json.dumps(summary))
        return
    shape = " x ".join(map(str, summary["shape"]))
    print(f"{args.out}: {summary['items']} pictures, {shape} {args.dtype}, {summary['shards']} shards")
    if summary["rejected"]:
        print(f"{summary['rejected']} could not be used: {args.out}/rejected.jsonl")
