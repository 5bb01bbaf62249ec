"""The table of the suite, the published columns, and valid wrong answers."""

import dataclasses
from importlib.util import find_spec

import pytest

from onevision_hf import cli
from onevision_hf.eval.lmms.suite import IMAGE, OPENVISION3, PUBLISHED, SUITES, VIDEO, row_of, select
from onevision_hf.eval.published import published_table


def test_all16_is_seven_video_and_nine_image_rows_in_the_papers_order():
    rows = select("all16")
    assert [row.media for row in rows] == ["video"] * 7 + ["image"] * 9
    assert [row.name for row in rows] == list(published_table("lmm_probe").by_label())


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_row_has_its_published_values_and_every_published_row_is_in_the_table(name):
    assert list(published_table(name).by_label()) == [row.name for row in PUBLISHED[name]]


def test_the_headline_of_the_paper_is_the_mean_of_the_caption_supervised_video_rows():
    values = published_table("lmm_probe").by_label()
    means = [sum(column) / 7 for column in zip(*[values[row.name] for row in VIDEO], strict=True)]
    assert [round(mean, 2) for mean in means] == [52.11, 48.03, 51.51, 49.20, 48.07]


def test_names_select_rows_once_in_the_tables_order():
    assert [row.task for row in select("docvqa_val, videomme,videomme")] == ["videomme", "docvqa_val"]
    assert select("video,image") == select("all16") == SUITES["all16"]
    assert [row.name for row in select("mme")] == ["MME perception", "MME cognition"]
    assert {row.task for row in select("openvision3")} == {"mme", "seedbench", "scienceqa_img", "gqa", "pope"}


@pytest.mark.parametrize("names", ["", " , ", "videome", "all16,mmmu"])
def test_a_wrong_name_is_an_error_that_lists_the_right_ones(names):
    with pytest.raises(ValueError, match=r"suites: all16, video, image, openvision3"):
        select(names)


def test_a_task_of_a_group_belongs_to_the_groups_row():
    assert row_of("mvbench_action_count") is row_of("mvbench") is VIDEO[0]
    assert row_of("mmmu_val") is None


def test_figures_are_on_0_to_100_whatever_the_task_reports():
    scale = {row.name: row for row in (*VIDEO, *IMAGE, *OPENVISION3)}
    assert scale["VideoMME"].figure(54.1, 2700) == pytest.approx(54.1)
    assert scale["AI2D"].figure(0.802, 3088) == pytest.approx(80.2)
    assert scale["OCRBench"].figure(0.657, 1000) == pytest.approx(65.7)
    assert scale["OCRBench"].published(657) == pytest.approx(65.7)
    # It divides by 1000 however many were answered: 8 right ones of 10 are 0.008.
    assert scale["OCRBench"].figure(0.008, 10) == pytest.approx(80)
    assert scale["MME perception"].published(1399) == scale["MME perception"].figure(1399, 2374) == 69.95


DOCUMENTS = {
    "mvbench": ({"candidates": ["x", "y"], "answer": "y"}, "A"),
    "mlvu_dev": ({"answer": "A"}, "B"),
    "nextqa_mc_test": ({"answer": 4}, "A"),
    "perceptiontest_val_mc": ({"answer_id": "2"}, "A"),
    "tomato": ({"answer": 2, "options": ["x", "y", "z"]}, "A"),
    "scienceqa_img": ({"answer": 1, "choices": ["x", "y"]}, "A"),
    "mmbench_en_dev_static": ({"answer": "A", "A": "x", "B": "y", "C": "nan", "D": "nan"}, "B"),
    "realworldqa": ({"answer": "A"}, "B"),
    "pope": ({"answer": "no"}, "Yes"),
    "mme": ({"answer": "Yes"}, "No"),
}


@pytest.mark.parametrize("task", list(DOCUMENTS))
def test_a_wrong_answer_is_a_choice_that_there_is(task):
    document, wrong = DOCUMENTS[task]
    assert row_of(task).wrong(document) == wrong


def test_a_wrong_answer_in_words_shares_nothing_with_the_right_one():
    wrong = row_of("realworldqa").wrong({"answer": "Downhill"})
    assert wrong and not any(letter in "Downhill" for letter in wrong)


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VIDEO[0].task = "other"


@pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="lmms-eval is installed here")
def test_without_lmms_eval_the_command_says_how_to_get_it(tmp_path, capsys):
    assert cli.main(["eval", "suite", "--model", str(tmp_path), "--tasks", "tomato"]) == 1
    error = capsys.readouterr().err
    assert "lmms-eval 0.7.3, which is not installed" in error and ".[eval]" in error
