"""The report: figures next to the published columns, what was broken, what to be careful with."""

import json
import sys

import pytest
from PIL import Image

from onevision_hf.eval.lmms.questions import BrokenQuestion
from onevision_hf.eval.lmms.report import SuiteReport, draw_report, write_report
from onevision_hf.eval.lmms.scores import Result, metric_of, read_rows
from onevision_hf.eval.lmms.suite import select


def report_of(names="all16", figure=50.0, **changes):
    rows = [Result(row, figure, row.documents, 0.5) for row in select(names)]
    return SuiteReport("runs/vl", "f" * 64, {"video_mode": "codec"}, {"lmms-eval": "0.7.3"}, rows, **changes)


def test_the_table_has_ours_and_the_five_published_columns():
    lines = report_of().as_markdown().splitlines()
    assert "| OCRBench | **50.0** | 65.7 | 70.6 | 60.5 | 63.0 | 62.1 | 1000 |  |" in lines
    assert "| *mean of 7 video* | **50.0** | 52.1 | 48.0 | 51.5 | 49.2 | 48.1 |  |  |" in lines
    assert any(line.startswith("- MVBench (`mvbench`, train") for line in lines)
    assert any("nobody can run them again" in line for line in lines)


def test_a_mean_is_given_only_where_all_of_its_rows_were_measured():
    assert "*mean of" not in report_of("videomme,docvqa_val").as_markdown()


def test_a_row_that_was_not_measured_has_a_dash_and_no_part_in_a_mean():
    text = report_of("video", figure=None).as_markdown()
    assert "| TOMATO | - | 21.8 |" in text and "*mean of" not in text


def test_a_limited_run_says_that_it_compares_with_nothing():
    assert "not comparable with anything" in report_of("videomme", limit=5).as_markdown()


def test_a_data_set_that_is_not_whole_is_told_apart():
    whole = report_of("tomato,docvqa_val")
    assert "not whole" not in whole.as_markdown()
    rows = [Result(row.benchmark, row.figure, row.documents - 4, row.raw) for row in whole.rows]
    text = SuiteReport("runs/vl", "f" * 64, {}, {}, rows).as_markdown()
    assert "**2 of 2 rows are of data sets that are not whole: not comparable" in text
    assert "| 1480 of 1484 |" in text and "| 5345 of 5349 |" in text
    # Questions that were left out for their media were there.
    left_out = [BrokenQuestion("tomato", number, "a.mp4", "cut off", "skipped") for number in range(4)]
    text = SuiteReport("runs/vl", "f" * 64, {}, {}, rows, left_out).as_markdown()
    assert "**1 of 2 rows are" in text and "| 1480 | 4 |" in text


def test_broken_media_are_listed_with_reason_and_what_they_count_as(tmp_path):
    broken = [
        BrokenQuestion("mvbench_action_count", 3, "a|b.mp4", "cut\noff", "wrong"),
        BrokenQuestion("videomme", 9, "", "does not exist", "skipped"),
    ]
    report = report_of("mvbench,videomme", broken=broken)
    text = report.as_markdown()
    assert "| mvbench_action_count | 3 | a/b.mp4 | cut off | wrong |" in text
    assert "1 counted as wrong, 1 skipped" in text
    assert [row["broken"] for row in report.as_json()["rows"]] == [1, 1]


def test_a_published_llava_onevision2_has_its_own_scores_with_their_conditions():
    report = report_of("video", reported=("ov2_frames", "ov2_codec"))
    lines = report.as_markdown().splitlines()
    assert "## As published: LLaVA-OneVision-2 on codec input" in lines
    (mlvu,) = [line for line in lines if line.startswith("| MLVU-dev | **50.0** | 76.62 |")]
    assert "frames 512, pixels 72900, subtitles false" in mlvu
    (jump,) = [line for line in lines if line.startswith("| JumpScore | - | 75.49 |")]
    assert "canvases 128, decimals 2" in jump
    first = report.as_json()["reported"][0]["rows"][0]
    assert (first["name"], first["figure"], first["frames"]) == ("VideoMME, short", None, 128)
    assert "As published" not in report_of("video").as_markdown()


def test_openvision3s_rows_stand_beside_that_papers_columns():
    report = report_of("openvision3")
    assert [table.title for table in report.tables] == ["Understanding with a frozen encoder"]
    published = report.as_json()["rows"][0]["published"]
    assert published["LLaVA-1.5: CLIP B/16"] == pytest.approx(69.95)


def test_three_files_are_written_and_the_picture_shows_every_row(tmp_path):
    paths = write_report(report_of("all16,openvision3"), tmp_path)
    assert [path.name for path in paths] == ["report.md", "report.json", "report.png"]
    assert len(json.loads(paths[1].read_text())["rows"]) == 22
    picture = Image.open(paths[2])
    assert picture.width == 1200 and picture.height > 22 * 40
    assert not list(tmp_path.glob(".*"))


RESULTS = {
    "results": {
        "mvbench": {"alias": "mvbench"},
        "mvbench_a": {"mvbench_accuracy,none": 40.0},
        "mvbench_b": {"mvbench_accuracy,none": 60.0},
        "ai2d": {"exact_match,flexible-extract": 0.8},
        "videomme": {"alias": "videomme"},
    },
    "n-samples": {
        name: {"original": 10, "effective": 5} for name in ("mvbench_a", "mvbench_b", "ai2d", "videomme")
    },
}


def test_groups_are_averaged_filters_are_passed_over_and_nothing_scored_is_none():
    rows = {row.name: row for row in read_rows(RESULTS, select("mvbench,ai2d,videomme"), [("ai2d", 3)])}
    assert (rows["MVBench"].figure, rows["MVBench"].documents) == (50, 10)
    assert (rows["AI2D"].figure, rows["AI2D"].documents) == (80, 4)
    assert rows["VideoMME"].figure is None


def test_a_metric_that_is_not_there_is_an_error_that_names_those_that_are():
    with pytest.raises(ValueError, match=r"no metric 'anls', only exact_match"):
        metric_of({"exact_match,none": 1.0, "exact_match_stderr,none": 0.0}, "anls", "docvqa_val")


def test_without_matplotlib_a_chart_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"charts need matplotlib: pip install .\.\[train\]"):
        draw_report(report_of("videomme"))
