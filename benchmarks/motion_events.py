"""Of the patches in which something brief happens, how many inputs of the motion suite keep; no training.

    python benchmarks/motion_events.py --codec av1
    python benchmarks/motion_events.py --grounds FOOTAGE
    python benchmarks/motion_events.py --budget 128

Test clips of the suite that ask of brief motion, 64 of 1024 patches. It says in a few minutes what a run of
`onevision eval motion` with the same options can hope for. "By energy" is `keep_energy` with the share at
which these clips have as many patches on average. "Nothing moves" is the share of clips of which
`select_patches` keeps whole frames instead, since so little of their energy is strong.
"""

import argparse
import bisect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onevision_hf.eval.motion import PROFILES
from onevision_hf.eval.motion.clips import Drawn, LabelledClip, in_subset, scheduled
from onevision_hf.eval.motion.grounds import Grounds
from onevision_hf.eval.motion.inputs import codec_config
from onevision_hf.eval.motion.pool import codec_energy, difference_energy, read_pixels
from onevision_hf.eval.motion.settings import MOST_OF_ONE_CLIP, MOTION
from onevision_hf.modeling.patch_selection import BudgetSettings, Selection, reselect, select, top_patches
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.synthetic import CODECS, ClipSettings, EncodingSettings, draw_clip

SETTINGS = PROFILES["small"]
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


def selected(clip: LabelledClip, config: PatchifyConfig) -> Selection:
    """What the codec's input keeps of a clip; `reselect` spends other budgets on it."""
    energy, absolute, types = codec_energy(clip.file, config)
    frames = np.arange(len(energy))
    geometry = config.layout.geometry(SETTINGS.clips.size, SETTINGS.clips.size)
    return select(
        energy, frame_ids=frames, timestamps=frames, picture_types=list(types), signal="",
        geometry=geometry, budget=config.budget, absolute=absolute,
    )  # fmt: skip


def share_for(fixed: Sequence[Selection], budget: BudgetSettings, mean: int) -> float:
    """The `keep_energy` with which clips have so many patches on average, if one has."""

    def is_enough(share: float) -> bool:
        own = replace(budget, keep_energy=share)
        return bool(np.mean([len(reselect(clip, own)) for clip in fixed]) >= mean)

    shares = np.linspace(0.001, 1, 1000).tolist()
    return float(shares[min(bisect.bisect_left(shares, True, key=is_enough), len(shares) - 1)])


def kept_by_difference(clip: LabelledClip, budget: int) -> np.ndarray:
    _, luma = read_pixels(clip.file, SETTINGS.clips)
    return top_patches(difference_energy(luma, SETTINGS.classifier.patch_size), budget)


def found_in(truth: np.ndarray, positions: np.ndarray) -> float:
    """The share of the patches of events, (T, gh, gw) bool, that are among positions (K, 3)."""
    kept = np.zeros_like(truth)
    kept[tuple(positions.T)] = True
    return float(kept[truth].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", choices=CODECS, default="h264")
    parser.add_argument("--grounds", type=Path, help="a folder of footage")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--budget", type=int, default=64, help="patches of a clip")
    args = parser.parse_args()
    grounds = None if args.grounds is None else Grounds.open(args.grounds, SETTINGS.clips.seed)
    source = Drawn(SETTINGS.clips, EncodingSettings(args.codec), grounds)
    numbers = [n for n in range(4 * args.clips) if scheduled(n, source.schedule)[0] in MOTION][: args.clips]
    clips = [source.item("test", number) for number in numbers]
    truths = [event_patches(source, number) for number in numbers]
    config = codec_config(SETTINGS, "codec").replace(num_patches=args.budget)
    fixed = [selected(clip, config) for clip in clips]
    most = MOST_OF_ONE_CLIP * args.budget
    bound = config.replace(num_patches=most).budget
    share = share_for(fixed, bound, args.budget)
    by_energy = [reselect(clip, replace(bound, keep_energy=share)) for clip in fixed]
    rows = [
        (
            found_in(truth, whole.positions),
            found_in(truth, kept_by_difference(clip, args.budget)),
            bool(whole.signal),
            found_in(truth, own.positions),
            len(own),
        )
        for clip, truth, whole, own in zip(clips, truths, fixed, by_energy, strict=True)
    ]
    cameras = np.array([clip.camera for clip in clips])
    print("| camera | clips | codec | difference, all | nothing moves | by energy | its patches |")
    print("|---|---|---|---|---|---|---|")
    for subset in ("all", "still", "moving"):
        which = in_subset(cameras, subset)
        *means, count = np.array(rows, float)[which].mean(0)
        print(f"| {subset} | {which.sum()} | {' | '.join(f'{mean:.2f}' for mean in means)} | {count:.0f} |")
    print(f"\n{args.budget} patches; by energy: keep_energy={share:.3f}, at most {most}")


if __name__ == "__main__":
    main()
