"""Work shared among processes; none outlives the one that started it."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

Result = TypeVar("Result")


def in_order(do: Callable[[int], Result], indices: Sequence[int], workers: int) -> Iterator[Result]:
    """`do(index)` for each index, in order. With one worker it happens here.

    Process w does every `workers`-th index, from w on, and sends each result through a pipe of its own. A
    pipe that nobody reads any more ends its process, so nothing is left behind when this one is killed.

    Raises:
        OSError: a process ended before its work did. Exceptions of `do` are raised here.
    """
    if workers == 1:
        yield from map(do, indices)
        return
    with _started(_work, [(do, indices[worker::workers]) for worker in range(workers)]) as running:
        for turn in range(len(indices)):
            yield _received(*running[turn % workers])


def as_they_end(
    do: Callable[[int], Result], count: int, workers: int, is_ready: Callable[[int], bool] = lambda task: True
) -> Iterator[tuple[int, Result]]:
    """(task, `do(task)`) for tasks 0 to `count` - 1, as they end: for few long tasks of unequal length.

    A process that is free takes the first task that `is_ready`, which may wait for others. With one worker
    everything happens here, in order. When nobody asks for more, processes are ended within their tasks.

    Raises:
        OSError: a process ended before its task did. Exceptions of `do` are raised here.
    """
    if workers == 1:
        for task in range(count):
            yield task, do(task)
        return
    waiting, busy = list(range(count)), dict[Connection, int]()
    with _started(_serve, [(do,)] * workers, terminate=True) as running:
        process_of = {pipe: process for process, pipe in running}
        while waiting or busy:
            for pipe in process_of.keys() - busy.keys():
                ready = [task for task in waiting if is_ready(task)]
                if ready:
                    busy[pipe] = ready[0]
                    waiting.remove(ready[0])
                    with suppress(BrokenPipeError):  # it is dead, and is found to be below
                        pipe.send(ready[0])
            if not busy:
                raise ValueError(f"tasks {waiting} wait for one another")
            for pipe in cast(list[Connection], wait(list(busy))):
                result = _received(process_of[pipe], pipe)
                yield busy.pop(pipe), result


@contextmanager
def _started(
    work: Callable[..., None], arguments: Sequence[tuple[Any, ...]], terminate: bool = False
) -> Iterator[list[tuple[BaseProcess, Connection]]]:
    """A process for each of `arguments`, `work(*arguments, pipe)`, with our end of its pipe."""
    # Not forked: this process may have threads. The server imports once, for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([str(__package__)])
    running: list[tuple[BaseProcess, Connection]] = []
    process: BaseProcess
    try:
        for given in arguments:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(*given, theirs), daemon=True)
            process.start()
            theirs.close()
            running.append((process, ours))
        yield running
    finally:
        for process, pipe in running:
            pipe.close()
            if terminate:
                process.terminate()
        for process, _ in running:
            process.join()


def _received(process: BaseProcess, pipe: Connection) -> Any:
    try:
        result, error = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise OSError(
            f"a worker process ended with status {process.exitcode} (out of memory?); "
            "what is finished is kept, run again to go on"
        ) from None
    if error is not None:
        raise error
    return result


def _work(do: Callable[[int], Any], indices: Iterable[int], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads is interrupted, and closes the pipe
    for index in indices:
        message: tuple[Any, Exception | None]
        try:
            message = (do(index), None)
        except Exception as error:
            message = (None, error)
        try:
            pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return
        if message[1] is not None:
            return


def _serve(do: Callable[[int], Any], pipe: Connection) -> None:
    with suppress(EOFError, ConnectionResetError):
        _work(do, iter(pipe.recv, None), pipe)
