"""A task that the package does not know trains, goes on, is planned and exported: `linear_probe.py`."""

from pathlib import Path

import linear_probe
import pytest
import torch
import training_workers as workers
import yaml
from PIL import Image
from safetensors.torch import load_file

from onevision_hf.cli import main as onevision
from onevision_hf.training import checkpoint
from onevision_hf.training.config import ConfigError, load_config
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines
from onevision_hf.training.tasks import registry

COLOURS = ((220, 30, 30), (30, 200, 30), (40, 40, 220))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config file of the task, and its pictures of three colours."""
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    registry.register(
        "linear_probe",
        config="linear_probe:LinearProbeConfig",
        task="linear_probe:LinearProbe",
        plan="linear_probe:LinearProbePlan",
    )
    for number in range(18):
        path = tmp_path / "media" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), tuple(c + number for c in COLOURS[number % 3])).save(path)
    common = {key: value for key, value in workers.BASE.items() if key not in ("cluster", "model")}
    values = common | {"task": "linear_probe", "max_steps": 30, "out": str(tmp_path / "run")}
    values |= {
        "optim": {"learning_rate": 0.05},
        "probe": {"batch_size": 6, "source": str(tmp_path / "media")},
    }
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "probe.yaml")


def losses(folder: Path):
    return [line["loss"] for line in read_lines(folder / "log.jsonl")]


def test_it_is_short():
    assert Path(linear_probe.__file__).read_text().count("\n") < 80


def test_it_learns_and_a_stopped_run_goes_on_to_the_bit(config, tmp_path):
    assert onevision(["train", "--config", config]) == 0
    found = losses(tmp_path / "run")
    assert len(found) == 30 and found[-1] < 0.3 * found[0]
    again = f"out={tmp_path / 'again'}"
    assert onevision(["train", "--config", config, "--max-steps", "11", again]) == 0
    assert checkpoint.latest_checkpoint(tmp_path / "again" / "checkpoints").name == "step-00000011"
    assert onevision(["train", "--config", config, again]) == 0
    assert losses(tmp_path / "again") == found
    one, two = (load_file(tmp_path / name / "model" / "probe.safetensors") for name in ("run", "again"))
    assert one["weight"].shape == (3, 3) and all(torch.equal(one[name], two[name]) for name in one)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "task `linear_probe`" in card and "| pictures | 18 (18 trained on) | 6 |" in card


def test_it_is_planned_and_nothing_is_kept(config, tmp_path, capsys):
    assert onevision(["train", "--config", config, "--dry-run", "--processes", "2"]) == 0
    said = capsys.readouterr().out
    assert "on 2 process(es)" in said and f"at {tmp_path / 'media'}" in said
    assert "6 samples, 6 patches in 1 micro-batch(es)" in said and "two steps done" in said
    assert not (tmp_path / "run").exists()


def test_its_config_is_checked_as_any(config):
    for override, named in (
        ("probe.batch_size=0", "probe.batch_size is 0, expected at least 1"),
        ("probe.batchsize=2", r"did you mean probe.batch_size\?"),
        ("cluster.scale=1", "unknown key cluster"),
        ("validation.every=2", "no features whose neighbours"),
    ):
        with pytest.raises(ConfigError, match=named):
            Trainer(load_config(config, [override, "validation.held_out=0.3"])).fit()
    Trainer(load_config(config), max_steps=1).fit()
    with pytest.raises(checkpoint.CheckpointError, match=r"probe\.batch_size = 6, now 3"):
        Trainer(load_config(config, ["probe.batch_size=3"])).fit()


def test_an_unknown_task_names_those_that_are_there(config):
    with pytest.raises(ConfigError, match=r"expected one of .*linear_probe \(did you mean linear_probe\?\)"):
        load_config(config, ["task=linear_prob"])
