"""The launchers, as a person uses them (marked `slow`; `make test-faults`)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import training_workers as workers
import yaml
from PIL import Image

from onevision_hf.training.report import read_lines

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # a busy machine must not fail a test


@pytest.fixture
def config(tmp_path):
    for label in range(4):
        for number in range(6):
            path = tmp_path / "media" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (60 * label, 40 * number, 90)).save(path)
    image = {
        "source": str(tmp_path / "media"),
        "batch_size": 8,
        "processor": {"size": 28},
        "max_labels": 1,
        "labels_per_sample": 1,
    }
    values = {
        **workers.BASE,
        "max_steps": 6,
        "cluster": {"heads": {"image": image}},
        "dataloader_num_workers": 1,
    }
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "folder.yaml"


def launch(*command):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def test_launchers_of_one_and_two_processes_give_the_same_losses(config, tmp_path):
    options = ["--config", str(config)]
    one, two = (f"out={tmp_path / name}" for name in ("one", "two"))
    launch("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "train.py", *options, one)
    launch(
        "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "onevision_hf.training", *options, two
    )
    losses = [[line["loss"] for line in read_lines(tmp_path / name / "log.jsonl")] for name in ("one", "two")]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    card = (tmp_path / "two" / "model" / "README.md").read_text()
    assert "on 2 process(es)" in card


def test_a_signal_to_the_whole_group_workers_included_saves(config, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    options = [
        "--config",
        str(config),
        f"out={tmp_path / 'run'}",
        "max_steps=100000",
        "dataloader_num_workers=2",
    ]
    process = subprocess.Popen(
        [sys.executable, "train.py", *options], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        until = time.monotonic() + 300
        while len(read_lines(tmp_path / "run" / "log.jsonl")) < 3 and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(120) == 143
    finally:
        process.kill()
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
