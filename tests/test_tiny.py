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
from onevision_hf.eval.probes import direction_head
from onevision_hf.eval.probes.direction_head import DIRECTIONS, FILE, PARTS, DirectionHead, direction_of
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


def test_a_linear_head_in_the_folder_names_directions_well_above_chance(tiny):
    model, processor = tiny
    head = DirectionHead.load(onevision_hf.tiny())
    assert (onevision_hf.tiny() / FILE).stat().st_size <= 20_000
    hits = 0
    for index in range(16):
        clip = draw_clip(78, index, "direction")
        found = direction_of(clip, model, processor, head)
        assert tuple(found) == DIRECTIONS and sum(found.values()) == pytest.approx(1)
        hits += max(found, key=found.get) == clip.labels["direction"]
    assert hits >= 8  # chance 2


def test_a_head_comes_back_as_it_was_saved_and_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no direction_head.safetensors: onevision-tiny has one"):
        DirectionHead.load(tmp_path)
    weights = (torch.randn(4, 3), torch.randn(8, PARTS * 3), torch.randn(8))
    head = DirectionHead(*(value.half().float() for value in weights))
    head.save(tmp_path)
    again = DirectionHead.load(tmp_path)
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(head).items())
    grid = torch.randn(2, PARTS * 4)
    cells = [grid[:, 4 * cell : 4 * cell + 4] @ head.projection for cell in range(PARTS)]
    assert torch.allclose(head.logits(grid), torch.cat(cells, 1) @ head.weight.T + head.bias, atol=1e-5)


def test_the_demo_prints_the_probability_of_each_direction_with_the_truth_right_or_wrong(capsys):
    direction_head.main()
    first, *rows, last = capsys.readouterr().out.splitlines()
    assert f"seed {direction_head.DEMO_SEED}" in first and len(rows) == 8
    assert {row.split()[0] for row in rows} == set(DIRECTIONS)
    (truth,) = [row for row in rows if row.endswith("the truth")]
    assert truth.split()[0] == draw_clip(direction_head.DEMO_SEED, 0, "direction").labels["direction"]
    assert last.endswith("right." if truth == rows[0] else "wrong.")


def test_the_script_fits_a_head_that_separates_what_can_be_separated():
    """Two channels of the grid tell the direction; mean and spread of the channels do not matter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 8
    angle = labels * torch.pi / 4
    cells = torch.randn(400, PARTS, 6, generator=generator)
    cells[..., 0] += 2 * angle.cos()[:, None]
    cells[..., 1] += 2 * angle.sin()[:, None]
    grids = (5 * cells + 3).flatten(1)
    head = script("train_tiny").fit_head(grids[:300], labels[:300], seed=0, channels=3)
    assert head.projection.shape == (6, 3) and head.weight.shape == (8, PARTS * 3)
    assert (head.logits(grids[300:]).argmax(1) == labels[300:]).double().mean() > 0.9


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
