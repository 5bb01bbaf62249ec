"""Labels are the nearest centers, however the centers come in blocks; words are labels only where there are
words."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import features_of
from safetensors.torch import save_file
from torch.nn.functional import normalize

from onevision_hf.clustering import assign as assign_stage
from onevision_hf.clustering.assign import LabelShards, assign_labels, assign_tags, nearest_centers
from onevision_hf.clustering.dedup import find_duplicates


def unit(count, dim=8, seed=0):
    return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 12), st.integers(1, 15), st.integers(0, 99))
def test_a_running_best_over_blocks_is_the_best_of_all(rows, count, k, block, seed):
    k = min(k, count)
    x, centers = unit(rows, seed=seed), unit(count, seed=seed + 1)
    blocks = ((start, centers[start : start + block]) for start in range(0, count, block))
    scores, numbers = nearest_centers(x, blocks, k)
    expected = (x @ centers.T).topk(k, dim=1)
    torch.testing.assert_close(scores, expected.values)
    torch.testing.assert_close((x @ centers.T).gather(1, numbers), expected.values)
    assert all(len(set(row)) == k for row in numbers.tolist())


def test_of_equal_centers_the_lower_number_comes_first():
    centers = unit(1).repeat(6, 1)
    _, numbers = nearest_centers(unit(1), ((s, centers[s : s + 1]) for s in range(6)), 6)
    assert numbers.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_every_kept_item_has_its_nearest_centers_with_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(assign_stage, "CENTER_BLOCK", 7)
    monkeypatch.setattr(assign_stage, "BLOCK_ROWS", 9)
    rows, centers = unit(50), unit(30, seed=1)
    rows[40] = rows[3]
    features = features_of(rows, tmp_path / "f", shard_items=20)
    find_duplicates(features, tmp_path / "d", threshold=0.999)
    save_file({"centers": 3 * centers}, tmp_path / "centers.safetensors")
    summary = assign_labels(features, tmp_path / "a", tmp_path / "centers.safetensors", dedup=tmp_path / "d")
    assert summary["rows"] == [20, 20, 9] and summary["classes"] == 30
    expected = (rows @ centers.T).topk(10, dim=1)
    labelled = LabelShards(tmp_path / "a")
    for shard in range(3):
        for row in labelled.table(shard).to_pylist():
            number = 20 * shard + row["row"]
            assert row["key"] == f"{number:06d}" and number != 40
            np.testing.assert_allclose(row["scores"], expected.values[number], atol=1e-3)
            assert row["labels"][0] == expected.indices[number, 0]
    assert str(labelled.table(0).schema.field("labels").type) == "list<element: int32>"


def test_fewer_centers_than_ten_are_all_labels_and_more_than_there_are_is_an_error(tmp_path):
    features = features_of(unit(20), tmp_path / "f")
    save_file({"centers": unit(4)}, tmp_path / "c.safetensors")
    assign_labels(features, tmp_path / "a", tmp_path / "c.safetensors")
    assert all(
        sorted(row) == [0, 1, 2, 3] for row in LabelShards(tmp_path / "a").table(0)["labels"].to_pylist()
    )
    with pytest.raises(ValueError, match="5 labels asked for, but there are 4 centers"):
        assign_labels(features, tmp_path / "b", tmp_path / "c.safetensors", labels=5)
    save_file({"centers": unit(4, dim=9)}, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="centers of 9 values, but the features have 8"):
        assign_labels(features, tmp_path / "b", tmp_path / "wide.safetensors")


def test_other_centers_are_another_plan(tmp_path):
    features = features_of(unit(20), tmp_path / "f")
    for seed in (0, 1):
        save_file({"centers": unit(4, seed=seed)}, tmp_path / f"{seed}.safetensors")
    assign_labels(features, tmp_path / "a", tmp_path / "0.safetensors")
    with pytest.raises(ValueError, match="sources have changed"):
        assign_labels(features, tmp_path / "a", tmp_path / "1.safetensors")


TAGS = [["stop", "bus"], [], ["bus", "once"], ["stop", "bus", "the"], ["never"], ["the"]]


def test_words_are_labels_by_frequency_and_images_without_words_have_none(tmp_path):
    features = features_of(unit(6), tmp_path / "f", shard_items=4, tags=TAGS)
    summary = assign_tags(features, tmp_path / "t", min_count=2)
    vocabulary = pq.read_table(tmp_path / "t" / "vocabulary.parquet").to_pydict()
    assert vocabulary == {"tag": ["bus", "stop", "the"], "count": [3, 2, 2]}
    found = {
        r["key"]: r["labels"] for s in range(2) for r in LabelShards(tmp_path / "t").table(s).to_pylist()
    }
    assert found == {"000000": [1, 0], "000002": [0], "000003": [1, 0, 2], "000005": [2]}
    assert summary["classes"] == 3 and summary["rows"] == [3, 1]


def test_a_vocabulary_can_be_cut_and_an_empty_one_is_an_error(tmp_path):
    features = features_of(unit(6), tmp_path / "f", tags=TAGS)
    assert assign_tags(features, tmp_path / "t", vocabulary_size=1)["classes"] == 1
    with pytest.raises(ValueError, match="no tag occurs in 9 items or more"):
        assign_tags(features, tmp_path / "u", min_count=9)
    with pytest.raises(ValueError, match="has no tags"):
        assign_tags(features_of(unit(6), tmp_path / "g"), tmp_path / "u")
