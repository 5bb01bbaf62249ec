"""Generation: sets of pictures against sets, and what a reference may bring.

Run: python -m pytest tests/eval/test_unified_generation.py
"""

import numpy as np
import pytest
import torch
from PIL import Image
from unified_tiny import SIDE, RandomFeatures, read_json, save_pictures

from onevision_hf.cli import main
from onevision_hf.eval.unified.backbones import MissingBackboneError, load_inception
from onevision_hf.eval.unified.distances import gaussian, inception_score, precision_recall
from onevision_hf.eval.unified.generation import measure_generation
from onevision_hf.eval.unified.pictures import middle, open_pictures
from onevision_hf.eval.unified.reference_tables import TABLES, notes, published_lines

METRICS = ("gfid", "precision", "recall")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures"), ("blue-disc", "red-disc"), each=8)


def arrays(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])


def measured(samples, reference, **given):
    return measure_generation(
        open_pictures(str(samples)), open_pictures(str(reference)), RandomFeatures(), **given
    )


def test_a_folder_and_an_npz_of_the_same_pictures_are_the_same_set(folder, tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=arrays(folder), labels=np.arange(16) // 8)
    found = measured(tmp_path / "samples.npz", folder, metrics=METRICS)
    assert found["figures"]["gfid"] == pytest.approx(0, abs=1e-3)
    assert found["figures"]["precision"] == found["figures"]["recall"] == 1
    assert found["samples"] == found["reference"] == 16 and found["samples_of_a_class"] == [8, 8]


def test_samples_of_one_class_alone_are_precise_and_recall_half(folder):
    found = measured(folder / "red-disc", folder, metrics=METRICS)["figures"]
    assert found["precision"] == 1 and found["recall"] < 0.7 and found["gfid"] > 0.1
    other = measured(folder, folder / "red-disc", metrics=METRICS)["figures"]
    assert other["recall"] == 1 and other["precision"] < 0.7


def test_an_inception_score_is_the_number_of_classes_that_are_told_apart():
    certain = 100 * torch.eye(5).repeat(40, 1)
    assert inception_score(certain, splits=2)[0] == pytest.approx(5, rel=0.05)
    assert inception_score(certain[:1].repeat(20, 1), splits=2) == (pytest.approx(1), pytest.approx(0))
    with pytest.raises(ValueError, match="over 10 parts needs as many pictures, found 4"):
        inception_score(certain[:4])
    with pytest.raises(ValueError, match="over 3 neighbours need more pictures, found 3"):
        precision_recall(certain[:3], certain)


def test_statistics_that_a_reference_brings_are_used_and_its_pictures_for_the_rest(folder, tmp_path):
    own = gaussian(RandomFeatures()(torch.from_numpy(arrays(folder)).permute(0, 3, 1, 2))[0], "")
    np.savez(tmp_path / "adm.npz", arr_0=arrays(folder)[8:], **own)
    found = measured(folder, tmp_path / "adm.npz", metrics=METRICS)
    assert found["figures"]["gfid"] == pytest.approx(0, abs=1e-3)  # of all 16, not of the 8
    assert found["reference"] == 8 and found["figures"]["precision"] < 1
    assert found["reference_statistics"] == "mu and sigma of the file"
    np.savez(tmp_path / "other.npz", arr_0=arrays(folder), mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match=r"mu \(2048,\).*the network gives 8 features"):
        measured(folder, tmp_path / "other.npz", metrics=("gfid",))


def test_pictures_of_several_sizes_want_a_size(folder, tmp_path):
    mixed = save_pictures(tmp_path / "mixed", ("a", "b"), each=3)
    Image.new("RGB", (SIDE * 3, SIDE * 2), (200, 20, 20)).save(mixed / "b" / "wide.png")
    with pytest.raises(ValueError, match=r"a/0.png has 32 x 32 pixels, b/wide.png has 96 x 64: give --size"):
        measured(mixed, folder, metrics=("gfid",))
    assert measured(mixed, folder, metrics=("gfid",), size=SIDE)["samples"] == 7


def test_the_middle_of_a_picture_is_its_central_square():
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    found = np.asarray(middle(Image.fromarray(pixels), 20))
    assert found.shape == (20, 20, 3) and found[:, 1:-1].min() > 240


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"features": np.zeros((4, 8))}, r"it holds features float64 \(4, 8\)"),
        (
            {"a": np.zeros((2, 8, 8, 3), np.uint8), "b": np.zeros((2, 8, 8, 3), np.uint8)},
            "or `arr_0` among several",
        ),
        ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, "holds no pictures"),
    ],
)
def test_an_npz_without_one_array_of_pictures_is_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        open_pictures(str(tmp_path / "samples.npz"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "samples.npz").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut\.npz is not a readable"):
        open_pictures(str(tmp_path / "cut.npz"))


def test_the_command_prints_ours_beside_the_published_and_needs_inception(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    words = ["eval", "generation", "--samples", str(folder), "--reference", str(folder)]
    assert main(words) == 1
    assert "gfid looks through a network whose weights are not here" in capsys.readouterr().err
    monkeypatch.setattr("onevision_hf.eval.unified.backbones.load_inception", lambda *_: RandomFeatures())
    assert main([*words, "--metrics", "gfid,precision"]) == 0
    printed = capsys.readouterr().out
    assert (
        "gfid " in printed
        and "16 samples against its pictures" in printed
        and "OpenVision 3 + RAE: gFID 1.87" in printed
    )
    assert main([*words, "--metrics", "gfid", "--json", "--out", str(tmp_path / "out")]) == 0
    assert (
        list(read_json(capsys.readouterr().out)["figures"]) == ["gfid"]
        and (tmp_path / "out/figures.json").is_file()
    )


@pytest.mark.parametrize("evaluation", list(TABLES))
def test_the_two_versions_of_the_paper_stand_side_by_side(evaluation):
    printed = "\n".join((*published_lines(evaluation), *notes(evaluation)))
    older, newer = {"reconstruction": ("0.216", "0.187"), "generation": ("1.89", "1.87")}[evaluation]
    assert older in printed and newer in printed and "first version" in printed


def test_a_file_of_something_else_is_no_inception(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(MissingBackboneError, match="no weights of torch-fidelity's Inception"):
        load_inception(tmp_path / "other.pth")


@pytest.mark.slow
def test_inception_is_read_from_torch_fidelitys_file_and_gives_2048_features(tmp_path, monkeypatch):
    """With random weights in the file's form: the published ones are fetched by who wants them."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Extractor

    torch.save({}, tmp_path / "none.pth")
    with monkeypatch.context() as patched:
        patched.setattr(Extractor, "load_state_dict", lambda self, stored: None)
        random = Extractor("random", ["2048"], feature_extractor_weights_path=str(tmp_path / "none.pth"))
    torch.save(random.state_dict(), tmp_path / "weights.pth")
    inception = load_inception(tmp_path / "weights.pth")
    features, logits = inception(torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8))
    assert features.shape == (2, 2048) and logits.shape == (2, 1008) and features.std() > 0
    expected = random(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))[0]
    assert torch.allclose(inception(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))[0], expected, atol=1e-5)
