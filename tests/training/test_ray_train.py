"""Ray Train starts the processes, as `docs/scaling.md` says; the losses are those of one process."""

import os
from pathlib import Path

import pytest
import training_workers as workers
import yaml
from PIL import Image

from onevision_hf.training.config import load_config
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def train(settings):
    Trainer(load_config(settings["config"], settings["overrides"])).fit()


@pytest.fixture
def config(tmp_path):
    for number in range(24):
        path = tmp_path / "media" / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (60 * (number % 4), 10 * number, 90)).save(path)
    image = {"source": str(tmp_path / "media"), "batch_size": 8, "processor": {"size": 28}, "max_labels": 1}
    values = {
        **workers.BASE,
        "max_steps": 4,
        "cluster": {"heads": {"image": image | {"labels_per_sample": 1}}},
    }
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "folder.yaml")


def test_two_workers_of_ray_train_have_the_losses_of_one_process(config, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    root, tests = Path(__file__).parents[2], Path(__file__).parent
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([str(root), str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]),
    )
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=100 << 20)
    try:
        TorchTrainer(
            train,
            train_loop_config={"config": config, "overrides": [f"out={tmp_path / 'two'}"]},
            scaling_config=ScalingConfig(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=str(tmp_path / "ray")),
        ).fit()
    finally:
        ray.shutdown()
    train({"config": config, "overrides": [f"out={tmp_path / 'one'}"]})
    one, two = (read_lines(tmp_path / name / "log.jsonl") for name in ("one", "two"))
    assert len(two) == len(one) == 4
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert "on 2 process(es)" in (tmp_path / "two" / "model" / "README.md").read_text()
