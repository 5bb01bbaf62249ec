"""Whole runs as a person starts them: killed and started again, by two processes, compared, prepared."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from onevision_hf import cli

# Each starts processes that read a whole library first: minutes on a machine that is busy otherwise.
pytestmark = pytest.mark.timeout(1200)
PATIENCE = 900  # seconds, for one of them
REPOSITORY = Path(__file__).parents[2]
TASKS = "videomme,mlvu_dev,tomato,docvqa_val,chartqa"
QUESTIONS = 6 + 7 + 3 + 3 + 3
SETTINGS = ("--num-frames", "8", "--num-patches", "64", "--device", "cpu", "--max-new-tokens", "8")


def environment() -> Mapping[str, str]:
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_to_end(command: list[str], cwd: Path) -> None:
    """Run; when it takes too long torch.distributed.run is asked to end, which ends its workers too."""
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]


def journalled(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of all journals."""
    lines = [
        line
        for path in sorted(folder.glob("answers-*.jsonl"))
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


@pytest.fixture(scope="module")
def suite(mirror: Path, tiny_folder: Path) -> Callable[..., list[str]]:
    """The command line of a suite."""

    def command(out: Path, *more: str, tasks: str = TASKS) -> list[str]:
        where = ["--model", str(tiny_folder), "--root", str(mirror), "--out", str(out)]
        return ["eval", "suite", *where, "--tasks", tasks, *SETTINGS, *more]

    return command


@pytest.fixture(scope="module")
def whole(suite: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert cli.main(suite(out)) == 0
    return out


def test_a_run_writes_its_report_and_loses_no_answer(whole: Path):
    report = json.loads((whole / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["MLVU-dev", "VideoMME", "TOMATO", "ChartQA", "DocVQA"]
    assert report["versions"]["lmms-eval"] == "0.7.3" and not report["broken"]
    assert {path.name for path in whole.iterdir()} >= {"report.md", "report.png", "samples", "lmms_eval.json"}
    entries = journalled(whole / "answers")
    assert len(entries) == QUESTIONS and len({entry["key"] for entry in entries}) == QUESTIONS


def test_a_killed_run_goes_on_where_it_was(suite: Any, whole: Path, tmp_path: Path):
    out = tmp_path / "killed"
    started = subprocess.Popen(
        [sys.executable, "-m", "onevision_hf.cli", *suite(out, "--batch-size", "1")],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    while len(journalled(out / "answers")) < 4:
        assert started.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    before = journalled(out / "answers")
    assert 4 <= len(before) < QUESTIONS and not (out / "report.json").exists()

    assert cli.main(suite(out)) == 0
    entries = journalled(out / "answers")
    assert entries[: len(before)] == before
    assert len(entries) == QUESTIONS == len({entry["key"] for entry in entries})
    assert (out / "report.json").read_text() == (whole / "report.json").read_text()


def test_two_processes_give_the_answers_of_one(mirror: Path, tiny_folder: Path, whole: Path, tmp_path: Path):
    """The stock command line of lmms-eval, started as one has to on processors."""
    out = tmp_path / "two"
    arguments = {
        "pretrained": tiny_folder,
        "sampling": "codec",
        "num_frames": 8,
        "num_patches": 64,
        "device": "cpu",
        "max_new_tokens": 8,
        "journal": out / "answers",
    }
    run_to_end(
        [
            *(
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc_per_node",
                "2",
                "-m",
                "lmms_eval",
            ),
            *("--model", "onevision", "--tasks", TASKS, "--batch_size", "4", "--log_samples"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
            *("--output_path", str(out), "--verbosity", "DEBUG"),
        ],
        cwd=mirror,
    )
    halves = [journalled_of(out / "answers" / f"answers-{rank}.jsonl") for rank in (0, 1)]
    assert all(halves)  # a world of one would have left one journal
    keys = [entry["key"] for half in halves for entry in half]
    assert len(keys) == QUESTIONS == len(set(keys))
    assert {entry["key"]: entry["answer"] for half in halves for entry in half} == {
        entry["key"]: entry["answer"] for entry in journalled(whole / "answers")
    }
    (results,) = out.glob("**/*_results.json")
    one = json.loads((whole / "lmms_eval.json").read_text())["results"]
    two = json.loads(results.read_text())["results"]
    assert (
        two["videomme"]["videomme_perception_score,none"] == one["videomme"]["videomme_perception_score,none"]
    )


def journalled_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_inputs_are_compared_at_one_budget(mirror: Path, tiny_folder: Path, tmp_path: Path, capsys: Any):
    out = tmp_path / "compared"
    command = [
        "eval",
        "compare",
        "--model",
        str(tiny_folder),
        "--sampling",
        "codec,frames",
        "--budget",
        "128",
    ]
    command += ["--root", str(mirror), "--out", str(out), "--tasks", "videomme,mlvu_dev"]
    assert cli.main([*command, "--device", "cpu", "--max-new-tokens", "4"]) == 0
    assert "# codec against frames, 128 patches a video" in capsys.readouterr().out
    rows = json.loads((out / "comparison.json").read_text())
    assert [row["task"] for row in rows] == ["mlvu_dev", "videomme"]
    for row in rows:
        assert row["difference"]["low"] <= row["difference"]["mean"] <= row["difference"]["high"]
        assert row["tokens"]["codec"] == pytest.approx(row["tokens"]["frames"], rel=0.05)
        reports = [
            json.loads((out / f"{name}-128" / "report.json").read_text())["rows"]
            for name in ("codec", "frames")
        ]
        for name, report in zip(("codec", "frames"), reports, strict=True):
            (figure,) = [r["figure"] for r in report if r["task"] == row["task"]]
            assert row["figures"][name] == pytest.approx(figure)  # questions add up to lmms-eval's own figure


def test_missing_data_are_named_before_anything_runs(suite: Any, mirror: Path, tmp_path: Path, capsys: Any):
    (mirror / "Lin-Chen").rename(mirror / "elsewhere")
    try:
        assert cli.main(suite(tmp_path, tasks="chartqa,mmstar")) == 1
    finally:
        (mirror / "elsewhere").rename(mirror / "Lin-Chen")
    error = capsys.readouterr().err
    assert "1 of 2 tasks cannot be loaded: mmstar" in error and "onevision eval prepare" in error


def test_fetch_has_lmms_eval_make_ready_what_it_can_reach(mirror: Path, capsys: Any):
    """There is no network here: what lies below the root is loaded, and counted as what it is."""
    assert cli.main(["eval", "prepare", "--tasks", "videomme", "--root", str(mirror), "--fetch"]) == 1
    text = capsys.readouterr().out
    assert "not fetched" not in text
    assert "VideoMME (videomme): not ready: 6 questions, not 2700" in text
    assert "2 read from" in text
