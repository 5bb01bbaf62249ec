"""Zero-shot names and retrieval: what is right is found, ties help nobody, prompts are averaged.

Run: python -m pytest tests/eval/test_unified_zeroshot_retrieval.py
"""

import json

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize
from unified_tiny import read_json, save_model, save_pictures

from onevision_hf.cli import main
from onevision_hf.data.captions import PairRow
from onevision_hf.eval.unified.models import open_model
from onevision_hf.eval.unified.retrieval import _chance, measure_retrieval, ranks
from onevision_hf.eval.unified.zeroshot import class_features, class_names, measure_zeroshot, open_classes

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Colours:
    """In a model's place: a picture's feature is its mean colour, a text's the colours that it names."""

    name, cut = "colours", 0

    def tokenizer(self):
        return self

    def image_features(self, pictures):
        colours = [torch.tensor(picture.resize((1, 1)).getpixel((0, 0))) for picture in pictures]
        return normalize(torch.stack(colours).float(), dim=-1)

    def text_features(self, texts, tokenizer):
        rows = [[word in text.split() for word in COLOURS] for text in texts]
        return normalize(torch.tensor(rows).float() + 1e-3, dim=-1)


def paint(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (4, 4), COLOURS[name]).save(folder / name / f"{index}.png")
    return folder


def test_pictures_get_the_name_whose_text_is_nearest(tmp_path):
    folder = paint(tmp_path, COLOURS)
    found = measure_zeroshot(open_classes(str(folder)), Colours(), templates=("a {} thing",))
    assert found["accuracy"] == found["top3"] == 1
    assert [found["chance"], found["majority"]] == pytest.approx([1 / 3, 1 / 3])
    names = tmp_path / "names.json"
    # Names of another class: everything is called wrongly, and the classes say which.
    names.write_text(json.dumps({"blue": "red", "green": ["green", "green leaf"], "red": "blue"}))
    wrong = measure_zeroshot(open_classes(str(folder)), Colours(), templates=("{}",), names=names)
    assert wrong["accuracy"] == pytest.approx(1 / 3)
    assert {name: own["accuracy"] for name, own in wrong["classes"].items()} == {
        "blue": 0,
        "green": 1,
        "red": 0,
    }
    assert measure_zeroshot(open_classes(str(folder), limit=6), Colours())["pictures"] == 6


def test_a_class_is_the_mean_of_its_names_in_every_template():
    class Words(Colours):
        def text_features(self, texts, tokenizer):
            assert texts == ["a cat", "no cat", "a red cat", "no red cat", "a {x}", "no {x}"]
            return normalize(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [3, 4], [0, 1]]), dim=-1)

    names = {"cat": ["cat", "red cat"], "x": ["{x}"]}
    found = class_features(Words(), names, ("a {}", "no {}"))
    assert found[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert found[1].tolist() == pytest.approx(normalize(torch.tensor([0.3, 0.9]), dim=0).tolist())


def test_names_come_from_folders_or_a_file_that_names_all(tmp_path):
    assert class_names(["red-disc", "blue_cross"]) == {"red-disc": ["red disc"], "blue_cross": ["blue cross"]}
    (tmp_path / "names.json").write_text('{"a": "x"}')
    with pytest.raises(ValueError, match="names no class for 1 folders: b"):
        class_names(["a", "b"], tmp_path / "names.json")
    (tmp_path / "names.json").write_text("{")
    with pytest.raises(ValueError, match="could not be read"):
        class_names(["a"], tmp_path / "names.json")


def rows(*pairs):
    return [
        PairRow(f"{i}", Image.new("RGB", (4, 4), COLOURS[c]), captions)
        for i, (c, captions) in enumerate(pairs)
    ]


def test_texts_find_their_pictures_and_equal_texts_are_one():
    pairs = rows(("red", ("red", "a red one")), ("green", ("green",)), ("blue", ("blue",)), ("red", ("red",)))
    found = measure_retrieval(pairs, Colours())
    assert found["pictures"] == 4 and found["texts"] == 4
    # "a red one" belongs to the first picture alone and is as near to the last: the tie helps neither way.
    assert found["image_to_text"] == {"R@1": 0.75, "R@5": 1, "R@10": 1}
    assert found["text_to_image"] == {"R@1": 0.75, "R@5": 1, "R@10": 1}
    # One text of two pictures finds either.
    first = measure_retrieval(pairs, Colours(), caption=0)
    assert first["texts"] == 3 and first["image_to_text"]["R@1"] == first["text_to_image"]["R@1"] == 1
    with pytest.raises(ValueError, match="1 has 1 captions, none with the number 1"):
        measure_retrieval(pairs, Colours(), caption=1)


def test_pictures_without_a_caption_or_broken_are_left_out_and_listed():
    pairs = [
        *rows(("red", ("red",)), ("green", (" ",)), ("blue", ("blue",))),
        PairRow("3", b"broken", ("x",)),
    ]
    found = measure_retrieval(pairs, Colours())
    assert found["pictures"] == 2 and {r["key"] for r in found["rejected"]} == {"1", "3"}
    with pytest.raises(ValueError, match="nothing to choose among"):
        measure_retrieval(pairs[:2], Colours())


def test_ranks_are_those_of_a_sort():
    generator = torch.Generator().manual_seed(0)
    queries, targets = (normalize(torch.randn(n, 6, generator=generator), dim=-1) for n in (20, 30))
    right = [torch.randperm(30, generator=generator)[: 1 + n % 3].tolist() for n in range(20)]
    order = (queries @ targets.T).argsort(dim=1, descending=True).tolist()
    expected = [min(row.index(target) for target in own) for row, own in zip(order, right, strict=True)]
    assert ranks(queries, targets, right, batch=7).tolist() == expected


def test_chance_is_that_of_drawing_without_putting_back():
    assert _chance([[0]], 4, 1) == 0.25 and _chance([[0]], 4, 5) == 1
    assert _chance([[0, 1]], 4, 2) == pytest.approx(5 / 6)
    assert _chance([[0], [0, 1]], 4, 1) == pytest.approx(0.375)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("unified"))


def test_the_commands_measure_a_models_folder(model, tmp_path, capsys):
    folder = save_pictures(tmp_path / "pictures")
    words = ["--model", str(model), "--out", str(tmp_path / "out"), "--json"]
    assert (
        main(["eval", "zeroshot", str(folder), "--templates", "simple", "--template", "{} here", *words]) == 0
    )
    report = read_json(capsys.readouterr().out)
    assert report["pictures"] == 8 and len(report["templates"]) == 8
    opened = open_model(str(model))
    texts = class_features(opened, report["names"], report["templates"])
    shown = [Image.open(path) for path in sorted(folder.rglob("*.png"))]
    with torch.no_grad():
        nearest = (normalize(opened.model.get_image_features(opened.pixels(shown)), dim=-1) @ texts.T).argmax(
            1
        )
    truth = torch.arange(8) // 4
    assert report["accuracy"] == pytest.approx((nearest == truth).float().mean().item())

    from onevision_hf.synthetic.folder import Job, produce
    from onevision_hf.synthetic.images import ImageSettings

    produce(Job("images", 0, None, image=ImageSettings(32, 32)), tmp_path / "drawn", 6, workers=1)
    assert main(["eval", "retrieval", str(tmp_path / "drawn"), "--caption", "0", *words]) == 0
    report = read_json(capsys.readouterr().out)
    assert report["pictures"] == 6 and report["image_to_text"]["R@10"] == 1
    assert report["by_chance"]["image_to_text"]["R@1"] == pytest.approx(1 / report["texts"])
    assert json.loads((tmp_path / "out" / "figures.json").read_text()) == report


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["zeroshot", "FLAT"], "one folder of pictures for each class"),
        (["zeroshot", "FLAT", "--template", "no place"], "a template holds {} once"),
        (["zeroshot", "FLAT", "--templates", "eighty"], "choose one of name, photo, simple"),
        (["zeroshot", "FLAT", "--batch-size", "0"], "--batch-size must be at least 1, found 0"),
        (["retrieval", "FLAT"], "holds no images with captions"),
        (["retrieval", "FLAT", "--caption", "-1"], "counts from 0"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, capsys, words, says):
    Image.new("RGB", (40, 40)).save(tmp_path / "one.png")
    words = [str(tmp_path) if word == "FLAT" else word for word in words]
    assert main(["eval", *words, "--model", str(model)]) == 1
    assert says in capsys.readouterr().err.splitlines()[-1]
