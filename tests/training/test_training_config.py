"""A config is read strictly: what is wrong is an error that names the field and what was meant."""

from pathlib import Path

import pytest
import yaml
from training_workers import BASE, merged

from onevision_hf.training.config import CONFIGS, ConfigError, TrainConfig, from_dict, load_config
from onevision_hf.training.schema import differences, every_key
from onevision_hf.training.tasks.registry import TASKS, part_of

NAMES = sorted(path.name[:-5] for path in CONFIGS.iterdir() if path.name.endswith(".yaml"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("max_steps: 10\ncluster: {heads: {image: {batch_size: 4, classes: 7}}}\n")
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_of_the_package_is_read(name):
    config = load_config(name)
    assert config.out == f"runs/{name}"
    assert type(config) is part_of(config.task, "config")


def test_overrides_reach_every_depth_with_their_types(file):
    config = load_config(
        file,
        [
            "optim.learning_rate=5e-5",
            "cluster.heads.image.horizontal_flip=true",
            "samples=13e3",
            "max_steps=0",
            "out=here",
        ],
    )
    assert (config.optim.learning_rate, config.out) == (5e-5, "here")
    assert config.cluster.heads["image"].horizontal_flip is True
    assert config.total_steps(1000) == 13


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.learning_rat=1", r"did you mean optim.learning_rate\?"),
        ("lr=1", r"did you mean optim.learning_rate\?"),
        ("mirror=true", r"did you mean cluster.heads.NAME.horizontal_flip\?"),
        ("cluster.heads.image.batchsize=1", "batch_size"),
        ("optim.lr_scheduler_type=cosin", "cosine"),
        ("max_steps=many", "expected int"),
        ("cluster.heads.image.horizontal_flip=1", "expected bool"),
        ("optim.betas=0.9", "list"),
        ("optim.warmup_steps=-1", "0 or more"),
        ("cluster.heads.image.codec=0.9", "add up to 1"),
        ("optim.gradient_accumulation_steps=3", "multiple of optim.gradient_accumulation_steps"),
        ("max_steps", "key=value"),
        ("task.name=1", "no fields"),
        ("max_steps=0", "samples"),
        ("unified.pairs.size=32", "unknown key unified; the config has task"),
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


RENAMED = {
    "steps": "max_steps", "workers": "dataloader_num_workers", "log_every": "logging_steps",
    "save_every": "save_steps", "keep": "save_total_limit", "trackers": "report_to",
    "optim.lr": "optim.learning_rate", "optim.schedule": "optim.lr_scheduler_type",
    "optim.warmup": "optim.warmup_steps", "optim.clip": "optim.max_grad_norm",
    "optim.accumulation": "optim.gradient_accumulation_steps", "optim.final_lr": "optim.final_lr_scale",
    "optim.centers_lr": "optim.centers_lr_scale", "vl.tower_lr": "vl.tower_lr_scale",
    "vl.connector_lr": "vl.connector_lr_scale", "vl.llm_lr": "vl.llm_lr_scale",
    "cluster.heads.image.mirror": "cluster.heads.image.horizontal_flip",
    "cluster.heads.image.min_zoom": "cluster.heads.image.min_crop_scale",
    "cluster.heads.image.visible": "cluster.heads.image.patch_keep_rate",
    "cluster.heads.image.size": "cluster.heads.image.processor.size",
    "cluster.heads.image.num_frames": "cluster.heads.image.processor.num_frames",
    "cluster.heads.image.num_patches": "cluster.heads.image.processor.num_patches",
    "cluster.heads.image.camera": "cluster.heads.image.processor.camera",
    "unified.pairs.mirror": "unified.pairs.horizontal_flip",
    "unified.pairs.min_zoom": "unified.pairs.min_crop_scale",
}  # fmt: skip


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_is_an_error_that_names_the_new_one(old, tmp_path):
    named = rf"{old} is now called {RENAMED[old]}$"
    task = {"vl": "vl", "unified": "openvision3"}.get(old.partition(".")[0], "cluster")
    with pytest.raises(ConfigError, match=named):
        load_config({"vl": "vl_stage2"}.get(task, "unified_smoke" if task != "cluster" else "cluster_smoke"),
                    [f"{old}=1"])  # fmt: skip
    *path, last = old.split(".")
    values = {last: 1}
    for name in reversed(path):
        values = {name: values}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump({"task": task, **values}))
    with pytest.raises(ConfigError, match=named):
        load_config(str(tmp_path / "old.yaml"))


@pytest.mark.parametrize(
    "key", ["vl.tower_lr_scale", "vl.connector_lr_scale", "vl.llm_lr_scale", "optim.final_lr_scale"]
)
def test_a_rate_in_the_place_of_a_multiple_is_an_error_that_says_what_it_multiplies(key):
    """LLaVA's mm_vision_tower_lr is 2e-6; times the rate of 1e-5 it would train nothing."""
    said = rf"{key} is 2e-06, .* multiplies optim.learning_rate, 1e-05; for a rate of 2e-06 give 0.2$"
    with pytest.raises(ConfigError, match=said):
        load_config("vl_stage2", [f"{key}=2e-6"])
    load_config("vl_stage2", [f"{key}=0"])  # frozen


def test_what_a_run_cannot_change_is_compared_under_old_names_too():
    now = from_dict(merged(BASE, {"out": "x"}))
    saved = now.to_dict()
    assert not differences(type(now), saved, now.to_dict())
    # As an earlier version wrote it: other names, and the sections of every task.
    saved["optim"]["accumulation"] = saved["optim"].pop("gradient_accumulation_steps")
    saved["steps"], saved["unified"] = saved.pop("max_steps"), {"encoder": "openvision3"}
    assert not differences(type(now), saved, now.to_dict())
    saved["optim"]["accumulation"], saved["seed"], saved["optim"]["learning_rate"] = 2, 4, 7.0
    saved["model"]["overrides"] = {}
    assert differences(type(now), saved, now.to_dict()) == [
        "model.overrides.num_hidden_layers = None, now 1",
        "optim.gradient_accumulation_steps = 2, now 1",
        "seed = 4, now 3",
    ]


def test_every_field_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "training-fields.md").read_text()
    sections = {"model", "cluster", "cluster.heads", "unified", "unified.pairs", "vl", "optim", "validation"}
    for task in TASKS:
        missing = [key for key in every_key(part_of(task, "config")) if f"`{key}`" not in page]
        assert set(missing) <= sections


def test_no_task_has_a_section_of_another():
    common = set(every_key(TrainConfig))
    own = {task: set(every_key(part_of(task, "config"))) - common for task in ("cluster", "vl", "unified")}
    assert not own["cluster"] & own["vl"] and own["cluster"] < own["unified"]
