"""What the processes of the probe's tests run."""

import os


def probe(config):
    """A probe that somebody may kill; its exit status is the probe's."""
    from onevision_hf.eval.probes.run import run_probe
    from onevision_hf.training.loop import close

    status, result = run_probe(config)
    assert result["seeds"] == config.seeds
    close()
    os._exit(status)
