"""What a person sees: the plan, the command, the curves, the folder at the end."""

import json
import sys
import types

import pytest
import torch
import training_workers as workers
import yaml
from accelerate.utils import LoggerType
from PIL import Image
from transformers import AutoModel, AutoVideoProcessor

from onevision_hf.cli import main as onevision
from onevision_hf.training.__main__ import main as module
from onevision_hf.training.config import ModelConfig
from onevision_hf.training.dry_run.dummy_data import DummyExamples
from onevision_hf.training.loop import Trainer
from onevision_hf.training.report import read_lines


@pytest.fixture
def config(tmp_path):
    """A config file of the tiny run, whose sources are not there."""
    values = workers.merged(workers.BASE, {"max_steps": 4, "out": str(tmp_path / "out")})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "tiny.yaml"


def test_a_dry_run_prints_the_plan_says_that_there_is_no_data_and_keeps_nothing(config, capsys, tmp_path):
    assert module(["--config", str(config), "--dry-run", "--processes", "4", "max_steps=500"]) == 0
    said = capsys.readouterr().out
    assert (
        "on 4 process(es)" in said and "image: no data (no source is named); random tensors instead" in said
    )
    assert "centers image 37, video 21" in said
    # 8 pictures of 4 patches and 8 videos of 8 patches
    assert "16 samples, 96 patches in 1 micro-batch(es)" in said and "steps: 500, 8000 samples" in said
    # 37 centers of 64 values on four processes: 10 rows of 4 bytes
    rows = {line.split("  ")[1].strip(): line for line in said.splitlines() if line.startswith("  ")}
    assert {
        "weights",
        "gradients",
        "moments",
        "activations (estimate)",
        "image centers",
        "sum",
    } <= rows.keys()
    assert "two steps done" in said
    assert not (tmp_path / "out").exists()


def test_memory_of_the_plan_is_what_a_trainer_holds(tmp_path):
    from onevision_hf.training.dry_run.plan import make_plan, memory_by_part

    config = workers.make_config(tmp_path)
    trainer = Trainer(config, workers.make_rows(config))
    tensors = trainer.tensors()
    planned = memory_by_part(make_plan(config, tmp_path / "plan"), 1)

    def held(*ends):
        return sum(t.nbytes for n, t in tensors.items() if n.startswith(ends[0]) and n.endswith(ends[1:]))

    assert planned["weights"] == held("model.", "")
    assert planned["moments"] == held("optimizer.", "exp_avg", "exp_avg_sq")
    assert planned["image centers"] == held("sharded.image", "centers")
    assert planned["image moments"] == held("sharded.image", "exp_avg", "exp_avg_sq")


def test_a_real_run_without_data_is_an_error_that_names_the_field(config, capsys):
    assert onevision(["train", "--config", str(config)]) == 1
    assert "no data for the head image: cluster.heads.image.source" in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    for name in [*sys.modules]:
        if name.startswith(("onevision_hf.training", "onevision_hf.commands.train")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert onevision(["train", "--config", "cluster_smoke"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install '.[train]' in a clone (accelerate is missing)" in error


def test_a_wrong_key_on_the_command_line_is_one_line_with_the_right_one(config, capsys):
    assert onevision(["train", "--config", str(config), "optim.lr=1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "optim.lr is now called optim.learning_rate" in error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "tiny"
    config = workers.make_config(
        out, max_steps=6, optim={"ema": 0.5}, validation={"every": 3, "held_out": 0.3}
    )
    trainer = Trainer(config, workers.make_rows(config))
    assert trainer.fit() == 0
    return trainer


def test_the_end_of_a_run_is_a_folder_that_loads_with_the_averaged_weights_and_a_card(run):
    model = AutoModel.from_pretrained(run.out / "model")
    for name, tensor in model.state_dict().items():
        assert tensor.equal(run.average.weights[f"encoder.{name}"].detach())
    assert AutoVideoProcessor.from_pretrained(run.out / "model").num_patches == 8
    card = (run.out / "model" / "README.md").read_text()
    log = read_lines(run.out / "log.jsonl")
    assert f"{log[-1]['loss']:.4f} at step 6" in card and '"learning_rate": 0.001' in card
    assert "| image | 90 (63 trained on) | 8 |" in card
    assert str(run.out.parent) not in card  # the machine's folders stay at home
    assert (run.out / "model" / "centers-image.safetensors").exists()


def test_every_line_of_the_log_has_a_step_a_loss_and_the_figures_of_each_head(run):
    lines = read_lines(run.out / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 7))
    for line in lines:
        assert line["loss"] == pytest.approx(line["image/loss"] + line["video/loss"])
        assert 0 <= line["data_wait"] <= 1 and line["samples_per_second"] > 0
        assert {"lr", "grad_norm", "image/positive_cosine", "video/grad_norm"} <= line.keys()


def test_plot_draws_the_curves_and_prints_what_they_begin_and_end_with(run, tmp_path, capsys):
    assert onevision(["plot", str(run.out), "--out", str(tmp_path / "curves.png"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    lines = read_lines(run.out / "log.jsonl")
    assert (summary["first_loss"], summary["last_loss"], summary["steps"]) == (
        lines[0]["loss"],
        lines[-1]["loss"],
        6,
    )
    picture = Image.open(tmp_path / "curves.png").convert("RGB")
    assert picture.height == 4 * 260  # loss, accuracy, gradient norm, learning rate
    assert (31, 119, 180) in {colour for _, colour in picture.getcolors(1 << 20)}
    assert onevision(["plot", str(tmp_path)]) == 1
    assert "log.jsonl" in capsys.readouterr().err


def test_a_tracker_of_accelerate_gets_the_lines_of_the_log(tmp_path, monkeypatch):
    """In trackio's place stands what it is called with: through accelerate, not past it."""
    trackio = types.SimpleNamespace(calls=[], config=types.SimpleNamespace())
    trackio.log = lambda values, step=None: trackio.calls.append((step, values["loss"]))
    trackio.finish = lambda: trackio.calls.append("finished")
    trackio.init = lambda project, **kwargs: trackio
    settings = types.SimpleNamespace(
        update=lambda values, allow_val_change: trackio.calls.append(values["seed"])
    )
    trackio.config = settings
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr("onevision_hf.training.report.get_available_trackers", lambda: [LoggerType.TRACKIO])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [LoggerType.TRACKIO])
    config = workers.make_config(tmp_path, max_steps=2, report_to=["trackio"])
    assert Trainer(config, workers.make_rows(config)).fit() == 0
    logged = [(line["step"], line["loss"]) for line in read_lines(tmp_path / "log.jsonl")]
    assert trackio.calls == [3, *logged, "finished"]


def test_a_tracker_that_is_not_installed_is_an_error_and_not_left_out(tmp_path):
    config = workers.make_config(tmp_path, report_to=["nosuch"])
    with pytest.raises(ValueError, match="'nosuch', which is not installed"):
        Trainer(config, workers.make_rows(config))


def test_training_goes_on_from_a_folder_in_float32_whatever_it_holds(run, tmp_path):
    model = AutoModel.from_pretrained(run.out / "model")
    model.to(dtype=torch.bfloat16).save_pretrained(tmp_path / "low")
    config = workers.make_config(tmp_path / "next")
    config.model = ModelConfig(init_from=str(tmp_path / "low"))
    trainer = Trainer(config, workers.make_rows(config))
    weights = dict(trainer.task.model.encoder.named_parameters())
    assert {str(p.dtype) for p in weights.values()} == {"torch.float32"}
    assert weights["head.probe"].equal(model.head.probe.float())


def losses(out, **optim):
    config = workers.make_config(out, max_steps=2, optim=optim)
    assert Trainer(config, workers.make_rows(config)).fit() == 0
    return [line["loss"] for line in read_lines(out / "log.jsonl")]


def test_gradient_checkpointing_changes_no_loss_and_no_name(tmp_path):
    plain = losses(tmp_path / "plain")
    assert losses(tmp_path / "checkpointed", gradient_checkpointing=True) == pytest.approx(plain, rel=1e-6)
    config = workers.make_config(tmp_path / "checkpointed")
    assert Trainer(config, workers.make_rows(config)).resume()


@pytest.mark.slow
def test_a_compiled_model_takes_the_same_steps_and_saves_under_the_same_names(tmp_path):
    plain = losses(tmp_path / "plain")
    assert losses(tmp_path / "compiled", compile=True) == pytest.approx(plain, rel=1e-4)
    config = workers.make_config(tmp_path / "compiled")
    assert Trainer(config, workers.make_rows(config)).resume()


def test_classes_that_do_not_fit_the_source_are_an_error(tmp_path):
    config = workers.make_config(tmp_path)
    rows = {n: DummyExamples(head, 99, 14).transformed() for n, head in config.cluster.heads.items()}
    with pytest.raises(ValueError, match=r"image.classes is 37, its source has labels 0..98"):
        Trainer(config, rows)


def test_the_command_trains_from_a_folder_and_prints_its_last_figures(tmp_path, capsys):
    for number in range(8):
        path = tmp_path / "media" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (30 * number, 90, 90)).save(path)
    image = {"source": str(tmp_path / "media"), "batch_size": 4, "processor": {"size": 28}, "max_labels": 1}
    out = tmp_path / "out"
    values = {**workers.BASE, "max_steps": 3, "out": str(out), "cluster": {"heads": {"image": image}}}
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump(values))
    command = ["train", "--config", str(tmp_path / "folder.yaml"), "--json"]
    assert onevision([*command, "--max-steps", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2 and not (out / "model").exists()
    assert onevision(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == {
        "out": str(out),
        "step": 3,
        "loss": read_lines(out / "log.jsonl")[-1]["loss"],
        "accuracy": None,
    }
    assert (out / "model" / "config.json").exists()
