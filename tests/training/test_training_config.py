"""A config is read strictly: what is wrong is an error that names the field and what was meant."""

from pathlib import Path

import pytest
from training_workers import BASE, merged

from onevision_hf.training.config import CONFIGS, ConfigError, every_key, from_dict, load_config, total_steps

NAMES = sorted(path.name[:-5] for path in CONFIGS.iterdir() if path.name.endswith(".yaml"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("steps: 10\ncluster: {heads: {image: {batch_size: 4, classes: 7}}}\n")
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_of_the_package_is_read(name):
    config = load_config(name)
    assert config.out == f"runs/{name}"
    assert config.cluster.heads or config.unified.pairs.batch_size or config.vl.batch_size


def test_overrides_reach_every_depth_with_their_types(file):
    config = load_config(
        file, ["optim.lr=5e-5", "cluster.heads.image.mirror=true", "samples=13e3", "steps=0", "out=here"]
    )
    assert (config.optim.lr, config.cluster.heads["image"].mirror, config.out) == (5e-5, True, "here")
    assert total_steps(config, 1000) == 13


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.learning_rate=1", "optim.lr"),
        ("lr=1", "optim.lr"),
        ("cluster.heads.image.batchsize=1", "batch_size"),
        ("optim.schedule=cosin", "cosine"),
        ("steps=many", "expected int"),
        ("cluster.heads.image.mirror=1", "expected bool"),
        ("optim.betas=0.9", "list"),
        ("optim.warmup=-1", "0 or more"),
        ("cluster.heads.image.codec=0.9", "add up to 1"),
        ("optim.accumulation=3", "multiple of optim.accumulation"),
        ("steps", "key=value"),
        ("task.name=1", "no fields"),
        ("steps=0", "samples"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_what_is_right(file, override, named):
    with pytest.raises(ConfigError, match=named):
        load_config(file, ["task=cluster", override])


def test_an_unknown_config_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean cluster_smoke"):
        load_config("cluster_smok")


def test_a_config_survives_its_own_dictionary():
    config = from_dict(merged(BASE, {"out": "x"}))
    assert from_dict(config.to_dict()) == config


def test_every_field_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    missing = [key for key in every_key() if f"`{key}`" not in page]
    assert set(missing) <= {
        "model",
        "cluster",
        "cluster.heads",
        "unified",
        "unified.pairs",
        "vl",
        "optim",
        "validation",
    }
