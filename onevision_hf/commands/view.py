"""`onevision view CLIP --out F.png|F.gif|F.mp4`: draw what codec patchification keeps of a clip.

onevision view bundled --out bundled.png
onevision view clip.mp4 --num-patches 1024 --out clip.mp4.gif
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import tqdm

from onevision_hf.modeling.patch_selection import Selection, select_patches
from onevision_hf.modeling.video_reader import VideoReader
from onevision_hf.view import ClipView, check_suffix, save

from .report import Stages, add_selection_arguments, clip_path, describe_clip, readable_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP", help="a video file; `bundled` is the package's clip")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="F.png|F.gif|F.mp4", help="a picture, or one over time"
    )
    add_selection_arguments(parser)


def run(args: argparse.Namespace) -> None:
    check_suffix(args.out)
    path, stages = clip_path(args.clip), Stages()
    if args.out.exists() and path.exists() and args.out.samefile(path):
        raise ValueError(f"{args.out} is the clip itself: name another file")
    with stages.timed("select"):
        num_frames = 64 if args.num_frames is None else args.num_frames
        selection = select_patches(path, num_frames=num_frames, num_patches=args.num_patches)
    with stages.timed("decode"), VideoReader(path) as reader:
        report = describe_clip(args.clip, path, reader)
        frames = read_frames(reader, selection)
    view = make_view(report, selection, frames, stages)
    with stages.timed("draw"):
        save(
            view,
            args.out,
            lambda pictures, total: tqdm(pictures, "draw", total, leave=False, disable=args.json or None),
        )
    kept, patches = len(selection.positions), selection.energy.size
    if args.json:
        report |= {
            "frames_sampled": len(selection.frame_ids),
            "patches": int(patches),
            "patches_kept": kept,
            "share": kept / patches,
            "signal": selection.signal,
            "seconds": dict(stages),
            "out": str(args.out),
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"{args.out}: {kept:,} of {patches:,} patches kept ({100 * kept / patches:.1f} %)   {stages}")


def read_frames(reader: VideoReader, selection: Selection) -> np.ndarray:
    """The sampled frames as the selection lays them out, (T, H, W, 3) uint8."""
    geometry = selection.geometry
    size = (geometry.resized_width, geometry.resized_height)
    return np.stack([geometry.place(frame.rgb(*size)) for frame in reader.frames(selection.frame_ids)])


def make_view(report: dict[str, Any], selection: Selection, frames: np.ndarray, stages: Stages) -> ClipView:
    """The view of a clip, with the figures that matter in its header."""
    kept, patches = len(selection.positions), selection.energy.size
    token = 4 * frames.shape[-1] * selection.geometry.patch_size**2
    figures = [
        ("frames sampled", f"{len(frames)} of {report['frames']}"),
        ("patches kept", f"{kept:,} of {patches:,}"),
        ("share", f"{100 * kept / patches:.1f} %"),
        ("input, float32", f"{readable_bytes(kept * token)} of {readable_bytes(patches * token)}"),
        ("file", readable_bytes(report["bytes"])),
        *((f"to {name}", f"{seconds:.2f} s") for name, seconds in stages.items()),
    ]
    return ClipView(
        frames,
        selection.energy,
        selection.positions,
        selection.timestamps,
        selection.picture_types,
        title=Path(report["path"]).name,
        subtitle=f"{report['width']} x {report['height']} · {report['duration']:.1f} s · {report['codec']} · "
        f"signal: {selection.signal}",
        figures=figures,
    )
