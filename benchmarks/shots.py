"""How well cuts are found: recall and precision a codec, on clips of 1 to 8 drawn shots.

    python benchmarks/shots.py --page docs/codec-signals.md        # every stream of the codec table
    python benchmarks/shots.py --streams VP9 AV1 --clips 16
    python benchmarks/shots.py --footage FOLDER                    # shots out of real clips besides

Shots are drawn by `onevision_hf.synthetic` (resting, panned, zoomed and shaken grounds, flicker, noise) or by
the codec table's texture, which fills the picture and pans. A cut counts as found where the time of the new
shot's first picture is given, to half a picture. "Long" is the same clips read as long ones are, of which not
every picture is decoded.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from codec_table import STREAMS, X264, X265, texture, write_between_markers

from onevision_hf import select_patches
from onevision_hf.modeling import shot_cuts
from onevision_hf.synthetic import ClipSettings, draw_clip

FPS, HEIGHT, WIDTH = 25, 160, 224
GOPS = (48, 250)  # frames from keyframe to keyframe at most, taken in turns
SHORT = shot_cuts.SHORT
START, END = "<!-- shots: written by `python benchmarks/shots.py --page` -->", "<!-- /shots -->"
# Name -> a stream of the codec table in other hands: encoder, options, B pictures, format, suffix.
MORE: dict[str, tuple[str, dict[str, str], int, str, str]] = {
    "H.264, fixed GOP": ("libx264", X264 | {"x264-params": "scenecut=0"}, 3, "yuv420p", "mp4"),
    "HEVC, fixed GOP": ("libx265", X265 | {"scenecut": "0"}, 3, "yuv420p", "mp4"),
    "MPEG-4, no B": ("mpeg4", {"b": "600k"}, 0, "yuv420p", "mp4"),
    "VP9, good": (
        "libvpx-vp9",
        {"deadline": "good", "cpu-used": "5", "crf": "32", "b": "0"},
        0,
        "yuv420p",
        "webm",
    ),
}
ALL = STREAMS | MORE
MOVES = ((3, 0), (0, 2), (0, 0), (-1, 1), (5, 0), (-8, 0))  # pixels a picture


def draw_shot(seed: int, length: int) -> np.ndarray:
    """(length, HEIGHT, WIDTH, 3) uint8: one scene."""
    rng = np.random.default_rng([seed, 1])
    if rng.random() < 0.6:
        settings = ClipSettings(num_frames=max(length, 32), height=HEIGHT, width=WIDTH)
        return draw_clip(seed, 0, settings=settings).frames[:length]
    right, down = MOVES[rng.integers(len(MOVES))]
    low = int(rng.integers(0, 120))
    ground = texture(rng, HEIGHT + abs(down) * length, WIDTH + abs(right) * length, low, low + 120)
    square, (top, left) = texture(rng, 48, 48, 0, 255), rng.integers(0, 100, 2)
    frames = np.empty((length, HEIGHT, WIDTH, 3), np.uint8)
    for t in range(length):
        y, x = (t if step >= 0 else t - length + 1 for step in (down, right))
        frames[t] = ground[y * down :, x * right :][:HEIGHT, :WIDTH]
        row, column = (top + 2 * t) % (HEIGHT - 48), (left + 3 * t) % (WIDTH - 48)
        frames[t, row : row + 48, column : column + 48] = square
    return frames


def draw_clip_of_shots(seed: int) -> tuple[np.ndarray, list[int]]:
    """Frames of 1 to 8 shots, and the numbers of the first frame of all shots but the first."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(15, 64, 1 + seed % 8)
    shots = [draw_shot(1000 * seed + place, int(length)) for place, length in enumerate(lengths)]
    return np.concatenate(shots), np.cumsum(lengths)[:-1].tolist()


def footage_of_shots(seed: int, clips: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """The same of pieces of real clips."""
    rng = np.random.default_rng(seed)
    shots, lengths = [], rng.integers(15, 64, 1 + seed % 8)
    order = [int(clip) for _ in range(2) for clip in rng.permutation(len(clips))]
    for length, number in zip(lengths, order, strict=False):
        start = int(rng.integers(0, max(1, len(clips[number]) - int(length))))
        shots.append(clips[number][start : start + int(length)])
    return np.concatenate(shots), np.cumsum([len(shot) for shot in shots])[:-1].tolist()


def read_footage(folder: Path) -> list[np.ndarray]:
    """(T, HEIGHT, WIDTH, 3) uint8 of every clip in a folder that has no cuts of its own."""
    clips = []
    for path in sorted(folder.glob("*.*")):
        if path.stem in ("beach", "bigbuckbunny", "Megamind"):  # these have cuts
            continue
        with av.open(str(path)) as container:
            frames = [
                frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24").to_ndarray()
                for frame, _ in zip(container.decode(video=0), range(160), strict=False)
            ]
        clips.append(np.stack(frames))
    return clips


def encode(path: Path, frames: np.ndarray, stream_name: str, gop: int) -> None:
    codec, options, bframes, pix_fmt, _ = ALL[stream_name]
    settings = dict(options)
    if codec == "libx265":
        scenecut = settings.pop("scenecut", "40")
        settings["x265-params"] = (
            f"log-level=error:pools=none:keyint={gop}:bframes={bframes}:scenecut={scenecut}"
        )
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=settings)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        context.gop_size, context.thread_count = gop, 1
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            context.max_b_frames = bframes
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def count_found(found: np.ndarray, cuts: list[int]) -> tuple[int, int, int]:
    """(cuts that were found, all that was found, cuts)."""
    numbers = np.rint(np.asarray(found)[1:] * FPS).astype(int)
    return len(set(numbers.tolist()) & set(cuts)), len(numbers), len(cuts)


def clips(count: int, footage: list[np.ndarray]) -> Iterator[tuple[str, int, np.ndarray, list[int]]]:
    for seed in range(count):
        yield "drawn", seed, *draw_clip_of_shots(seed)
    for seed in range(count if footage else 0):
        yield "real", seed, *footage_of_shots(seed, footage)


def look(path: Path, short: int) -> np.ndarray:
    """The shots of a clip, as of one that is long where `short` is 0."""
    shot_cuts.SHORT = short
    return select_patches(path, patch_size=16, size=64, anchors="shots").shots


def row(name: str, drawn: list[tuple[str, int, np.ndarray, list[int]]], folder: Path, verbose: bool) -> str:
    """A line of the table.

    Args:
        name: of the stream.
        drawn: clips.
        folder: where their files lie, and are kept.
        verbose: name the cuts that are missed or made up.
    """
    totals = np.zeros((2, 3), int)
    for kind, seed, frames, cuts in drawn:
        path = folder / f"{kind} {name} {seed}.{ALL[name][-1]}"
        if not path.exists():
            encode(path, frames, name, GOPS[seed // 2 % len(GOPS)])
        for way, short in enumerate((SHORT, 0)):
            found = look(path, short)
            totals[way] += count_found(found, cuts)
            numbers = np.rint(found[1:] * FPS).astype(int).tolist()
            if verbose and numbers != cuts:
                missed, made_up = sorted(set(cuts) - set(numbers)), sorted(set(numbers) - set(cuts))
                how = ", as of a long clip" if short == 0 else ""
                print(f"  {path.stem}{how}: missed {missed}, made up {made_up}", file=sys.stderr)
    shares = [f"{right / max(of, 1):.2f}" for right, given, true in totals.tolist() for of in (true, given)]
    return f"| {name} | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", nargs="+", choices=ALL, default=list(ALL), help="rows")
    parser.add_argument("--clips", type=int, default=8, help="of each kind")
    parser.add_argument("--footage", type=Path, help="a folder of real clips")
    parser.add_argument(
        "--folder", type=Path, help="keep the encoded clips here, and use those that are here"
    )
    parser.add_argument("--page", type=Path, help="write the table between its marks on this page")
    parser.add_argument("--verbose", action="store_true", help="name the cuts that are missed or made up")
    args = parser.parse_args()
    drawn = list(clips(args.clips, read_footage(args.footage) if args.footage else []))
    lines = ["| stream | recall | precision | recall, long | precision, long |", "|---|---:|---:|---:|---:|"]
    print(*lines, sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.streams:
            if ALL[name][0] not in av.codecs_available:
                print(f"{name}: this PyAV has no {ALL[name][0]}", file=sys.stderr)
                continue
            lines.append(row(name, drawn, args.folder or Path(folder), args.verbose))
            print(lines[-1], flush=True)
    if args.page:
        write_between_markers(args.page, "\n".join(lines), START, END)


if __name__ == "__main__":
    main()
