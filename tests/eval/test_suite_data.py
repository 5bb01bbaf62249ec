"""What `onevision eval prepare` finds below a root."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from onevision_hf import cli
from onevision_hf.eval.lmms.data import inspect
from onevision_hf.eval.lmms.suite import select


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"question": ["?"] * rows}), path)


@pytest.fixture
def root(tmp_path, clip):
    write_table(tmp_path / "lmms-eval/Video-MME/videomme/test-00000-of-00001.parquet", 2700)
    for number in range(5):
        path = tmp_path / f"videomme/data/{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip.read_bytes())
    write_table(tmp_path / "lmms-lab-encoder/DocVQA/DocVQA/validation-00000-of-00001.parquet", 5349)
    write_table(tmp_path / "lmms-lab-encoder/DocVQA/DocVQA/test-00000-of-00001.parquet", 5188)
    write_table(tmp_path / "lmms-lab-encoder/DocVQA/InfographicVQA/validation-00000-of-00001.parquet", 100)
    return tmp_path


def test_questions_are_counted_and_clips_of_each_end_are_read_from(root):
    (state,) = inspect(select("videomme"), root)
    assert (state.rows, state.videos, state.decoded) == (2700, 5, 3)
    assert state.missing == []


def test_other_splits_and_configurations_do_not_count(root):
    states = {state.benchmark.name: state for state in inspect(select("docvqa_val,infovqa_val"), root)}
    assert states["DocVQA"].rows == 5349 and not states["DocVQA"].missing
    assert states["InfoVQA"].missing == ["100 questions, not 2801"]


def test_damaged_clips_and_missing_data_are_told(root):
    (root / "videomme/data/2.mp4").write_bytes(b"no video")
    (state,) = inspect(select("videomme"), root)
    assert state.decoded == 2 and "2.mp4" in state.missing[0]
    (nothing,) = inspect(select("mlvu_dev"), root)
    assert nothing.missing == ["no tables", "no videos"]


def test_tables_that_the_hub_cache_holds_count(tmp_path):
    folder = tmp_path / "hub/datasets--Lin-Chen--MMStar/snapshots/abc"
    write_table(folder / "mmstar.parquet", 1500)
    (state,) = inspect(select("mmstar"), tmp_path)
    assert state.rows == 1500 and not state.missing


def test_the_command_says_what_must_lie_where_and_fails_until_it_does(root, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["eval", "prepare", "--tasks", "videomme,tomato", "--root", str(root)]) == 1
    text = capsys.readouterr().out
    assert "VideoMME (videomme): ready" in text
    assert "TOMATO (tomato): not ready: no tables; no videos" in text
    assert "https://huggingface.co/datasets/lmms-eval/TOMATO (main, test), size not known" in text
    assert f"videos in {root / 'TOMATO'}" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("1 not ready: see above") and "run the suite" not in last
    assert cli.main(["eval", "prepare", "--tasks", "videomme", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []


def test_sizes_are_what_the_hub_says(root, monkeypatch):
    (state,) = inspect(select("videomme"), root, size_of=lambda benchmark: 101.5)
    assert state.gigabytes == 101.5
