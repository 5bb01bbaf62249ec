"""`onevision encode FOLDER --out DIR`: a folder of clips and pictures to shards of features, and back."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from PIL import Image
from safetensors import safe_open

from onevision_hf import FeatureFolder, OneVisionImageProcessor, OneVisionModel, OneVisionVideoProcessor, tiny
from onevision_hf.cli import main

pytest.importorskip("pyarrow", reason='needs the extra: pip install ".[train]"')
from onevision_hf.data import latents

CLIPS = {"a.mp4": (12, 64, 96), "b/a.mp4": (20, 96, 64), "b/c.mp4": (6, 64, 64)}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Three clips of unequal length, a picture with transparency, a damaged clip and a damaged picture."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "b").mkdir()
    for name, shape in CLIPS.items():
        write_clip(folder / name, moving_scene(*shape, seed=len(name)))
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 4), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    (folder / "b" / "damaged.mp4").write_bytes((folder / "a.mp4").read_bytes()[:200])
    (folder / "damaged.png").write_bytes(b"\x89PNG and nothing more")
    return folder


def encode(media, out, *words):
    return main(
        ["encode", str(media), "--out", str(out), "--shard-items", "2", "--keep-ratio", "0.25", *words]
    )


@pytest.fixture(scope="module")
def written(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "out"
    assert encode(media, out, "--batch-size", "3") == 1  # two files are damaged
    return out


def alone(media, key, **settings):
    """What a user computes of one file by hand."""
    model = OneVisionModel.from_pretrained(tiny()).eval()
    if key.endswith(".png"):
        on_white = Image.new("RGBA", (100, 80), "white")
        on_white.alpha_composite(Image.open(media / key))
        inputs = OneVisionImageProcessor.from_pretrained(tiny())(on_white.convert("RGB"), return_tensors="pt")
    else:
        processor = OneVisionVideoProcessor.from_pretrained(tiny())
        inputs = processor(str(media / key), return_tensors="pt", **settings)
    with torch.inference_mode():
        return inputs, model(**inputs)


@pytest.mark.parametrize("key", [*CLIPS, "picture.png"])
def test_features_are_found_by_path_and_are_those_of_each_file_alone(media, written, key):
    features = FeatureFolder(written)[key]
    inputs, outputs = alone(media, key, keep_ratio=0.25)
    assert torch.allclose(features["last_hidden_state"], outputs.last_hidden_state[0], atol=1e-4)
    assert torch.allclose(features["pooler_output"], outputs.pooler_output[0], atol=1e-4)
    if key.endswith(".mp4"):
        positions = inputs["patch_positions"][0]
        assert torch.equal(features["patch_positions"], positions)
        # 25 frames a second, every frame sampled: the n-th frame with patches that one sees is frame t.
        frames = (positions[:, 0].float() * (CLIPS[key][0] - 1) / 63).round()
        assert torch.allclose(features["patch_times"], frames.double() / 25, atol=1e-6)
    else:
        assert len(features["patch_positions"]) == 64 and not features["patch_times"].any()


def test_the_folder_is_a_mapping_of_ragged_items_in_shards_that_anybody_can_read(written):
    folder = FeatureFolder(written)
    assert list(folder) == [*CLIPS, "picture.png"] and len(folder) == 4 and "b/a.mp4" in folder
    counts = [len(folder[key]["last_hidden_state"]) for key in folder]
    assert len(set(counts)) > 1 and counts == [entry["patches"] for entry in folder.index.values()]
    assert folder.index["a.mp4"]["kind"] == "video" and folder.index["a.mp4"]["signal"] == "vectors+residual"
    assert folder.index["picture.png"]["kind"] == "image"
    with safe_open(written / folder.index["b/a.mp4"]["shard"], "pt") as file:
        assert torch.equal(file.get_tensor("b/a.mp4/pooler_output"), folder["b/a.mp4"]["pooler_output"])
    with pytest.raises(KeyError):
        folder["c.mp4"]


def test_damaged_files_are_named_and_end_nothing(media, tmp_path, capsys):
    assert encode(media, tmp_path / "out", "--num-frames", "2") == 1
    said = re.findall(r"^onevision encode: error: (\S+): .+", capsys.readouterr().err, re.MULTILINE)
    assert said == ["b/damaged.mp4", "damaged.png"]
    assert len(FeatureFolder(tmp_path / "out")) == 4


def test_a_run_that_was_stopped_goes_on_and_does_no_shard_twice(
    media, written, tmp_path, monkeypatch, capsys
):
    out, saved = tmp_path / "out", []

    def stop_at_the_second(tensors, path, **more):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(tensors, path, **more)

    save = latents.save_file
    monkeypatch.setattr(latents, "save_file", stop_at_the_second)
    assert encode(media, out) == 130
    with pytest.raises(ValueError, match="is not finished: run 'encode' again"):
        FeatureFolder(out)
    (first,) = out.glob("features-*.safetensors")
    before = first.stat().st_mtime_ns, first.read_bytes()
    monkeypatch.setattr(latents, "save_file", save)
    assert encode(media, out) == 1
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    assert FeatureFolder(out).index == FeatureFolder(written).index
    assert encode(media, out, "--preset", "bits") == 1 and "preset was" in capsys.readouterr().err


def test_weights_and_features_are_of_the_dtype_that_is_named(media, written, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(media / "a.mp4", few)
    assert encode(few, tmp_path / "out", "--dtype", "bfloat16", "--device", "cpu") == 0
    low, full = (FeatureFolder(folder)["a.mp4"]["pooler_output"] for folder in (tmp_path / "out", written))
    assert low.dtype == torch.bfloat16 and full.dtype == torch.float32
    assert torch.cosine_similarity(low.float(), full, dim=0) > 0.99
    assert (
        main(["encode", str(few / "a.mp4"), "--dtype", "bfloat16", "--out", str(tmp_path / "a.safetensors")])
        == 0
    )
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.get_tensor("pooler_output").dtype == torch.bfloat16


def test_a_truncated_clip_is_used_in_part_when_asked(media, tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    whole = write_clip(tmp_path / "whole.mkv", moving_scene(30, 64, 96), gop=6).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: 2 * len(whole) // 3])
    assert encode(folder, tmp_path / "out", "--errors", "partial") == 0
    assert FeatureFolder(tmp_path / "out").index["cut.mkv"]["missing"]


@pytest.mark.parametrize("words", [[], ["--out", "f.safetensors"], ["a.mp4", "--out", "x"]])
def test_a_folder_needs_a_folder_of_its_own(media, words, capsys):
    assert main(["encode", str(media), *words]) == 1
    assert "into a folder of shards: --out DIR" in capsys.readouterr().err


def test_a_folder_of_nothing_that_can_be_read_says_so(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.mp4").write_text("no video")
    assert encode(tmp_path / "in", tmp_path / "out") == 1
    assert "none of the 1 items could be used; the first: text.mp4" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text())["key"] == "text.mp4"
