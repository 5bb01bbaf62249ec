"""`onevision eval knn`: a folder of folders in, two figures out.

Run: python -m pytest tests/eval/test_knn.py
"""

import json

import numpy as np
import pytest
from PIL import Image
from probe_clips import SIDE, copy, draw_folder, save_encoder

from onevision_hf.cli import main
from onevision_hf.eval.probes.knn import evaluate_knn
from onevision_hf.training.config import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """clips/, pictures/ and an encoder; a readout of the clips with its picture."""
    folder = tmp_path_factory.mktemp("knn")
    draw_folder(folder / "clips", 5)
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 40, (60, 70, 3), dtype=np.uint8) + 180 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / name / f"{number}.png")
    save_encoder(folder / "encoder")
    return folder


def knn(made, folder, *more, cache="cache"):
    out = made / "out.json"
    out.unlink(missing_ok=True)
    status = main(
        ["eval", "knn", str(folder), "--model", str(made / "encoder"), "--json", str(out), "--size",
         str(SIDE), "--num-frames", "8", "--cache", str(made / cache), *map(str, more)]
    )  # fmt: skip
    return status, json.loads(out.read_text()) if out.exists() else None


def test_clips_and_pictures_that_differ_are_told_apart(made, capsys):
    status, found = knn(made, made / "clips", "--picture", made / "near.png")
    assert status == 0
    assert {"accuracy", "linear_accuracy", "chance", "items", "rejected"} <= found.keys()
    assert (found["items"], found["rejected"], found["chance"]) == (10, 0, 0.5)
    assert found["accuracy"] == found["linear_accuracy"] == 1.0
    assert found["classes"] == {"left": 5, "right": 5}
    assert "nearest neighbours 100.0%, linear 100.0%, chance 50.0%" in capsys.readouterr().out
    with Image.open(made / "near.png") as picture:
        assert picture.width > 640 and picture.height > 300
    assert knn(made, made / "pictures", cache="pictures-cache")[1]["accuracy"] == 1.0


def test_clips_are_read_off_the_grid_of_tokens_and_every_pooling_is_told(made, capsys):
    found = knn(made, made / "clips")[1]
    text = capsys.readouterr().out
    assert found["pooling"] == "grid" and set(found["by_pooling"]) == {"pooler", "tokens", "grid"}
    for name, values in found["by_pooling"].items():
        assert values.keys() == {"accuracy", "linear_accuracy"}
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert line.split()[1:3] == [f"{values[k]:.1%}" for k in ("accuracy", "linear_accuracy")]
        named = knn(made, made / "clips", "--pooling", name)[1]
        assert named["by_pooling"] == found["by_pooling"] and named["pooling"] == name
        assert {k: named[k] for k in values} == values
    assert found["accuracy"] == found["by_pooling"]["grid"]["accuracy"]
    # A picture has no time; of pictures the default is the pooled output.
    assert knn(made, made / "pictures", cache="pictures-cache")[1]["pooling"] == "pooler"


def test_an_encoder_without_a_pooled_output_is_compared_by_its_tokens(made, tmp_path):
    headless = save_encoder(tmp_path / "headless", use_head=False)
    found = evaluate_knn(
        str(made / "clips"), str(headless), cache=tmp_path / "cache", processor={"num_frames": 8}
    )
    assert list(found["by_pooling"]) == ["tokens", "grid"] and found["pooling"] == "grid"
    with pytest.raises(ConfigError, match="has no pooler output, it has tokens, grid"):
        evaluate_knn(
            str(made / "clips"), str(headless), cache=tmp_path / "cache", processor={"num_frames": 8},
            pooling="pooler",
        )  # fmt: skip
    with pytest.raises(ConfigError, match="unknown pooling 'mean': choose pooler, tokens, grid"):
        evaluate_knn(str(made / "clips"), str(headless), pooling="mean")


def test_features_are_encoded_once_and_other_settings_are_refused(made, monkeypatch, capsys):
    from onevision_hf.eval.probes import knn as module

    knn(made, made / "clips")

    def encode(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(module.EncoderFeatures, "encode", encode)
    assert knn(made, made / "clips")[0] == 0
    capsys.readouterr()
    status, found = knn(made, made / "clips", "--input", "frames")
    assert status == 1 and found is None
    assert "was made from something else: transform was" in (printed := capsys.readouterr().err)
    assert "Name another --cache" in printed


def test_what_cannot_be_read_is_rejected_with_its_reason_and_counts_for_no_class(made, tmp_path, capsys):
    folder = copy(made / "clips", tmp_path / "clips")
    (folder / "left" / "broken.mp4").write_bytes(b"no clip at all")
    found = knn(made, folder, cache="broken-cache")[1]
    assert (found["items"], found["rejected"]) == (10, 1)
    assert found["rejected_items"][0]["key"] == "left/broken.mp4"
    assert "rejected: left/broken.mp4: " in capsys.readouterr().out
    for path in (folder / "left").glob("?.mp4"):
        path.unlink()
    status, _ = knn(made, folder, cache="emptied-cache")
    assert (
        status == 1 and "no item of left could be read: a class without a sample" in capsys.readouterr().err
    )


def test_folders_that_cannot_be_asked_say_why(made, tmp_path, capsys):
    def printed(folder, *more):
        status, _ = knn(made, folder, *more, cache="unused")
        assert status == 1
        return capsys.readouterr().err

    assert "does not exist" in printed(tmp_path / "nowhere") or "is not a folder" in printed(
        tmp_path / "nowhere"
    )
    folder = copy(made / "pictures", tmp_path / "pictures")
    (folder / "empty").mkdir()
    assert "no picture or video in empty" in printed(folder)
    (folder / "empty").rmdir()
    (folder / "dark" / "0.png").rename(folder / "stray.png")
    assert "stray.png lies in no sub-folder" in printed(folder)
    assert "less than the 16 of one whole frame" in printed(made / "clips", "--num-patches", "3")
    assert "8 frames of 56 x 56 pixels have 128 patches" in printed(made / "clips", "--num-patches", "500")


def test_the_default_cache_is_named_by_model_files_and_settings(made, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "home"))
    base = ["eval", "knn", str(made / "pictures"), "--model", str(made / "encoder"), "--size", str(SIDE)]
    for more in ([], ["--input", "frames"], []):
        assert main([*base, *more]) == 0
    assert len(list((made / "home" / "onevision_hf" / "knn").iterdir())) == 2
    assert main(["eval", "knn", str(made / "clips"), "--model", "descriptors:motion"]) == 0


def test_descriptors_have_no_pooling_and_take_no_encoders_settings(made, tmp_path):
    found = evaluate_knn(
        str(made / "clips"), "descriptors:motion", cache=tmp_path, processor={"num_frames": 8}
    )
    assert found["pooling"] is None and found["by_pooling"] == {}
    with pytest.raises(ConfigError, match="pooling, num_patches is for an encoder"):
        evaluate_knn(str(made / "clips"), "descriptors", pooling="grid", processor={"num_patches": 64})
