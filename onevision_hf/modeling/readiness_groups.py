"""How LLaVA-OneVision-2 spends canvases on a video: groups of frames, and the blocks that each group keeps.

    scores = np.stack([block_scores(bits, height, width, 28) for bits in maps])    # (T, rows, columns)
    groups = readiness_groups(scores, budget, settings.max_group_frames)
    kept = best_blocks(scores[start:end], budget)

A group is four canvases: its first frame whole, and as many blocks of the others as three canvases hold. It
grows until these blocks are worth what a stretch of 32 frames has on average, come from all thirds of it,
and gain little from a frame more.

Source: codec-video-prep 0.2.5 (PyPI; `readiness`, `topk_2x2_bitcost`), whose numbers and order these are. Of
equal scores the first is kept; theirs takes any.

Shapes: T frames, rows and columns of blocks, G groups.
"""

from functools import cache

import numpy as np

from .patch_selection import largest

CANVASES = 4  # of a group
THRESHOLD_FRAMES = 32  # of the stretches whose mean worth is asked of a group
MIN_GROUP_FRAMES = 8
THIRDS = CANVASES - 1
LOW_GAIN = 0.05
PERCENTILE = 99  # of a frame's costs: what is above counts as that much


def block_scores(cost: np.ndarray, height: int, width: int, block: int) -> np.ndarray:
    """How much of a frame's cost lies in each block, relative to what is dear in that frame.

    Args:
        cost: (r, c), of any grid that covers the picture; NaN counts as nothing.
        height: of the frame as it is shown, a multiple of `block`, in pixels.
        width: likewise.
        block: pixels of a block's side.

    Returns:
        (height / block, width / block) float32: the sum over the block's pixels of 0 to 1 each.
    """
    relative = np.log1p(np.maximum(np.nan_to_num(np.asarray(cost, np.float32)), 0))
    relative = np.clip(relative / max(float(np.percentile(relative, PERCENTILE)), 1e-6), 0, 1)
    rows, columns = cost.shape
    return (_pixels(height, rows, block) @ relative @ _pixels(width, columns, block).T).astype(np.float32)


@cache
def _pixels(side: int, cells: int, block: int) -> np.ndarray:
    """(side / block, cells): how many pixels of each block take the value of each cell, which is the nearest
    as OpenCV counts it."""
    cell = np.minimum(np.floor(np.arange(side) * (1 / (side / cells))).astype(np.int64), cells - 1)
    counts = np.zeros((side // block, cells))
    np.add.at(counts, (np.arange(side) // block, cell), 1)
    return counts


def best_blocks(scores: np.ndarray, budget: int) -> np.ndarray:
    """(k,) sorted places in `scores.ravel()` of the `budget` highest, or of all there are."""
    return np.sort(largest(scores.reshape(-1), budget))


def readiness_groups(scores: np.ndarray, budget: int, max_frames: int) -> np.ndarray:
    """Groups of neighbouring frames.

    Args:
        scores: (T, rows, columns) float32.
        budget: blocks that a group keeps besides its first frame.
        max_frames: of a group.

    Returns:
        (G, 2) int64 [start, end); the last frames are left out where they are fewer than a group has.
    """
    stretches = [
        scores[first : first + THRESHOLD_FRAMES] for first in range(0, len(scores), THRESHOLD_FRAMES)
    ]
    worths = [_worth(stretch, budget)[0] for stretch in stretches if len(stretch) > THIRDS]
    threshold = float(np.mean(worths)) if worths else 0.0
    groups, start = [], 0
    while len(scores) - start >= MIN_GROUP_FRAMES:
        end = _end_of_group(scores[start : start + max_frames], budget, threshold)
        groups.append((start, start + end))
        start += end
    return np.array(groups, np.int64).reshape(-1, 2)


def _end_of_group(scores: np.ndarray, budget: int, threshold: float) -> int:
    """How many of the frames a group takes."""
    before: float | None = None
    ready: int | None = None
    for end in range(MIN_GROUP_FRAMES, len(scores) + 1):
        worth, is_spread = _worth(scores[:end], budget)
        if worth >= threshold and is_spread:
            ready = end
            if before is not None and (worth - before) / max(abs(before), 1e-6) < LOW_GAIN:
                break
        before = worth
    return len(scores) if ready is None else ready


def _worth(scores: np.ndarray, budget: int) -> tuple[float, bool]:
    """The sum of the best blocks of all frames but the first, and whether each third of those has some."""
    frames, flat = len(scores), scores[1:].reshape(-1)
    best = largest(flat, budget)
    edges = np.linspace(1, max(2, frames), THIRDS + 1, dtype=np.int32)
    thirds = np.searchsorted(edges, 1 + best // scores[0].size, side="right")
    # Summed as theirs are, in single precision from the largest down: thresholds are met or not by a hair.
    return float(np.sort(flat[best])[::-1].sum()), len(np.unique(thirds)) == THIRDS


def merge_groups(groups: np.ndarray, most: int) -> np.ndarray:
    """At most so many groups: (G, 2) -> (<= most, 2). Of neighbours, those that are shortest together are put
    together first."""
    ends = [*groups[:, 0].tolist(), int(groups[-1, 1])]
    while len(ends) - 1 > most:
        lengths = [ends[place + 2] - ends[place] for place in range(len(ends) - 2)]
        del ends[1 + int(np.argmin(lengths))]
    return np.stack([ends[:-1], ends[1:]], -1).astype(np.int64)


__all__ = ["CANVASES", "MIN_GROUP_FRAMES", "best_blocks", "block_scores", "merge_groups", "readiness_groups"]
