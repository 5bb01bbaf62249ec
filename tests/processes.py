"""Processes that a test starts, as one group or alone, and what can be known of those that run.

    run(train, folder, size=2)  # -> what each of two processes returned, in the order of their ranks
    (process,) = start(train, folder)  # to be killed or joined by the test
    done = fresh("import transformers, onevision_hf")  # a process in which neither was imported before

What they run is a function of a module that the tests can import, with arguments that can be pickled. Where
there are several it finds gloo's default group and the environment that a launcher sets.
"""

import atexit
import functools
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

# One forkserver serves the whole session and imports what it is first asked to, so that is always all that is
# slow to import; each process would import it for itself otherwise, for seconds.
SLOW_TO_IMPORT = [
    "onevision_hf.training.loop",
    "onevision_hf.training.tasks.cluster",
    "onevision_hf.training.tasks.unified",
    "onevision_hf.eval.probes.run",
    "datasets",
    "diffusers.models.autoencoders.autoencoder_kl",
]


# What `fresh` forks: a process that has imported what is slow and none of what tests look at, and imports it
# once for all.
_SERVER = """
import contextlib, importlib, json, os, signal, sys, traceback
for name in ("av", "PIL.Image", "regex", "sklearn.linear_model", "tokenizers", "torchvision.transforms.v2"):
    with contextlib.suppress(ImportError):  # of an extra
        importlib.import_module(name)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(job["cwd"])
            os.environ.clear()
            os.environ.update(job["env"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(job[name], os.O_WRONLY), number)
            signal.alarm(job["timeout"])
            sys.argv[1:] = job["arguments"]
            exec(compile(job["code"], "<fresh>", "exec"), {"__name__": "__main__"})
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _server():
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.stdin.close)  # which ends it
    return process


def fresh(code, *arguments, cwd=None, env=None, timeout=900):
    """Run code in a process that has imported neither transformers nor huggingface_hub nor the package.

    torch, torchvision, numpy, PyAV and PIL are there: importing them takes most of the time of a process that
    tests start to see how the others are imported.

    Args:
        code: which is dedented.
        arguments: `sys.argv[1:]`.
        cwd: the folder that it runs in.
        env: its environment; this one's where it is not given.
        timeout: seconds.

    Returns:
        `subprocess.CompletedProcess` with text.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("stdout", "stderr")}
        for file in files.values():
            file.touch()
        job = {
            "code": textwrap.dedent(code),
            "arguments": list(map(str, arguments)),
            "cwd": str(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "timeout": timeout,
            **{name: str(file) for name, file in files.items()},
        }
        server = _server()
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(code, status, *(file.read_text() for file in files.values()))


@functools.cache
def warm_forkserver():
    """From now on whoever starts the forkserver of this process starts it with `SLOW_TO_IMPORT`."""
    from multiprocessing import forkserver

    set_preload = forkserver.set_forkserver_preload
    forkserver.set_forkserver_preload = lambda names: set_preload([*SLOW_TO_IMPORT, *names])


def context():
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([])
    return found


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(function, *arguments, size=1, results=None):
    """Processes that run `function(*arguments)`; the caller joins or kills them.

    Args:
        function: what it returns is the exit status where it is an int, and saved where `results` is given.
        arguments: of the function.
        size: number of processes.
        results: the folder for what each returns.
    """
    port = free_port()
    processes = [
        context().Process(target=_work, args=(rank, size, port, function, arguments, results))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def run(function, *arguments, size=1, timeout=900):
    """What `function(*arguments)` returns in each of `size` processes."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        processes = start(function, *arguments, size=size, results=folder)
        try:
            for process in processes:
                process.join(timeout)
            assert [process.exitcode for process in processes] == [0] * size
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _work(rank, size, port, function, arguments, results):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if size > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
        dist.init_process_group("gloo")
    result = function(*arguments)
    if results is not None:
        torch.save(result, Path(results) / f"{rank}.pt")
    if dist.is_initialized():
        dist.barrier()  # gloo aborts now and then when a process leaves while another still talks
        dist.destroy_process_group()
    if results is None and isinstance(result, int):
        sys.exit(result)


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return False


def running():
    """{pid: (parent, command line)} of the processes of this machine (Linux)."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(name)] = (int(parent), Path(f"/proc/{name}/cmdline").read_text())
        except OSError:
            pass  # it has just ended
    return found


def is_running(pid):
    return pid in running()


def descendants(pid):
    """{pid: (parent, command line)} of all that a process has started, and what that has."""
    found, everything = {}, running()
    while more := {
        child: what for child, what in everything.items()
        if what[0] in (pid, *found) and child not in found
    }:  # fmt: skip
        found |= more
    return found
