"""Two runs compared question by question."""

import numpy as np
import pytest

from onevision_hf.eval.lmms.compare import arguments_of, as_markdown, compare
from onevision_hf.eval.lmms.scores import difference, read_scores
from onevision_hf.eval.lmms.suite import row_of


def samples(values, metric="videomme_perception_score", **more):
    return [
        {"doc_id": i, "doc": {"videoID": f"v{i // 3}"}, metric: {"score": float(value), **more}}
        for i, value in enumerate(values)
    ]


def scores(values):
    return read_scores(row_of("videomme"), {"videomme": samples(values)})


def test_a_figure_comes_back_from_its_questions():
    assert scores([1, 0, 1, 1]).figure() == 75


def test_mlvu_is_a_mean_over_types_however_many_questions_each_has():
    kinds = ["count"] * 8 + ["order"] * 2
    rows = [
        {
            "doc_id": i,
            "doc": {},
            "mlvu_percetion_score": {"task_type": kind, "pred_answer": "A", "answer": right},
        }
        for i, (kind, right) in enumerate(zip(kinds, ["A"] * 8 + ["B"] * 2, strict=True))
    ]
    assert read_scores(row_of("mlvu_dev"), {"mlvu_dev": rows}).figure() == 50


def test_the_same_answers_differ_by_nothing():
    assert difference(scores([1, 0, 1]), scores([1, 0, 1])) == (0, 0, 0)


def test_a_difference_is_paired_by_question_and_over_those_that_both_have():
    ours = read_scores(row_of("videomme"), {"videomme": samples([1, 1, 0, 1])[::-1]})
    mean, low, high = difference(ours, scores([0, 1, 0]))
    assert mean == pytest.approx(100 / 3) and low <= mean <= high


def test_questions_about_one_video_are_no_independent_draws():
    """Three copies of each question widen nothing when they are of one video: the interval stays."""
    random = np.random.default_rng(0)
    once = random.integers(0, 2, 60)
    rows = lambda values: {  # noqa: E731
        "videomme": [
            {"doc_id": i, "doc": {"videoID": f"v{i}"}, "videomme_perception_score": {"score": float(v)}}
            for i, v in enumerate(values)
        ]
    }
    single = difference(
        read_scores(row_of("videomme"), rows(once)), read_scores(row_of("videomme"), rows(once * 0))
    )
    tripled = difference(scores(np.repeat(once, 3)), scores(np.repeat(once * 0, 3)))
    assert tripled[0] == pytest.approx(single[0])
    assert tripled[2] - tripled[1] == pytest.approx(single[2] - single[1], rel=0.1)


def test_chance_is_within_the_interval_and_a_true_gain_is_not():
    random = np.random.default_rng(1)
    base = random.random(900)
    level = difference(scores(base < 0.5), scores(random.permutation(base) < 0.5))
    gain = difference(scores(base < 0.6), scores(base < 0.5))
    assert level[1] < 0 < level[2]
    assert gain[1] > 0


def test_runs_of_other_questions_have_nothing_to_compare():
    later = read_scores(row_of("videomme"), {"videomme": samples([1, 1])[1:]})
    with pytest.raises(ValueError, match="no question in common"):
        difference(later, scores([1]))
    with pytest.raises(ValueError, match="has the metric"):
        read_scores(row_of("mlvu_dev"), {"mlvu_dev": samples([1])})


def test_inputs_get_the_same_frame_size_and_the_same_budget():
    codec, frames = (arguments_of(name, 2048, 14) for name in ("codec", "frames"))
    assert codec["max_pixels"] == frames["max_pixels"] == 256 * 14 * 14
    assert codec["num_patches"] == 2048 and codec["num_frames"] == 64
    assert frames["num_frames"] * frames["max_pixels"] // 14**2 == 2048


@pytest.mark.parametrize(("name", "budget"), [("dense", 2048), ("codec", 7)])
def test_a_budget_that_cannot_be_equal_is_an_error(name, budget):
    with pytest.raises(ValueError, match="budget"):
        arguments_of(name, budget, 14)


def test_one_input_is_no_comparison(tmp_path):
    with pytest.raises(ValueError, match="two different inputs"):
        compare([], tmp_path, {"pretrained": "x"}, ["codec"], 2048)


def test_the_table_prints_differences_with_their_intervals():
    from onevision_hf.eval.lmms.compare import Compared

    row = Compared(
        row_of("mvbench"), {"codec": 52.0, "frames": 50.0}, {"codec": 600.0, "frames": 598.5}, 40,
        (2.0, -1.0, 5.0), 2.6,
    )  # fmt: skip
    text = as_markdown([row], ["codec", "frames"], 2048, 2)
    assert "| MVBench | 52.0 | 50.0 | +2.0 [-1.0, +5.0] | +2.6 | 600 / 598 | 40 |" in text
    assert "first 2 questions" in text
