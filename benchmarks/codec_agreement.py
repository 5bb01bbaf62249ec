"""How the codec signals agree with the truth: published selection, bits really spent, residual.

    make bench-codec-agreement              # ONEVISION_CLIPS names the folder with the real clips

The bits of `*.bitcost.npz` were read by a decoder that was built for it. Without the folder only the exact
residual is checked, on a clip that this script draws and encodes.
"""

import os
import sys
from pathlib import Path

import numpy as np

from onevision_hf.modeling.codec_signals import (
    read_codec_signals,
    read_standalone_pictures,
    residual,
    vectors,
)
from onevision_hf.modeling.patch_selection import select_patches
from onevision_hf.modeling.video_reader import VideoReader

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from clips import moving_scene, write_clip

SHARE = 0.125


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return ((2 * last - count - 1) / 2)[place]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; 0 where one of them is constant."""
    first, second = ranks(first.ravel()), ranks(second.ravel())
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def recall(truth: np.ndarray, estimate: np.ndarray, share: float = SHARE) -> float:
    """How much of the largest `share` of `truth` is in the largest `share` of `estimate`; ties by place."""
    count = round(share * truth.size)
    order = [np.argsort(-values.ravel(), kind="stable") for values in (truth, estimate)]
    return len(set(order[0][:count].tolist()) & set(order[1][:count].tolist())) / count


def bit_agreement(clip: Path, truth: np.ndarray, types: list[str], frame_ids: np.ndarray) -> dict[str, float]:
    """Recall and mean rank correlation of `bits` and of the residual's plain sum, P and B pictures."""
    signals = read_codec_signals(clip, frame_ids=frame_ids, signals=("residual", "bits"))
    assert signals.bits is not None and signals.residual is not None
    inter = [place for place, kind in enumerate(types) if kind != "I"]
    truth = truth[inter][..., : signals.bits.shape[2]].astype(float)
    found = {}
    for name in ("bits", "residual"):
        estimate = np.nan_to_num(getattr(signals, name)[inter])
        found[f"{name} recall"] = recall(truth, estimate)
        pairs = zip(truth, estimate, strict=True)
        found[f"{name} rank correlation"] = float(np.mean([rank_correlation(a, b) for a, b in pairs]))
    return found


def published_recall(clip: Path, selection: Path) -> float:
    """Share of the published positions of frames 1..63 that `preset="published"` finds."""
    published = np.load(selection)
    ours = select_patches(clip, size=576, patch_size=16, num_patches=10368, preset="published")
    assert (ours.frame_ids == published["frame_ids"]).all()
    theirs = {tuple(row) for row in published["positions_thw"].tolist() if row[0]}
    return len(theirs & {tuple(row) for row in ours.positions.tolist()}) / len(theirs)


def exact_residual_share(clip: Path) -> tuple[float, int]:
    """(share, number) of the blocks with a whole-pixel vector whose exact residual equals the frame less the
    shifted previous frame.

    For streams without deblocking and weights whose P pictures refer to the picture before.
    """
    with VideoReader(clip) as reader:
        everything = range(len(reader))
        frames = {frame.frame_id: frame for frame in reader.frames(everything, motion_vectors=True)}
        pictures = read_standalone_pictures(reader, list(everything))
        equal = total = 0
        for frame_id in range(1, len(reader)):
            frame, before = frames[frame_id], frames[frame_id - 1].luma.astype(int)
            if frame.picture_type != "P":
                continue
            luma, difference = frame.luma.astype(int), residual(pictures[frame_id]).astype(int)
            field = vectors(frame.motion_vectors, *luma.shape)
            whole = (field == np.round(field)).all(-1)
            for row, column in np.argwhere(whole[::2, ::2]) * 2:
                y, x = row * 4, column * 4
                dx, dy = field[row, column].astype(int)
                inside = y + dy >= 0 and x + dx >= 0
                inside &= y + dy + 8 <= luma.shape[0] and x + dx + 8 <= luma.shape[1]
                same = (field[row : row + 2, column : column + 2] == field[row, column]).all()
                if not inside or not same or y + 8 > luma.shape[0] or x + 8 > luma.shape[1]:
                    continue
                moved = before[y + dy : y + dy + 8, x + dx : x + dx + 8]
                truth = np.clip(luma[y : y + 8, x : x + 8] - moved, -128, 127)
                total += 1
                equal += bool((difference[y : y + 8, x : x + 8] == truth).all())
    return equal / max(total, 1), total


def plain_clip(folder: Path) -> Path:
    """A drawn clip whose P pictures are prediction + residual: no deblocking, no weights."""
    options = {
        "crf": "20",
        "x264-params": "no-deblock=1:weightp=0:ref=1:bframes=0:scenecut=0:keyint=48",
    }
    frames = moving_scene(24, 144, 192, seed=3)
    return write_clip(folder / "plain.mp4", frames, bframes=0, gop=48, options=options)


def main() -> int:
    import tempfile

    rows: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        share, blocks = exact_residual_share(plain_clip(Path(folder)))
        rows.append((f"exact residual = frame - shifted previous frame ({blocks} blocks)", share, ">= 0.99"))
    clips = os.environ.get("ONEVISION_CLIPS")
    if clips:
        root = Path(clips)
        value = published_recall(root / "beach.mp4", root / "beach.selection.npz")
        rows.append(("published selection, frames 1..63, recall", value, ">= 0.82"))
        for name, key, limits in (
            ("beach", "macroblock_bits", (">= 0.74, aim 0.90", ">= 0.50, aim 0.85")),
            ("beach_hevc", "block_bits", (">= 0.65, aim 0.80", "")),
        ):
            data = np.load(root / f"{name}.bitcost.npz")
            types = [str(kind) for kind in data["picture_types"]]
            found = bit_agreement(root / f"{name}.mp4", data[key], types, data["frame_ids"])
            for (label, value), limit in zip(found.items(), (*limits, "", ""), strict=True):
                rows.append((f"{name}: {label}", value, limit))
    else:
        print("ONEVISION_CLIPS is not set: the real clips' rows are left out", file=sys.stderr)
    print("| what | measured | must reach |\n|---|---|---|")
    for label, value, limit in rows:
        print(f"| {label} | {value:.3f} | {limit} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
