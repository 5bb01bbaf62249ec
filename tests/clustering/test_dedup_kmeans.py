"""Duplicates are found as brute force finds them; k-means from shards is k-means of their rows."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import features_of
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from onevision_hf.clustering import kmeans as kmeans_stage
from onevision_hf.clustering.dedup import dropped_rows, find_duplicates, join
from onevision_hf.clustering.features import FeatureShards
from onevision_hf.clustering.kmeans import find_centers
from onevision_hf.clustering.spherical import State, lloyd, nearest, random_start


def random_rows(count=150, dim=16, seed=0):
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def with_duplicates(copies=(3, 70, 71, 149)):
    """Random rows, of which those in `copies` are row 2 with a little noise."""
    rows = random_rows()
    for n in copies:
        rows[n] = normalize(rows[2] + 0.01 * rows[n], dim=0)
    return rows


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))
    )
)
def test_joining_gives_the_smallest_member_of_each_connected_group(case):
    count, pairs = case
    group = list(range(count))
    for one, two in pairs:  # the plain way
        a, b = group[one], group[two]
        group = [min(a, b) if g in (a, b) else g for g in group]
    one, two = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    assert join(np.arange(count), one, two).tolist() == group


def test_of_each_group_the_first_is_kept_and_the_others_are_listed(tmp_path):
    features = features_of(with_duplicates(), tmp_path / "f")
    summary = find_duplicates(features, tmp_path / "d", threshold=0.98)
    assert (summary["dropped"], summary["groups"]) == (4, 1)
    table = pq.read_table(tmp_path / "d" / "dropped.parquet").to_pylist()
    assert [r["key"] for r in table] == ["000003", "000070", "000071", "000149"]
    assert {r["kept_key"] for r in table} == {"000002"}
    assert all(r["cosine"] > 0.98 for r in table)
    dropped, _ = dropped_rows(tmp_path / "d", FeatureShards(features))
    assert dropped.tolist() == [3, 70, 71, 149]


def test_a_chain_of_small_changes_is_one_group(tmp_path):
    angles = torch.arange(6) * 0.1  # neighbours have a cosine of .995, the ends of .88
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    summary = find_duplicates(features_of(rows, tmp_path / "f"), tmp_path / "d", threshold=0.99)
    assert (summary["dropped"], summary["groups"]) == (5, 1)


def test_cells_find_what_comparing_every_pair_finds(tmp_path):
    rows = with_duplicates()
    features = features_of(
        torch.cat([rows, normalize(rows + 0.02 * random_rows(seed=1), dim=1)]), tmp_path / "f"
    )
    find_duplicates(features, tmp_path / "all", threshold=0.98)
    find_duplicates(features, tmp_path / "cells", threshold=0.98, cell_items=40)
    assert len(list((tmp_path / "cells").glob("pairs-*.parquet"))) == 8
    every, cells = (
        pq.read_table(tmp_path / n / "dropped.parquet")["row"].to_pylist() for n in ("all", "cells")
    )
    assert len(every) == 154 and cells == every


def test_a_threshold_out_of_range_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\], found 1.5"):
        find_duplicates(features_of(random_rows(), tmp_path / "f"), tmp_path / "d", threshold=1.5)


def test_a_dedup_of_other_features_is_refused(tmp_path):
    find_duplicates(features_of(random_rows(), tmp_path / "f"), tmp_path / "d")
    other = features_of(random_rows(149), tmp_path / "g")
    with pytest.raises(ValueError, match="is not a dedup of"):
        find_centers(other, tmp_path / "k", 4, dedup=tmp_path / "d")


def test_kmeans_of_shards_is_kmeans_of_their_rows_without_the_duplicates(tmp_path):
    rows = with_duplicates()
    features = features_of(rows, tmp_path / "f", shard_items=40)
    find_duplicates(features, tmp_path / "d", threshold=0.98)
    summary = find_centers(features, tmp_path / "k", 7, dedup=tmp_path / "d", iterations=6, seed=5)
    kept = rows[[n for n in range(150) if n not in (3, 70, 71, 149)]].half()
    expected = lloyd(kept, State(random_start(kept, 7, 5)), 6)
    centers = load_file(tmp_path / "k" / "centers.safetensors")["centers"]
    torch.testing.assert_close(centers, expected.centers)
    assert summary["items"] == 146 and summary["objective"] == pytest.approx(expected.objective[-1])
    assert json.loads((tmp_path / "k" / "objective.json").read_text())["objective"] == pytest.approx(
        expected.objective
    )
    assert sorted(p.name for p in (tmp_path / "k").iterdir() if not p.name.startswith(".lock")) == [
        "centers.safetensors",
        "digests.json",
        "objective.json",
        "plan.json",
        "summary.json",
    ]


def test_kmeans_can_begin_from_given_centers(tmp_path):
    features = features_of(random_rows(), tmp_path / "f")
    save_file({"centers": random_rows(5, seed=9)}, tmp_path / "start.safetensors")
    find_centers(features, tmp_path / "k", 5, iterations=3, start=tmp_path / "start.safetensors")
    expected = lloyd(random_rows().half(), State(random_rows(5, seed=9)), 3).centers
    torch.testing.assert_close(load_file(tmp_path / "k" / "centers.safetensors")["centers"], expected)
    with pytest.raises(ValueError, match=r"shape \(5, 16\), not \(6, 16\)"):
        find_centers(features, tmp_path / "k6", 6, start=tmp_path / "start.safetensors")


@pytest.mark.parametrize("cells", [0, 4])
def test_kmeans_stopped_at_any_iteration_or_cell_ends_the_same(tmp_path, monkeypatch, cells):
    features = features_of(random_rows(), tmp_path / "f")
    find_centers(features, tmp_path / "whole", 12, iterations=4, cells=cells)
    real, left = kmeans_stage.RunFolder.write, [0]

    class Stopped(BaseException):
        pass

    def write_then_stop(self, name, content):
        real(self, name, content)
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    monkeypatch.setattr(kmeans_stage.RunFolder, "write", write_then_stop)
    stops = 0
    while True:
        left[0] = 2 + stops // 4  # a job that is stopped at the same step for ever would never end
        try:
            find_centers(features, tmp_path / "stopped", 12, iterations=4, cells=cells)
            break
        except Stopped:
            stops += 1
            assert stops < 30
    assert stops >= 3
    for name in ("centers.safetensors", "objective.json", "summary.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "stopped").glob("state*"))


def test_two_levels_give_all_clusters_and_almost_the_objective_of_one(tmp_path):
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(30, 16, generator=generator).repeat_interleave(20, 0)
    rows = normalize(middles + 0.5 * torch.randn(600, 16, generator=generator), dim=1)
    features = features_of(rows, tmp_path / "f", shard_items=200)
    find_centers(features, tmp_path / "one", 40)
    summary = find_centers(features, tmp_path / "two", 40, cells=6)
    one, two = (load_file(tmp_path / n / "centers.safetensors")["centers"] for n in ("one", "two"))
    assert two.shape == one.shape == (40, 16) and summary["clusters"] == 40
    best_one, best_two = nearest(rows, one)[0].mean(), nearest(rows, two)[0].mean()
    assert best_two > 0.97 * best_one
    history = json.loads((tmp_path / "two" / "objective.json").read_text())
    assert sum(history["cell_clusters"]) == 40 and sum(history["cell_items"]) == 600


def test_what_cannot_be_clustered_is_said(tmp_path):
    features = features_of(random_rows(20), tmp_path / "f")
    for arguments, message in [
        ({"clusters": 21}, "21 clusters asked for, but there are 20 items"),
        ({"clusters": 3, "cells": 4}, "4 cells for 3 clusters"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_centers(features, tmp_path / "k", **arguments)
