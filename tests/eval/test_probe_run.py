"""A probe from clips to report: what it writes, that it goes on, and that two processes are one.

Run: python -m pytest tests/eval/test_probe_run.py
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from probe_clips import CLASSES, SETTINGS, copy, draw_folder, make_config, save_encoder, write_list
from probe_workers import probe
from processes import start
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from onevision_hf.cli import main
from onevision_hf.eval.probes import run as probe_run
from onevision_hf.eval.probes.feature_cache import FeatureCache
from onevision_hf.eval.probes.report import draw_confusion
from onevision_hf.eval.probes.run import run_probe
from onevision_hf.eval.probes.testing import figures
from onevision_hf.training.config import ConfigError
from onevision_hf.training.loop import TrainingError

EVERYTHING = {"seeds": [1, 2], "intervene": ["replace", "foreign", "shuffle"], "head__position": [0, 0, 0]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """clips/, encoder/, and run/: two seeds and every intervention."""
    folder = tmp_path_factory.mktemp("probe")
    draw_folder(folder / "clips", 8)
    save_encoder(folder / "encoder")
    config = make_config(folder / "encoder", folder / "clips", folder / "run", **EVERYTHING)
    status, result = run_probe(config)
    assert status == 0
    return folder, result


def heads(out, seed=1):
    """Everything of a seed that training makes."""
    head = load_file(out / f"seed-{seed}" / "best.safetensors")
    return head | load_file(out / f"seed-{seed}" / "model" / "model.safetensors")


def losses(out, seed=1):
    lines = (out / f"seed-{seed}" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.timeout(900)  # a busy machine must not fail it
def test_last_and_best_epoch_are_told_for_every_seed(made):
    folder, result = made
    assert (result["train_clips"], result["test_clips"], result["classes"]) == (12, 4, 2)
    assert result["chance"] == 0.5 and result["head"] == "probe at [0.0, 0.0, 0.0]"
    for seed, last, best, epoch in zip(
        result["seeds"], result["last"]["accuracy"]["values"], result["best"]["accuracy"]["values"],
        result["best"]["epochs"], strict=True,
    ):  # fmt: skip
        lines = [
            json.loads(line)
            for line in (folder / "run" / f"seed-{seed}" / "validation.jsonl").read_text().splitlines()
        ]
        assert [line["epoch"] for line in lines] == [1, 2, 3] and [line["step"] for line in lines] == [
            2,
            4,
            6,
        ]
        accuracies = [line["accuracy"] for line in lines]
        assert (last, best, epoch) == (accuracies[-1], max(accuracies), 1 + accuracies.index(max(accuracies)))
    spread = result["last"]["accuracy"]
    assert spread["mean"] == np.mean(spread["values"])
    assert spread["std"] == pytest.approx(np.std(spread["values"], ddof=1))
    # The ground has the class's colour: a probe that learns anything sees it.
    assert result["best"]["accuracy"]["mean"] == 1.0
    assert set(result["interventions"]) == {"replace", "foreign", "shuffle"}


def test_the_report_has_classes_a_matrix_and_says_how_published_figures_are_chosen(made):
    folder, result = made
    text = (folder / "run" / "report.md").read_text()
    for words in ("best epoch on the test set", "| top-1 |", "| top-1, foreign |", "| left | 2 |",
                  "confusion.png", "probe at [0.0, 0.0, 0.0]"):  # fmt: skip
        assert words in text
    assert [row["class"] for row in result["per_class"]] == list(CLASSES)
    with Image.open(folder / "run" / "confusion.png") as picture:
        assert picture.width > 400
    saved = np.load(folder / "run" / "seed-1" / "predictions-last.npz")
    accuracy = float((saved["labels"] == saved["predicted"]).mean())
    assert accuracy == result["last"]["accuracy"]["values"][0]


@torch.no_grad()
def test_what_is_saved_classifies_a_clip_as_the_probe_did(made):
    folder, _ = made
    model = AutoModelForVideoClassification.from_pretrained(folder / "run" / "seed-1" / "model").eval()
    assert model.config.id2label == dict(enumerate(CLASSES)) and model.config.probe_position == [0, 0, 0]
    processor = AutoVideoProcessor.from_pretrained(folder / "run" / "seed-1" / "model")
    saved = np.load(folder / "run" / "seed-1" / "predictions-last.npz")
    clips = probe_run.open_clips(make_config("m", folder / "clips", "o").data)
    for number, predicted in zip(saved["rows"], saved["predicted"], strict=True):
        inputs = processor(clips.test[number].media, return_tensors="pt")
        assert int(model(**inputs).logits.argmax()) == predicted


def test_a_finished_probe_is_left_alone_and_another_is_refused(made, monkeypatch):
    folder, result = made
    config = make_config(folder / "encoder", folder / "clips", folder / "run", **EVERYTHING)
    monkeypatch.setattr(probe_run.ProbeRun, "fit", lambda self: pytest.fail("trained again"))
    assert run_probe(config) == (0, result)
    for change, words in (
        ({"optim__learning_rate": 1e-3}, "optim was"),
        ({"epochs": 4}, "epochs was 3, now 4"),
    ):
        with pytest.raises(ValueError, match=f"made from something else: .*{words}"):
            run_probe(make_config(folder / "encoder", folder / "clips", folder / "run",
                                  **{**EVERYTHING, **change}))  # fmt: skip


@pytest.mark.timeout(900)  # a busy machine must not fail it
def test_a_killed_probe_goes_on_as_if_nothing_had_been(made, tmp_path):
    folder, _ = made
    config = make_config(folder / "encoder", folder / "clips", tmp_path / "killed",
                         **{"head__position": [0, 0, 0], "epochs": 3})  # fmt: skip
    (process,) = start(probe, config)
    checkpoint = tmp_path / "killed" / "seed-1" / "checkpoints" / "latest"
    try:
        for _ in range(25000):
            if checkpoint.exists() or not process.is_alive():
                break
            time.sleep(0.01)
        assert checkpoint.exists()
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "seed-1" / "result.json").exists()
    run_probe(config)
    whole, again = heads(folder / "run"), heads(tmp_path / "killed")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())
    assert losses(tmp_path / "killed") == losses(folder / "run")


@pytest.mark.timeout(900)  # a busy machine must not fail it
def test_two_processes_are_one(made, tmp_path):
    folder, _ = made
    config = make_config(folder / "encoder", folder / "clips", tmp_path / "two",
                         **{"head__position": [0, 0, 0], "cache": str(tmp_path / "cache")})  # fmt: skip
    processes = start(probe, config, size=2)
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0]
    seed = json.loads((tmp_path / "two" / "seed-1" / "result.json").read_text())
    assert seed["processes"] == 2
    alone = make_config(folder / "encoder", folder / "clips", tmp_path / "one",
                        **{"head__position": [0, 0, 0], "cache": str(tmp_path / "cache")})  # fmt: skip
    _, one = run_probe(alone)
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert two["last"] == one["last"] and two["best"] == one["best"]
    # Float16 tokens are nearly the tokens: the cache changes rounding only.
    assert losses(tmp_path / "one") == pytest.approx(losses(folder / "run"), rel=2e-2)


def test_a_cache_of_other_settings_is_never_taken(made, tmp_path, monkeypatch):
    folder, _ = made
    cached = {"cache": str(tmp_path / "cache"), "epochs": 1}
    run_probe(make_config(folder / "encoder", folder / "clips", tmp_path / "a", **cached))
    with pytest.raises(ConfigError, match=r"cache .*num_patches was 40, now 30.*Name another folder"):
        run_probe(make_config(folder / "encoder", folder / "clips", tmp_path / "b", **cached,
                              input__num_patches=30))  # fmt: skip
    other = save_encoder(tmp_path / "encoder", initializer_range=0.1)
    with pytest.raises(ConfigError, match="encoder was"):
        run_probe(make_config(other, folder / "clips", tmp_path / "c", **cached))
    # The same settings take it as it is, and a clip that has changed is encoded anew.
    clips = copy(folder / "clips", tmp_path / "clips")
    before = len(list((tmp_path / "cache").glob("*.safetensors")))
    assert before == 16
    os.utime(clips / "left" / "0.mp4", ns=(1, 1))
    run_probe(make_config(folder / "encoder", clips, tmp_path / "d", **cached))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == before + 1


def test_broken_clips_are_listed_counted_and_stop_above_a_share(made, tmp_path):
    folder, _ = made
    lists = []
    for part, numbers in (("train", range(5)), ("test", range(5, 8))):
        lines = [(f"{name}/{number}.mp4", name) for name in CLASSES for number in numbers]
        lists.append(str(write_list(tmp_path / f"{part}.csv", lines)))
    clips = copy(folder / "clips", tmp_path / "clips")
    for broken in ("left/0.mp4", "right/6.mp4"):
        (clips / broken).write_bytes(b"no clip")
    (clips / "left" / "7.mp4").unlink()
    changes = {"data__test": lists[1], "data__root": str(clips), "data__max_missing": 0.1, "epochs": 2}
    config = make_config(folder / "encoder", lists[0], tmp_path / "run", **changes, max_broken=0.3)
    _, result = run_probe(config)
    assert (result["test_clips"], result["missing"]) == (5, 1)
    assert [record["key"] for record in result["broken"]] == ["right/6.mp4"]
    missing = (tmp_path / "run.missing.jsonl").read_text()
    assert "left/7.mp4" in missing and missing.count("\n") == 1
    saved = np.load(tmp_path / "run" / "seed-1" / "predictions-last.npz")
    assert len(saved["rows"]) == 4  # what cannot be read is not counted as anything
    listed = (tmp_path / "run" / "seed-1" / "broken-0.jsonl").read_text()
    assert "left/0.mp4" in listed
    for more in ({}, {"cache": str(tmp_path / "cache")}):
        config = make_config(folder / "encoder", lists[0], tmp_path / f"strict{len(more)}", **changes,
                             max_broken=0.05, **more)  # fmt: skip
        with pytest.raises(TrainingError, match=r"cannot be read, more than max_broken = 0.05: .*mp4: "):
            run_probe(config)
    cached = make_config(folder / "encoder", lists[0], tmp_path / "lenient", **changes, max_broken=0.3,
                         cache=str(tmp_path / "cache"))  # fmt: skip
    assert {record["key"] for record in run_probe(cached)[1]["broken"]} == {"left/0.mp4", "right/6.mp4"}


def test_the_command_says_what_is_wrong_in_one_line(made, tmp_path, capsys):
    folder, _ = made

    def probe(*words):
        return main(
            ["eval", "probe", "--config", "drawn", "--model", str(folder / "encoder"), *words, "device=cpu",
             f"data.train={folder / 'clips'}", f"out={tmp_path / 'run'}", "input.size=56"]
        )  # fmt: skip

    assert probe("--budget", "2000") == 1
    assert "num_patches is 2000, but 64 frames of 56 x 56 pixels have 1024" in capsys.readouterr().err
    assert probe("optim.lr=1") == 1
    assert "now called optim.learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    small = ["--budget", "48", "--json", "seeds=[3]", "epochs=1", "input.num_frames=8", "batch_size=6"]
    assert probe("--input", "frames", *small) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["input"], found["num_patches"], found["seeds"]) == ("frames", 48, [3])


def test_figures_are_what_they_say():
    logits = np.array([[3.0, 2, 1], [0, 1, 2], [2, 1, 0], [0, 2, 1]], np.float32)
    found = figures(logits, np.array([0, 2, 1, 1]), ["a", "b", "c", "d"], precision=False)
    assert found == {"accuracy": 0.75, "top5": 1.0, "class_accuracy": pytest.approx((1 + 0.5 + 1) / 3)}
    # A clip with two labels is listed twice and is one clip for the precision: both classes come first.
    logits = np.array([[3.0, 2.9, 0], [3.0, 2.9, 0], [0, 0, 3.0]], np.float32)
    found = figures(logits, np.array([0, 1, 2]), ["a", "a", "b"], precision=True)
    assert found["mean_average_precision"] == 1.0 and found["accuracy"] == pytest.approx(2 / 3)


def test_a_matrix_is_drawn_with_counts_and_names_for_few_classes_and_without_for_many():
    counts = np.array([[3, 1, 0], [0, 1, 0], [1, 0, 0]])
    few = draw_confusion(counts, ["left", "right", "a rather long name of a class"], "Few")
    matrix, side = few.axes
    assert matrix.images[0].get_array().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [1, 0, 0]]
    assert [text.get_text() for text in matrix.texts] == ["3", "1", "", "", "1", "", "1", "", ""]
    assert side.texts[1].get_text() == "left as right: 1\na rather long name of a class as left: 1"
    many = draw_confusion(np.eye(174, dtype=int), [f"class {i}" for i in range(174)], "Many")
    assert not many.axes[0].texts and not many.axes[1].texts
    assert [label.get_text() for label in many.axes[0].get_xticklabels()][:3] == ["0", "20", "40"]


@pytest.mark.slow
def test_the_launcher_starts_two_processes_that_are_one_probe(made, tmp_path):
    folder, _ = made
    settings = [f"input.{k}={v}" for k, v in SETTINGS["input"].items()]
    settings += [
        f"{k}={SETTINGS[k]}" for k in ("epochs", "batch_size", "seeds", "dataloader_num_workers", "device")
    ]
    settings += [f"optim.{k}={v}" for k, v in SETTINGS["optim"].items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "onevision_hf.cli", "eval", "probe", "--config", "drawn", "--model",
               str(folder / "encoder"), f"data.train={folder / 'clips'}", f"out={tmp_path / 'run'}",
               "head.position=[0,0,0]", "logging_steps=1", *settings]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    seed = json.loads((tmp_path / "run" / "seed-1" / "result.json").read_text())
    assert seed["processes"] == 2
    assert losses(tmp_path / "run") == pytest.approx(losses(folder / "run"), rel=1e-5)


def test_a_cache_is_written_to_by_one_job_at_a_time(tmp_path):
    from onevision_hf.jobs.processes import Processes

    busy = pytest.raises(ValueError, match="being written by another process")
    with FeatureCache(tmp_path, {"a": 1}, Processes()), busy:
        FeatureCache(tmp_path, {"a": 1}, Processes())
