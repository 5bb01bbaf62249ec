"""`onevision view CLIP --out F.png|F.gif|F.mp4`: draw what codec patchification keeps of a clip, and why.

onevision view bundled --out bundled.png
onevision view clip.mp4 --num-patches 1024 --out clip.mp4.gif
onevision view clip.mp4 --preset bits --out bits.png
onevision view clip.mp4 --signals vectors difference --sampling packet_size --out own.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import tqdm

from onevision_hf.modeling.codec_signals import VECTOR_CODECS
from onevision_hf.modeling.frame_sampling import SAMPLINGS
from onevision_hf.modeling.patch_selection import Selection
from onevision_hf.modeling.patchify_config import select_patches
from onevision_hf.modeling.signal_energy import PRESETS, SIGNALS, SignalSettings, signal_maps
from onevision_hf.modeling.standalone_decoder import STANDALONE_CODECS, UnsupportedStreamError
from onevision_hf.modeling.video_reader import PacketIndex, VideoReader
from onevision_hf.view import ClipView, Packets, check_suffix, save

from .report import Stages, add_selection_arguments, clip_path, describe_clip, readable_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP", help="a video file; `bundled` is the package's clip")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="F.png|F.gif|F.mp4", help="a picture, or one over time"
    )
    add_selection_arguments(parser)
    parser.add_argument("--preset", choices=PRESETS, default="auto", help="what counts (default: auto)")
    parser.add_argument(
        "--signals", nargs="+", choices=SIGNALS, help="signals of your own instead, equal shares"
    )
    parser.add_argument("--sampling", choices=SAMPLINGS, default="uniform", help="where frames are taken")
    parser.add_argument(
        "--anchors", type=_anchors, default="first", metavar="first|keyframes|N", help="kept whole"
    )


def run(args: argparse.Namespace) -> None:
    check_suffix(args.out)
    path, stages = clip_path(args.clip), Stages()
    if args.out.exists() and path.exists() and args.out.samefile(path):
        raise ValueError(f"{args.out} is the clip itself: name another file")
    with stages.timed("select"):
        reader = VideoReader(path)
        num_frames = 64 if args.num_frames is None else args.num_frames
        selection = select_patches(
            reader,
            num_frames=num_frames,
            num_patches=args.num_patches,
            preset=args.preset,
            signals=args.signals,
            sampling=args.sampling,
            anchors=args.anchors,
        )
    with stages.timed("decode"):
        report = describe_clip(args.clip, path, reader)
        frames = read_frames(reader, selection)
    with stages.timed("compare"), reader:
        signals, weights = read_signals(reader, selection, SignalSettings(args.preset, _tuple(args.signals)))
        types = stream_types(reader.index, selection)
        packets = Packets(reader.timestamps, reader.index.size, types, selection.frame_ids)
    view = make_view(report, selection, frames, stages, signals, weights, packets)
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
            "frame_ids": selection.frame_ids.tolist(),
            "weights": weights,
            "not_given": view.missing,
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


def read_signals(
    reader: VideoReader, selection: Selection, settings: SignalSettings
) -> tuple[dict[str, np.ndarray | str], dict[str, float]]:
    """Every signal of the sampled frames, (T, gh, gw) or why this codec does not give it; and the weights of
    those that the energy is made of, which are the very maps that went into it."""
    maps, weights, *_ = signal_maps(reader, selection.frame_ids, selection.geometry, settings)
    del maps["intra_fallback"], weights["intra_fallback"]
    signals: dict[str, np.ndarray | str] = {}
    for name in SIGNALS:
        signals[name] = maps[name] if name in maps else _other_signal(reader, selection, name)
    return signals, weights


def _other_signal(reader: VideoReader, selection: Selection, name: str) -> np.ndarray | str:
    """A signal that is not in the energy, or why there is none."""
    if name in ("vectors", "compensated") and reader.codec not in VECTOR_CODECS:
        return f"none: FFmpeg's decoder exports no motion vectors of {reader.codec}"
    if name in ("residual", "bits") and reader.codec not in STANDALONE_CODECS:
        return f"none: a packet of {reader.codec} cannot be decoded alone"
    # Bits of one picture are compared with those of the others.
    settings = SignalSettings(signals=(name,), normalize="clip" if name == "bits" else None)
    try:
        return signal_maps(reader, selection.frame_ids, selection.geometry, settings)[0][name]
    except ValueError as error:
        if not isinstance(error.__cause__, UnsupportedStreamError):
            raise
        return f"none: packets cannot be decoded alone, {error.__cause__}"


def stream_types(index: PacketIndex, selection: Selection) -> list[str]:
    """The picture type of every frame, most of which nobody has decoded: keyframes are I, what is shown
    before a picture that was decoded earlier is B, the rest P. Of the sampled ones the decoder has told."""
    decoded = np.argsort(index.rank)
    late = np.empty(len(decoded), bool)
    late[decoded] = decoded < np.maximum.accumulate(decoded)
    types = np.where(index.keyframe, "I", np.where(late, "B", "P"))
    types[selection.frame_ids] = selection.picture_types
    return types.tolist()


def make_view(
    report: dict[str, Any],
    selection: Selection,
    frames: np.ndarray,
    stages: Stages,
    signals: dict[str, np.ndarray | str],
    weights: dict[str, float],
    packets: Packets,
) -> ClipView:
    """The view of a clip, with the figures that matter in its header."""
    kept, patches = len(selection.positions), selection.energy.size
    token = 4 * frames.shape[-1] * selection.geometry.patch_size**2
    figures = [
        ("frames sampled", f"{len(frames)} of {report['frames']}"),
        ("patches kept", f"{kept:,} of {patches:,}"),
        ("share", f"{100 * kept / patches:.1f} %"),
        ("input, float32", f"{readable_bytes(kept * token)} of {readable_bytes(patches * token)}"),
        ("file", readable_bytes(report["bytes"])),
        *((f"to {name}", f"{stages[name]:.2f} s") for name in ("select", "decode")),
    ]
    return ClipView(
        frames,
        selection.energy,
        selection.positions,
        selection.timestamps,
        selection.picture_types,
        title=Path(report["path"]).name,
        subtitle=f"{report['width']} x {report['height']} · {report['duration']:.1f} s · {report['codec']}\n"
        f"signal: {selection.signal}",
        figures=figures,
        signals=signals,
        weights=weights,
        packets=packets,
    )


def _anchors(word: str) -> str | int:
    return int(word) if word.isdecimal() else word


def _tuple(words: list[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)
