"""What goes wrong in the middle of a run, and what is left of it.

Marked `slow`: the longer kills and restarts, which `make test-faults` runs.
"""

import os
import random
import re
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import processes
import pytest
import torch
import training_workers as workers
from processes import wait_for

from onevision_hf.jobs.run_folder import open_locked
from onevision_hf.modeling.modeling_onevision import OneVisionModel
from onevision_hf.training import checkpoint
from onevision_hf.training.loop import Trainer, TrainingError
from onevision_hf.training.report import read_lines


def trainer(out, rows=None, stop_at=None, **changes):
    config = workers.make_config(out, **{"max_steps": 6, **changes})
    return Trainer(config, rows or workers.make_rows(config), stop_at)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with checkpoints of the steps 2, 4 and 6."""
    out = tmp_path_factory.mktemp("run")
    assert trainer(out, save_steps=2).fit() == 0
    return out


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def newest(out):
    return checkpoint.latest_checkpoint(out / "checkpoints")


def test_a_model_folder_comes_out_of_any_checkpoint_and_the_run_stays_as_it_was(copy):
    """The folder of the last step is the one that the run itself wrote, but for its name."""
    before = sorted(path.name for path in (copy / "checkpoints").iterdir())
    first = trainer(copy, save_steps=2).export_step(2)
    last = trainer(copy, save_steps=2).export_step(6)
    assert (first.name, last.name) == ("model-step-00000002", "model-step-00000006")
    early, late, own = (OneVisionModel.from_pretrained(f).state_dict() for f in (first, last, copy / "model"))
    assert all(torch.equal(late[name], own[name]) for name in own)
    assert any(not torch.equal(early[name], own[name]) for name in own)
    assert {p.name for p in first.iterdir()} == {p.name for p in (copy / "model").iterdir()}
    assert "at step 6" in (last / "README.md").read_text()
    assert "at step 6" not in (first / "README.md").read_text()
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == before
    with pytest.raises(checkpoint.CheckpointError, match="no whole checkpoint of step 5; there are: 2, 4, 6"):
        trainer(copy, save_steps=2).export_step(5)


def test_the_last_checkpoints_are_kept_and_latest_names_the_newest(tmp_path):
    trainer(tmp_path, save_steps=1, save_total_limit=2).fit()
    assert [p.name for p in checkpoint.all_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000005",
        "step-00000006",
    ]
    assert newest(tmp_path).name == "step-00000006"
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {
        "step-00000005",
        "step-00000006",
        "latest",
    }


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "state"])
def test_a_damaged_checkpoint_is_an_error_that_names_the_file_and_what_is_left(copy, damage):
    found = newest(copy)
    file = found / "state.json" if damage == "state" else next(found.glob("*.distcp"))
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content[:-5] if damage == "cut" else content)
    with pytest.raises(checkpoint.CheckpointError, match=rf"{file.name}.*step-00000002, step-00000004"):
        trainer(copy, max_steps=8).fit()
    (copy / "checkpoints" / "latest").write_text("step-00000004")
    assert trainer(copy, max_steps=8).resume()


def test_a_checkpoint_of_another_model_seed_or_batch_is_refused_and_says_what_differs(copy):
    other = {"cluster": {"heads": {"image": {"classes": 38}}}}
    with pytest.raises(
        checkpoint.CheckpointError, match=r"sharded.image.centers is \(37, 64\), this run has \(38, 64\)"
    ):
        trainer(copy, **other).fit()
    with pytest.raises(checkpoint.CheckpointError, match="seed = 3, now 4"):
        trainer(copy, seed=4).fit()
    with pytest.raises(checkpoint.CheckpointError, match="batch_size = 8, now 16"):
        trainer(copy, cluster={"heads": {"image": {"batch_size": 16}}}).fit()


def test_latest_that_names_nothing_is_an_error_and_no_new_beginning(copy):
    (copy / "checkpoints" / "latest").write_text("step-00000099")
    with pytest.raises(checkpoint.CheckpointError, match="step-00000099, which is not there"):
        trainer(copy).fit()


def test_checkpoints_without_latest_are_gone_on_from_and_no_new_beginning(copy):
    (copy / "checkpoints" / "latest").unlink()
    going_on = trainer(copy, max_steps=8)
    assert going_on.resume() and going_on.step == 6


def test_a_second_training_in_the_folder_of_one_that_runs_is_refused(tmp_path):
    with open_locked(tmp_path / ".lock", "wb", ""), pytest.raises(TrainingError, match="by another training"):
        trainer(tmp_path).fit()
    assert not (tmp_path / "log.jsonl").exists()
    assert trainer(tmp_path, max_steps=1).fit() == 0


def test_a_setting_that_changes_on_the_way_is_said_at_the_start_and_in_the_card(copy, capsys):
    changes = {"max_steps": 8, "optim": {"learning_rate": 0.5}}
    assert trainer(copy, stop_at=7, **changes).fit() == 0
    said = capsys.readouterr()
    for line in (
        "from step 6 on: max_steps = 6, now 8",
        r"from step 6 on: optim.learning_rate = .*, now 0.5",
    ):
        assert re.search(line, said.out + said.err)
    assert trainer(copy, **changes).fit() == 0
    card = (copy / "model" / "README.md").read_text()
    assert card.count("max_steps = 6, now 8") == 1 and card.count("learning_rate = ") == 1
    assert "changed on the way" not in (trainer(copy, **changes).export_step(6) / "README.md").read_text()


def test_a_full_disk_names_the_file_and_keeps_the_checkpoint_before(copy):
    going_on = trainer(copy, max_steps=8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"step 8 .*partial.*distcp: (cut off|File too large).*step-00000006 stays"
        ):
            going_on.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert newest(copy).name == "step-00000006"
    assert not list((copy / "checkpoints").glob(".*partial"))
    assert trainer(copy, max_steps=8).fit() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_was(run, tmp_path, number, status):
    stopped = trainer(tmp_path, save_steps=2)
    prepare = stopped.task.prepare

    def prepare_and_signal(inputs, key):
        if key == 2:
            os.kill(os.getpid(), number)
        return prepare(inputs, key)

    stopped.task.prepare = prepare_and_signal
    assert stopped.fit() == status
    assert newest(tmp_path).name == "step-00000003"
    assert not (tmp_path / "model").exists()
    assert trainer(tmp_path, save_steps=2).fit() == 0
    assert [line["loss"] for line in read_lines(tmp_path / "log.jsonl")] == [
        line["loss"] for line in read_lines(run / "log.jsonl")
    ]


def test_a_run_resumed_where_it_validates_has_each_validation_once(tmp_path):
    changes = {"validation": {"every": 2, "held_out": 0.3}, "save_steps": 2}
    trainer(tmp_path, stop_at=4, **changes).fit()
    trainer(tmp_path, **changes).fit()
    assert [line["step"] for line in read_lines(tmp_path / "validation.jsonl")] == [0, 2, 4, 6]


class Poisoned:
    """Rows one of which makes the loss NaN, or rows some of which cannot be read."""

    def __init__(self, rows, nan=None, broken=()):
        self.rows, self.nan, self.broken, self.classes = rows, nan, set(broken), rows.classes

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"row {index} is gone")
        return self.rows[index]


def poisoned(out, changes, **poison):
    config = workers.make_config(out, **changes)
    rows = workers.make_rows(config)
    found = trainer(out, rows, **changes)
    component = found.task.mixture[0]
    component.dataset, transform = Poisoned(component.dataset, **poison), component.transform

    def show(example, rng, position):
        sample = transform(example, rng, position)
        if example.key == f"random/{poison.get('nan')}":
            sample["pixel_values"][0, 0, 0] = float("nan")
        return sample

    component.transform = show
    return found


def test_a_loss_that_is_not_a_number_stops_and_writes_the_batch_out(tmp_path):
    going = poisoned(tmp_path, {"max_steps": 40, "save_steps": 1, "logging_steps": 50}, nan=17)
    with pytest.raises(TrainingError, match=r"not finite.*bad-batch-0.pt"):
        going.fit()
    written = torch.load(tmp_path / "bad-batch-0.pt", weights_only=True)
    assert "random/17" in written["micro_batches"][0]["keys"]["image"]
    assert written["step"] == int(newest(tmp_path).name[5:]) + 1
    for tensor in trainer(tmp_path, max_steps=40).tensors().values():
        assert tensor.isfinite().all()


def test_broken_samples_are_counted_and_listed_and_too_many_stop_the_run(tmp_path):
    few = poisoned(tmp_path / "few", {"max_broken": 0.2}, broken=range(9))
    assert few.fit() == 0
    listed = read_lines(tmp_path / "few" / "broken-0.jsonl")
    assert few.broken == len(listed) > 0 and few.samples == 6 * 16
    assert {"component", "position", "key", "reason"} == set(listed[0])
    many = poisoned(tmp_path / "many", {"max_broken": 0.1, "max_steps": 30}, broken=range(45))
    with pytest.raises(TrainingError, match=r"samples are broken, more than max_broken = 0.1.*broken-\*"):
        many.fit()


# -- longer: processes that are killed --


def start(out, size=1, **changes):
    """Processes that train, and nothing else; the caller ends them."""
    return processes.start(workers.only_train, str(out), changes, size=size)


def further(out, step, process):
    return len(read_lines(out / "log.jsonl")) > step or not process.is_alive()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint_and_the_run_ends_as_if_nothing_was(
    tmp_path, record_property
):
    changes = {"max_steps": 120, "save_steps": 1, "save_total_limit": 2}
    whole = start(tmp_path / "whole", **changes)
    whole[0].join(600)  # a busy machine must not fail it
    assert whole[0].exitcode == 0
    rng, killed = random.Random(0), 0
    out = tmp_path / "killed"
    while killed < 20:
        (process,) = start(out, **changes)
        step = len(read_lines(out / "log.jsonl"))
        # From the first new step on, so that most kills fall into a save; each gets a few steps further.
        wait_for(partial(further, out, step, process), 60)
        time.sleep(rng.uniform(0, 0.15))
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
        if (out / "checkpoints" / "latest").exists():
            found = newest(out)
            trainer(out, **changes).resume()
            assert found is not None
    assert killed == 20
    record_property("trials", killed)
    (process,) = start(out, **changes)
    process.join(120)
    assert process.exitcode == 0
    assert [(line["step"], line["loss"]) for line in read_lines(out / "log.jsonl")] == [
        (line["step"], line["loss"]) for line in read_lines(tmp_path / "whole" / "log.jsonl")
    ]


@pytest.mark.slow
def test_the_death_of_one_process_ends_the_others_within_a_minute(tmp_path):
    processes = start(tmp_path, 2, max_steps=100_000)
    try:
        assert wait_for(lambda: len(read_lines(tmp_path / "log.jsonl")) > 3, 60)
        os.kill(processes[1].pid, signal.SIGKILL)
        processes[0].join(60)
        assert processes[0].exitcode not in (None, 0)
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_a_signal_to_two_processes_saves_one_checkpoint_that_one_process_reads(tmp_path):
    processes = start(tmp_path, 2, max_steps=100_000)
    try:
        assert wait_for(lambda: len(read_lines(tmp_path / "log.jsonl")) > 3, 60)
        os.kill(processes[1].pid, signal.SIGTERM)  # one of them is told, both stop
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [143, 143]
    finally:
        for process in processes:
            process.kill()
    assert trainer(tmp_path, max_steps=100_000).resume()
    assert Path(newest(tmp_path)).name != "step-00000000"


def test_processes_that_do_not_see_one_another_are_refused(run, tmp_path, monkeypatch):
    """`torch.distributed.run` on a machine without an accelerator and without device=cpu."""
    monkeypatch.setenv("WORLD_SIZE", "2")  # after `run`, for which this process was alone
    with pytest.raises(TrainingError, match=r"2 processes were started and accelerate sees 1.*device=cpu"):
        trainer(tmp_path)
