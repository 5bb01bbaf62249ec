"""Ray makes the same bytes as the local engine. A real Ray of two workers is started here for each test."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from corpora import SETTINGS, WORDS, contents, write_corpus
from test_patch_shards import kill_a_writer, wait_for

from onevision_hf.cli import main
from onevision_hf.data.patch_extraction import extract_patches
from onevision_hf.jobs.ray_pool import connected

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), each=4)


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "shards"
    extract_patches(str(corpus), out, SETTINGS, shard_items=3, workers=0)
    return out


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Workers find the package and the helpers of the tests; Ray reports nothing to anybody."""
    pytest.importorskip("ray")
    root, tests = Path(__file__).parents[2], Path(__file__).parent
    path = os.pathsep.join([str(root), str(tests), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: on a busy machine they would hardly run
        yield


def test_two_engines_one_plan_the_same_bytes(corpus, made, tmp_path):
    """With a Ray that the engine starts by itself, and stops."""
    import ray

    out = tmp_path / "shards"
    extract_patches(str(corpus), out, SETTINGS, shard_items=3, engine="ray", workers=2)
    assert contents(out) == contents(made)
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def cluster():
    """The address of a Ray of two workers that the tests below share: to start one takes ten seconds."""
    import ray

    with connected(ray, workers=2, address=None):
        yield ray.get_runtime_context().gcs_address


def test_a_killed_ray_worker_costs_nothing(corpus, made, cluster, tmp_path):
    out, killed = tmp_path / "shards", []
    watcher = threading.Thread(target=kill_a_writer, args=(out, killed), daemon=True)
    watcher.start()
    extract_patches(str(corpus), out, SETTINGS, shard_items=3, engine="ray", workers=2)
    watcher.join(5)
    assert killed and contents(out) == contents(made)


def test_a_killed_driver_costs_what_was_being_written(corpus, made, cluster, tmp_path):
    """The driver is another process, which finds the cluster by its address."""
    out = tmp_path / "shards"
    words = [str(corpus), str(out), "--shard-items", "3", "--engine", "ray", "--workers", "1", *WORDS]
    command = [sys.executable, "-m", "onevision_hf.cli", "patches", *words, "--ray-address", cluster]
    process = subprocess.Popen(command)
    wait_for(out, "patches-00000.index.parquet", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = (out / "patches-00000.tar").stat().st_mtime_ns
    extract_patches(str(corpus), out, SETTINGS, shard_items=3, engine="ray", workers=2)
    assert contents(out) == contents(made)
    assert (out / "patches-00000.tar").stat().st_mtime_ns == kept


@pytest.mark.parametrize("teacher", [["descriptors", "--num-frames", "8"], ["tiny"]], ids=lambda t: t[0])
def test_features_are_the_same_from_ray(corpus, cluster, tmp_path, teacher):
    """`tiny` is an encoder of the package on codec-selected patches, which is batch encoding."""
    words = ["cluster", "features", str(corpus), "--teacher", *teacher]
    words += ["--feature-shard-items", "4", "--workers", "1", "--batch-size", "2"]
    assert main([*words[:3], str(tmp_path / "local"), *words[3:]]) == 0
    ray = [*words[:3], str(tmp_path / "ray"), *words[3:], "--engine", "ray", "--actors", "2"]
    assert main(ray) == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
