"""Runs independent tasks on processes of this machine or on a Ray cluster; knows nothing of what they do.

    for result in run_tasks(make_worker, tasks, engine="local", workers=8):
        ...

`make_worker()` is called once in each worker and gives the function that does a task; it and the tasks must
be picklable. Results come as they are done. A worker that dies (kill -9, out of memory, a crash in C) is
replaced and its task done again, so a task must leave the same behind when it is done twice.
"""

from collections.abc import Iterator, Sequence

from .pool import MakeWorker, ResultT, TaskT, run_as_done

ENGINES = ("local", "ray")


def run_tasks(
    make_worker: MakeWorker[TaskT, ResultT],
    tasks: Sequence[TaskT],
    *,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
) -> Iterator[ResultT]:
    """Results of all tasks, as they are done.

    Args:
        make_worker: makes the function that does a task, in each worker.
        tasks: what that function takes.
        engine: `local` or `ray`.
        workers: processes (local; 0: in this one) or actors of one CPU each (Ray).
        address: of a Ray cluster (HOST:PORT, `auto`, ray://HOST:PORT); without it one is started on this
            machine and stopped again.

    Returns:
        An iterator; workers end with it.

    Raises:
        ValueError: an unknown engine, or an address for the local one.
        ImportError: Ray is not installed.
        EngineError: no cluster at the address, or a task that no worker survives. What a task raises is
        raised here.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if workers < 0 or (workers == 0 and engine == "ray"):
        raise ValueError(f"workers must be {'at least 1' if engine == 'ray' else '0 or more'}, not {workers}")
    if engine == "local":
        if address is not None:
            raise ValueError(f"the local engine has no address, found {address!r}: name --engine ray")
        if not tasks:
            return iter(())
        if workers == 0:
            return map(make_worker(), tasks)
        return (result for _, result in run_as_done(make_worker, tasks, workers))
    from .ray_pool import run_ray

    return run_ray(make_worker, tasks, workers, address)
