"""Lists of clips: what is read, what is refused, and with which words.

Run: python -m pytest tests/eval/test_probe_lists.py
"""

import json

import numpy as np
import pytest
from probe_clips import write_list

from onevision_hf.eval.probes.clip_lists import check_clips, open_clips, read_entries
from onevision_hf.eval.probes.config import CONFIGS, ClipsConfig, load_probe_config
from onevision_hf.eval.probes.splits import TEST_FOLD, fold_numbers
from onevision_hf.training.config import ConfigError


@pytest.fixture
def files(tmp_path):
    """Empty files, since nothing decodes here: a0..a7, b0..b7."""
    for name in "ab":
        for number in range(8):
            (tmp_path / f"{name}{number}.mp4").write_bytes(b"x")
    return tmp_path


def lines(*names, label=lambda name: "ab".index(name[0])):
    return [(f"{name}.mp4", label(name)) for name in names]


def opened(folder, train, test, **more):
    config = ClipsConfig(
        str(write_list(folder / "train.csv", train)), str(write_list(folder / "test.csv", test)), **more
    )
    clips = open_clips(config)
    check_clips(clips, config, folder / "missing.jsonl")
    return clips


def test_a_list_may_have_a_header_and_its_paths_start_where_it_lies_or_at_root(files):
    plain = write_list(files / "plain.csv", lines("a0", "b1"))
    headed = write_list(files / "headed.csv", lines("a0", "b1"), header=True)
    (files / "lists").mkdir()
    moved = write_list(files / "lists" / "moved.csv", lines("a0", "b1"))
    found = [read_entries(str(plain)), read_entries(str(headed)), read_entries(str(moved), str(files))]
    assert [[entry.path for entry in entries] for entries in found] == [
        [str(files / "a0.mp4"), str(files / "b1.mp4")]
    ] * 3


def test_numbers_are_classes_names_are_sorted_and_a_file_of_names_says_which_is_which(files):
    numbered = opened(files, lines("a0", "a1", "b0"), lines("a2", "b2"))
    assert numbered.names == ["0", "1"] and numbered.test.labels.tolist() == [0, 1]
    named = opened(files, lines("b0", "a0", label=lambda n: f"class {n[0]}"),
                   lines("a2", label=lambda n: "class a"))  # fmt: skip
    assert named.names == ["class a", "class b"] and named.train.labels.tolist() == [1, 0]
    (files / "names.txt").write_text("left\nright\n")
    named = opened(files, lines("a0", "b0"), lines("b2"), names=str(files / "names.txt"), classes=2)
    assert named.names == ["left", "right"] and named.test.labels.tolist() == [1]


def test_every_fourth_clip_of_each_class_is_kept_where_there_is_no_test_list(files):
    everything = lines(*(f"{c}{n}" for c in "ab" for n in range(8)))
    config = ClipsConfig(str(write_list(files / "all.csv", everything)))
    clips = open_clips(config)
    assert np.bincount(clips.test.labels).tolist() == [2, 2]
    assert np.bincount(clips.train.labels).tolist() == [6, 6]
    again = open_clips(ClipsConfig(str(write_list(files / "turned.csv", everything[::-1]))))
    assert set(again.test.keys) == set(clips.test.keys)
    assert not set(clips.test.keys) & set(clips.train.keys)
    # Another class does not move anybody; a class of two trains.
    folds = fold_numbers(["u", "v", *clips.train.keys], [5, 5, *clips.train.labels])
    assert TEST_FOLD not in folds[:2]
    assert folds[2:].tolist() == fold_numbers(clips.train.keys, clips.train.labels).tolist()


@pytest.mark.parametrize("label", ["2", "-1", "sideways"])
def test_labels_out_of_range_name_their_lines(files, label):
    wrong = [*lines("a0", "b0"), ("a1.mp4", label)]
    with pytest.raises(ConfigError, match=rf"'{label}' \(.*test.csv, line 3\)") as error:
        opened(files, lines("a2", "b2"), wrong)
    assert "classes 0..1" in str(error.value)


def test_a_class_without_a_training_clip_is_named_unless_so_many_are_allowed(files):
    test = lines("a3", "b3")
    with pytest.raises(ConfigError, match=r"1 of 3 classes have no training clip.*2 \(2\)"):
        opened(files, lines("a0", "b0"), test, classes=3)
    assert len(opened(files, lines("a0", "b0"), test, classes=3, absent=1).names) == 3


def test_missing_clips_are_counted_left_out_and_too_many_stop(files):
    train = [*lines("a0", "a1", "b0"), ("gone/b9.mp4", 1)]
    clips = opened(files, train, lines("a2", "b2"), max_missing=0.2)
    assert [record["key"] for record in clips.missing] == ["gone/b9.mp4"]
    # Those that are there keep their own labels.
    assert dict(zip(clips.train.keys, clips.train.labels.tolist(), strict=True)) == {
        "a0.mp4": 0, "a1.mp4": 0, "b0.mp4": 1,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"1 of 6 clips are missing.*0.1.*gone/b9.mp4.*missing.jsonl"):
        opened(files, train, lines("a2", "b2"), max_missing=0.1)


def test_other_mistakes_of_lists_are_errors_that_say_where(files):
    with pytest.raises(ConfigError, match=r"1 clips are in .*train.csv and in .*test.csv: .*a0.mp4"):
        opened(files, lines("a0", "b0"), lines("a0", "b1"))
    with pytest.raises(ConfigError, match=r"line 2: expected path,label, found 'a1.mp4'"):
        (files / "short.csv").write_text("a0.mp4,0\na1.mp4\n")
        read_entries(str(files / "short.csv"))
    with pytest.raises(ConfigError, match="one class only"):
        opened(files, lines("a0"), lines("a1"))
    with pytest.raises(ConfigError, match=r"names 2 classes, data.classes is 5"):
        opened(files, lines("a0", "b0", label=lambda n: n[0]), lines("a1"), classes=5)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        open_clips(ClipsConfig("nowhere"))
    with pytest.raises(ConfigError, match="no clip to test on"):
        config = ClipsConfig(str(write_list(files / "few.csv", lines("a0", "b0"))))
        check_clips(open_clips(config), config, files / "missing.jsonl")


def test_a_sub_folder_without_a_clip_is_a_class_without_a_sample(files):
    for name in ("left", "right", "empty"):
        (files / "tree" / name).mkdir(parents=True)
    (files / "tree" / "left" / "1.mp4").write_bytes(b"x")
    (files / "tree" / "right" / "1.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError, match="no picture or video in empty"):
        read_entries(str(files / "tree"))
    (files / "tree" / "empty").rmdir()
    assert [(e.key, e.label) for e in read_entries(str(files / "tree"))] == [
        ("left/1.mp4", "left"),
        ("right/1.mp4", "right"),
    ]


PUBLISHED = {  # classes, epochs, batch over 8 GPUs
    "ssv2": (174, 10, 32), "diving48": (48, 30, 32), "perception_test": (63, 30, 32),
    "charades_ego": (157, 10, 128), "epic_verb": (97, 10, 128), "epic_noun": (300, 10, 128),
    "k400": (400, 10, 128), "hmdb51": (51, 30, 16),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configs_are_the_published_settings(name):
    config = load_probe_config(name, ["model=m", "data.train=list.csv"])
    assert (config.data.classes, config.epochs, config.batch_size) == PUBLISHED[name]
    assert config.dataset == name and config.out == f"runs/probe-{name}"
    optim = config.optim
    assert (optim.learning_rate, optim.lr_scheduler_type, optim.final_lr_scale) == (1e-4, "linear", 1e-3)
    assert (optim.weight_decay, optim.betas, optim.max_grad_norm, optim.warmup_steps) == (
        0,
        [0.9, 0.999],
        5.0,
        0,
    )
    assert config.head.label_smoothing == 0.1 and config.head.position is None
    assert config.mean_average_precision is (name == "charades_ego")
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert "https://" in text or "http://" in text, "where the clips come from"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=1", r"optim.lr is now called optim.learning_rate"),
        ("input.kind=codecs", r"input.kind is 'codecs', expected one of codec, frames, dense"),
        ("intervene=[swap]", "intervene is 'swap', expected one of replace, foreign, shuffle"),
        ("head.position=[0,0]", r"head.position is \[0.0, 0.0\], expected \[t, h, w\]"),
        ("seeds=[]", "seeds is"),
        ("optim.gradient_accumulation_steps=2", "expected 1 for a probe"),
        ("model=''", "give --model"),
    ],
)
def test_a_wrong_field_says_what_was_meant(override, words):
    with pytest.raises(ConfigError, match=words):
        load_probe_config("ssv2", ["model=m", "data.train=list.csv", override])
    with pytest.raises(ConfigError, match=r"nothing unless input.kind=codec"):
        load_probe_config("ssv2", ["model=m", "data.train=l", "input.kind=frames", "intervene=[shuffle]"])
    with pytest.raises(ConfigError, match="no config 'ssv3'"):
        load_probe_config("ssv3")


def test_the_plan_has_what_a_run_cannot_change_and_nothing_else():
    plan = load_probe_config("drawn", ["model=m", "data.train=l", "cache=c", "input.augment=true"]).plan()
    assert not {"out", "dataloader_num_workers", "cache", "seeds", "device"} & plan.keys()
    assert plan["input"]["augment"] is False  # cached features know none
    json.dumps(plan)
