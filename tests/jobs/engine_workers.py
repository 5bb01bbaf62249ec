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
