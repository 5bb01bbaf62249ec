"""Processes that make items ahead, in order; a worker that fails or dies ends the iteration at once.

    for item in Ahead(part, count=100, workers=2): ...

Item i of `count` comes from worker i % workers. `part(worker, workers, notes)` runs there and gives the items
of that worker in order; it tells `notes` of each sample that it begins, so that an error can name it. Notes
lie in memory that is shared with the parent, and so outlive a worker that is killed.

Workers end with the process that started them, however it ends, and ignore the signals of its group: it is
the training that decides what a Ctrl-C means.
"""

import multiprocessing
import os
import signal
import struct
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

AHEAD = 2  # items that a worker has begun and nobody has taken yet
_ROOM = 1 << 18  # bytes of notes for each of them
_LISTED = 64  # keys of a component that a message names

Part = Callable[[int, int, "Notes"], Iterator[Any]]


class DataError(ValueError):
    """Data that a run cannot go on with. `held`: the samples, component -> keys, that a worker died over."""

    def __init__(self, message: str, held: dict[str, list[str]] | None = None):
        super().__init__(message)
        self.held = held or {}


class Notes:
    """Which samples were begun of the last `AHEAD` items: (number of the item + 1, bytes, lines) for each."""

    _HEAD = struct.Struct("<QQ")

    def __init__(self, memory: Any = None):
        self._memory = memoryview(bytearray(self.size()) if memory is None else memory).cast("B")
        self._start = self._end = self._last = 0

    @classmethod
    def size(cls) -> int:
        return AHEAD * (cls._HEAD.size + _ROOM)

    def item(self, number: int) -> None:
        """An item is begun; of the one that was `AHEAD` before it nothing needs to be known any more."""
        self._start = number % AHEAD * (self._HEAD.size + _ROOM)
        self._end = self._last = 0
        self._HEAD.pack_into(self._memory, self._start, number + 1, 0)

    def sample(self, component: str, key: str, *, found: bool = False) -> None:
        """A sample is begun.

        Args:
            component: of the mixture, which it is from.
            key: its name.
            found: it is the one before, whose key has been read.
        """
        line = f"{component}\t{' '.join(key.split())}\n".encode()[-_ROOM:]
        at = self._last if found else self._end
        at = at if at + len(line) <= _ROOM else 0  # the last ones matter most
        begin = self._start + self._HEAD.size + at
        self._memory[begin : begin + len(line)] = line
        self._last, self._end = at, at + len(line)
        struct.pack_into("<Q", self._memory, self._start + 8, self._end)

    def read(self, first: int = 0) -> list[tuple[str, str]]:
        """(component, key) of the samples of the items from number `first` on, in the order they began."""
        found = []
        for place in range(AHEAD):
            start = place * (self._HEAD.size + _ROOM)
            number, length = self._HEAD.unpack_from(self._memory, start)
            if number > first:
                begin = start + self._HEAD.size
                found.append((number, bytes(self._memory[begin : begin + length]).decode(errors="replace")))
        lines = [line for _, text in sorted(found) for line in text.splitlines()]
        parts = (line.partition("\t") for line in lines)
        return [(component, key) for component, _, key in parts]


class Ahead:
    """Items 0..count-1 in order, made by `workers` processes, or here where that is 0.

    Each iteration has processes of its own, which end with it: at its end, when it is closed or forgotten,
    and when Python exits. `pin` puts items that have `pin_memory()` into pinned memory on the way.

    Raises DataError for what a worker raises, at the sample that it was at, and for a worker that ends.
    """

    def __init__(self, part: Part, count: int, workers: int, pin: bool = False):
        self.part, self.count, self.pin = part, count, pin
        self.workers = min(workers, count)

    def __iter__(self) -> Generator[Any, None, None]:
        if not self.workers:
            yield from self._here()
            return
        crew = _Crew(self.count, self.pin)
        try:
            crew.start(self.part, self.workers)
            for _ in range(self.count):
                yield crew.take()
        finally:
            crew.close()

    def _here(self) -> Iterator[Any]:
        notes = Notes()
        items = self.part(0, 1, notes)
        for number in range(self.count):
            notes.item(number)
            try:
                item = next(items)
            except Exception as error:
                raise _as_data_error(error, notes) from error
            yield item.pin_memory() if self.pin else item


class _Worker:
    """A process, the connection to it, the items that came over that, and how many it still owes."""

    def __init__(self, context: Any, part: Part, number: int, workers: int, count: int):
        self.number, self.workers = number, workers
        self.left = len(range(number, count, workers))
        self.made: deque[Any] = deque()
        self.taken = 0
        self.memory = context.RawArray("B", Notes.size())
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_work, args=(part, number, workers, self.left, other, self.memory), daemon=True
        )
        self.process.start()
        other.close()  # so that the worker's end closes with the worker

    def more(self) -> None:
        """Let it begin another item."""
        with suppress(OSError):  # of one that has died, which the receiver sees
            self.connection.send_bytes(b"+")

    def receive(self) -> None:
        """Receive the next item. Raises DataError for what the worker raised, and when it is gone."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            raise self.death() from None
        if kind == "error":
            message, trace = value
            error = DataError(f"data worker {self.number} of {self.workers}: {message}")
            if trace is not None:
                error.add_note(trace)
            raise error
        self.made.append(value)
        self.left -= 1

    def death(self) -> DataError:
        """The error of a worker that has ended."""
        self.process.join(1)
        code = self.process.exitcode
        if code is not None and code < 0:
            known = {number.value: number.name for number in signal.Signals}
            short = "; is memory short?" if known.get(-code) == "SIGKILL" else ""
            how = f"was killed ({known.get(-code, f'signal {-code}')}{short})"
        else:
            how = f"ended with status {code}"
        message = f"data worker {self.number} of {self.workers} {how}"
        notes = Notes(self.memory)
        if not notes.read():
            return DataError(f"{message} before its first sample")
        held: dict[str, list[str]] = {}
        for component, key in notes.read(self.taken):
            held.setdefault(component, []).append(key)
        listed = "; ".join(f"{_listed(keys)} of component {component}" for component, keys in held.items())
        component, key = notes.read()[-1]
        return DataError(
            f"{message}; its last sample was {key} of component {component}; it held "
            f"{listed or 'nothing more'}",
            held,
        )


class _Crew:
    """The workers of one iteration, and the thread that receives from them and sees when one ends.

    A connection ends with its worker. The process's sentinel would not do: it ends with the server that
    forked the worker too, which a SIGTERM to the whole group ends.
    """

    def __init__(self, count: int, pin: bool):
        self._context = _context()
        self._changed = threading.Condition()
        self._ready: deque[tuple[_Worker, Any]] = deque()
        self._failure: Exception | None = None
        self._count, self._pin = count, pin
        self._device = torch.cuda.current_device() if pin else None
        self._closed, self._close = self._context.Pipe(duplex=False)
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)
        # multiprocessing, when Python exits, waits for the workers: they must have been ended by then.
        self._at_exit = Finalize(None, self.close, exitpriority=10)

    def start(self, part: Part, workers: int) -> None:
        for number in range(workers):
            self._workers.append(_Worker(self._context, part, number, workers, self._count))
        for worker in self._workers:
            for _ in range(AHEAD):
                worker.more()
        self._thread.start()

    def take(self) -> Any:
        """The next item, as soon as it is there; or the failure, as soon as there is one."""
        with self._changed:
            while self._failure is None and not self._ready:
                self._changed.wait()
            if self._failure is not None:
                raise self._failure
            worker, item = self._ready.popleft()
        worker.taken += 1
        worker.more()
        return item

    def close(self) -> None:
        """End the workers now; they have nothing to lose."""
        for worker in self._workers:
            worker.process.kill()
        self._close.close()
        if self._thread.ident is not None:
            self._thread.join(5)
        for worker in self._workers:
            worker.process.join(5)
            worker.connection.close()
        self._at_exit.cancel()

    def _receive(self) -> None:
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)
            for number in range(self._count):
                worker = self._workers[number % len(self._workers)]
                while not worker.made:
                    self._wait()
                item = worker.made.popleft()
                if self._pin:
                    item = item.pin_memory()
                with self._changed:
                    self._ready.append((worker, item))
                    self._changed.notify()
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify()

    def _wait(self) -> None:
        """Receive what is there. Raises DataError when any of those that still owe something ends."""
        owing = {worker.connection: worker for worker in self._workers if worker.left}
        ready = wait([self._closed, *owing])
        if self._closed in ready:
            raise EOFError
        for connection in ready:
            owing[connection].receive()


def _context() -> Any:
    # Fork copies the locks of a process that already runs threads; starting afresh is what is safe.
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["onevision_hf.training.loader"])
    return context


def _work(part: Part, worker: int, workers: int, count: int, connection: Connection, memory: Any) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and schedulers signal the whole group: the training process decides when its workers end.
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.SIG_IGN)
    wanted = threading.Semaphore(0)
    threading.Thread(target=_listen, args=(connection, wanted), daemon=True).start()
    notes = Notes(memory)
    try:
        items = part(worker, workers, notes)
        for number in range(count):
            wanted.acquire()
            notes.item(number)
            connection.send(("item", next(items)))
    except Exception as error:
        trace = None if isinstance(error, DataError) else traceback.format_exc()
        connection.send(("error", (str(_as_data_error(error, notes)), trace)))
    # What lies in shared memory is fetched from this process: it ends with the one that it works for.
    threading.Event().wait()


def _listen(connection: Connection, wanted: threading.Semaphore) -> None:
    try:
        while connection.recv_bytes():
            wanted.release()
    except (EOFError, OSError):
        os._exit(0)  # nobody is there any more


def _as_data_error(error: Exception, notes: Notes) -> DataError:
    """The error with the sample that it happened at, and where in the code."""
    if isinstance(error, DataError):
        return error
    begun = notes.read()
    at = f"component {begun[-1][0]}, sample {begun[-1][1]}" if begun else "before the first sample"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
    return DataError(f"{at}: {' '.join(reason.split())}")


def _listed(keys: list[str]) -> str:
    more = len(keys) - _LISTED
    return ", ".join(keys[-_LISTED:]) + (f" and {more} before these" if more > 0 else "")
