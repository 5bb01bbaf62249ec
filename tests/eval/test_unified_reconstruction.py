"""Reconstruction: each figure against its definition, what it is compared with, what is missing or broken.

Run: python -m pytest tests/eval/test_unified_reconstruction.py
"""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from unified_tiny import SIDE, PixelDistance, RandomFeatures, read_json, save_model, save_pictures

from onevision_hf.cli import main
from onevision_hf.eval.unified.backbones import MissingBackboneError, load_lpips_metric
from onevision_hf.eval.unified.distances import frechet_distance, gaussian
from onevision_hf.eval.unified.models import open_model
from onevision_hf.eval.unified.pictures import open_pictures
from onevision_hf.eval.unified.reconstruction import compare, measure_reconstruction, to_bytes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("unified"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def test_psnr_is_of_each_picture_and_infinite_for_an_equal_one(pictures):
    others = pictures.clone()
    others[1] = pictures[1] ^ 1  # one step of 255 everywhere
    others[2] = 255 - pictures[2]
    found = compare(others, pictures, ("psnr",), None)["psnr"]
    errors = [
        (a.float() / 255 - b.float() / 255).square().mean() for a, b in zip(others, pictures, strict=True)
    ]
    assert found[0] == math.inf
    assert found[1:].tolist() == pytest.approx([-10 * e.log10().item() for e in errors[1:]], abs=1e-3)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise(pictures):
    noisy = (pictures.int() + torch.randint(-40, 41, pictures.shape)).clamp(0, 255).byte()
    worse = (pictures.int() + torch.randint(-120, 121, pictures.shape)).clamp(0, 255).byte()
    equal, near, far = (
        compare(found, pictures, ("ssim",), None)["ssim"] for found in (pictures, noisy, worse)
    )
    assert torch.allclose(equal, torch.ones(3)) and (near < equal).all() and (far < near).all()
    with pytest.raises(ValueError, match="windows of 11 pixels"):
        compare(pictures[..., :8, :8], pictures[..., :8, :8], ("ssim",), None)


def test_a_frechet_distance_is_zero_to_itself_and_the_square_of_a_shift():
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([1.0, 0, 2, 0, 0, 0])
    own, moved = gaussian(features, "a"), gaussian(features + shift, "b")
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(own, moved) == pytest.approx(5, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 pictures, a has 1"):
        gaussian(features[:1], "a")


def test_the_figures_are_those_of_what_the_model_and_its_vae_give(model, folder):
    opened = open_model(str(model))
    found = measure_reconstruction(
        open_pictures(str(folder)), opened, lpips=PixelDistance(), inception=RandomFeatures(), batch_size=3
    )
    shown = [Image.open(path) for path in sorted(folder.rglob("*.png"))]
    pixels = opened.pixels(shown)
    original = to_bytes(pixels).float()
    with torch.no_grad():
        by_hand = {
            "model": to_bytes(opened.model.reconstruct(pixels)).float(),
            "vae": to_bytes(opened.model.decode_latents(opened.model.encode_pixels(pixels))).float(),
        }
    for name, rebuilt in by_hand.items():
        squares = ((rebuilt - original) / 255).square().mean((1, 2, 3))
        assert found.figures[name]["psnr"] == pytest.approx((-10 * squares.log10()).mean().item(), abs=1e-3)
        # PixelDistance sees [-1, 1]: twice the difference of [0, 1].
        assert found.figures[name]["lpips"] == pytest.approx(4 * squares.mean().item(), rel=1e-4)
        looked = [gaussian(RandomFeatures()(part)[0], "") for part in (original, rebuilt)]
        assert found.figures[name]["rfid"] == pytest.approx(frechet_distance(*looked), rel=1e-4)
    assert found.pictures == len(found.per_picture) == 8 and found.size == SIDE
    assert found.per_picture[0]["key"] == "blue-disc/0.png" and set(found.per_picture[0]) == {
        "key",
        "model",
        "vae",
    }
    assert torch.equal(found.rows["original"], original.byte()) and found.rows["model"].shape == (
        8,
        3,
        SIDE,
        SIDE,
    )


def test_the_command_writes_a_grid_a_record_of_each_picture_and_the_published_rows(
    model, folder, tmp_path, capsys
):
    pictures = tmp_path / "pictures"
    save_pictures(pictures)
    (pictures / "red-disc" / "broken.png").write_bytes(b"not a picture")
    words = [
        "eval",
        "reconstruction",
        "--images",
        str(pictures),
        "--model",
        str(model),
        "--metrics",
        "psnr,ssim",
    ]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    report = read_json(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out" / "figures.json").read_text())
    assert report["pictures"] == 8 and set(report["figures"]) == {"model", "vae"}
    assert [record["key"] for record in report["rejected"]] == ["red-disc/broken.png"]
    ours = [row for table in report["published"] for row in table["rows"] if row["model"] == "OpenVision 3"]
    assert ours[0]["imagenet_rfid"] == 0.187 and any(
        "first version" in note or "first," in note for note in report["notes"]
    )
    assert report["rfid_reference"] is None and report["lpips_net"] is None
    lines = (tmp_path / "out" / "per_picture.jsonl").read_text().splitlines()
    mean = np.mean([json.loads(line)["model"]["psnr"] for line in lines])
    assert mean == pytest.approx(report["figures"]["model"]["psnr"], abs=1e-4)
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.height == 3 * 3 * SIDE and np.asarray(grid).std() > 10
    assert main([*words, "--no-vae", "--limit", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 pictures of 32 x 32" in printed and "model" in printed and "\nvae" not in printed
    assert "OpenVision 3, arXiv 2601.15369v2, Table 2" in printed


def test_a_metric_without_its_weights_is_an_error_that_says_what_to_fetch_before_anything_runs(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    words = ["eval", "reconstruction", "--images", str(folder), "--model", "no-such-model"]
    for metric, file, option in (
        ("lpips", "alexnet-owt-7be5be79.pth", "--lpips-weights"),
        ("rfid", "weights-inception-2015-12-05-6726825d.pth", "--inception"),
    ):
        assert main([*words, "--metrics", f"psnr,{metric}"]) == 1
        printed = capsys.readouterr().err
        assert file in printed and option in printed and "https://" in printed and "--metrics" in printed
    assert main([*words, "--metrics", "psnr,fid"]) == 1
    assert "metrics are psnr, ssim, lpips, rfid; found fid" in capsys.readouterr().err


def test_lpips_reads_torchvisions_file_and_refuses_another(tmp_path, pictures):
    from torchvision.models import alexnet

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = alexnet().features.state_dict()
    stored = {
        f"features.{name}": torch.randn(meta.shape, generator=generator) / 50 for name, meta in shapes.items()
    }
    torch.save(stored, tmp_path / "alex.pth")
    module = load_lpips_metric("alex", tmp_path / "alex.pth")
    for name, tensor in module.net.state_dict().items():
        assert torch.equal(tensor, stored["features." + name.partition(".")[2]])
    distance = compare(pictures.flip(0), pictures, ("lpips",), module)["lpips"]
    assert distance[0] > 0 and distance[1] == pytest.approx(0, abs=1e-6)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(MissingBackboneError, match="holds no weights of torchvision's alex"):
        load_lpips_metric("alex", tmp_path / "other.pth")


def test_what_is_no_unified_model_or_has_no_size_is_refused(model, folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="is a vit, expected a model of unified pre-training"):
        open_model(str(tmp_path))
    with pytest.raises(ValueError, match="40 pixels is no multiple"):
        open_model(str(model), size=40)
    with pytest.raises(ValueError, match="needs its network: pass lpips="):
        measure_reconstruction(open_pictures(str(folder)), open_model(str(model)), metrics=("lpips",))
