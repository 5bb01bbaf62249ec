"""Work done ahead of its reader, in threads."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(do: Callable[[T], R], things: Iterable[T], workers: int, depth: int) -> Iterator[R]:
    """`map(do, things)` in threads, in order, at most `depth` results ahead of the reader.

    Args:
        do: called in threads.
        things: what it is called with.
        workers: threads.
        depth: results that may wait for the reader.
    """
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
        try:
            for thing in things:
                waiting.append(pool.submit(do, thing))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
