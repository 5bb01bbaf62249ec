"""Clusters against the truth of drawn media."""

import json

import pytest
import torch
from drawn import draw_pictures
from torch.nn.functional import normalize

from onevision_hf.cli import main
from onevision_hf.clustering.assign import assign_labels
from onevision_hf.clustering.features import extract_features
from onevision_hf.clustering.kmeans import find_centers
from onevision_hf.clustering.purity import cluster_purity
from onevision_hf.data.sources import open_source
from onevision_hf.synthetic import Job, produce, read_manifest

COLOURS = ("red", "green", "blue", "yellow")


class Told:
    """An extractor that is told the colour: clusters of it are pure in that, and in nothing else."""

    def __init__(self, media):
        rows = read_manifest(media / "drawn").select(["path", "labels"]).to_pylist()
        self.colours = {(media / "drawn" / r["path"]).as_posix(): r["labels"]["colour"] for r in rows}
        self.identity = {"teacher": "told"}

    def prepare(self, content, kind):
        return COLOURS.index(self.colours[content])

    def encode(self, prepared):
        noise = 0.1 * torch.rand(len(prepared), 4, generator=torch.Generator().manual_seed(len(prepared)))
        return normalize(torch.eye(4)[list(prepared)] + noise, dim=1)


def cluster(media, out):
    source = open_source(media)
    extract_features(source, out / "features", Told(media), "image")
    find_centers(out / "features", out / "kmeans", 6)
    assign_labels(out / "features", out / "labels", out / "kmeans", labels=1)
    return out / "labels"


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("purity")
    produce(Job("images", 0, "colour"), folder / "media" / "drawn", 48)
    return folder / "media", cluster(folder / "media", folder)


def test_what_the_clusters_tell_is_far_above_chance_and_what_they_do_not_is_near_it(clustered):
    found = cluster_purity(*clustered)
    assert found["colour"].items == 48 and found["colour"].answers == 4
    assert found["colour"].purity == 1 and found["colour"].chance < 0.6
    assert abs(found["ground"].purity - found["ground"].chance) < 0.1
    assert found["word"].items < 48  # of half of the pictures
    for family in found.values():
        assert 1 / family.answers <= family.purity <= 1 and 1 / family.answers <= family.chance <= 1


def test_the_command_prints_each_family(clustered, capsys):
    media, labels = clustered
    assert main(["cluster", "purity", str(media), str(labels)]) == 0
    assert "colour: " in capsys.readouterr().out
    assert main(["cluster", "purity", str(media), str(labels), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["colour"]["purity"] == cluster_purity(media, labels)["colour"].purity


def test_media_without_a_truth_are_an_error(clustered, tmp_path):
    media = draw_pictures(tmp_path / "media", each=1)
    with pytest.raises(ValueError, match=r"no manifest.parquet of `onevision synth` below"):
        cluster_purity(media, clustered[1])
    produce(Job("images", 1), tmp_path / "others", 3)
    with pytest.raises(ValueError, match="none of the 48 labelled items is in"):
        cluster_purity(tmp_path / "others", clustered[1])
