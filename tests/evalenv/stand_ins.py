"""Models that look at no picture: one knows every answer, one gives valid wrong ones."""

from collections.abc import Callable, Mapping
from typing import Any

from lmms_eval.api.model import lmms
from ocrbench_v2_rows import ROWS

from onevision_hf.eval.lmms.suite import row_of

LETTERS = "ABCDE"


def right(task: str, document: Mapping[str, Any]) -> str:
    """The answer that the task's scorer counts as perfect."""
    row = row_of(task)
    assert row is not None
    answer = document.get("answer")
    if row.task == "mvbench":
        return LETTERS[document["candidates"].index(answer)]
    if row.task in ("nextqa_mc_test", "tomato", "ai2d", "scienceqa_img"):
        return LETTERS[int(answer)]
    if row.task == "perceptiontest_val_mc":
        return LETTERS[int(document["answer_id"])]
    if row.task == "longvideobench_val_v":
        return LETTERS[document["correct_choice"]]
    if row.task in ("docvqa_val", "infovqa_val"):
        return document["answers"][-1]
    if row.task == "ocrbench":
        return answer[0]
    if row.task == "ocrbench_v2":
        return ROWS[document["id"]].right
    return answer


def wrong(task: str, document: Mapping[str, Any]) -> str:
    row = row_of(task)
    assert row is not None
    return row.wrong(document)


class StandIn(lmms):
    """Answers by `answer(task, document)`; counts the requests, and calls what gives the messages."""

    is_simple = False

    def __init__(self, answer: Callable[[str, Mapping[str, Any]], str]):
        super().__init__()
        self.answer, self.asked = answer, 0
        self.device = "cpu"

    def generate_until(self, requests: list) -> list[str]:
        answers = []
        for request in requests:
            _, doc_to_messages, _, doc_id, task, split = request.args
            document = self.task_dict[task][split][doc_id]
            (message,) = doc_to_messages(document)
            assert any(part["type"] != "text" for part in message["content"]), task
            answers.append(self.answer(task, document))
        self.asked += len(requests)
        return answers

    def loglikelihood(self, requests: list) -> list:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list) -> list:
        raise NotImplementedError
