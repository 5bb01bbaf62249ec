"""`onevision encode CLIP...`: codec patchification, then the encoder.

    onevision encode bundled                               # the bundled clip, the encoder in the package
    onevision encode a.mp4 b.mkv --model FOLDER --out features.safetensors
    onevision encode a.mp4 --num-frames 32 --num-patches 1024 --json
    onevision encode clips/ --out features --keep-ratio 0.25 --dtype bfloat16    # a folder, into shards
    onevision encode a.mp4 b.mkv --keep-energy 0.9         # as many patches of each as it takes

A clip that cannot be read is reported in one line; the others are encoded all the same, and the status is 1.
A folder of clips and pictures (or a .tar, a .parquet, hf:NAME:SPLIT) becomes a folder of shards that
`onevision_hf.FeatureFolder` reads; the same command goes on with a run that was stopped. Batches, workers,
shards and --redo are of folders: clips that are named are encoded one by one.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument as Arg
from typer import Option as Opt

from .options import (
    BatchSize,
    ClipErrors,
    Device,
    FloatType,
    Json,
    KeepEnergy,
    KeepRatio,
    NumFrames,
    NumPatches,
    Preset,
    Redo,
    ShardItems,
    Workers,
    at_least_one,
    given,
)
from .printing import Stages, quiet_loading, say


def run(
    clips: Annotated[
        list[str], Arg(metavar="CLIP", help="video files, or one folder; `bundled`: the package's clip")
    ],
    model: Annotated[
        str,
        Opt(
            metavar="ID_OR_FOLDER",
            help="a saved encoder; tiny is the trained one that comes with the package",
        ),
    ] = "tiny",
    out: Annotated[
        Path | None, Opt(metavar="F|DIR", help="of clips a .safetensors file, of a folder a folder of shards")
    ] = None,
    num_frames: NumFrames = None,
    num_patches: NumPatches = None,
    keep_ratio: KeepRatio = None,
    keep_energy: KeepEnergy = None,
    preset: Annotated[Preset | None, Opt(help="what counts (default: as the processor)")] = None,
    dtype: Annotated[
        FloatType | None, Opt(help="of weights and features (default: the checkpoint's)")
    ] = None,
    device: Device = None,
    batch_size: BatchSize = 8,
    workers: Workers = 2,
    shard_items: ShardItems = 64,
    errors: ClipErrors = "raise",
    redo: Redo = False,
    as_json: Json = False,
) -> int:
    at_least_one(batch_size=batch_size, workers=workers, shard_items=shard_items)
    settings = given(
        num_frames=num_frames,
        num_patches=num_patches,
        keep_ratio=keep_ratio,
        keep_energy=keep_energy,
        preset=preset,
    )
    quiet_loading(as_json)
    if any(map(_is_folder, clips)):
        if len(clips) > 1 or out is None or out.suffix == ".safetensors":
            raise ValueError("a folder of media is encoded alone, into a folder of shards: --out DIR")
        from onevision_hf.data.sources import open_source
        from onevision_hf.eval.encode_folder import encode_folder

        summary = encode_folder(
            open_source(clips[0]),
            out,
            model,
            settings=settings,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            workers=workers,
            shard_items=shard_items,
            errors=errors,
            redo=redo,
        )
        for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            print(f"onevision encode: error: {record['key']}: {record['reason']}", file=sys.stderr)
        counted = f"{summary['items']} items, {summary['patches']:,} patches, {summary['shards']} shards"
        say(summary, as_json, *summary["notes"], f"{out}: {counted}")
        return 1 if summary["rejected"] else 0
    if out and out.suffix != ".safetensors":
        raise ValueError(f"{out}: the outputs are written as .safetensors, found '{out.suffix}'")
    from huggingface_hub.utils import tqdm
    from safetensors.torch import save_file

    from onevision_hf.assets import clip_path
    from onevision_hf.eval.clip_features import encode_clip, load_clip_encoder, pad_clips
    from onevision_hf.modeling.video_reader import VideoReader, VideoReadError
    from onevision_hf.view import describe_clip, describe_selection

    stages = Stages()
    with stages.timed("model"):
        encoder, processor, notes = load_clip_encoder(model, device=device, dtype=dtype)
    reports: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    # No bar for one clip or for scripts; None leaves it to whether somebody watches.
    quiet = True if as_json or len(clips) == 1 else None
    for word in tqdm(clips, desc="encode", unit="clip", leave=False, disable=quiet):
        path, read = clip_path(word), Stages()
        try:
            with read.timed("read"):
                reader = VideoReader(path, errors=errors)
                description = describe_clip(word, path, reader)
            with reader:
                found = encode_clip(reader, encoder, processor, **settings)
        except VideoReadError as error:
            failures.append(" ".join(str(error).split()))
            print(f"onevision encode: error: {failures[-1]}", file=sys.stderr)
            continue
        selection, tensors = found.selection, found.tensors
        description |= describe_selection(selection) | {
            "patch_size": selection.geometry.patch_size,
            "seconds": read | found.seconds,
            "outputs": {name: list(tensors[name].shape) for name in tensors if name != "patch_positions"},
        }
        reports.append(description)
        results.append(tensors)
        if not as_json:
            print("\n".join([*notes, _describe(description)]))
            notes = []

    if out and results:
        metadata = {"clips": json.dumps([report["clip"] for report in reports]), "model": model}
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(pad_clips(results), str(out), metadata=metadata)
    if as_json:
        document = {
            "model": model,
            "notes": notes,
            "parameters": encoder.num_parameters(),
            "device": str(encoder.device),
            "seconds": dict(stages),
            "clips": reports,
            "errors": failures,
            "out": str(out) if out and results else None,
        }
        print(json.dumps(document, indent=2))
    elif out and results:
        print(f"{out}: {', '.join(results[0])} of {len(results)} clip{'s' * (len(results) > 1)}")
    return 1 if failures else 0


def _is_folder(word: str) -> bool:
    """Whether a CLIP is many: a folder, or another of the sources of `open_source`."""
    return (
        Path(word).is_dir()
        or word.startswith(("folder:", "parquet:", "webdataset:", "hf:"))
        or word.endswith((".tar", ".parquet"))
    )


def _describe(report: dict[str, Any]) -> str:
    """The report of a clip for people, four lines and the outputs."""
    from onevision_hf.view import readable_bytes

    patch, share = report["patch_size"], 100 * report["share"]
    shapes = "   ".join(f"{name} {tuple(shape)}" for name, shape in report["outputs"].items())
    return "\n".join(
        [
            f"{report['clip']}",
            f"  clip      {report['frames']} frames of {report['width']} x {report['height']}, "
            f"{report['duration']:.1f} s, {report['codec']}, {readable_bytes(report['bytes'])}",
            f"  patches   {report['patches_kept']:,} of {report['patches']:,} kept ({share:.1f} %), "
            f"{patch} x {patch} pixels each, {report['frames_sampled']} frames sampled",
            f"  signal    {report['signal']}",
            f"  seconds   {Stages(report['seconds'])}",
            f"  outputs   {shapes}",
        ]
    )
