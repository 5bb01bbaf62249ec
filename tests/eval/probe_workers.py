"""What the processes of the probe's tests run: one probe, alone or as one of several."""

import multiprocessing
import os
import socket


def work(rank, size, port, config):
    """One process of a probe; its status is the probe's."""
    import torch

    torch.set_num_threads(1)
    if size > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
    os.environ["ACCELERATE_USE_CPU"] = "true"
    from onevision_hf.eval.probes.run import run_probe
    from onevision_hf.training.loop import close

    status, result = run_probe(config)
    assert result["seeds"] == config.seeds
    close()
    os._exit(status)


def start(config, size=1):
    """Processes that are running; the caller joins or kills them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onevision_hf.eval.probes.run", "probe_workers"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=work, args=(rank, size, port, config)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes
