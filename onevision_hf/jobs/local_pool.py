"""Processes of this machine. Each has a pipe of its own, so it is known which task a dead one had."""

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from typing import Any

from .engines import EngineError, MakeWorker

# Deaths over one task after which it is given up.
MAX_DEATHS = 5
# What a pipe raises whose other end is gone.
GONE = (BrokenPipeError, ConnectionResetError)


def run_local(make_worker: MakeWorker, tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """See `run_tasks`. No process outlives this one, not even a killed one."""
    if workers == 0 or not tasks:
        do = make_worker() if tasks else None
        for task in tasks:
            assert do is not None
            yield do(task)
        return
    # Not forked: this process may have threads.
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":  # the server imports once, for all and for those that replace them
        needed = (__name__.partition(".")[0], getattr(make_worker, "func", make_worker).__module__)
        context.set_forkserver_preload([name for name in needed if name != "__main__"])
    waiting = collections.deque(range(len(tasks)))
    deaths: dict[int, int] = collections.Counter()
    busy: dict[Any, tuple[Any, int]] = {}  # our end of a pipe -> (process, number of its task)

    def begin(pipe: Any, process: Any) -> None:
        number = waiting.popleft()
        busy[pipe] = (process, number)
        pipe.send(tasks[number])

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(make_worker, theirs), daemon=True)
        process.start()
        theirs.close()
        with contextlib.suppress(*GONE):  # it died at once: noticed below, where its task is taken back
            begin(ours, process)

    try:
        for _ in range(min(workers, len(tasks))):
            start()
        while busy:
            ready: list[Any] = connection.wait(list(busy))
            for pipe in ready:
                process, number = busy.pop(pipe)
                result: Any
                error: Exception | None
                try:
                    result, error = pipe.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    pipe.close()
                    deaths[number] += 1
                    if deaths[number] >= MAX_DEATHS:
                        raise EngineError(
                            f"{MAX_DEATHS} worker processes died over task {number}, the last with status "
                            f"{process.exitcode} (out of memory?); what is finished is kept, run again to go "
                            "on"
                        ) from None
                    waiting.appendleft(number)
                    start()
                    continue
                if error is not None:
                    busy[pipe] = (process, number)  # to be ended with the others
                    raise error
                if waiting:
                    with contextlib.suppress(*GONE):
                        begin(pipe, process)
                else:
                    pipe.close()
                    process.join()
                yield result
    finally:
        for pipe, (process, _) in busy.items():
            process.terminate()
            pipe.close()
        for process, _ in busy.values():
            process.join()


def _work(make_worker: MakeWorker, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads is interrupted, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    do: Any = None
    failed: Exception | None = None
    try:
        do = make_worker()
    except Exception as error:
        failed = error
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        message: tuple[Any, Exception | None]
        try:
            if failed is not None:
                raise failed
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
