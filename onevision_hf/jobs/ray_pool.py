"""Ray Data: every task is a block, every worker an actor that does one at a time.

Ray replaces actors that die and does their tasks again. The package must be importable on every node, and
what tasks write must lie on a file system that all of them share.
"""

import logging
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .pool import EngineError, MakeWorker, ResultT, TaskT

# Tasks and results are small: what is large is read and written by the workers themselves.
OBJECT_STORE_BYTES = 100 << 20
STARTS = 3  # attempts to start one on this machine
PATIENCE = 5.0  # seconds that a cluster may take to answer the first knock


def run_ray(
    make_worker: MakeWorker[TaskT, ResultT], tasks: Sequence[TaskT], workers: int, address: str | None
) -> Iterator[ResultT]:
    """See `run_tasks`.

    Args:
        make_worker: makes the function that does a task, in each actor.
        tasks: picklable.
        workers: actors of one CPU each.
        address: of a cluster; None starts one here.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"--engine ray needs: pip install '.[ray]' in a clone ({error})") from error
    if not tasks:
        return
    with connected(ray, workers, address):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        blocks = ray.data.from_items(
            [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
        )
        worker: Any = RayWorker  # Ray's own annotation knows functions only
        done = blocks.map(
            worker,
            fn_constructor_args=(pickle.dumps(make_worker),),
            # One at a time: a task is long, and one that waits for a busy actor could have been another's.
            compute=ray.data.ActorPoolStrategy(
                size=min(workers, len(tasks)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
        )
        try:
            for row in done.iter_rows():
                yield pickle.loads(row["result"])
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
            raise cause from error


class RayWorker:
    """What an actor runs."""

    def __init__(self, make_worker: bytes):
        self._do = pickle.loads(make_worker)()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(self._do(pickle.loads(row["task"])))}


@contextmanager
def connected(ray: Any, workers: int, address: str | None) -> Iterator[None]:
    """Connected to the cluster; one that was started here is stopped again.

    Args:
        ray: the module.
        workers: CPUs of a cluster that is started here.
        address: of a cluster; None starts one here.
    """
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        _start(ray, num_cpus=workers, **quiet)
    else:
        _knock(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            raise EngineError(f"no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, **settings: Any) -> None:
    """A Ray of this machine. It gives its parts 30 seconds to start, which a busy machine may not keep to."""
    for attempt in range(STARTS):
        try:
            ray.init(
                address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **settings
            )
            return
        except Exception as error:  # Ray raises it without a type of its own
            ray.shutdown()
            if attempt + 1 == STARTS:
                raise EngineError(
                    f"Ray does not start on this machine ({STARTS} attempts): {error}"
                ) from error


def _knock(address: str) -> None:
    """Ray waits minutes for a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise EngineError(
            f"no Ray cluster at {address}: {error}; start one with `ray start --head`, or leave the address "
            "out to start one on this machine"
        ) from error
