"""Of the patches in which something brief happens, how many inputs of the motion suite keep; no training.

    python benchmarks/motion_events.py --codec av1
    python benchmarks/motion_events.py --grounds FOOTAGE

Test clips of the suite that ask of brief motion, 64 of 1024 patches. It says in a few minutes what a run of
`onevision eval motion` with the same options can hope for. "Nothing moves" is the share of clips of which
`select_patches` keeps whole frames instead, since so little of their energy is strong.
"""

import argparse
from pathlib import Path

import numpy as np

from onevision_hf.eval.motion import PROFILES
from onevision_hf.eval.motion.clips import Drawn, LabelledClip, in_subset, scheduled
from onevision_hf.eval.motion.grounds import Grounds
from onevision_hf.eval.motion.inputs import codec_config
from onevision_hf.eval.motion.pool import codec_energy, difference_energy, read_pixels
from onevision_hf.eval.motion.settings import MOTION
from onevision_hf.modeling.patch_selection import select, top_patches
from onevision_hf.synthetic import CODECS, ClipSettings, EncodingSettings, draw_clip

SETTINGS = PROFILES["small"]
BUDGET = 64
COVERED = 24  # pixels of the 256 of a patch: the sprite is seen in it


def event_patches(source: Drawn, number: int) -> np.ndarray:
    """(T, gh, gw) bool: where the sprites of the events of a test clip are while they move."""
    clips, side = SETTINGS.clips, SETTINGS.side
    family, index, background = scheduled(number, source.schedule)
    if source.grounds is not None:
        background = "static"
    size = ClipSettings(clips.num_frames, clips.size, clips.size, background, clips.sweeps)
    truth = draw_clip(clips.seed + 1, index, family, size).truth
    found = np.zeros((clips.num_frames, side, side), bool)
    for event in truth.events:
        own = truth.owners[event.start : event.end] == event.sprite + 1
        pixels = own.reshape(-1, side, clips.size // side, side, clips.size // side).sum((2, 4))
        found[event.start : event.end] |= pixels >= COVERED
    found[0] = False  # every input but `uniform` has the first frame
    return found


def kept_by_codec(clip: LabelledClip) -> tuple[np.ndarray, bool]:
    """(K, 3) positions, and whether nothing was found to move."""
    config = codec_config(SETTINGS, "codec").replace(num_patches=BUDGET)
    energy, _, types = codec_energy(clip.file, config)
    frames = np.arange(len(energy))
    geometry = config.layout.geometry(SETTINGS.clips.size, SETTINGS.clips.size)
    selection = select(
        energy, frame_ids=frames, timestamps=frames, picture_types=list(types), signal="", geometry=geometry,
        budget=config.budget,
    )  # fmt: skip
    return selection.positions, bool(selection.signal)


def kept_by_difference(clip: LabelledClip) -> np.ndarray:
    _, luma = read_pixels(clip.file, SETTINGS.clips)
    return top_patches(difference_energy(luma, SETTINGS.classifier.patch_size), BUDGET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", choices=CODECS, default="h264")
    parser.add_argument("--grounds", type=Path, help="a folder of footage")
    parser.add_argument("--clips", type=int, default=96)
    args = parser.parse_args()
    grounds = None if args.grounds is None else Grounds.open(args.grounds, SETTINGS.clips.seed)
    source = Drawn(SETTINGS.clips, EncodingSettings(args.codec), grounds)
    numbers = [n for n in range(4 * args.clips) if scheduled(n, source.schedule)[0] in MOTION][: args.clips]
    cameras, shares = [], []
    for number in numbers:
        clip, truth = source.item("test", number), event_patches(source, number)
        chosen, still = kept_by_codec(clip)
        found = []
        for positions in (chosen, kept_by_difference(clip)):
            kept = np.zeros_like(truth)
            kept[tuple(positions.T)] = True
            found.append(kept[truth].mean())
        cameras.append(clip.camera)
        shares.append([*found, still])
    print("| camera | clips | codec | difference, all | nothing moves |\n|---|---|---|---|---|")
    for subset in ("all", "still", "moving"):
        which = in_subset(np.array(cameras), subset)
        means = " | ".join(f"{mean:.2f}" for mean in np.array(shares, float)[which].mean(0))
        print(f"| {subset} | {which.sum()} | {means} |")


if __name__ == "__main__":
    main()
