"""Drawing clips: how many a second, where the time goes, and what codec selection keeps of what moves.

    make bench-synthetic            # half a minute on two cores
    python benchmarks/synthetic.py --count 400 --workers 2

Wall time counts what `onevision synth clips` does after its processes have started: draw, encode, write, and
the manifest. Processor time of the stages is that of one process, so a busy machine changes it less.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from onevision_hf import select_patches
from onevision_hf.synthetic import ClipSettings, EncodingSettings, Job, draw_clip, encode, produce
from onevision_hf.synthetic.encoding import CODECS
from onevision_hf.synthetic.families import BACKGROUNDS
from onevision_hf.synthetic.manifest import truth_row


class Stopwatch:
    """Passes media on and measures from the first ones (one of each worker) to the last."""

    def __init__(self, first: int):
        self.first, self.done, self.start, self.end = first, 0, 0.0, 0.0

    def __call__(self, media: Iterable[Any], total: int) -> Iterator[Any]:
        for medium in media:
            self.done += 1
            if self.done == self.first:
                self.start = time.perf_counter()
            yield medium
        self.end = time.perf_counter()

    @property
    def rate(self) -> float:
        return (self.done - self.first) / (self.end - self.start)


def rate(count: int, workers: int) -> tuple[float, float]:
    """Clips a second once all processes run, and over the whole call."""
    watch = Stopwatch(4 * workers)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        produce(Job("clips"), folder, count, workers=workers, progress=watch)
        return watch.rate, count / (time.perf_counter() - start)


def kept_of_events(family: str, background: str, sweeps: int = 1, count: int = 8, **signals: Any) -> float:
    """Of the patches in which an event is seen, the share that 256 selected ones of 4096 hold."""
    shares = []
    for index in range(count):
        clip = draw_clip(0, index, family, ClipSettings(background=background, sweeps=sweeps))
        selection = select_patches(encode(clip.frames), size=64, patch_size=8, num_patches=256, **signals)
        kept, shown = np.zeros((2, 64, 8, 8), bool)
        kept[tuple(selection.positions.T)] = True
        for event in clip.truth.events:
            masks = clip.truth.masks[event.sprite]
            for t in range(event.start, event.end):
                pixels = (masks[t] | masks[t - 1]).reshape(8, 8, 8, 8).sum(axis=(1, 3))
                shown[t] |= pixels >= 16
        shares.append((kept & shown).sum() / shown.sum())
    return float(np.mean(shares))


def print_cameras() -> None:
    """What a moving camera does to the selection, by how it is taken off the vectors."""
    ways: dict[str, dict[str, Any]] = {
        "similarity": {},
        "median": {"camera": "median"},
        "none": {"camera": "none"},
        "difference of all frames": {"signals": ("difference",), "normalize": "clip"},
    }
    print("\nshare of event patches kept under a moving camera, mean of fly and nudge")
    print(f"| camera | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
    for background, sweeps in (("pan", 1), ("zoom", 1), ("pan", 4), ("zoom", 4), ("shake", 1)):
        shares = [
            np.mean(
                [
                    kept_of_events(f, background, sweeps, 24, **way)
                    for f in ("brief_direction", "nudge_direction")
                ]
            )
            for way in ways.values()
        ]
        name = background if sweeps == 1 else f"{background}, {sweeps} sweeps"
        print(f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} |")


def milliseconds(do: Callable[[int], Any], count: int) -> float:
    """Processor time of `do(index)`."""
    start = time.process_time()
    for index in range(count):
        do(index)
    return 1e3 * (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="clips of 64 frames, 64 x 64 pixels")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    clips = [draw_clip(0, index) for index in range(60)]
    draw = milliseconds(lambda i: draw_clip(1, i), len(clips))
    told = milliseconds(lambda i: truth_row(clips[i].truth), len(clips))
    print("| one clip, 64 frames of 64 x 64 | ms of one core | kB |\n|---|---|---|")
    print(f"| draw | {draw:.1f} | |\n| boxes and masks for the manifest | {told:.1f} | |")
    for codec in CODECS:
        settings, sizes = EncodingSettings(codec), []

        def encode_one(i: int, settings: EncodingSettings = settings, sizes: list[int] = sizes) -> None:
            sizes.append(len(encode(clips[i].frames, settings)))

        taken = milliseconds(encode_one, 20)
        print(f"| encode, {codec} | {taken:.1f} | {sum(sizes) / len(sizes) / 1e3:.1f} |")
        if codec == "h264":
            h264 = taken
    alone = args.workers * 1e3 / (draw + told + h264)
    print(f"\nprocessor time alone: {alone:.0f} clips/s on {args.workers} cores")
    running, whole = rate(args.count, args.workers)
    print(
        f"{args.workers} processes, {args.count} clips: {running:.0f} clips/s (at least 40 are wanted), ",
        end="",
    )
    print(f"{whole:.0f} with their start; load of the machine {os.getloadavg()[0]:.1f}")

    families = {"fly": "brief_direction", "nudge": "nudge_direction", "glide": "direction"}
    print(f"\nshare of event patches kept\n| background | {' | '.join(families)} |\n|---|---|---|---|")
    for background in BACKGROUNDS:
        shares = [f"{kept_of_events(family, background):.2f}" for family in families.values()]
        print(f"| {background} | {' | '.join(shares)} |")
    print_cameras()


if __name__ == "__main__":
    main()
