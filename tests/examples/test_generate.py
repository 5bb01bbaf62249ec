"""The example that generates: it learns what its tokens look like, and its command writes pictures.

Run: python -m pytest tests/examples/test_generate.py
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from unified_tiny import SIDE, save_model, save_pictures

from onevision_hf.cli import main


@pytest.fixture(scope="module")
def generate():
    path = Path(__file__).parents[2] / "examples" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_class_gets_tokens_like_its_own(generate):
    """Two classes of tokens about +1 and about -1: samples are near those of the class that was asked for."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    tokens = (1 - 2.0 * labels)[:, None, None, None] + 0.1 * torch.randn(64, 4, 2, 2)
    args = SimpleNamespace(steps=150, batch=32, lr=3e-3, sampling_steps=12, guidance=1.0, seed=0)
    model = generate.make_transformer(4, 2, classes=2, width=32, layers=1)
    curve = generate.fit(model, tokens, labels, 2, 1.0, args)
    assert curve[-1][1] < 0.5 * curve[0][1]
    asked = torch.arange(16) % 2
    found = generate.sample(model, asked, (4, 2, 2), 2, 1.0, args)
    wanted = 1 - 2.0 * asked
    apart = (found.mean((1, 2, 3)) - wanted).abs()
    assert (apart < 0.6).float().mean() >= 0.9
    again = generate.sample(model, asked, (4, 2, 2), 2, 1.0, args)
    assert torch.equal(found, again)


def test_labels_are_hidden_for_all_blocks_at_once(generate):
    """diffusers' blocks would each hide them by chance: in training, two passes would differ."""
    model = generate.make_transformer(4, 2, classes=2, width=32, layers=2).train()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    given = {"timestep": torch.full((64,), 500.0), "class_labels": torch.arange(64) % 2}
    noise = torch.randn(64, 4, 2, 2)
    assert torch.equal(model(noise, **given).sample, model(noise, **given).sample)


def test_the_example_writes_pictures_samples_and_figures(generate, tmp_path, monkeypatch, capsys):
    model = save_model(tmp_path)
    folder = save_pictures(tmp_path / "pictures", ("blue-disc", "red-disc"), each=3)
    assert main(["export-tokens", str(folder), str(tmp_path / "tokens"), "--model", str(model)]) == 0
    out = tmp_path / "out"
    words = [
        "--steps",
        "4",
        "--batch",
        "4",
        "--width",
        "32",
        "--layers",
        "1",
        "--samples",
        "2",
        "--sampling-steps",
        "2",
    ]
    monkeypatch.setattr(
        sys,
        "argv",
        ["generate.py", str(tmp_path / "tokens"), "--model", str(model), "--out", str(out), *words],
    )
    generate.main()
    with np.load(out / "samples.npz") as samples:
        assert samples["arr_0"].shape == (4, SIDE, SIDE, 3) and samples["arr_0"].dtype == np.uint8
        assert samples["labels"].tolist() == [0, 0, 1, 1]
        first = samples["arr_0"][2]
    assert np.array_equal(np.asarray(Image.open(out / "pictures" / "red-disc" / "0000.png")), first)
    with Image.open(out / "samples.png") as picture:
        assert picture.size == (2 * (3 * SIDE + 8), 2 * 2 * SIDE)
    figures = json.loads((out / "figures.json").read_text())
    assert figures["classes"] == ["blue-disc", "red-disc"] and figures["rows"] == 12
    assert figures["shape"] == [32, 2, 2] and 0 < figures["last_loss"] < 10
    # What it wrote is what the metrics read.
    from onevision_hf.eval.unified.pictures import open_pictures

    assert len(open_pictures(str(out / "samples.npz"))) == 4
