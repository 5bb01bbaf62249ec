"""Prompts into batches by what they cost: their longest length times their number, padding included.

pack([700, 90, 710, 85], budget=1500)      # [[0, 2], [1, 3]]
"""

from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int, limit: int | None = None) -> list[list[int]]:
    """Indices of `lengths` in batches, longest first, prompts of like length together.

    Args:
        lengths: tokens of each prompt.
        budget: tokens of a batch, padding included; a prompt that is longer goes alone.
        limit: prompts of a batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        current = batches[-1] if batches else []
        fits = bool(current) and lengths[current[0]] * (len(current) + 1) <= budget
        if fits and (limit is None or len(current) < limit):
            current.append(index)
        else:
            batches.append([index])
    return batches
