"""A training from patch shards sees the batches that it would see from the videos, and decodes nothing."""

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip

from onevision_hf import OneVisionModel, OneVisionVideoProcessor
from onevision_hf.data.labelled import open_examples
from onevision_hf.data.patch_extraction import extract_patches
from onevision_hf.data.patch_shards import PatchShards
from onevision_hf.modeling import video_reader
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.training.config import ConfigError, from_dict
from onevision_hf.training.loader import MicroBatches
from onevision_hf.training.mixture import RankSlice
from onevision_hf.training.tasks.cluster import ClusterTask

HEAD = {"kind": "video", "batch_size": 4}
SHOWN = {"size": 56, "do_center_crop": True, "num_frames": 8, "num_patches": 48}
CODEC = {"codec": 1.0, "uniform": 0.0, "collage": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of videos of two classes, one clip shorter than the budget, and their patch shards."""
    videos = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a", "b")):
        (videos / name).mkdir()
        for clip in range(3):
            write_clip(videos / name / f"{clip}.mp4", moving_scene(16, 64, 96, seed=5 * number + clip))
    write_clip(videos / "a" / "short.mp4", moving_scene(2, 64, 96, seed=50))
    shards = tmp_path_factory.mktemp("shards") / "patches"
    extract_patches(str(videos), shards, PatchifyConfig.from_dict(SHOWN), shard_items=3, workers=0)
    return str(videos), str(shards)


def task(source, shown=None, **head):
    head = HEAD | CODEC | {"processor": SHOWN | (shown or {}), "source": source} | head
    values = {"max_steps": 4, "model": {"size": "tiny"}, "cluster": {"heads": {"v": head}}}
    return ClusterTask(from_dict(values), {})


def test_the_batches_are_those_of_the_videos_to_the_bit(folders, monkeypatch):
    videos, shards = folders
    by_video = MicroBatches(task(videos).mixture, RankSlice(seed=3))
    expected = [by_video[k] for k in range(4)]

    def decode(*args, **kwargs):
        raise AssertionError("a video was opened")

    by_shard = MicroBatches(task(shards).mixture, RankSlice(seed=3))
    monkeypatch.setattr(video_reader.VideoReader, "__init__", decode)
    for k in range(4):
        found = by_shard[k]
        assert found.keys == expected[k].keys and not found.broken
        assert found.inputs["v"].keys() == expected[k].inputs["v"].keys()
        for name, tensor in expected[k].inputs["v"].items():
            assert torch.equal(found.inputs["v"][name], tensor), name


def test_a_source_of_patch_shards_is_opened_by_its_plan(folders):
    rows = open_examples(folders[1])
    assert isinstance(rows, PatchShards) and len(rows) == 7 and rows.classes == 2
    assert task(folders[1]).heads.classes("v") == 2


@pytest.mark.parametrize(
    ("shown", "head", "says"),
    [
        ({}, {"codec": 0.5, "uniform": 0.5}, "codec is 0.5.*no whole frames"),
        ({"num_frames": 16}, {}, "num_frames 8 instead of 16"),
        ({"num_patches": 60, "size": 84}, {}, "num_patches 48 instead of 60, size .*56.* instead of .*84"),
        ({"camera": "median"}, {}, "camera None instead of 'median'"),
        ({"camera": "mean"}, {}, "unknown camera 'mean': choose one of None, none, median"),
        ({"kamera": "median"}, {}, r"no setting 'kamera' \(did you mean camera\?\)"),
        ({"patch_size": 16}, {}, "patch_size is 14 in the encoder's weights"),
        ({"size": 60}, {}, "no multiple of the patch size 14"),
        ({}, {"kind": "image", "processor": {"size": 56}}, "kind is 'image', but its source holds patches"),
        ({}, {"kind": "image"}, "expected a `size` alone"),
        ({}, {"num_frames": 8}, "heads.v.num_frames is now called cluster.heads.v.processor.num_frames"),
    ],
)
def test_shards_that_do_not_fit_the_head_are_refused(folders, shown, head, says):
    with pytest.raises(ConfigError, match=says):
        task(folders[1], shown, **head)


WAYS = {
    "published": {"preset": "published", "do_center_crop": False, "size": 56},
    "bits": {"preset": "bits"},
    "a share": {"keep_ratio": 0.3, "num_patches": None},
    "whole frames": {"do_center_crop": False, "keep_ratio": 0.25, "num_patches": None},
    "anchors": {"anchors": 4, "num_patches": 64},
    "rate": {"fps": 10.0, "keep_ratio": 0.4, "num_patches": None},
    "energy": {"keep_energy": 0.6, "keep_ratio": 0.6, "num_patches": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_a_processor_can_be_set_to_can_be_cut_and_trained_on(folders, tmp_path, way):
    """The shards of any settings give the batches of the videos; of any other settings they are refused."""
    config = PatchifyConfig.from_dict(SHOWN | WAYS[way])
    extract_patches(folders[0], tmp_path / "out", config, workers=0)
    by_shard, by_video = (task(source, WAYS[way]) for source in (str(tmp_path / "out"), folders[0]))
    found, expected = (
        MicroBatches(its.mixture, RankSlice(seed=3))[0].inputs["v"] for its in (by_shard, by_video)
    )
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)
    with pytest.raises(ConfigError, match="its shards were made with"):
        task(folders[1], WAYS[way])


def test_the_camera_of_a_head_is_in_its_batches_and_in_what_it_saves(folders, tmp_path):
    kept = []
    for camera in (None, "none"):
        its = task(folders[0], {"camera": camera})
        kept.append(MicroBatches(its.mixture, RankSlice(seed=3))[0].inputs["v"]["patch_positions"])
        weights = OneVisionModel(its.encoder_config).state_dict()
        its.export(tmp_path / str(camera), {f"encoder.{name}": value for name, value in weights.items()})
        assert OneVisionVideoProcessor.from_pretrained(tmp_path / str(camera)).camera == camera
    assert not torch.equal(*kept), "the scene pans"


def test_a_share_of_the_energy_asked_of_a_head_is_in_its_batches_and_in_what_it_saves(folders, tmp_path):
    its = task(folders[0], {"keep_energy": 0.5})
    batch = MicroBatches(its.mixture, RankSlice(seed=3))[0].inputs["v"]
    counts = batch["pixel_attention_mask"].sum(1)
    assert counts.min() >= 16 and counts.max() <= 48, "the first frame at least, the budget at most"
    assert len(counts.unique()) > 1
    weights = OneVisionModel(its.encoder_config).state_dict()
    its.export(tmp_path / "saved", {f"encoder.{name}": value for name, value in weights.items()})
    saved = OneVisionVideoProcessor.from_pretrained(tmp_path / "saved")
    assert (saved.keep_energy, saved.num_patches) == (0.5, 48)


def test_a_damaged_shard_is_a_broken_row(folders, tmp_path):
    import shutil

    copy = tmp_path / "patches"
    shutil.copytree(folders[1], copy)
    tar = copy / "patches-00000.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    batch = MicroBatches(task(str(copy)).mixture, RankSlice(seed=3))[0]
    assert batch.samples == 4
    assert all("ends early" in record["reason"] for record in batch.broken)
    assert np.isfinite(batch.inputs["v"]["pixel_values_videos"].numpy()).all()
