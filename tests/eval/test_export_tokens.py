"""Exported tokens: the model's own, in shards that trainers of generators read, with their statistics.

Run: python -m pytest tests/eval/test_export_tokens.py
"""

import hashlib

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from unified_tiny import SIDE, save_model, save_pictures

from onevision_hf.cli import main
from onevision_hf.data.sources import open_source
from onevision_hf.eval.unified.models import open_model
from onevision_hf.eval.unified.tokens import TokenShards, export_tokens
from onevision_hf.training.config import load_config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("unified"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures in two folders, and a file that is none."""
    folder = save_pictures(tmp_path_factory.mktemp("pictures"), ("blue-disc", "red-disc"), each=4)
    (folder / "blue-disc" / "3.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def exported(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens")
    words = ["export-tokens", str(folder), str(out), "--model", str(model), "--shard-items", "3"]
    assert main([*words, "--dtype", "float32", "--batch-size", "2", "--json"]) == 0
    return out


def test_rows_are_the_models_tokens_on_their_grid_and_those_of_the_mirrored_picture(model, folder, exported):
    opened = open_model(str(model))
    paths = [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size > 100]
    pixels = opened.pixels([Image.open(path) for path in paths])
    with torch.no_grad():
        tokens, grid, _ = opened.model.encode(pixels)
        mirrored = opened.model.encode(pixels.flip(-1)).tokens
    side = SIDE // 16
    assert grid == (side, side)
    shards = [load_file(path) for path in sorted(exported.glob("*.safetensors"))]
    assert [len(shard["labels"]) for shard in shards] == [3, 2, 2]  # the fourth item is broken
    for name, expected in (("latents", tokens), ("latents_flip", mirrored)):
        found = torch.cat([shard[name] for shard in shards])
        assert found.shape == (7, 32, side, side)
        assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-5)
    assert torch.cat([shard["labels"] for shard in shards]).tolist() == [0, 0, 0, 1, 1, 1, 1]
    # What the decoder makes of a row is what it makes of the tokens.
    with torch.no_grad():
        again = opened.model.decode(shards[0]["latents"].flatten(2).transpose(1, 2), (side, side))
        assert torch.allclose(again.clamp(-1, 1), opened.model.reconstruct(pixels[:3]), atol=1e-4)


def test_statistics_are_those_of_all_rows(exported):
    shards = [load_file(path) for path in sorted(exported.glob("*.safetensors"))]
    rows = torch.cat([shard[name] for shard in shards for name in ("latents", "latents_flip")])
    stat = torch.load(exported / "stat.pt", weights_only=True)
    assert torch.allclose(stat["mean"], rows.mean(0), atol=1e-5)
    assert torch.allclose(stat["var"], rows.var(0, correction=0), rtol=1e-4)
    channels = torch.load(exported / "latents_stats.pt", weights_only=True)
    assert channels["mean"].shape == channels["std"].shape == (1, 32, 1, 1)
    assert torch.allclose(channels["mean"].flatten(), rows.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(channels["std"].flatten(), rows.std((0, 2, 3), correction=0), rtol=1e-4)
    read = TokenShards(exported)
    assert torch.equal(read.mean, stat["mean"]) and read.classes == ["blue-disc", "red-disc"]
    assert read.latents.shape == (14, 32, 2, 2) and read.labels.tolist() == [0, 0, 0, 1, 1, 1, 1] * 2


def test_what_could_not_be_decoded_is_listed(exported):
    (line,) = (exported / "rejected.jsonl").read_text().splitlines()
    assert "blue-disc/3.png" in line


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(model, folder, exported, capsys):
    def digests():
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in exported.iterdir() if p.is_file()}

    before = digests()
    kept = (exported / "latents-00000.safetensors").stat().st_mtime_ns
    for name in ("latents-00001.safetensors", "summary.json", "stat.pt"):
        (exported / name).unlink()
    with pytest.raises(ValueError, match="is not finished"):
        TokenShards(exported)
    words = ["export-tokens", str(folder), str(exported), "--model", str(model), "--shard-items", "3"]
    assert main([*words, "--dtype", "float32", "--batch-size", "2"]) == 0
    printed = capsys.readouterr().out
    assert (
        "7 pictures, 32 x 2 x 2 float32, 3 shards" in printed
        and "2 classes" in printed
        and "1 could not be used" in printed
    )
    assert digests() == before and (exported / "latents-00000.safetensors").stat().st_mtime_ns == kept


def test_tokens_of_another_model_are_not_mixed_in(folder, exported, tmp_path):
    other = open_model(str(save_model(tmp_path, seed=1)))
    settings = {"dtype": "float32", "batch_size": 2, "shard_items": 3}
    with pytest.raises(ValueError, match="model was"):
        export_tokens(open_source(folder), exported, other, **settings)
    with pytest.raises(ValueError, match="unknown dtype 'float8'"):
        export_tokens(open_source(folder), tmp_path / "out", other, dtype="float8")


def test_pictures_without_folders_of_classes_have_the_label_0_which_is_said(model, folder, tmp_path, capsys):
    words = [str(folder / "red-disc"), str(tmp_path / "out"), "--model", str(model), "--no-mirror"]
    assert main(["export-tokens", *words]) == 0
    assert "no folders of classes: labels are 0" in capsys.readouterr().out
    (shard,) = (load_file(path) for path in (tmp_path / "out").glob("*.safetensors"))
    assert set(shard) == {"latents", "labels"} and not shard["labels"].any()
    assert (
        shard["latents"].dtype == torch.float16 and TokenShards(tmp_path / "out").labels.tolist() == [0] * 4
    )


def test_nothing_but_broken_pictures_is_an_error_with_the_first(model, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    assert (
        main(["export-tokens", str(tmp_path / "pictures"), str(tmp_path / "out"), "--model", str(model)]) == 1
    )
    assert "none of the 1 pictures could be used; the first: a.png" in capsys.readouterr().err
    missing = ["export-tokens", str(tmp_path / "pictures"), str(tmp_path / "o"), "--model", str(model)]
    assert main([*missing, "--vae", str(tmp_path / "no-vae")]) == 1
    assert "VAE" in capsys.readouterr().err


def test_the_config_of_the_run_that_is_exported_is_valid():
    config = load_config("unified_drawn")
    assert config.unified.pairs.size == 64 and config.model.overrides["hidden_size"] == 192
