"""Whole sources through the loader and the loop: packed shards, datasets at random, and streams."""

import csv
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import training_workers as workers

from onevision_hf.clustering.assign import assign_labels, assign_tags
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.clustering.features import extract_features
from onevision_hf.clustering.kmeans import find_centers
from onevision_hf.clustering.pack import pack
from onevision_hf.data.labelled import StreamedExamples, open_examples
from onevision_hf.data.sources import open_source
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.training.config import from_dict
from onevision_hf.training.loader import MicroBatches, open_loader
from onevision_hf.training.loop import Trainer
from onevision_hf.training.mixture import MixtureComponent, RankSlice
from onevision_hf.training.report import read_lines
from onevision_hf.training.sampler import Sampler
from onevision_hf.training.tasks.cluster_config import HeadConfig
from onevision_hf.training.transforms import ImageTransform, VideoTransform

sys.path.insert(0, str(Path(__file__).parents[1] / "clustering"))
import drawn

SELECTION = {"num_frames": 8, "size": 56, "patch_size": 14, "num_patches": 32}


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """`datasets` sleeps for 5 s after each pass over parquet, so that no thread of Arrow's outlives the
    interpreter; this one lives on."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """The folders of `cluster pack` for three heads: pictures, words, clips."""
    out = tmp_path_factory.mktemp("packs")
    drawn.draw_pictures(out / "pictures", 3)
    drawn.draw_clips(out / "clips", 1)
    keys = sorted(p.relative_to(out / "pictures").as_posix() for p in (out / "pictures").rglob("*.png"))
    with open(out / "tags.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "tags"])
        table.writerows([key, " ".join(f"w{i}" for i in range(n % 5))] for n, key in enumerate(keys))
    pictures = open_source(out / "pictures", tags_file=out / "tags.csv")
    clips = open_source(out / "clips")
    for kind, source in (("image", pictures), ("video", clips)):
        made = out / kind
        extract_features(source, made / "features", make_extractor("descriptors", num_frames=8), kind)
        find_centers(made / "features", made / "kmeans", 5, iterations=2)
        assign_labels(made / "features", made / "labels", made / "kmeans", labels=3)
    assign_tags(out / "image" / "features", out / "tags")
    shards = out / "shards"
    pack(pictures, out / "image" / "labels", shards / "image", "image", shard_items=7)
    pack(pictures, out / "tags", shards / "ocr", "ocr", shard_items=7)
    pack(clips, out / "video" / "labels", shards / "video", "video", shard_items=7, selection=SELECTION)
    return shards


HEADS = {
    "image": HeadConfig(processor={"size": 28}, max_labels=3),
    "ocr": HeadConfig(processor={"size": 28}, max_labels=100),
    "video": HeadConfig(
        kind="video",
        processor={"size": 56, "do_center_crop": True, "num_frames": 8, "num_patches": 24},
        max_labels=2,
    ),
}
BATCHES = {"image": 8, "ocr": 6, "video": 4}


def patchify_of(head, time_grid):
    own = PatchifyConfig.from_dict({}, rope_temporal_size=time_grid)
    return own.replace(**head.processor)


def mixture(packs):
    found = []
    for number, (name, head) in enumerate(HEADS.items()):
        rows, view = (
            open_examples(str(packs / name)),
            VideoTransform(head, patchify_of(head, 64)) if name == "video" else ImageTransform(head),
        )
        found.append(MixtureComponent(name, rows, view, BATCHES[name], Sampler(len(rows), 5, number)))
    return found


def test_packed_examples_come_through_workers_as_they_come_without(packs):
    found, alone = mixture(packs), MicroBatches(mixture(packs), RankSlice(5))
    for k, batch in zip(range(2, 5), open_loader(found, RankSlice(5), 2, 5, workers=2), strict=True):
        assert batch.keys == alone[k].keys and not batch.broken
        for name, tensors in batch.inputs.items():
            assert all(torch.equal(tensor, alone[k].inputs[name][key]) for key, tensor in tensors.items())


def test_each_head_shows_its_own_rows_once_an_epoch_with_the_packed_labels(packs):
    for component in mixture(packs):
        packed = {
            row.key: row.labels.tolist()
            for row in map(component.dataset.__getitem__, range(len(component.dataset)))
        }
        seen, steps = [], len(packed) // component.batch_size
        for k in range(steps):
            batch = MicroBatches([component], RankSlice(5))[k]
            assert len(batch.keys[component.name]) == BATCHES[component.name]
            for key, labels in zip(
                batch.keys[component.name], batch.inputs[component.name]["labels"], strict=True
            ):
                seen.append(key)
                # What a row has no label for is no label, and not class 0.
                wanted = packed[key][: len(labels)]
                assert labels.tolist() == wanted + [-100] * (len(labels) - len(wanted))
        assert len(set(seen)) == len(seen) == steps * component.batch_size
    words = open_examples(str(packs / "ocr"))
    assert len(words) == 19 and {len(words[i].labels) for i in range(19)} == {1, 2, 3, 4}


def test_a_selection_that_is_longer_than_the_budget_keeps_its_strongest_patches(packs):
    rows = open_examples(str(packs / "video"))
    row, view = rows[1], VideoTransform(HEADS["video"], patchify_of(HEADS["video"], None))
    position = next(p for p in range(8) if view.mode(p) == "codec")
    shown = view(row, np.random.default_rng(0), position)["patch_positions"]
    scores = row.selection["scores"]
    kept = np.sort(np.argsort(-scores, kind="stable")[:24])
    assert len(scores) == 32 and np.array_equal(shown, row.selection["positions"][kept])


def config_of(packs, out, **changes):
    heads = {}
    for name in HEADS:
        heads[name] = {
            "source": str(packs / name), "kind": HEADS[name].kind, "processor": HEADS[name].processor,
            "batch_size": BATCHES[name], "max_labels": HEADS[name].max_labels, "labels_per_sample": 2,
        }  # fmt: skip
    values = workers.merged(workers.BASE, {"out": str(out), "max_steps": 3, **changes})
    return from_dict({**values, "cluster": {"heads": heads, "sample_rate": 0.5}})


def test_three_heads_train_together_each_with_its_own_batch(packs, tmp_path):
    trainer = Trainer(config_of(packs, tmp_path))
    assert trainer.fit() == 0
    assert trainer.samples == 3 * sum(BATCHES.values()) and trainer.broken == 0
    assert {name: len(loss.centers) for name, loss in trainer.task.sharded.items()} == {
        "image": 5, "ocr": 4, "video": 5,
    }  # fmt: skip
    for line in read_lines(tmp_path / "log.jsonl"):
        assert {"step", "loss", "image/loss", "ocr/loss", "video/loss"} <= line.keys()


@pytest.fixture
def copied(packs, tmp_path):
    shutil.copytree(packs, tmp_path / "shards")
    return tmp_path / "shards"


@pytest.mark.parametrize(("head", "file"), [("image", "image-00002.tar"), ("ocr", "ocr-00001.index.parquet")])
def test_a_missing_shard_is_an_error_before_the_first_step(copied, head, file):
    (copied / head / file).unlink()
    with pytest.raises(ValueError, match=rf"lacks 1 of \d files, {file} the first"):
        open_examples(str(copied / head))


@pytest.mark.parametrize(
    ("head", "file"),
    [("image", "image-00002.tar"), ("image", "image-00002.index.parquet")],
)
def test_rows_of_a_damaged_shard_are_listed_and_replaced_and_too_many_stop_the_run(copied, head, file):
    path = copied / head / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    found = next(component for component in mixture(copied) if component.name == head)
    batches = [MicroBatches([found], RankSlice(5))[k] for k in range(4)]
    broken = [record for batch in batches for record in batch.broken]
    assert 0 < len(broken) < 4 * BATCHES[head]
    assert any(file in record["reason"] for record in broken)
    assert all(len(batch.keys[head]) == BATCHES[head] for batch in batches)


# -- datasets --


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder of four parquet files with 24 pictures, whose label is their number."""
    out = tmp_path_factory.mktemp("table")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    values = [
        {"bytes": drawn.as_bytes(drawn.picture("red", "disc", n)), "path": f"{n}.png"} for n in range(24)
    ]
    whole = datasets.Dataset.from_dict({"image": values, "label": list(range(24))}, features=features)
    for part in range(4):
        whole.shard(4, part).to_parquet(out / f"train-{part:05d}.parquet")
    return out


def labels_of(spec, batches, workers=0, batch_size=4, start=0, **share):
    """The first labels that a loader gives from a stream, micro-batch by micro-batch."""
    shown = ImageTransform(HeadConfig(processor={"size": 28}, max_labels=2))
    component = MixtureComponent("image", spec, shown, batch_size, None)
    loader = open_loader([component], RankSlice(5, **share), start, start + batches, workers=workers)
    return [label for batch in loader for label in batch.inputs["image"]["labels"][:, 0].tolist()]


def test_a_dataset_of_the_hub_is_read_at_random_through_workers(table, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = open_examples(f"hf:{table}:train")
    view = ImageTransform(HeadConfig(processor={"size": 28}, max_labels=1))
    component = MixtureComponent("image", rows, view, 8, Sampler(len(rows), 5, 0))
    alone, labels = MicroBatches([component], RankSlice(5)), []
    for k, batch in enumerate(open_loader([component], RankSlice(5), 0, 3, workers=1)):
        assert torch.equal(batch.inputs["image"]["pixel_values"], alone[k].inputs["image"]["pixel_values"])
        labels += batch.inputs["image"]["labels"][:, 0].tolist()
    assert sorted(labels) == list(range(24))


@pytest.mark.parametrize("parts", [0, 2])
def test_streamed_parquet_gives_every_row_once_an_epoch_through_any_number_of_workers(table, parts):
    labels = labels_of(f"{table}:train", 6, workers=parts)
    assert sorted(labels) == list(range(24)) and labels != list(range(24))


def test_streamed_rows_are_cut_over_the_processes(table):
    parts = [labels_of(f"{table}:train", 4, batch_size=9, rank=rank, size=3) for rank in range(3)]
    assert [len(part) for part in parts] == [12, 12, 12]
    # Four files on three processes: each takes every third row; an epoch is 8 of them.
    assert sorted(label for part in parts for label in part[:8]) == list(range(24))


def test_a_stream_begins_elsewhere_after_a_resume(table):
    assert labels_of(f"{table}:train", 2) == labels_of(f"{table}:train", 2)
    assert labels_of(f"{table}:train", 2) != labels_of(f"{table}:train", 2, start=1)


def test_packed_shards_can_be_streamed_as_a_webdataset(packs, tmp_path):
    for file in (packs / "image").glob("*.tar"):
        shutil.copy(file, tmp_path / file.name)
    rows = open_examples(str(packs / "image"))
    expected = sorted(rows[i].labels.tolist() for i in range(len(rows)))
    stream = iter(StreamedExamples(f"{tmp_path}:train", seed=1, rank=0, size=1))
    assert sorted(next(stream)[1]().labels.tolist() for _ in range(len(rows))) == expected


def test_a_run_from_a_stream_says_that_its_resume_is_not_exact(table, tmp_path, capsys):
    image = {"source": f"stream:{table}:train", "batch_size": 4, "classes": 24, "processor": {"size": 28}}
    heads = {"image": image}
    values = workers.merged(
        workers.BASE, {"out": str(tmp_path), "max_steps": 4, "optim": {"warmup_steps": 0}}
    )
    config = from_dict({**values, "cluster": {"heads": heads}})
    assert Trainer(config, max_steps=2).fit() == 0
    assert Trainer(config).fit() == 0
    said = capsys.readouterr().err
    assert "resumed from step 2 of 4" in said and said.count("image: streamed without random access") == 2
    assert len(read_lines(tmp_path / "log.jsonl")) == 4
    assert "| image | streamed | 4 |" in (tmp_path / "model" / "README.md").read_text()


def test_broken_rows_of_a_stream_are_listed_and_left_out_until_there_are_too_many(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    good = {"bytes": drawn.as_bytes(drawn.picture("red", "disc", 0)), "path": None}
    bad = [{"bytes": b"no picture", "path": None}, None]
    for name, values in (("some", [good, *bad, good]), ("all", bad)):
        table = {"image": values * 4, "label": list(range(4 * len(values)))}
        datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / name / "train.parquet")
    shown = ImageTransform(HeadConfig(processor={"size": 28}))
    component = MixtureComponent("image", f"{tmp_path / 'some'}:train", shown, 8, None)
    (batch,) = open_loader([component], RankSlice(5), 0, 1)
    assert len(batch.keys["image"]) == 8 and 0 < len(batch.broken) <= 8
    reasons = {record["reason"] for record in batch.broken}
    assert any("no bytes and no path" in reason for reason in reasons)
    with pytest.raises(ValueError, match="16 broken examples in a row"):
        labels_of(f"{tmp_path / 'all'}:train", 1)


def test_a_dataset_without_media_or_labels_is_an_error_that_names_its_columns(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"one column of images or videos.*\['text', 'label'\]"):
        StreamedExamples(f"{tmp_path}:train", 0, 0, 1)
    with pytest.raises(ValueError, match=r"write NAME:SPLIT or NAME:CONFIG:SPLIT"):
        open_examples("hf:nosuch")
