"""What the workers of `test_engines` do. A module of its own: each of their processes imports it."""

import os
import signal
import time
from pathlib import Path


def squaring():
    return lambda task: task * task


def failing():
    def do(task):
        if task == 3:
            raise ZeroDivisionError(f"task {task}")
        return task

    return do


def dying(folder, always):
    """A worker that is killed, as by the system, over task 2: the first time, or always."""

    def do(task):
        (Path(folder) / f"{task}-{time.monotonic_ns()}").touch()
        if task == 2 and (always or len(list(Path(folder).glob("2-*"))) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), task

    return do


def after(folder, task):
    """Leave a file; task 0 is long: it waits for that of 3."""
    while task == 0 and not (Path(folder) / "3").exists():
        time.sleep(0.01)
    (Path(folder) / str(task)).touch()
    return 10 * task


def dying_once(folder, task):
    """Killed over task 1 the first time."""
    if task == 1 and not (file := Path(folder) / "died").exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return 10 * task


def terminated(task):
    os.kill(os.getpid(), signal.SIGTERM)


def endless(folder, task):
    """A task that only the end of its process ends."""
    (Path(folder) / f"{os.getpid()}").touch()
    while True:
        time.sleep(1)
