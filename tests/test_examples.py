"""The scripts of examples/ do what they say on drawn clips and small models; the notebooks run."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from vl_tiny import tiny_text_config, tiny_tokenizer

from onevision_hf.cli import main as onevision
from onevision_hf.synthetic import Job, draw_clip, encode, produce

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def script(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_classifier_learns_colours_and_loads_again(tmp_path):
    produce(Job("clips", seed=11, family="mover_colour"), tmp_path / "drawn", 60)
    torch.manual_seed(0)
    words = [str(tmp_path / "drawn"), "--out", str(tmp_path / "out"), "--epochs", "6", "--batch-size", "8"]
    figures = script("finetune_classifier").main(words)
    assert figures["eval_accuracy"] > 0.6  # of four colours; chance is 0.25
    from transformers import AutoModelForVideoClassification, AutoVideoProcessor

    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
    inputs = AutoVideoProcessor.from_pretrained(tmp_path / "out")(
        encode(draw_clip(0, 0).frames), return_tensors="pt"
    )
    assert set(model.config.id2label.values()) == {"red", "green", "blue", "yellow"}
    assert model(**inputs).logits.shape == (1, 4)


@pytest.mark.slow
def test_lora_gives_one_folder_that_answers(tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    llm = tmp_path / "llm"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_text_config("qwen3")).save_pretrained(llm)
    tiny_tokenizer().save_pretrained(llm)
    assert onevision(["synth", "questions", "--out", str(tmp_path / "asked"), "--count", "24", "--json"]) == 0
    words = [str(tmp_path / "asked"), "--llm", str(llm), "--out", str(tmp_path / "out"), "--steps", "3"]
    whole = script("lora_chat").main([*words, "--rank", "4", "--batch-size", "1", "--device", "cpu"])
    before = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "assembled").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(whole).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("connector" in name or "projector" in name for name in changed)
    assert any("q_proj" in name and "language_model" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)
    lines = [json.loads(line) for line in (tmp_path / "out" / "run" / "log.jsonl").read_text().splitlines()]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines)


@pytest.mark.slow
def test_a_clip_finds_itself_and_its_own_kind_in_a_folder(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(12):
        (videos / f"{number:02d}.mp4").write_bytes(encode(draw_clip(5, number, "mover_colour").frames))
    (videos / "broken.mp4").write_text("no video")
    search = script("search_videos")
    assert search.main(["index", str(videos), str(tmp_path / "index.safetensors")]) == 12
    assert "broken.mp4" in capsys.readouterr().err
    found = search.main(["find", str(tmp_path / "index.safetensors"), str(videos / "03.mp4"), "--count", "3"])
    assert len(found) == 3 and found[0][0].endswith("03.mp4") and found[0][1] > 0.999
    with pytest.raises(SystemExit, match="none of 0 clips"):
        (tmp_path / "empty").mkdir()
        search.main(["index", str(tmp_path / "empty"), str(tmp_path / "none.safetensors")])


def test_there_are_two_notebooks_with_their_outputs():
    assert [path.name for path in NOTEBOOKS] == ["anatomy.ipynb", "ten_minutes.ipynb"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert any(
            output for cell in code for output in cell["outputs"] if "image/png" in output.get("data", {})
        )
        kinds = {output.get("name", output["output_type"]) for cell in code for output in cell["outputs"]}
        assert kinds <= {"stdout", "display_data", "execute_result"}  # no errors, nor paths in warnings


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=800, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in printed) >= 2
