"""Work shared among processes, its results in order; no process outlives the one that started it."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

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
    # Not forked: this process may have threads. The server imports once, for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([str(__package__)])
    processes, pipes = [], []
    try:
        for worker in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(do, indices[worker::workers], theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        for turn in range(len(indices)):
            try:
                result, error = pipes[turn % workers].recv()
            except EOFError:
                process = processes[turn % workers]
                process.join()
                raise OSError(
                    f"a worker process ended with status {process.exitcode} (out of memory?); "
                    "what is finished is kept, run again to go on"
                ) from None
            if error is not None:
                raise error
            yield result
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def _work(do: Callable[[int], Any], indices: Sequence[int], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that reads is interrupted, and closes the pipe
    for index in indices:
        message: tuple[Any, Exception | None]
        try:
            message = (do(index), None)
        except Exception as error:
            message = (None, error)
        try:
            pipe.send(message)
        except BrokenPipeError:
            return
        if message[1] is not None:
            return
