"""The suite as a table: for each benchmark its lmms-eval task, metric key, scale, prompt and data.

    select("all16")                   # seven video and nine image benchmarks, in the paper's order
    select("videomme,docvqa_val")     # by task name
    SUITES["openvision3"]             # the understanding table of the OpenVision 3 paper

The table is `benchmarks.yaml`, of lmms-eval 0.7.3, whose task files are used as they are. What it says of
them (key, scale, prompt, split) is proven by tests/evalenv: an oracle reaches `maximum` everywhere, wrong
answers reach zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import yaml

LMMS_EVAL = "0.7.3"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Shares no letter and no digit with an answer, so that neither a substring nor an edit distance is near.
UNLIKE_ANY_ANSWER = "§§§"

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """One row of a suite.

    Attributes:
        name: the row's name in the paper.
        task: the task of lmms-eval, or a group of tasks whose mean the row is.
        metric: its key in lmms-eval's results, without the filter.
        maximum: what lmms-eval reports for a perfect model: 1, 100, or a sum.
        media: "video" or "image".
        dataset, config, split: what lmms-eval loads. `config` is None where there is one only.
        wrong: gives a valid wrong answer to a document, for broken media that count as wrong.
        documents: questions in the split, by the data set's card; 0 where the card says nothing.
        folder: for videos, where they lie below HF_HOME; "" for images, which are in the tables.
        prompt: what the task asks for after the question, or around it.
        max_new_tokens: the task's own limit; None where it sets none.
        caution: what to think of before comparing with the published row.
        out_of: the published row counts right answers out of this many; 0 where it is on 0 to 100.
        revision: of the data set; "" for its main branch.
        needs: modules that the task file imports, which have no wheel for some machines.
        folder_of_task: where its task file lies in lmms-eval's; "" where it is called as the task.
    """

    name: str
    task: str
    metric: str
    maximum: float
    media: str
    dataset: str
    split: str
    wrong: Callable[[Document], str]
    config: str | None = None
    documents: int = 0
    folder: str = ""
    prompt: str = ""
    max_new_tokens: int | None = None
    caution: str = ""
    out_of: int = 0
    revision: str = ""
    needs: tuple[str, ...] = ()
    folder_of_task: str = ""

    def figure(self, value: float, documents: int) -> float:
        """lmms-eval's value of `documents` questions on a scale of 0 to 100."""
        if self.task == "ocrbench":
            # It divides by the 1000 questions of the full set however many were answered.
            return 100 * value * 1000 / max(documents, 1)
        return 100 * value / self.maximum

    def published(self, value: float) -> float:
        """A published value of this row on a scale of 0 to 100."""
        return 100 * value / self.out_of if self.out_of else value


# An empty or garbled answer is not simply wrong everywhere: some tasks draw a choice at random for it, some
# drop the document from the denominator. A valid wrong choice is wrong in all of them.


def no_answer(document: Document) -> str:
    """For answers in free text."""
    return UNLIKE_ANY_ANSWER


def nothing(document: Document) -> str:
    """For scorers of structure (tables, boxes), which find similarity in any text."""
    return ""


def other_of_yes_and_no(document: Document) -> str:
    return "No" if str(document["answer"]).strip().lower().startswith("yes") else "Yes"


def wrong_letter(field: str, letters: str, document: Document) -> str:
    """The answer is one of `letters`.

    Args:
        field: of the right letter.
        letters: that may be answered.
        document: of the data set.
    """
    right = str(document[field]).strip().upper()
    return next(letter for letter in letters if letter != right)


def wrong_index(field: str, options: int | str, document: Document) -> str:
    """The answer is the index of one of so many options, or of those that another field lists.

    Args:
        field: of the right index.
        options: their number, or the field that lists them.
        document: of the data set.
    """
    choices = options if isinstance(options, int) else len(document[options])
    return LETTERS[(int(document[field]) + 1) % max(choices, 2)]


def wrong_choice_of(options: str, field: str, document: Document) -> str:
    """The answer is the text of one of the options, answered by its letter.

    Args:
        options: the field that lists them.
        field: of the right one's text.
        document: of the data set.
    """
    right = list(document[options]).index(document[field])
    return LETTERS[(right + 1) % max(len(document[options]), 2)]


def wrong_option_column(document: Document) -> str:
    """The options are the columns A to D, of which some are empty ("nan")."""
    right = str(document["answer"]).strip().upper()
    given = [x for x in "ABCD" if document.get(x) not in (None, "", "nan")]
    return next((x for x in given if x != right), "A" if right != "A" else "B")


def wrong_letter_or_text(document: Document) -> str:
    """Some answers are letters, others are words or numbers."""
    right = str(document["answer"]).strip().upper()
    return next(x for x in "ABCD" if x != right) if right in "ABCD" else UNLIKE_ANY_ANSWER


WRONG: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        *(no_answer, nothing, other_of_yes_and_no, wrong_letter, wrong_index, wrong_choice_of),
        *(wrong_option_column, wrong_letter_or_text),
    )
}


def _table() -> dict[str, tuple[Benchmark, ...]]:
    """Group -> its rows, from `benchmarks.yaml`."""
    groups = yaml.safe_load((files(__package__) / "benchmarks.yaml").read_text(encoding="utf-8"))
    found = {}
    for group in ("video", "image", "openvision3"):
        rows = []
        for row in groups[group]:
            name, *arguments = row.pop("wrong")
            needs, media = tuple(row.pop("needs", ())), "video" if group == "video" else "image"
            rows.append(Benchmark(**row, media=media, needs=needs, wrong=partial(WRONG[name], *arguments)))
        found[group] = tuple(rows)
    return found


VIDEO, IMAGE, OPENVISION3 = _table().values()
SUITES: dict[str, tuple[Benchmark, ...]] = {
    "all16": (*VIDEO, *IMAGE),
    "video": VIDEO,
    "image": IMAGE,
    "openvision3": OPENVISION3,
}
# What the authors report of LLaVA-OneVision-2, on benchmarks that are mostly others.
REPORTED = ("ov2_frames", "ov2_codec")
# Which published table is shown with which rows.
PUBLISHED = {"lmm_probe": (*VIDEO, *IMAGE), "openvision3_understanding": OPENVISION3}


def select(names: str) -> tuple[Benchmark, ...]:
    """The rows of comma-separated suites and task names, each once, in the table's order.

    Raises:
        ValueError: a name that is neither a suite nor a task of the table.
    """
    every = (*VIDEO, *IMAGE, *OPENVISION3)
    wanted: set[str] = set()
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name in SUITES:
            wanted |= {benchmark.task for benchmark in SUITES[name]}
        elif any(benchmark.task == name for benchmark in every):
            wanted.add(name)
        else:
            tasks = ", ".join(dict.fromkeys(benchmark.task for benchmark in every))
            raise ValueError(
                f"no suite and no task of the table is called {name!r}; suites: {', '.join(SUITES)}; "
                f"tasks: {tasks}. Other tasks of lmms-eval run with `python -m lmms_eval --model onevision`"
            )
    if not wanted:
        raise ValueError(f"no task is named by {names!r}; suites: {', '.join(SUITES)}")
    return tuple(benchmark for benchmark in every if benchmark.task in wanted)


def row_of(task: str) -> Benchmark | None:
    """The row whose task this is, or whose group it belongs to; None for a task outside the table."""
    for benchmark in (*VIDEO, *IMAGE, *OPENVISION3):
        if task == benchmark.task or (benchmark.task == "mvbench" and task.startswith("mvbench_")):
            return benchmark
    return None
