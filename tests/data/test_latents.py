"""`onevision latents`: what is cached is what the model computes, and nothing finished is lost or mistaken.

Run: python -m pytest tests/clustering/test_latents.py
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vae import tiny_vae

from onevision_hf import OpenVision3Config, OpenVision3ImageProcessor, OpenVision3Model
from onevision_hf.cli import main

pytest.importorskip("pyarrow", reason='needs the extra: pip install ".[train]"')
pytest.importorskip("diffusers", reason='needs the extra: pip install ".[openvision]"')

from onevision_hf.data import latents as stage
from onevision_hf.data.latents import LatentShards, cache_latents
from onevision_hf.data.sources import open_source

COUNT = 11


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pictures of different shapes, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (40 + 3 * number, 70 - number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "05-broken.png").write_bytes(b"\x89PNG and nothing more")
    return folder


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture
def words(pictures, vae_folder, tmp_path) -> list[str]:
    words = ["latents", str(pictures), str(tmp_path / "out"), "--vae", str(vae_folder)]
    return [*words, "--size", "32", "--shard-items", "4", "--batch-size", "3"]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".lock")}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cached_latents_give_the_tokens_that_the_pictures_give(
    words, pictures, vae_folder, tmp_path, dtype, capsys
):
    model = OpenVision3Model(OpenVision3Config.tiny(vae_name_or_path=str(vae_folder))).eval()
    model.save_pretrained(tmp_path / "model")
    assert main([*words[:3], "--model", str(tmp_path / "model"), *words[5:], "--dtype", dtype, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["items"] == COUNT and summary["rejected"] == 1 and summary["rows"] == [4, 3, 4]
    shards = LatentShards(tmp_path / "out")
    assert shards.keys == [f"{number:02d}.png" for number in range(COUNT)]
    assert len(shards) == COUNT and shards.shape == (16, 4, 4) and shards[10].shape == (16, 4, 4)
    processor = OpenVision3ImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    for number in (0, 4, 10):
        pixels = processor(Image.open(pictures / shards.keys[number]), return_tensors="pt").pixel_values
        assert shards[number].dtype == getattr(torch, dtype)
        with torch.no_grad():
            expected = model(pixel_values=pixels).pooler_output
            found = model(latents=shards[number][None]).pooler_output
        assert torch.allclose(found, expected, atol=1e-5 if dtype == "float32" else 5e-3)
    rejected = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert rejected["key"] == "05-broken.png" and "not a readable picture" in rejected["reason"]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped_and_ends_with_the_same_bytes(
    words, pictures, vae_folder, tmp_path
):
    assert main(words) == 0
    done = contents(tmp_path / "out")
    # The process kills itself just before the second shard appears under its name.
    script = f"""
import os, signal, sys
from onevision_hf.jobs import run_folder
from onevision_hf.cli import main
rename, seen = os.replace, []
def replace(source, target):
    if str(target).endswith("latents-00001.safetensors"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = replace
main({[*words[:2], str(tmp_path / "again"), *words[3:]]!r})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    first = tmp_path / "again" / "latents-00000.safetensors"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "again" / "latents-00001.safetensors").exists()
    with pytest.raises(ValueError, match="is not finished"):
        LatentShards(tmp_path / "again")
    assert main([*words[:2], str(tmp_path / "again"), *words[3:]]) == 0
    assert contents(tmp_path / "again") == done
    assert first.stat().st_mtime_ns == before


def test_a_finished_folder_is_not_encoded_again(words, monkeypatch):
    assert main(words) == 0
    monkeypatch.setattr(stage, "encode_pixels", lambda *_: pytest.fail("encoded again"))
    assert main(words) == 0


def test_a_folder_made_with_other_settings_or_weights_is_refused_until_redo(words, tmp_path, capsys):
    assert main(words) == 0
    with torch.no_grad():
        other = tiny_vae()
        other.encoder.conv_in.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    changed = [*words[:3], "--vae", str(tmp_path / "other"), *words[5:]]
    for arguments, message in ((changed, "vae was"), ([*words, "--dtype", "float32"], "dtype was 'float16'")):
        capsys.readouterr()
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    before = LatentShards(tmp_path / "out")[0]
    assert main([*changed, "--redo"]) == 0
    assert not torch.equal(LatentShards(tmp_path / "out")[0], before)


def test_bad_arguments_end_with_one_line(words, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_bytes(b"")
    cases = [
        ([*words, "--size", "40"], "size must be multiples of 16"),
        ([*words, "--batch-size", "0"], "--batch-size must be at least 1, found 0"),
        ([*words[:4], str(tmp_path / "absent"), *words[5:]], "could not be loaded"),
        (["latents", str(tmp_path / "none"), *words[2:]], "none of the 1 pictures could be used"),
        (["latents", str(tmp_path / "nowhere"), *words[2:]], "does not exist"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 1, arguments
        error = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("onevision latents")
        ]
        assert len(error) == 1 and message in error[0]
    with pytest.raises(ValueError, match="unknown dtype 'int8'"):
        source = open_source(words[1])
        cache_latents(source, tmp_path / "x", tiny_vae(), OpenVision3Config(), dtype="int8")
    assert main([*words, "--redo"]) == 0
    with pytest.raises(IndexError, match="row 11 of 11"):
        LatentShards(tmp_path / "out")[COUNT]
