"""`onevision patches SRC DST`: codec patchification of a corpus into shards that a training reads.

onevision patches clips/ out/patches --workers 8
onevision patches out/shards/video out/patches --num-patches 1024
onevision patches clips/ out/patches --engine ray --ray-address 10.0.0.1:6379 --workers 200
"""

import os
from typing import Annotated, Literal

from typer import Option as Opt

from . import options
from .printing import rejected, say


def run(
    source: options.Source,
    out: options.ShardsOut,
    num_frames: Annotated[int, Opt(metavar="N", help="frames sampled of a clip")] = 64,
    num_patches: Annotated[
        int | None, Opt(metavar="N", help="patches kept of a clip (default: 2048)")
    ] = None,
    keep_ratio: options.KeepRatio = None,
    keep_energy: options.KeepEnergy = None,
    size: Annotated[int, Opt(metavar="N", help="shorter side in pixels")] = 224,
    patch_size: Annotated[int, Opt(metavar="N", help="pixels")] = 14,
    preset: Annotated[options.Preset, Opt(help="what counts")] = "auto",
    camera: Annotated[
        options.Camera | None, Opt(help="what is taken off the vectors (default: the preset's)")
    ] = None,
    whole_frame: Annotated[
        bool, Opt("--whole-frame", help="not the middle square, which training takes")
    ] = False,
    shard_items: options.ShardItems = 256,
    media_column: options.MediaColumn = None,
    engine: Annotated[Literal["local", "ray"], Opt(help="processes of this machine, or Ray")] = "local",
    ray_address: options.RayAddress = None,
    workers: Annotated[int | None, Opt(metavar="N", help="processes or actors (default: one a core)")] = None,
    errors: options.BatchErrors = "skip",
    redo: options.Redo = False,
    as_json: options.Json = False,
) -> None:
    from onevision_hf.data.patch_extraction import extract_patches
    from onevision_hf.modeling.patch_selection import check_budget
    from onevision_hf.modeling.patchify_config import PatchifyConfig
    from onevision_hf.view import readable_bytes

    check_budget(num_patches, keep_ratio, keep_energy)
    none = num_patches is None and keep_ratio is None and keep_energy is None
    config = PatchifyConfig.from_dict(
        {
            "num_frames": num_frames,
            "size": size,
            "patch_size": patch_size,
            "num_patches": 2048 if none else num_patches,
            "keep_ratio": keep_ratio,
            "keep_energy": keep_energy,
            "preset": preset,
            "camera": camera,
            "do_center_crop": not whole_frame,
        }
    )
    summary = extract_patches(
        source,
        out,
        config,
        shard_items=shard_items,
        media_column=media_column,
        engine=engine,
        workers=(os.cpu_count() or 1) if workers is None else workers,
        address=ray_address,
        redo=redo,
        errors=errors,
    )
    partial = f"{summary.get('partial')} clips are truncated, and used in part: {out / 'partial.jsonl'}"
    say(
        summary,
        as_json,
        f"{out}: {summary['items']} clips in {summary['shards']} shards, "
        f"{summary['patches']:,} patches, {readable_bytes(summary['pixel_bytes'])} of pixels",
        partial if summary.get("partial") else None,
        rejected(out, summary, "clips "),
    )
