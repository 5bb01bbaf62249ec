"""`onevision cluster`, from a folder to shards: complete, resumable after SIGKILL at any point, and shown
honestly."""

import itertools
import json
import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from drawn import draw_clips, draw_pictures
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from processes import run
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from onevision_hf import tiny
from onevision_hf.cli import main
from onevision_hf.clustering.extractors import make_extractor
from onevision_hf.clustering.features import FeatureShards
from onevision_hf.clustering.inspect import closest_pairs
from onevision_hf.clustering.kmeans import CenterFile
from onevision_hf.clustering.pictures import size_histogram
from onevision_hf.data.media_shards import PackedShards
from onevision_hf.data.sources import open_source

OPTIONS = ["--teacher", "descriptors", "--num-frames", "8", "--iterations", "4", "--workers", "2"]
RUN = [*OPTIONS, "--clusters", "12", "--feature-shard-items", "9", "--shard-items", "9"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """32 pictures, of which one is there twice and one is broken; 12 clips, one broken."""
    folder = tmp_path_factory.mktemp("media")
    draw_pictures(folder / "pictures", each=4)
    draw_clips(folder / "clips", each=1)
    shutil.copy(folder / "pictures" / "red-disc" / "00.png", folder / "pictures" / "zz.png")
    (folder / "pictures" / "broken.png").write_bytes(b"\x89PNG nothing")
    whole = (folder / "clips" / "left" / "red-00.mp4").read_bytes()
    (folder / "clips" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def done(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(["cluster", "run", str(media), str(out), *RUN]) == 0
    return out


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".lock")
    }


def purity(rows):
    """The share of rows whose cluster is mostly of their class (the folder that they lie in)."""
    classes = {}
    for row in (rows[n] for n in range(len(rows))):
        classes.setdefault(int(row.labels[0]), []).append(row.key.rsplit("/", 1)[0])
    return sum(max(map(names.count, names)) for names in classes.values()) / len(rows)


def test_run_goes_from_a_mixed_folder_to_labelled_shards(done, capsys):
    pictures, clips = PackedShards(done / "shards" / "image"), PackedShards(done / "shards" / "video")
    assert len(pictures) == 32 and len(clips) == 12
    assert purity(pictures) > 0.8  # chance: 0.2
    keys = [pictures[n].key for n in range(32)]
    assert "pictures/zz.png" not in keys and "pictures/red-disc/00.png" in keys
    rejected = [json.loads(p.read_text())["key"] for p in sorted(done.glob("*/features/rejected.jsonl"))]
    assert rejected == ["pictures/broken.png", "clips/cut.mp4"]


def test_the_same_command_again_changes_nothing_and_says_the_same(media, done, capsys):
    before = tree(done)
    assert main(["cluster", "run", str(media), str(done), *RUN, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["image"]["items"] == 33 and summary["image"]["duplicates"] == 1
    assert summary["video"]["packed"] == {"video": 12} and summary["video"]["rejected"] == 1
    assert tree(done) == before


def test_other_arguments_are_refused_with_one_line_and_status_1(media, done, capsys):
    before = tree(done)
    assert main(["cluster", "run", str(media), str(done), *RUN, "--num-frames", "9"]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("onevision cluster: error:") and "num_frames was 8, now 9" in message
    assert tree(done) == before


def test_killed_at_random_points_the_result_is_byte_for_byte_the_same(media, done, tmp_path, record_property):
    """SIGKILL before or after the n-th rename, again and again, until a run gets through."""
    chance, kills = random.Random(0), 0
    for attempt in itertools.count():
        child = os.fork()
        if child == 0:
            _die_at_rename(chance.randint(3, 25), before=attempt % 2 == 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os._exit(main(["cluster", "run", str(media), str(tmp_path / "out"), *RUN]))
        chance.random()
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
        assert kills < 60
    assert kills >= 5
    record_property("trials", kills)
    assert tree(tmp_path / "out") == tree(done)


def _die_at_rename(number, before):
    real, calls = os.replace, itertools.count(1)

    def replace(*args):
        last = next(calls) == number
        if last and before:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def test_stage_by_stage_gives_what_run_gives(media, done, tmp_path, capsys):
    source = f"folder:{media / 'clips'}"
    one, two = str(tmp_path / "features"), str(tmp_path / "kmeans")
    assert main(["cluster", "features", source, one, *OPTIONS[:4], "--feature-shard-items", "9"]) == 0
    assert main(["cluster", "dedup", one, str(tmp_path / "dedup")]) == 0
    options = ["--clusters", "12", "--iterations", "4", "--dedup", str(tmp_path / "dedup")]
    assert main(["cluster", "kmeans", one, two, *options]) == 0
    labels = ["--centers", two, "--dedup", str(tmp_path / "dedup")]
    assert main(["cluster", "assign", one, str(tmp_path / "labels"), *labels]) == 0
    pack = ["cluster", "pack", source, str(tmp_path / "labels"), str(tmp_path / "out")]
    assert main(pack) == 0
    capsys.readouterr()
    assert main([*pack, "--shard-items", "5"]) == 1
    assert "shard_items was 1024, now 5" in capsys.readouterr().err
    centers = [
        load_file(f / "centers.safetensors")["centers"]
        for f in (tmp_path / "kmeans", done / "video" / "kmeans")
    ]
    assert torch.equal(*centers)
    rows, expected = PackedShards(tmp_path / "out"), PackedShards(done / "shards" / "video")
    assert [rows[n].labels.tolist() for n in range(12)] == [expected[n].labels.tolist() for n in range(12)]


def test_a_mixed_folder_needs_a_kind_and_assign_needs_one_kind_of_labels(media, done, tmp_path, capsys):
    assert main(["cluster", "features", str(media), str(tmp_path / "f"), "--teacher", "descriptors"]) == 1
    assert "--kind" in capsys.readouterr().err
    assert main(["cluster", "assign", str(done / "image" / "features"), str(tmp_path / "a")]) == 1
    assert "--centers, or --tags" in capsys.readouterr().err


def test_without_a_teacher_clips_go_through_the_encoder_in_the_package(media, tmp_path):
    assert main(["cluster", "features", str(media), str(tmp_path / "f"), "--kind", "video"]) == 0
    extractor = make_extractor(str(tiny()))
    source = open_source(media)
    first = next(item for item in source.items if item.kind == "video" and "cut" not in item.key)
    expected = extractor.encode([extractor.prepare(source.open(first), "video")])[0]
    found = torch.tensor(FeatureShards(tmp_path / "f").matrix(0)[0]).float()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_the_report_counts_what_is_there(media, done, tmp_path, capsys):
    folders = [f"--{n}={done / 'image' / d}" for n, d in (("features", "features"), ("labels", "labels"))]
    folders += [f"--centers={done / 'image' / 'kmeans'}", f"--dedup={done / 'image' / 'dedup'}"]
    arguments = [
        "cluster",
        "inspect",
        str(media),
        str(tmp_path / "page"),
        *folders,
        "--clusters",
        "1,3",
        "--json",
    ]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["items"], report["clusters"], report["dropped"], report["rejected"]) == (32, 12, 1, 1)
    page = (tmp_path / "page" / "index.html").read_text()
    assert "pictures/broken.png" in page and "Clusters of 32 images" in page
    for name in ("sizes", "clusters", "pairs", "duplicates"):
        assert f'src="{name}.png"' in page
        picture = np.asarray(Image.open(tmp_path / "page" / f"{name}.png").convert("RGB"))
        assert picture.shape[0] > 200 and picture.std() > 5
    assert main([*arguments[:-2], "99"]) == 1
    assert "there is no cluster 99" in capsys.readouterr().err


@settings(max_examples=50)
@given(st.integers(2, 60), st.integers(1, 9), st.integers(0, 99))
def test_the_closest_pairs_are_those_of_all_pairs(tmp_path_factory, count, pairs, seed):
    centers = normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)
    path = tmp_path_factory.mktemp("centers") / "centers.safetensors"
    save_file({"centers": centers}, path)
    found = closest_pairs(CenterFile(path), pairs)
    cosines = (centers @ centers.T)[tuple(torch.triu_indices(count, count, 1))].sort(descending=True).values
    np.testing.assert_allclose([c for _, _, c in found], cosines[:pairs], atol=1e-5)
    assert all(a < b for a, b, _ in found)


@settings(max_examples=6)  # a third of a second each
@example([1])
@example([7] * 50)
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=50))
def test_a_histogram_can_be_drawn_of_any_sizes(sizes):
    if any(sizes):
        assert size_histogram(sizes).size == (900, 450)


@pytest.mark.slow
def test_two_processes_make_the_shards_that_one_makes(media, done, tmp_path):
    arguments = ["cluster", "run", str(media), str(tmp_path / "out"), *RUN]
    assert run(main, arguments, size=2) == [0, 0]
    alone, together = tree(done), tree(tmp_path / "out")
    assert set(alone) == set(together)
    # Sums over two processes round differently; everything that does not depend on centers is equal.
    assert all(alone[n] == together[n] for n in alone if "/features/" in n or "/dedup/" in n)
    for kind in ("image", "video"):
        ours, theirs = (PackedShards(f / "shards" / kind) for f in (tmp_path / "out", done))
        for n in range(len(theirs)):
            assert ours[n].media == theirs[n].media and ours[n].labels.tolist() == theirs[n].labels.tolist()
            np.testing.assert_allclose(ours[n].scores, theirs[n].scores, atol=1e-5)


def test_the_centers_start_the_objective(done):
    from onevision_hf.objectives import ClusterDiscriminationLoss

    path = done / "image" / "kmeans" / "centers.safetensors"
    centers = load_file(path)["centers"]
    objective = ClusterDiscriminationLoss(*centers.shape)
    objective.load_centers(path)
    assert torch.equal(objective.centers.detach(), centers)
