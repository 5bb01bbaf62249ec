"""A training one of whose data workers dies or raises: it ends, says why in a line, and leaves no process.

Marked `slow`: twenty kills each with one and with two processes (`make test-faults`). They print how long it
took from the kill until the training's processes had ended.
"""

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import training_workers as workers
import yaml
from PIL import Image
from processes import wait_for

from onevision_hf.training.report import read_lines

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds, for a busy machine; what is claimed is 5

ORDINARY = ("step ", "resumed from ")  # lines of any run

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc"),
]


@pytest.fixture
def options(tmp_path):
    """Arguments of a training of two data workers a process on a folder of pictures."""
    for label in range(4):
        for number in range(6):
            path = tmp_path / "media" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (60 * label, 40 * number, 90)).save(path)
    head = {"source": str(tmp_path / "media"), "batch_size": 8, "processor": {"size": 28}, "max_labels": 1}
    head |= {"labels_per_sample": 1}
    values = {
        **workers.BASE,
        "cluster": {"heads": {"image": head}},
        "dataloader_num_workers": 2,
        "max_steps": 1_000_000,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return ["--config", str(tmp_path / "run.yaml")]


class Training:
    """`python -m onevision_hf.training`, alone or under torch's launcher, with what it says in a file."""

    def __init__(self, out, size, options):
        self.out, self.file = out, out.with_suffix(".said")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size)]
        command = [*(launcher if size > 1 else []), "-m", "onevision_hf.training", *options, f"out={out}"]
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
            "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        self.before = len(read_lines(out / "log.jsonl"))
        with open(self.file, "w") as said:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environment, stdout=said, stderr=said
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for pid in [self.process.pid, *processes.descendants(self.process.pid)]:
            if processes.is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def wait_for_steps(self, number):
        def there():
            return len(read_lines(self.out / "log.jsonl")) >= self.before + number or self.ended()

        assert wait_for(there, PATIENCE) and not self.ended(), self.said()

    def ended(self):
        return self.process.poll() is not None

    def said(self):
        return self.file.read_text()

    def data_workers(self):
        """Their ids: what the server has forked that starts processes for a training."""
        found = processes.descendants(self.process.pid)
        servers = [pid for pid, (_, command) in found.items() if "multiprocessing.forkserver" in command]
        return [pid for pid, (parent, _) in found.items() if parent in servers]

    def kill(self, pid):
        """Kill a data worker; gives the seconds until every process of the training had ended."""
        everything = {self.process.pid, *processes.descendants(self.process.pid)}
        launcher = {self.process.pid} if "torch.distributed.run" in self.process.args else set()
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: self.poll(everything - launcher), PATIENCE), self.said()
        seconds = time.monotonic() - began
        assert self.process.wait(PATIENCE) == 1, self.said()
        assert not everything & processes.running().keys()
        return seconds

    def poll(self, pids):
        self.process.poll()  # or it stays, ended, in the table of processes
        return not pids & processes.running().keys()

    def errors(self):
        return re.findall(r"^onevision train: (error: .*)$", self.said(), re.M)


def check_said(training, size, said):
    """A line of each process and no more: what happened, or that another has ended, which says why."""
    lines = [line for line in training.errors() if not re.search(ENDED_BY_THE_LAUNCHER, line)]
    assert lines and all(re.fullmatch(said, line) for line in lines)
    assert size > 1 or lines == training.errors()
    assert len(training.errors()) <= size and "[rank" not in training.said()
    if size == 1:
        others = [line for line in training.said().splitlines() if not line.startswith(ORDINARY)]
        assert others == [f"onevision train: {line}" for line in lines]
    return lines


# The launcher ends all processes when one has failed, a worker that is only starting among them.
ENDED_BY_THE_LAUNCHER = r"another process of this training has|ended with status 255 before its first sample"
KEY = r"class\d/\d\.png"
KILLED = (
    r"error: data worker \d of 2 was killed \(SIGKILL; is memory short\?\)( before its first sample|; its "
    rf"last sample was {KEY} of component image; it held (({KEY}, )*{KEY} of component image|nothing more))"
)
BROKEN = (
    r"error: data worker \d of 2: component image: 16 broken examples in a row at position \d+, the last one "
    rf"{KEY}: .*holds no picture that can be read"
)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_worker_ends_the_training_with_1_and_one_line_and_leaves_no_process(options, tmp_path, size):
    with Training(tmp_path / "run", size, options) as training:
        training.wait_for_steps(2)
        found = training.data_workers()
        assert len(found) == 2 * size
        training.kill(found[0])
        (line,) = check_said(training, size, KILLED)
    # At the kill it may hold nothing that is not taken yet: then nothing is lost, and it says so.
    lost = list((tmp_path / "run").glob("lost-*.jsonl"))
    keys = [record["key"] for file in lost for record in read_lines(file)]
    assert bool(keys) == bool(lost)
    nothing = ("it held nothing more", "before its first sample")
    assert line.endswith(f"it held {', '.join(keys)} of component image" if keys else nothing)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_worker_that_raises_ends_the_training_and_names_the_last_sample(options, tmp_path, size):
    for path in (tmp_path / "media").rglob("*.png"):
        path.write_bytes(b"no picture")
    with Training(tmp_path / "run", size, options) as training:
        assert training.process.wait(PATIENCE) == 1
        assert wait_for(lambda: not processes.descendants(training.process.pid), PATIENCE)
        check_said(training, size, BROKEN)


@pytest.mark.slow
@pytest.mark.kills
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("size", [1, 2])
def test_twenty_of_twenty_kills_end_the_training_and_it_ends_as_if_nothing_was(
    options, tmp_path, size, record_property
):
    options = [*options, "max_steps=200", "save_steps=1", "save_total_limit=2"]
    rng, seconds = random.Random(size), []
    for number in range(20):
        with Training(tmp_path / "killed", size, options) as training:
            # One in four when it has just started, perhaps before its first sample.
            if number % 4:
                training.wait_for_steps(1)
                time.sleep(rng.uniform(0, 0.3))
            assert wait_for(lambda t=training: len(t.data_workers()) == 2 * size, PATIENCE), training.said()
            seconds.append(training.kill(rng.choice(training.data_workers())))
            assert len(check_said(training, size, KILLED)) == 1
    print(f"{size} process(es): median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    for name in ("killed", "whole"):
        with Training(tmp_path / name, size, options) as training:
            assert training.process.wait(900) == 0
    killed, whole = (
        [(line["step"], line["loss"]) for line in read_lines(tmp_path / name / "log.jsonl")]
        for name in ("killed", "whole")
    )
    assert killed == whole and len(whole) == 200
    record_property("trials", len(seconds))
