"""How many patches a budget that follows the content keeps, of drawn clips and of given ones.

    python benchmarks/keep_energy.py
    python benchmarks/keep_energy.py --clips FOOTAGE/*.mp4

Each clip is read once: 64 frames, the shorter side 224 pixels, patches of 14; of them the first alone is kept
whole. "bound" is a quarter of the patches, which no share goes beyond; a fixed budget keeps an eighth of
every clip.
"""

import argparse
from pathlib import Path

import numpy as np

from onevision_hf.modeling.frame_sequence import Video, open_video
from onevision_hf.modeling.patch_selection import BudgetSettings, Selection, reselect
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.synthetic import ClipSettings, draw_clip, encode

SHARES = (0.8, 0.9, 0.95)
SIZE, FRAMES = 224, 64


def drawn(family: str, background: str, index: int = 3, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8 of a scene that answers a family, under what a camera does."""
    return draw_clip(seed, index, family, ClipSettings(FRAMES, SIZE, SIZE, background)).frames


def drawn_clips() -> dict[str, bytes]:
    """What happens -> a clip, H.264 at the usual settings."""
    picture = drawn("direction", "static")[:1]
    still = np.repeat(picture, FRAMES, axis=0)
    noise = np.random.default_rng(0).normal(0, 4, still.shape).round().astype(int)
    steps = [(int(40 * np.sin(0.9 * t)), int(37 * np.cos(1.3 * t))) for t in range(FRAMES)]
    scenes = [drawn("direction", "static", index, seed=5)[: FRAMES // 4] for index in range(4)]
    clips = {
        "still": still,
        "still, with noise of four levels": np.clip(still + noise, 0, 255).astype(np.uint8),
        "slow: things drift": drawn("drift_direction", "static"),
        "things move": drawn("direction", "static"),
        "things move, the camera pans": drawn("direction", "pan"),
        "shaken": drawn("direction", "shake"),
        "four shots": np.concatenate(scenes),
        "busy: all of it jumps": np.stack([np.roll(picture[0], step, (0, 1)) for step in steps]),
    }
    return {name: encode(frames) for name, frames in clips.items()}


def counts(video: Video) -> tuple[list[int], Selection]:
    """Patches at each of `SHARES`, and what the clip is."""
    with open_video(video) as reader:
        clip = PatchifyConfig().replace(anchors="first").select(reader)
    found = [len(reselect(clip, BudgetSettings(keep_energy=share))) for share in SHARES]
    return found, clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, nargs="*", default=[], help="files, after the drawn clips")
    args = parser.parse_args()
    clips: dict[str, Video] = {**drawn_clips(), **{path.name: path for path in args.clips}}
    print(f"| clip | {' | '.join(f'{share:g}' for share in SHARES)} | bound | an eighth |")
    print(f"|---|{'---:|' * (len(SHARES) + 2)}")
    for name, video in clips.items():
        found, clip = counts(video)
        bound = round(clip.energy.size / 4)
        cells = [f"{n:,} ({100 * n / clip.energy.size:.1f} %)" for n in found]
        print(f"| {name} | {' | '.join(cells)} | {bound:,} | {len(clip):,} |", flush=True)


if __name__ == "__main__":
    main()
