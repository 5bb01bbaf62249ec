"""`onevision signals CLIP --out F.npz --view F.mp4`: motion vectors, residual and age of frames.

onevision signals clip.mp4 --out signals.npz
onevision signals clip.webm --all --out signals.npz --view arrows.mp4
onevision signals clip.mkv --signals vectors age --passes 2 --num-frames 16 --out few.safetensors
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from typer import Option as Opt

from .groups import OpenEndedOptions
from .options import Clip, ClipErrors, Json, NumFrames, at_least_one
from .printing import Stages

FrameSignal = StrEnum("FrameSignal", "vectors residual age")


class COMMAND_CLASS(OpenEndedOptions):
    several = ("--signals",)


def run(
    clip: Clip,
    out: Annotated[
        Path | None, Opt(metavar="F.npz|F.safetensors", help="arrays; a .safetensors takes up to 1 GB")
    ] = None,
    view: Annotated[
        Path | None, Opt(metavar="F.mp4", help="arrows over the picture, the residual beside it")
    ] = None,
    num_frames: NumFrames = None,
    every: Annotated[bool, Opt("--all", help="every frame instead, with flat memory")] = False,
    signals: Annotated[list[FrameSignal] | None, Opt(help="some of them (default: all)")] = None,
    passes: Annotated[
        int | None, Opt(metavar="1|2", min=1, max=2, help="of painted references (default: what pays)")
    ] = None,
    colour: Annotated[Literal["direction", "age"], Opt(help="of the arrows")] = "direction",
    errors: ClipErrors = "raise",
    as_json: Json = False,
) -> None:
    if out is None and view is None:
        raise ValueError("name what is made of the signals: --out F.npz, --view F.mp4, or both")
    if every and num_frames is not None:
        raise ValueError("--all takes every frame, and --num-frames some of them: give one of the two")
    at_least_one(num_frames=num_frames)
    from huggingface_hub.utils import tqdm

    from onevision_hf.assets import clip_path
    from onevision_hf.data.signal_files import check_suffix, write_signals
    from onevision_hf.modeling.codec_signal_reader import ITERABLE, iter_frame_signals
    from onevision_hf.modeling.frame_sampling import sample_frame_ids
    from onevision_hf.modeling.video_reader import VideoReader
    from onevision_hf.view import describe_clip, draw_arrows, save_mp4

    if out is not None:
        check_suffix(out)
    if view is not None and view.suffix.lower() != ".mp4":
        raise ValueError(f"{view}: arrows are drawn into a .mp4, found '{view.suffix}'")
    path, stages = clip_path(clip), Stages()
    for file in (out, view):
        if file is not None and file.exists() and path.exists() and file.samefile(path):
            raise ValueError(f"{file} is the clip itself: name another file")
    names = tuple(signal.value for signal in signals) if signals else ITERABLE
    with VideoReader(path, errors=errors) as reader:
        report = describe_clip(clip, path, reader)
        ids = range(len(reader)) if every else sample_frame_ids(len(reader), num_frames or 64)
        chosen = sorted({int(frame_id) for frame_id in ids})
        bar = {"total": len(chosen), "unit": "frame", "leave": False, "disable": as_json or None}
        if out is not None:
            with stages.timed("write"):
                found = tqdm(iter_frame_signals(reader, chosen, names, passes), "write", **bar)
                report["arrays"] = write_signals(out, found, len(chosen))
        if view is not None:
            with stages.timed("draw"):
                signals_of = iter_frame_signals(reader, chosen, names, passes)
                drawn = draw_arrows(reader.frames(chosen), signals_of, colour)
                view.parent.mkdir(parents=True, exist_ok=True)
                pace = reader.duration / max(1, len(chosen))
                save_mp4(tqdm(drawn, "draw", **bar), view, min(max(pace, 1 / 60), 1.0))
    report |= {"frames_read": len(chosen), "seconds": dict(stages)}
    if as_json:
        files = {"out": out and str(out), "view": view and str(view)}
        print(json.dumps(report | files, indent=2))
        return
    missing = f"   the clip {reader.missing}" if reader.missing else ""
    print(f"{clip}: {len(chosen)} of {report['frames']} frames, {report['codec']}   {stages}{missing}")
    if out is not None:
        told = json.loads(report["arrays"]["signal"])
        unit = "pixels a frame" if report["arrays"]["vector_unit"] == "frame" else "pixels to the reference"
        print(f"{out}:")
        for name in names:
            shape = report["arrays"].get(name)
            in_unit = f", {unit}" if name == "vectors" and shape else ""
            print(f"  {name:9} {tuple(shape) if shape else '-'}{in_unit}   {told.get(name, '')}")
    if view is not None:
        print(f"{view}: {len(chosen)} pictures")
