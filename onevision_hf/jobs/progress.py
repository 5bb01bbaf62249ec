"""Progress on standard error: done, rate, time left. A bar on a terminal, a line now and then in a log."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm


@contextlib.contextmanager
def progress(title: str, total: int, silent: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items just done.

    Args:
        title: in front of the figures.
        total: items in all.
        silent: show nothing.
    """
    interval = 0.2 if sys.stderr.isatty() else 20.0
    with tqdm(
        total=total, desc=title, unit=" items", mininterval=interval, disable=silent or not total
    ) as bar:
        yield lambda count: (bar.update(count), None)[1]
