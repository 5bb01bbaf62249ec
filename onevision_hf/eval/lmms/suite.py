"""The suite as a table: for each benchmark its lmms-eval task, metric key, scale, prompt and data.

    select("all16")                   # seven video and nine image benchmarks, in the paper's order
    select("videomme,docvqa_val")     # by task name
    SUITES["openvision3"]             # the understanding table of the OpenVision 3 paper

The table is of lmms-eval 0.7.3, whose task files are used as they are. What it says of them (key, scale,
prompt, split) is proven by tests/evalenv: an oracle reaches `maximum` everywhere, wrong answers reach zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import answers

LMMS_EVAL = "0.7.3"
LETTER = "Answer with the option's letter from the given choices directly."
PHRASE = "Answer the question using a single word or phrase."
MACRO = "a mean over question types, so part of the questions (--limit) says little"

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
        documents: questions in the split, by the data set's card; 0 where the card says nothing.
        folder: for videos, where they lie below HF_HOME; "" for images, which are in the tables.
        prompt: what the task asks for after the question, or around it.
        max_new_tokens: the task's own limit; None where it sets none.
        wrong: a valid wrong answer to a document, for broken media that count as wrong.
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
            # It divides by the 1000 questions of the full set however many were asked.
            return 100 * value * 1000 / max(documents, 1)
        return 100 * value / self.maximum

    def published(self, value: float) -> float:
        """A published value of this row on a scale of 0 to 100."""
        return 100 * value / self.out_of if self.out_of else value


VIDEO = (
    Benchmark(
        "MVBench", "mvbench", "mvbench_accuracy", 100, "video",
        "OpenGVLab/MVBench", "train", answers.wrong_choice_of("candidates", "answer"),
        config="one for each of 20 tasks", documents=4000, folder="mvbench_video", revision="video",
        prompt="Only give the best option.", max_new_tokens=16,
        caution="the mean of 20 tasks, taken here: lmms-eval leaves the group's row blank; empty answers "
        "are dropped from the denominator, so a model that says nothing looks better than it is",
    ),
    Benchmark(
        "MLVU-dev", "mlvu_dev", "mlvu_percetion_score", 100, "video",
        "sy1998/MLVU_dev", "test", answers.wrong_letter("answer", "ABCD"),
        documents=2174, folder="mlvu", prompt="Only give the best option. Best option: (",
        max_new_tokens=16, caution=f"{MACRO}; a type that was not asked counts as zero",
        folder_of_task="mlvu",
    ),
    Benchmark(
        "NExT-QA (MC)", "nextqa_mc_test", "exact_match", 1, "video",
        "lmms-eval/NExTQA", "test", answers.wrong_index("answer", 5),
        config="MC", documents=8564, folder="nextqa/NExTVideo", prompt="",
        caution="the prompt is the question and its five options, with no instruction; an answer that "
        "cannot be parsed is drawn at random",
        folder_of_task="nextqa",
    ),
    Benchmark(
        "VideoMME", "videomme", "videomme_perception_score", 100, "video",
        "lmms-eval/Video-MME", "test", answers.wrong_letter("answer", "ABCD"),
        documents=2700, folder="videomme/data", prompt=LETTER, max_new_tokens=16,
        caution="without subtitles, though the prompt names them",
    ),
    Benchmark(
        "Perception Test", "perceptiontest_val_mc", "accuracy", 1, "video",
        "lmms-eval/PerceptionTest_Val", "validation", answers.wrong_index("answer_id", 3),
        config="mc_question_val", documents=19140, folder="perceptiontest_val/videos", prompt=LETTER,
        caution="the validation split; the paper does not say which",
        folder_of_task="perceptiontest/val",
    ),
    Benchmark(
        "TOMATO", "tomato", "tomato_score", 1, "video",
        "lmms-eval/TOMATO", "test", answers.wrong_index("answer", options="options"),
        documents=1484, folder="TOMATO", prompt="PLEASE TRY YOUR BEST TO GUESS AN ANSWER",
        max_new_tokens=1024,
        caution="an answer that cannot be parsed counts as A; all published columns lie within half a point",
    ),
    Benchmark(
        "LongVideoBench-Val-Video", "longvideobench_val_v", "lvb_acc", 1, "video",
        "longvideobench/LongVideoBench", "validation", answers.wrong_index("correct_choice", 5),
        documents=1337, folder="datasets/longvideobench/videos", prompt=LETTER, max_new_tokens=32,
        caution="without subtitles; an answer that cannot be parsed is drawn at random", needs=("decord",),
        folder_of_task="longvideobench",
    ),
)  # fmt: skip

IMAGE = (
    Benchmark(
        "AI2D", "ai2d", "exact_match", 1, "image",
        "lmms-lab-encoder/ai2d", "test", answers.wrong_index("answer", options="options"),
        documents=3088, prompt=LETTER, max_new_tokens=16,
        caution='"A" and "A. x" count, "A) x" does not',
    ),
    Benchmark(
        "ChartQA", "chartqa", "relaxed_overall", 1, "image",
        "lmms-lab-encoder/ChartQA", "test", answers.no_answer,
        documents=2500, prompt="Answer the question with a single word.", max_new_tokens=16,
        caution="a full stop at the end makes a right answer wrong",
    ),
    Benchmark(
        "DocVQA", "docvqa_val", "anls", 1, "image",
        "lmms-lab-encoder/DocVQA", "validation", answers.no_answer,
        config="DocVQA", documents=5349, prompt=PHRASE, max_new_tokens=32,
        caution="the validation split, most likely the published one too (its script's default)",
        folder_of_task="docvqa",
    ),
    Benchmark(
        "InfoVQA", "infovqa_val", "anls", 1, "image",
        "lmms-lab-encoder/DocVQA", "validation", answers.no_answer,
        config="InfographicVQA", documents=2801, prompt=PHRASE, max_new_tokens=32,
        caution="the validation split; the paper does not say which",
        folder_of_task="infovqa",
    ),
    Benchmark(
        "MMBench-EN", "mmbench_en_dev_static", "gpt_eval_score", 100, "image",
        "lmms-lab-encoder/MMBench", "dev", answers.wrong_option_column,
        config="en", documents=4329, prompt=LETTER, max_new_tokens=1024,
        caution="the task without an OpenAI judge: letters are matched, what cannot be matched is wrong; "
        "a question counts when every rotation of its options is right, so --limit flatters",
        folder_of_task="mmbench",
    ),
    Benchmark(
        "OCRBench", "ocrbench", "ocrbench_accuracy", 1, "image",
        "echo840/OCRBench", "test", answers.no_answer,
        documents=1000, max_new_tokens=128, out_of=1000,
        caution="published as right answers out of 1000; 65.7 here is 657 there",
    ),
    Benchmark(
        "OCRBench v2", "ocrbench_v2", "ocrbench_v2_accuracy", 1, "image",
        "ling99/OCRBench_v2", "test", answers.nothing,
        documents=10000, max_new_tokens=128,
        caution="over English and Chinese questions; the paper does not say whether it is that, English "
        "(ocrbench_v2_accuracy_en) or a mean of types",
    ),
    Benchmark(
        "MMStar", "mmstar", "average", 1, "image",
        "Lin-Chen/MMStar", "val", answers.wrong_letter("answer", "ABCD"),
        documents=1500, prompt="Answer with the option's letter from the given choices directly",
        caution=MACRO,
    ),
    Benchmark(
        "RealWorldQA", "realworldqa", "exact_match", 1, "image",
        "lmms-lab-encoder/RealWorldQA", "test", answers.wrong_letter_or_text,
        documents=765, max_new_tokens=16,
        caution="the published fork (0.5.0) turned number words into digits and matched the options' text; "
        "0.7.3 does neither",
    ),
)  # fmt: skip

OPENVISION3 = (
    Benchmark(
        "MME perception", "mme", "mme_perception_score", 2000, "image",
        "lmms-lab-encoder/MME", "test", answers.other_of_yes_and_no,
        documents=2374, prompt=PHRASE, max_new_tokens=16, out_of=2000,
        caution="a sum over ten categories out of 2000; with --limit, categories are missing",
    ),
    Benchmark(
        "MME cognition", "mme", "mme_cognition_score", 800, "image",
        "lmms-lab-encoder/MME", "test", answers.other_of_yes_and_no,
        documents=2374, prompt=PHRASE, max_new_tokens=16, out_of=800,
        caution="a sum over four categories out of 800; with --limit, categories are missing",
    ),
    Benchmark(
        "SeedBench", "seedbench", "seed_image", 1, "image",
        "lmms-lab-encoder/SEED-Bench", "test", answers.wrong_letter("answer", "ABCD"),
        documents=17990, prompt=LETTER,
        caution="the questions about images (seed_image); seed_all counts those about videos too, and the "
        "paper does not say which it prints",
    ),
    Benchmark(
        "ScienceQA", "scienceqa_img", "exact_match", 1, "image",
        "lmms-lab-encoder/ScienceQA", "test", answers.wrong_index("answer", options="choices"),
        config="ScienceQA-IMG", documents=2017, prompt=LETTER, max_new_tokens=16,
        folder_of_task="scienceqa",
    ),
    Benchmark(
        "GQA", "gqa", "exact_match", 1, "image",
        "lmms-lab-encoder/GQA", "testdev", answers.no_answer,
        config="testdev_balanced_instructions", documents=12578, prompt=PHRASE, max_new_tokens=16,
    ),
    Benchmark(
        "POPE", "pope", "pope_f1_score", 1, "image",
        "lmms-lab-encoder/POPE", "test", answers.other_of_yes_and_no,
        documents=9000, prompt=PHRASE, max_new_tokens=128,
        caution="F1, as LLaVA reports it; the paper does not say so (pope_accuracy is in the results too)",
    ),
)  # fmt: skip

SUITES: dict[str, tuple[Benchmark, ...]] = {
    "all16": (*VIDEO, *IMAGE),
    "video": VIDEO,
    "image": IMAGE,
    "openvision3": OPENVISION3,
}
# Which published table stands beside which rows.
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
