"""The journal: nothing that was written is lost, nothing is taken for something else."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf.jobs.journal import Entry, Journal, fingerprint, request_key

ASKED = {
    "task": "videomme",
    "split": "test",
    "document": [17, {"question": "Which?"}],
    "prompt": "Which?\nA. x",
    "generation": {"max_new_tokens": 16, "until": ["\n\n"]},
    "model": "f" * 64,
    "selection": {"video_mode": "codec", "num_patches": 2048},
}


def test_answers_are_there_again_whatever_process_reads_them(tmp_path):
    with Journal(tmp_path, rank=0) as first, Journal(tmp_path, rank=1) as second:
        first.write([Entry("a", "videomme", 0, "B", (100, 1))])
        second.write([Entry("b", "mlvu_dev", 1, [0.5, True])])
        assert first.get("a").answer == "B" and first.get("b") is None
    with Journal(tmp_path, rank=5) as later:
        assert len(later) == 2
        assert later.get("a") == Entry("a", "videomme", 0, "B", (100, 1))
        assert later.get("b").answer == [0.5, True]


def test_a_line_that_a_kill_cut_off_is_dropped_and_the_next_one_is_whole(tmp_path):
    with Journal(tmp_path) as journal:
        journal.write([Entry("a", "t", 0, "x"), Entry("b", "t", 1, "y")])
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    with Journal(tmp_path) as journal:
        assert journal.get("a") is not None and journal.get("b") is None
        journal.write([Entry("c", "t", 2, "z\n§")])
    assert [json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()] == ["a", "c"]


def test_what_write_returned_for_survives_the_process(tmp_path):
    """The process ends at once after `write`, without closing anything."""
    code = (
        "import os, sys\nfrom onevision_hf.jobs.journal import Entry, Journal\n"
        "Journal(sys.argv[1]).write([Entry('a', 't', 0, 'x')])\nos.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    assert done.returncode == -9
    with Journal(tmp_path) as journal:
        assert journal.get("a").answer == "x"


def test_a_folder_that_is_being_written_is_refused(tmp_path):
    with Journal(tmp_path), pytest.raises(ValueError, match="being written by another evaluation"):
        Journal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "mlvu_dev"},
        {"split": "validation"},
        {"document": [18, {"question": "Which?"}]},
        {"document": [17, {"question": "What?"}]},
        {"prompt": "Which?\nA. y"},
        {"generation": {"max_new_tokens": 17, "until": ["\n\n"]}},
        {"model": "e" * 64},
        {"selection": {"video_mode": "codec", "num_patches": 1024}},
        {"repeat": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_difference_makes_another_key(change):
    assert request_key(**ASKED) != request_key(**{**ASKED, **change})


@given(st.permutations(list(ASKED["selection"].items())))
def test_the_order_of_settings_makes_none(pairs):
    assert request_key(**{**ASKED, "selection": dict(pairs)}) == request_key(**ASKED)


def test_a_fingerprint_changes_with_any_file_that_counts(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = fingerprint(tmp_path)
    (tmp_path / "notes.md").write_text("nothing")
    assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    changed = fingerprint(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert len({before, changed, fingerprint(tmp_path)}) == 3


def test_a_folder_without_a_configuration_has_none(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        fingerprint(tmp_path)
