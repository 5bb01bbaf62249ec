"""`onevision eval knn`: a folder of folders in, two figures out.

Run: python -m pytest tests/eval/test_knn.py
"""

import json

import numpy as np
import pytest
from PIL import Image
from probe_clips import SIDE, copy, draw_folder, save_encoder

from onevision_hf.cli import main


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


def test_features_are_encoded_once_and_other_settings_are_refused(made, monkeypatch, capsys):
    from onevision_hf.eval.probes import knn as module

    knn(made, made / "clips")

    def encode(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(module.EncoderTeacher, "encode", encode)
    assert knn(made, made / "clips")[0] == 0
    capsys.readouterr()
    status, found = knn(made, made / "clips", "--input", "frames")
    assert status == 1 and found is None
    assert "was made from something else: view was" in (said := capsys.readouterr().err)
    assert "Name another --cache" in said


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
    def said(folder, *more):
        status, _ = knn(made, folder, *more, cache="unused")
        assert status == 1
        return capsys.readouterr().err

    assert "does not exist" in said(tmp_path / "nowhere") or "is not a folder" in said(tmp_path / "nowhere")
    folder = copy(made / "pictures", tmp_path / "pictures")
    (folder / "empty").mkdir()
    assert "no picture or video in empty" in said(folder)
    (folder / "empty").rmdir()
    (folder / "dark" / "0.png").rename(folder / "stray.png")
    assert "stray.png lies in no sub-folder" in said(folder)
    assert "less than the 16 of one whole frame" in said(made / "clips", "--num-patches", "3")
    assert "8 frames of 56 x 56 pixels have 128 patches" in said(made / "clips", "--num-patches", "500")


def test_the_default_cache_is_named_by_model_files_and_settings(made, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "home"))
    base = ["eval", "knn", str(made / "pictures"), "--model", str(made / "encoder"), "--size", str(SIDE)]
    for more in ([], ["--input", "frames"], []):
        assert main([*base, *more]) == 0
    assert len(list((made / "home" / "onevision_hf" / "knn").iterdir())) == 2
    assert main(["eval", "knn", str(made / "clips"), "--model", "descriptors:motion"]) == 0
