"""Heads that share clips: one decode and one forward pass, labels of their own, another pooling."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_workers as workers

from onevision_hf.clustering.assign import assign_labels
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.clustering.features import extract_features
from onevision_hf.clustering.kmeans import find_centers
from onevision_hf.clustering.pack import pack
from onevision_hf.data.media_shards import PackedShards
from onevision_hf.data.sources import open_source
from onevision_hf.modeling.grid_pooling import grid_means
from onevision_hf.training.config import ConfigError, from_dict
from onevision_hf.training.loader import MicroBatches
from onevision_hf.training.loop import Trainer
from onevision_hf.training.mixture import RankSlice
from onevision_hf.training.tasks.cluster_config import HeadConfig
from onevision_hf.training.tasks.shared_heads import Labels, SharedTransform

sys.path.insert(0, str(Path(__file__).parents[1] / "clustering"))
import drawn

OBJECT = {**workers.HEADS["video"], "batch_size": 6, "max_labels": 1, "labels_per_sample": 1}
MOTION = {"clips_of": "object", "pooling": "grid", "classes": 5, "max_labels": 1, "labels_per_sample": 1}


def shared(**changes):
    return {
        "max_steps": 3,
        "model": {"size": "tiny", "overrides": {"num_hidden_layers": 1}},
        "cluster": {"heads": {"object": OBJECT, "motion": {**MOTION, **changes}}, "sample_rate": 1.0},
    }


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Six clips in two packs, one for each head."""
    folder = tmp_path_factory.mktemp("packs")
    (folder / "media").mkdir()
    for number, move in enumerate(("right", "left", "down") * 2):
        (folder / "media" / f"{number}.mp4").write_bytes(drawn.clip("red", move, number, frames=8, size=32))
    source = open_source(folder / "media")
    for head in ("object", "motion"):
        out = folder / head
        extract_features(source, out / "features", make_extractor(f"descriptors:{head}"), "video")
        find_centers(out / "features", out / "kmeans", 3)
        assign_labels(out / "features", out / "labels", out / "kmeans", labels=1)
        pack(source, out / "labels", out / "shards", head)
    return {head: PackedShards(folder / head / "shards") for head in ("object", "motion")}


def test_a_sample_has_the_labels_of_both_heads_by_its_key(packs):
    view = SharedTransform(lambda row, rng, position: {"labels": row.labels}, {
        "motion": Labels("motion", packs["motion"], 2)
    })  # fmt: skip
    for number in range(6):
        row, other = packs["object"][number], packs["motion"][5 - number]
        sample = view(row, None, 0)
        assert sample["labels/motion"].tolist() == [packs["motion"][number].labels[0], -100]
        assert row.key == packs["motion"][number].key != other.key or number == 5 - number
    unknown = type("Row", (), {"key": "another.mp4", "labels": np.array([0])})()
    assert view(unknown, None, 0)["labels/motion"].tolist() == [-100, -100]


def test_the_clip_is_encoded_once_and_each_pooling_meets_its_own_centers(tmp_path):
    config = workers.make_config(tmp_path, **shared())
    config.cluster.heads.pop("image", None)
    config.cluster.heads.pop("video", None)
    trainer = Trainer(config, workers.make_rows(config))
    assert trainer.samples_per_step == 6 and [s.name for s in trainer.task.mixture] == ["object"]
    batch = MicroBatches(trainer.task.mixture, RankSlice(0))[0]
    calls = []
    trainer.task.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    outputs = trainer.task.model(batch.inputs)
    assert len(calls) == 1
    tensors = {k: v for k, v in batch.inputs["object"].items() if not k.startswith("labels")}
    encoded = trainer.task.model.encoder(**tensors)
    assert torch.equal(outputs["object"], encoded.pooler_output)
    assert torch.equal(
        outputs["motion"], grid_means(encoded.last_hidden_state, tensors["patch_positions"], time_size=64)
    )
    assert trainer.task.sharded["motion"].centers.shape == (5, 16 * 64)
    losses = trainer.task.losses(outputs, trainer.task.prepare(batch.inputs, 0))
    sum(losses.values()).backward()
    assert set(losses) == {"object", "motion"} and all(torch.isfinite(v) for v in losses.values())
    assert trainer.task.sharded["motion"].centers.grad.abs().sum() > 0
    assert trainer.fit() == 0


def test_clips_kept_in_a_cache_train_alike(packs, tmp_path):
    """Losses with and without the cache are equal to the bit."""
    losses = []
    for cache in ("", str(tmp_path / "cache")):
        head = {**OBJECT, "codec": 1.0, "uniform": 0.0, "collage": 0.0, "cache": cache, "classes": 0}
        changes = shared(classes=0)
        changes["cluster"]["heads"]["object"] = head
        config = workers.make_config(tmp_path / f"run{bool(cache)}", **changes)
        for name in ("image", "video"):
            config.cluster.heads.pop(name, None)
        trainer = Trainer(config, packs)
        batch = MicroBatches(trainer.task.mixture, RankSlice(0))[0]
        outputs = trainer.task.model(batch.inputs)
        found = trainer.task.losses(outputs, trainer.task.prepare(batch.inputs, 0))
        losses.append([found[head].item() for head in ("object", "motion")])
    assert losses[0] == losses[1]
    assert len([*(tmp_path / "cache").iterdir()]) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips_of": "objects"}, "clips_of is 'objects', expected one of object"),
        ({"batch_size": 7}, "batch_size is 7, expected that of object"),
        ({"pooling": "mean"}, "pooling is 'mean', expected one of pooler, grid"),
        ({"readout": "grid"}, "heads.motion.readout is now called cluster.heads.motion.pooling"),
    ],
)
def test_heads_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(shared(**changes))


def test_a_picture_has_no_grid_of_time():
    heads = {"image": {**workers.HEADS["image"], "pooling": "grid"}}
    with pytest.raises(ConfigError, match="pooler for images"):
        from_dict({"max_steps": 1, "cluster": {"heads": heads}})


def test_labels_by_key_need_a_pack():
    with pytest.raises(ConfigError, match=r"heads.motion.clips_of: labels by key are those of"):
        Labels("motion", [HeadConfig()], 1)
