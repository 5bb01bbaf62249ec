"""Images with captions: from every kind of source, into samples that a seed decides, and what is wrong."""

import io
import json
import re
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import unified_workers as workers
from PIL import Image
from vae import ShuffleVAE

from onevision_hf.data.captions import CaptionedImage, WithLatents, open_pairs
from onevision_hf.data.items import MediaError
from onevision_hf.data.latents import cache_latents
from onevision_hf.data.sources import open_source
from onevision_hf.modeling.configuration_openvision3 import OpenVision3Config
from onevision_hf.pretraining import MissingLPIPSError
from onevision_hf.pretraining.tokenizer import CaptionTokenizer, load_tokenizer
from onevision_hf.synthetic.folder import Job, produce
from onevision_hf.synthetic.images import ImageSettings
from onevision_hf.training.config import ConfigError
from onevision_hf.training.mixture import MixtureComponent
from onevision_hf.training.sampler import Sampler
from onevision_hf.training.tasks.pair_transform import Needs, PairTransform
from onevision_hf.training.tasks.task import make_task
from onevision_hf.training.tasks.unified_config import PairsConfig

CAPTIONS = [["a red disc", "red"], ["a blue cross"], ["one", "two", "three"]]
ALL = Needs(pixels=True, latents=False, texts=True, caption=True)


def png(colour, size=(48, 32)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "png")
    return file.getvalue()


IMAGES = [png((80 * i, 40, 200)) for i in range(3)]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path):
    """Captions in .json, in .txt, and none."""
    folder = tmp_path / "tars"
    folder.mkdir()
    write_tar(folder / "a.tar", [
        ("0.png", IMAGES[0]), ("0.json", json.dumps({"captions": CAPTIONS[0], "alt": "disc"}).encode()),
        ("1.png", IMAGES[1]), ("1.json", json.dumps({"captions": CAPTIONS[1], "alt": None}).encode()),
    ])  # fmt: skip
    write_tar(folder / "b.tar", [("x/2.txt", b"one"), ("x/2.png", IMAGES[2]), ("3.png", IMAGES[0])])
    return folder


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    for number, part in enumerate((slice(0, 2), slice(2, 3))):
        rows = {
            "image": IMAGES[part],
            "captions": CAPTIONS[part],
            "alt": ["x", None, "z"][part],
            "n": [1, 2, 3][part],
        }
        pq.write_table(pa.table(rows), folder / f"{number}.parquet")
    return folder


@pytest.fixture
def saved(tmp_path):
    dataset = datasets.Dataset.from_dict(
        {"picture": [{"bytes": image, "path": None} for image in IMAGES], "text": [c[0] for c in CAPTIONS]},
        features=datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")}),
    )
    dataset.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn")
    produce(Job("images", 0, None, image=ImageSettings(32, 32)), out, 4, workers=1)
    return out


def same_keys(rows, source):
    assert [rows[i].key for i in range(len(rows))] == [item.key for item in open_source(source).items]


def test_webdataset_tars_give_images_with_the_captions_of_their_members(tars):
    rows = open_pairs(str(tars))
    assert [row.captions for row in map(rows.__getitem__, range(4))] == [
        tuple(CAPTIONS[0]), tuple(CAPTIONS[1]), (), ("one",),
    ]  # fmt: skip
    assert rows[0].media == IMAGES[0] and rows[3].media == IMAGES[2]
    same_keys(rows, tars)
    named = open_pairs(str(tars / "a.tar"), caption_columns=["alt", "captions"])
    assert [named[i].captions for i in (0, 1)] == [("disc", *CAPTIONS[0]), tuple(CAPTIONS[1])]


def test_parquet_and_datasets_give_images_with_the_captions_of_their_columns(table, saved):
    rows = open_pairs(str(table))
    assert [rows[i].captions for i in range(3)] == [tuple(c) for c in CAPTIONS]
    assert [rows[i].media for i in range(3)] == IMAGES
    same_keys(rows, table)
    both = open_pairs(f"parquet:{table}", "image", ["captions", "alt"])
    assert [both[i].captions for i in range(3)] == [(*CAPTIONS[0], "x"), (*CAPTIONS[1],), (*CAPTIONS[2], "z")]
    found = open_pairs(f"hf:{saved}")
    assert [(found[i].media, found[i].captions) for i in range(3)] == [
        (image, (captions[0],)) for image, captions in zip(IMAGES, CAPTIONS, strict=True)
    ]
    same_keys(found, f"hf:{saved}")


def test_a_drawn_folder_gives_the_captions_of_its_manifest(drawn):
    rows = open_pairs(str(drawn))
    assert len(rows) == 4 and all(len(rows[i].captions) == 3 for i in range(4))
    assert Image.open(rows[1].media).size == (32, 32)
    same_keys(rows, drawn)


LISTED = {"b/0.png": CAPTIONS[0], "1.png": CAPTIONS[1], "b/2.png": CAPTIONS[2]}


def listed(folder):
    (folder / "b").mkdir(parents=True)
    for name, image in zip(LISTED, IMAGES, strict=True):
        (folder / name).write_bytes(image)
    return folder


def lines(path, column="file_name", **more):
    rows = [{column: name, "captions": found, **more} for name, found in LISTED.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def table_in_it(folder):
    lines(folder / "metadata.jsonl")


def table_beside_it(folder):
    lines(folder.with_suffix(".jsonl"), column="image", width=48)


def csv_with_a_row_a_caption(folder):
    rows = [f'{name},"{text}"' for name, found in LISTED.items() for text in found]
    (folder / "list.csv").write_text("\n".join(["file,caption", *rows]), encoding="utf-8-sig")


@pytest.mark.parametrize("write", [table_in_it, table_beside_it, csv_with_a_row_a_caption])
def test_a_folder_gives_the_captions_of_a_table_in_it_or_beside_it(tmp_path, write):
    folder = listed(tmp_path / "pictures")
    write(folder)
    rows = open_pairs(str(folder))
    assert {rows[i].key: list(rows[i].captions) for i in range(len(rows))} == LISTED
    assert Image.open(rows[0].media).getpixel((0, 0)) == (80, 40, 200)
    same_keys(rows, folder)


def test_a_table_is_a_source_itself_and_its_columns_can_be_named(tmp_path):
    lines(listed(tmp_path / "in") / "own.jsonl", column="where", alt="x", caption=None)
    rows = open_pairs(str(tmp_path / "in" / "own.jsonl"), "where", ["captions", "alt", "caption"])
    assert rows[0].captions == (*CAPTIONS[1], "x")
    samples, broken = draw(rows, view(), [0, 1, 2])
    assert len(samples) == 3 and not broken


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"file_name": "1.png"}', "line 1 has ['file_name']: a row is a column with a file's name"),
        ('{"file_name": "x.png", "text": "a"}', "names 1 files, x.png the first, of which none is in"),
        ('{"file_name": "1.png", "text": "a"}\n["b"]', "line 2 is no object"),
        ('{"file_name": "1.png", "text": "a"}\n{"file', "line 2 is not JSON"),
    ],
)
def test_a_table_that_says_nothing_of_pictures_is_refused_by_line(tmp_path, text, said):
    (listed(tmp_path / "in") / "t.jsonl").write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)):
        open_pairs(str(tmp_path / "in"))


def test_two_tables_are_a_question(tmp_path):
    table_in_it(listed(tmp_path / "in"))
    table_beside_it(tmp_path / "in")
    with pytest.raises(ValueError, match=r"has 2 tables, .*name one as the source"):
        open_pairs(str(tmp_path / "in"))


def test_sources_that_hold_no_pairs_are_named(tmp_path, table, tars):
    with pytest.raises(FileNotFoundError, match="no source is named"):
        open_pairs("")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_pairs(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"looked for .tar, .parquet"):
        open_pairs(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"it has \['image', 'captions', 'alt', 'n'\], not subtitle"):
        open_pairs(str(table), "image", ["subtitle"])
    (tars / "a.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match=r"a.tar is not a readable tar"):
        open_pairs(str(tars))
    write_tar(tmp_path / "text.tar", [("0.txt", b"words")])
    with pytest.raises(ValueError, match="hold no pictures"):
        open_pairs(str(tmp_path / "text.tar"))


def view(needs=ALL, lengths=(12, 16), **settings):
    tokenizer = load_tokenizer()
    pairs = PairsConfig(batch_size=2, size=32, **settings)
    return PairTransform(pairs, needs, *(CaptionTokenizer(tokenizer, length) for length in lengths))


def draw(rows, how, positions, seed=0):
    broken = []
    component = MixtureComponent("pairs", rows, how, 2, Sampler(len(rows), seed, 0))
    return list(component.draw(seed, np.array(positions), broken)), broken


def text(ids):
    return load_tokenizer().decode(ids, skip_special_tokens=True)


def test_a_sample_is_decided_by_seed_and_position_and_so_is_its_noise():
    rows = [
        CaptionedImage(str(i), Image.new("RGB", (48, 40), (60 * i, 0, 0)), tuple(c))
        for i, c in enumerate(CAPTIONS)
    ]
    how = view(texts=2, min_crop_scale=0.5)
    samples, _ = draw(rows, how, range(9))
    again, _ = draw(rows, how, [5, 2])
    for (key, sample), number in zip(again, (5, 2), strict=True):
        assert key == samples[number][0]
        assert all(np.array_equal(sample[name], samples[number][1][name]) for name in sample)
    seeds = [int(sample["noise_seed"][0]) for _, sample in samples]
    assert len(set(seeds)) == 9
    # Without texts nothing else changes.
    bare, _ = draw(rows, view(Needs(True, False, False, False), min_crop_scale=0.5), range(9))
    assert [int(sample["noise_seed"][0]) for _, sample in bare] == seeds
    assert all(
        np.array_equal(a[1]["pixel_values"], b[1]["pixel_values"]) for a, b in zip(bare, samples, strict=True)
    )
    assert set(bare[0][1]) == {"pixel_values", "noise_seed"}


def test_captions_are_the_first_or_drawn_and_texts_take_turns():
    rows = [CaptionedImage("0", Image.new("RGB", (40, 40)), ("", "one", "two", "three"))]
    first = [sample for _, sample in draw(rows, view(texts=2), range(30))[0]]
    assert {text(sample["caption_ids"]) for sample in first} == {"one"}
    assert sample_shape(first[0]) == {"pixel_values": (3, 32, 32), "text_ids": 2}
    pairs = [tuple(text(sample["text_ids"][:, t]) for t in (0, 1)) for sample in first]
    assert len(set(pairs)) == 6 and all(a != b for a, b in pairs)
    drawn = {text(sample["caption_ids"]) for _, sample in draw(rows, view(target="drawn"), range(30))[0]}
    assert drawn == {"one", "two", "three"}
    alone = [CaptionedImage("0", Image.new("RGB", (40, 40)), ("one",))]
    ids = draw(alone, view(texts=3), [0])[0][0][1]["text_ids"]
    assert [text(ids[:, t]) for t in range(3)] == ["one"] * 3  # fewer captions than texts: again


def sample_shape(sample):
    return {"pixel_values": sample["pixel_values"].shape, "text_ids": sample["text_ids"].shape[1]}


def test_captions_over_the_length_are_cut_and_counted():
    rows = [
        CaptionedImage(
            "0", Image.new("RGB", (40, 40)), ("a striped red disc on a ground of rising waves " * 3,)
        )
    ]
    sample = draw(rows, view(lengths=(5, 6)), [0])[0][0][1]
    assert sample["text_ids"].shape == (5, 1) and sample["caption_ids"].shape == (6,)
    assert sample["text_ids"][-1, 0] == sample["caption_ids"][-1] == 2 and sample["cut"].tolist() == [2]


def test_rows_without_a_caption_or_a_picture_are_listed_and_replaced():
    good = CaptionedImage("good", Image.new("RGB", (40, 40)), ("a disc",))
    wrong = {
        "it has no caption": CaptionedImage("none", good.media, ()),
        "its caption is empty": CaptionedImage("empty", good.media, ("", "  ")),
        "not a readable picture": CaptionedImage("corrupt", IMAGES[0][:60], ("a disc",)),
    }
    for reason, row in wrong.items():
        samples, broken = draw([good, row], view(), range(6))
        assert [key for key, _ in samples] == ["good"] * 6
        assert {record["key"] for record in broken} == {row.key}
        assert all(reason in record["reason"] for record in broken)


@pytest.fixture(scope="module")
def cached(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "out"
    cache_latents(open_source(drawn), out, ShuffleVAE(), OpenVision3Config.tiny(), size=32, workers=1)
    return out


def test_cached_latents_come_with_the_pixels_that_they_were_made_of(drawn, cached):
    from onevision_hf.data.latents import LatentShards
    from onevision_hf.modeling.vae_openvision3 import encode_pixels

    rows = WithLatents(open_pairs(str(drawn)), LatentShards(cached))
    how = view(Needs(True, True, True, True), latents=str(cached))
    for _, sample in draw(rows, how, range(4))[0]:
        pixels = torch.from_numpy(sample["pixel_values"])[None]
        latents = encode_pixels(ShuffleVAE(), pixels, OpenVision3Config.tiny())[0]
        torch.testing.assert_close(
            torch.from_numpy(sample["latents"]), latents, rtol=2e-3, atol=2e-3
        )  # float16
    with pytest.raises(MediaError, match="no cached latents in"):
        WithLatents([CaptionedImage("other.png", None, ())], LatentShards(cached))[0]


def test_a_run_on_cached_latents_needs_no_vae_where_no_loss_is_of_pixels(drawn, cached, tmp_path):
    from onevision_hf.training.loop import Trainer

    pairs = {"source": str(drawn), "latents": str(cached), "min_crop_scale": 1.0, "batch_size": 4}
    config = workers.make_config(
        tmp_path, vae="nowhere", max_steps=2, unified={"pairs": pairs, "pixel_weight": 0.0}
    )
    trainer = Trainer(config)
    assert trainer.fit() == 0
    assert trainer.task.model.model._vae is None
    other = workers.make_config(tmp_path, unified={"pairs": pairs | {"size": 64}})
    with pytest.raises(ConfigError, match=r"has {'size': 32}, this run needs {'size': 64"):
        make_task(other)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unified": {"pairs": {"batch_size": 0}}}, r"unified.pairs.batch_size is 0"),
        ({"unified": {"encoder": "onevision"}}, "others are task unified"),
        ({"cluster": {"heads": {"image": workers.HEAD}}}, "others are task unified"),
        ({"task": "unified", "cluster": {"heads": {"pixel": workers.HEAD}}}, "the name is taken"),
        ({"task": "unified", "cluster": {"heads": {"v": workers.HEAD | {"kind": "video"}}}}, "reads images"),
        ({"model": {"size": "huge"}}, "no OpenVision 3 encoder has"),
        ({"validation": {"every": 1}}, "pairs have no labels"),
        ({"unified": {"pairs": {"latents": "x"}}}, "no min_crop_scale or horizontal_flip"),
        ({"unified": {"pairs": {"size": 40}}}, "multiple of 16"),
        ({"unified": {"lpips_weight": -1}}, "0 or more"),
        ({"unified": {"contrastive_chunk": 2}, "optim": {"parallel": "fsdp"}}, "use optim.parallel=ddp"),
        ({"validation": {"every": 1, "head": "image"}}, "one of pairs"),
    ],
)
def test_wrong_configs_are_errors_that_name_the_field(tmp_path, changes, named):
    with pytest.raises(ConfigError, match=named):
        config = workers.make_config(tmp_path, **changes)
        make_task(config, workers.make_rows(config))


def test_what_a_loss_needs_and_is_absent_stops_the_run_before_a_step(tmp_path, monkeypatch):
    from onevision_hf import MissingVAEError
    from onevision_hf.training.loop import Trainer

    config = workers.make_config(tmp_path / "out", vae=str(tmp_path / "absent"))
    with pytest.raises(MissingVAEError, match="absent"):
        Trainer(config, workers.make_rows(config))
    config = workers.make_config(
        tmp_path / "out",
        vae=workers.save_vae(tmp_path),
        unified={"lpips_weight": 0.5, "lpips_weights": str(tmp_path / "vgg.pth")},
    )
    with pytest.raises(MissingLPIPSError, match=r"vgg.pth does not exist: fetch"):
        Trainer(config, workers.make_rows(config))
    with pytest.raises(FileNotFoundError, match=r"unified.pairs.source is ''"):
        make_task(workers.make_config(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
