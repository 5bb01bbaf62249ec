"""`onevision view CLIP --out F.png|F.gif|F.mp4`: draw what codec patchification keeps of a clip, and why.

onevision view bundled --out bundled.png
onevision view clip.mp4 --num-patches 1024 --out clip.mp4.gif
onevision view clip.mp4 --keep-energy 0.9 --out followed.png
onevision view clip.mp4 --preset bits --out bits.png
onevision view clip.mp4 --signals vectors difference --sampling packet_size --out own.png
"""

import json
from pathlib import Path
from typing import Annotated

from typer import Option as Opt

from .groups import OpenEndedOptions
from .options import Clip, ClipErrors, Json, KeepEnergy, NumFrames, NumPatches, Preset, Sampling, Signal
from .printing import Stages


class COMMAND_CLASS(OpenEndedOptions):
    several = ("--signals",)


def run(
    clip: Clip,
    out: Annotated[Path, Opt(metavar="F.png|F.gif|F.mp4", help="a picture, or one over time")],
    num_frames: NumFrames = None,
    num_patches: NumPatches = None,
    keep_energy: KeepEnergy = None,
    preset: Annotated[Preset, Opt(help="what counts")] = "auto",
    signals: Annotated[
        list[Signal] | None, Opt(help="one or more signals of your own instead, equal shares")
    ] = None,
    sampling: Annotated[Sampling, Opt(help="where frames are taken")] = "uniform",
    anchors: Annotated[
        str | None, Opt(metavar="first|shots|keyframes|N", help="kept whole", show_default="the preset's")
    ] = None,
    errors: ClipErrors = "raise",
    as_json: Json = False,
) -> None:
    from huggingface_hub.utils import tqdm

    from onevision_hf import view
    from onevision_hf.assets import clip_path
    from onevision_hf.modeling.patchify_config import select_patches
    from onevision_hf.modeling.signal_settings import SignalSettings
    from onevision_hf.modeling.video_reader import VideoReader

    view.check_suffix(out)
    path, stages = clip_path(clip), Stages()
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"{out} is the clip itself: name another file")
    own = tuple(signal.value for signal in signals) if signals else None
    with stages.timed("select"):
        reader = VideoReader(path, errors=errors)
        selection = select_patches(
            reader,
            num_frames=64 if num_frames is None else num_frames,
            num_patches=num_patches,
            keep_energy=keep_energy,
            preset=preset,
            signals=own,
            sampling=sampling,
            anchors=int(anchors) if anchors and anchors.isdecimal() else anchors,
        )
    with stages.timed("decode"):
        report = view.describe_clip(clip, path, reader)
        frames = view.read_frames(reader, selection)
    with stages.timed("compare"), reader:
        maps, weights = view.read_signals(reader, selection, SignalSettings(preset, own))
        packets = view.read_packets(reader, selection)
    seconds = {name: stages[name] for name in ("select", "decode")}
    drawn = view.view_clip(report, selection, frames, packets, signals=maps, weights=weights, seconds=seconds)
    with stages.timed("draw"):
        view.save(
            drawn,
            out,
            lambda pictures, total: tqdm(pictures, "draw", total, leave=False, disable=as_json or None),
        )
    report |= view.describe_selection(selection)
    if not as_json:
        kept, patches, share = (report[name] for name in ("patches_kept", "patches", "share"))
        missing = f"   the clip {reader.missing}" if reader.missing else ""
        print(f"{out}: {kept:,} of {patches:,} patches kept ({100 * share:.1f} %)   {stages}{missing}")
        return
    report |= {
        "frame_ids": selection.frame_ids.tolist(),
        "weights": weights,
        "not_given": drawn.missing,
        "seconds": dict(stages),
        "out": str(out),
    }
    print(json.dumps(report, indent=2))
