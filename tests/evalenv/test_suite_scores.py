"""The table of the suite against the stock task files: an oracle reaches every maximum, wrong answers the
minimum."""

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ocrbench_v2_rows import ROWS
from stand_ins import StandIn, right, wrong

from onevision_hf.eval.lmms.scores import read_rows, read_scores, subtasks
from onevision_hf.eval.lmms.suite import SUITES, Benchmark

ALL = (*SUITES["all16"], *SUITES["openvision3"])


@pytest.fixture(scope="module")
def evaluate(task_manager: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lmms_eval import evaluator

    def run(answer: Any) -> tuple[dict[str, Any], StandIn]:
        out = tmp_path_factory.mktemp("out")
        model = StandIn(answer)
        results = evaluator.simple_evaluate(
            model=model,
            tasks=list(dict.fromkeys(row.task for row in ALL)),
            task_manager=task_manager,
            bootstrap_iters=0,
            log_samples=True,
            cli_args=Namespace(output_path=str(out), process_with_media=False),
        )
        return results, model

    return run


@pytest.fixture(scope="module")
def oracle(evaluate: Any) -> Any:
    return evaluate(right)


@pytest.fixture(scope="module")
def fool(evaluate: Any) -> Any:
    return evaluate(wrong)


@pytest.fixture(scope="module")
def guesser(evaluate: Any) -> Any:
    """Right about every other question."""
    asked: Counter[str] = Counter()

    def answer(task: str, document: Any) -> str:
        asked[task] += 1
        return (right if asked[task] % 2 else wrong)(task, document)

    return evaluate(answer)


def figures(results: dict[str, Any]) -> dict[str, float | None]:
    return {row.name: row.figure for row in read_rows(results, ALL)}


def test_an_oracle_reaches_100_everywhere(oracle: Any):
    # METEOR, a part of OCRBench v2, gives 1 - 0.5 / n^3 to n words that are all right.
    assert figures(oracle[0]) == {
        row.name: pytest.approx(100, abs=0.01 if row.task == "ocrbench_v2" else 1e-9) for row in ALL
    }


def test_valid_wrong_answers_reach_zero_everywhere(fool: Any):
    # Trees of documents and tables always share their root, so an empty answer is a little right.
    floor = 100 * sum(row.floor for row in ROWS) / len(ROWS)
    expected = {row.name: floor if row.task == "ocrbench_v2" else 0 for row in ALL}
    assert figures(fool[0]) == {name: pytest.approx(value, abs=1e-9) for name, value in expected.items()}


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_scores_of_questions_add_up_to_the_figure(guesser: Any, row: Benchmark):
    results = guesser[0]
    samples = {task: results["samples"][task] for task in subtasks(results, row.task)}
    if row.task == "pope":  # F1 is no mean over questions
        return
    # LongVideoBench's file rounds to five digits.
    assert read_scores(row, samples).figure() == pytest.approx(figures(results)[row.name], abs=1e-3)


def test_lmms_eval_reports_on_the_scales_of_the_table(oracle: Any):
    results = oracle[0]["results"]
    for row in ALL:
        if row.task in ("mvbench", "ocrbench"):  # a blank row; and a sum that supposes 1000 questions
            continue
        assert results[row.task][next(k for k in results[row.task] if k.startswith(f"{row.metric},"))] == (
            pytest.approx(row.maximum, rel=1e-4)
        ), row.name
    blank = results["mvbench"]
    assert not any(isinstance(value, float) for value in blank.values())
    subtasks = oracle[0]["group_subtasks"]["mvbench"]
    assert len(subtasks) == 20 and all(
        results[name]["mvbench_accuracy,none"] == pytest.approx(100) for name in subtasks
    )


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_the_table_says_what_the_task_files_say(oracle: Any, row: Benchmark):
    name = "mvbench_action_count" if row.task == "mvbench" else row.task
    config = oracle[0]["configs"][name]
    assert config["dataset_path"] == row.dataset
    assert (config.get("test_split") or config.get("validation_split")) == row.split
    if row.config and row.task != "mvbench":
        assert config["dataset_name"] == row.config
    assert config["generation_kwargs"].get("max_new_tokens") == row.max_new_tokens
    assert row.metric in {metric["metric"] for metric in config["metric_list"]}


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_the_prompt_asks_for_what_the_table_says(oracle: Any, row: Benchmark, task_manager: Any):
    from lmms_eval.tasks import get_task_dict

    name = "mvbench_action_count" if row.task == "mvbench" else row.task
    task = get_task_dict([name], task_manager, "chat")[name]
    text = task.doc_to_text(task.eval_docs_no_media[0])
    assert row.prompt in " ".join(text.split())


def test_the_models_were_asked_every_question_once(oracle: Any, mirror: Path):
    asked = sum(sizes["original"] for sizes in oracle[0]["n-samples"].values())
    assert oracle[1].asked == asked > 100
