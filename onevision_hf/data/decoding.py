"""Media prepared ahead of whoever takes them in batches; broken ones are set apart with their reason."""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TypeVar

from ..jobs.prefetch import ahead
from .media import BROKEN, reason_of

T = TypeVar("T")
R = TypeVar("R")


def decoded_batches(
    prepare: Callable[[T], R],
    items: Sequence[T],
    batch_size: int,
    workers: int,
    step: Callable[[int], None],
    rejected: list[dict[str, str]],
    key: Callable[[T], str] = attrgetter("key"),
) -> Iterator[list[tuple[T, R]]]:
    """(item, what `prepare` makes of it) in batches, in order; prepared ahead in `workers` threads.

    Broken media go to `rejected` with their reason; `step` is called for every item.

    Args:
        prepare: decodes an item; raises one of `media.BROKEN` for a broken one.
        items: in order.
        batch_size: items of a batch.
        workers: threads.
        step: called with 1 for every item.
        rejected: where a broken item is put, with `key` and `reason`.
        key: names an item; by default its attribute `key`.
    """

    def attempt(item: T) -> tuple[T, list[R], str]:
        try:
            return item, [prepare(item)], ""
        except BROKEN as error:
            return item, [], reason_of(error)

    batch: list[tuple[T, R]] = []
    for item, made, reason in ahead(attempt, items, workers, depth=2 * max(batch_size, workers)):
        step(1)
        if not made:
            rejected.append({"key": key(item), "reason": reason})
            continue
        batch.append((item, made[0]))
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
