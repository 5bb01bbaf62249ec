"""The encoder in the package: what its folder holds, that it runs on anything, and what it knows."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

import onevision_hf
from onevision_hf import OneVisionModel, bundled_clip
from onevision_hf.eval.bank import DIRECTIONS, Bank
from onevision_hf.modeling.grid_pooling import grid_means
from onevision_hf.synthetic import draw_clip, encode

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny():
    folder = onevision_hf.tiny()
    return AutoModel.from_pretrained(folder).eval(), AutoVideoProcessor.from_pretrained(folder)


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_is_small_stored_in_float16_and_runs_in_float32(tiny):
    folder, model = onevision_hf.tiny(), tiny[0]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4_000_000
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert type(model) is OneVisionModel and model.dtype == torch.float32
    assert 1_500_000 < model.num_parameters() < 2_100_000
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card and "seed" in card and "raw pixels" in card


def test_it_takes_any_clip_and_any_picture(tiny):
    model, processor = tiny
    short = np.random.default_rng(0).integers(0, 255, (5, 90, 40, 3), np.uint8)
    for clip in (str(bundled_clip()), short):
        inputs = processor(clip, return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs)
        assert outputs.last_hidden_state.shape[1:] == (inputs["patch_positions"].shape[1], 192)
        assert outputs.pooler_output.isfinite().all()
    pictures = AutoImageProcessor.from_pretrained(onevision_hf.tiny())(
        [Image.new("RGB", (200, 100)), Image.new("RGB", (64, 80))], return_tensors="pt"
    )
    with torch.inference_mode():
        assert model(**pictures).pooler_output.shape == (2, 192)


@pytest.mark.slow
def test_its_nearest_neighbours_have_the_colour_of_the_mover(tiny):
    """Drawn from a seed that nobody trained on; the table of the docs is made with many more."""
    model, processor = tiny
    clips = [draw_clip(77, index, "mover_colour") for index in range(120)]
    features = []
    for clip in clips:
        inputs = processor(encode(clip.frames), return_tensors="pt")
        with torch.inference_mode():
            features.append(grid_means(model(**inputs).last_hidden_state, inputs["patch_positions"]))
    grid = torch.cat(features)
    grid = torch.nn.functional.normalize((grid - grid.mean(0)) / (grid.std(0) + 1e-4), dim=1)
    near = (grid @ grid.T).fill_diagonal_(-2).argmax(1)
    hits = [clips[i].labels["mover_colour"] == clips[j].labels["mover_colour"] for i, j in enumerate(near)]
    assert np.mean(hits) > 0.6  # chance 0.25


def test_the_bank_finds_a_clip_of_its_own_and_reads_directions(tiny):
    model, processor = tiny
    bank = Bank.load(onevision_hf.tiny())
    assert bank.pooled.shape == (256, 192)
    hits = 0
    for index in range(16):
        clip = draw_clip(78, index, "direction")
        inputs = processor(encode(clip.frames), return_tensors="pt")
        with torch.inference_mode():
            found = bank.directions(model(**inputs).last_hidden_state, inputs["patch_positions"])
        assert tuple(found) == DIRECTIONS
        hits += max(found, key=found.get) == clip.labels["direction"]
    assert hits >= 6  # chance 2
    inputs = processor(encode(bank.clip(9).frames), return_tensors="pt")
    with torch.inference_mode():
        (number, likeness), *_ = bank.nearest(model(**inputs).pooler_output, 3)
    assert number == 9 and likeness > 0.99


def test_a_bank_comes_back_as_it_was_saved_and_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no bank.safetensors: --model tiny has one"):
        Bank.load(tmp_path)
    bank = Bank(torch.randn(5, 4).half().float(), torch.randn(8, 64), torch.randn(8), seed=6)
    bank.save(tmp_path)
    again = Bank.load(tmp_path)
    assert torch.equal(bank.pooled, again.pooled) and torch.equal(bank.weight, again.weight)
    assert again.seed == 6 and again.nearest(bank.pooled[2:3], 1)[0][0] == 2


def test_nearest_prints_and_draws(tmp_path, capsys):
    from onevision_hf.cli import main

    out = tmp_path / "new" / "nearest.png"
    assert main(["nearest", "bundled", "--count", "2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("bundled: ") and "direction" in said.splitlines()[0] and len(said.splitlines()) == 4
    )
    with Image.open(out) as picture:
        assert picture.width > 900 and np.asarray(picture).std() > 20
    assert main(["nearest", "bundled", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["neighbours"]) == 4 and report["direction"] in report["directions"]


def test_a_direction_is_named_when_enough_speaks_for_it():
    from onevision_hf.commands.nearest import say

    assert say({"left": 0.8, "up": 0.1}) == "moves left (0.80)"
    assert say({"up": 0.1, "left": 0.2, "down": 0}) == "no clear direction (left 0.20, up 0.10)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "0"], "--count is 1 to 256"),
        (["--out", "a.jpg"], "written as .png, found '.jpg'"),
        (["--model", "."], "has no bank.safetensors"),
    ],
)
def test_nearest_says_what_is_wrong(words, said, capsys):
    from onevision_hf.cli import main

    assert main(["nearest", "bundled", *words]) == 1
    assert said in capsys.readouterr().err


def test_the_check_names_what_differs():
    check = script("check_tiny")
    record = json.loads((check.FIXTURE / "losses.json").read_text())
    assert check.differences(record["losses"], record["losses"]) == []
    other = {head: [v * 1.002 for v in values] for head, values in record["losses"].items()}
    wrong = check.differences(other, record["losses"])
    assert len(wrong) == 20 and "object, step 5: " in wrong[0] and "2.0e-03 off" in wrong[0]
    nan = {head: [float("nan")] * len(values) for head, values in record["losses"].items()}
    assert len(check.differences(nan, record["losses"])) == 20
    now = {**record["environment"], "PyAV": "99.0"}
    assert "PyAV" in check.explain(record["environment"], now) and "99.0 now" in check.explain(
        record["environment"], now
    )
    assert "the code has changed" in check.explain(now, now)


@pytest.mark.slow
def test_the_first_steps_are_those_that_were_recorded():
    """`make tiny-check` takes all fifty."""
    check = script("check_tiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = check.losses(steps=10)
    finally:
        torch.set_num_threads(threads)
    record = json.loads((check.FIXTURE / "losses.json").read_text())
    wrong = check.differences(found, record["losses"])
    assert not wrong, [*wrong, check.explain(record["environment"], check.environment())]


def test_the_script_passes_over_what_is_done(tmp_path, capsys):
    pipeline = script("train_tiny").Pipeline(tmp_path / "out")
    assert pipeline.run("say", "-c", "print('hello')") == "hello\n"
    assert pipeline.run("say", "-c", "raise SystemExit(3)") == "hello\n"  # done: not run again
    with pytest.raises(SystemExit, match="fail ended with status 3; the same command goes on"):
        pipeline.run("fail", "-c", "raise SystemExit(3)")
    assert list(pipeline.read("stages.json")) == ["say"]
