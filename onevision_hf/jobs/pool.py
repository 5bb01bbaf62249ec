"""Independent tasks on processes of this machine: none outlives this one, and one that dies is replaced.

    for result in in_order(draw, range(1000), workers=8): ...
    for number, result in as_done(encode, paths, workers=8): ...

`concurrent.futures` says what runs when. Each of its threads has one process at the end of a pipe, so it is
known over which task a process died: that task is done again in a new one, hence a task must leave the same
behind when it is done twice.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, TypeAlias, TypeVar

from .prefetch import ahead

# Deaths over one task after which it is given up.
MAX_DEATHS = 5
# What a pipe raises whose other end is gone.
GONE = (EOFError, BrokenPipeError, ConnectionResetError)

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
# Makes the function that does a task, once in each process.
MakeWorker: TypeAlias = Callable[[], Callable[[TaskT], ResultT]]


class EngineError(OSError):
    """Workers cannot be had, or die again and again."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(do: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], workers: int) -> Iterator[ResultT]:
    """`do(task)` for each task, in the order of the tasks.

    Args:
        do: picklable.
        tasks: picklable.
        workers: processes; with fewer than two everything happens in this one.

    Returns:
        An iterator; processes are at most `2 * workers` tasks ahead of its reader, and end with it.

    Raises:
        EngineError: a task that no process survives. What `do` raises is raised here.
    """
    if workers < 2:
        yield from map(do, tasks)
        return
    with contextlib.closing(_Processes(functools.partial(_identity, do))) as processes:
        yield from ahead(processes, enumerate(tasks), workers, depth=2 * workers)


def as_done(
    do: Callable[[TaskT], ResultT],
    tasks: Sequence[TaskT],
    workers: int,
    is_ready: Callable[[TaskT], bool] = lambda task: True,
) -> Iterator[tuple[int, ResultT]]:
    """(number of the task, `do(task)`) as tasks are done: for long tasks of unequal length.

    Args:
        do: picklable.
        tasks: picklable.
        workers: processes; with fewer than two everything happens in this one, in order.
        is_ready: whether a task may begin; looked at again whenever another is done. Those that are ready
            begin in the order of the tasks.

    Returns:
        An iterator; processes are ended within their tasks when nobody reads it any more.

    Raises:
        EngineError: a task that no process survives.
        ValueError: tasks that wait for one another.

    What `do` raises is raised here.
    """
    if workers < 2:
        yield from ((number, do(task)) for number, task in enumerate(tasks))
        return
    yield from run_as_done(functools.partial(_identity, do), tasks, workers, is_ready)


def run_as_done(
    make_worker: MakeWorker[TaskT, ResultT],
    tasks: Sequence[TaskT],
    workers: int,
    is_ready: Callable[[TaskT], bool] = lambda task: True,
) -> Iterator[tuple[int, ResultT]]:
    """`as_done` of what `make_worker()` makes, once in each process, also when there is only one.

    Args:
        make_worker: makes the function that does a task, in each process.
        tasks: picklable.
        workers: processes, at least 1.
        is_ready: as of `as_done`.
    """
    waiting, running = list(range(len(tasks))), dict[concurrent.futures.Future[ResultT], int]()
    done: queue.SimpleQueue[concurrent.futures.Future[ResultT]] = queue.SimpleQueue()
    threads = concurrent.futures.ThreadPoolExecutor(workers)
    processes = _Processes(make_worker)
    try:
        while waiting or running:
            ready = {number for number in waiting if is_ready(tasks[number])}
            waiting = [number for number in waiting if number not in ready]
            for number in sorted(ready):
                future = threads.submit(processes, (number, tasks[number]))
                running[future] = number
                future.add_done_callback(done.put)
            if not running:
                raise ValueError(f"tasks {waiting} wait for one another")
            future = done.get()
            yield running.pop(future), future.result()
    finally:
        processes.close()
        threads.shutdown(cancel_futures=True)


class _Processes:
    """What a thread calls with (number, task): the task is done in a process that is the thread's own."""

    def __init__(self, make_worker: MakeWorker[Any, Any]):
        # Not forked: this process has threads.
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":  # the server imports once, for all and for those that replace them
            self._context.set_forkserver_preload(sorted(_modules(make_worker) - {"__main__"}))
        self._make_worker = make_worker
        self._own = threading.local()
        self._all: list[Any] = []
        self._closed = False
        self._lock = threading.Lock()  # of starting and joining: two threads must not reap one process

    def __call__(self, numbered: tuple[int, Any]) -> Any:
        number, task = numbered
        status = None
        for _ in range(MAX_DEATHS):
            process, pipe = self._process()
            try:
                pipe.send(task)
                result, error = pipe.recv()
            except GONE:
                pipe.close()
                with self._lock:
                    process.join()
                del self._own.process
                status = process.exitcode
                continue
            if error is not None:
                raise error
            return result
        raise EngineError(
            f"{MAX_DEATHS} worker processes died over task {number}, the last with status {status} (out of "
            "memory?); what is finished is kept, run again to go on"
        )

    def _process(self) -> tuple[Any, Any]:
        """This thread's process and our end of its pipe."""
        if not hasattr(self._own, "process"):
            with self._lock:
                if self._closed:
                    raise concurrent.futures.CancelledError
                pipe, theirs = self._context.Pipe()
                process = self._context.Process(target=_work, args=(self._make_worker, theirs), daemon=True)
                process.start()
                theirs.close()
                self._all = [other for other in self._all if other.exitcode is None] + [process]
                self._own.process = process, pipe
        return self._own.process

    def close(self) -> None:
        """End all processes; what they were doing is lost."""
        with self._lock:
            self._closed = True
            for process in self._all:
                process.terminate()
            for process in self._all:
                process.join()


def _identity(do: Callable[[TaskT], ResultT]) -> Callable[[TaskT], ResultT]:
    return do


def _modules(do: Any) -> set[str]:
    """Where a function is written, and those of the functions that `functools.partial` has bound in it."""
    if isinstance(do, functools.partial):
        return set().union(*map(_modules, (do.func, *filter(callable, do.args))))
    return {getattr(do, "__module__", None) or "__main__"}


def _work(make_worker: MakeWorker[Any, Any], pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads is interrupted, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    do: Callable[[Any], Any] | None = None
    while True:
        message: tuple[Any, Exception | None]
        try:
            task = pipe.recv()
        except GONE:
            return
        try:
            if do is None:
                do = make_worker()
            message = (do(task), None)
        except Exception as error:
            message = (None, error)
        try:
            pipe.send(message)
        except GONE:
            return


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and a task may take minutes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
