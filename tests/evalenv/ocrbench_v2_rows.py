"""A row of OCRBench v2 for each of its question types, with an answer that its scorer takes as perfect."""

from typing import NamedTuple

TABLE = "<html><body><table><tr><td>a</td><td>1</td></tr><tr><td>b</td><td>2</td></tr></table></body></html>"
MARKDOWN = "| a | b |\n| --- | --- |\n| 1 | 2 |"
SENTENCE = "the small red square turns slowly over seven grey hills"
CHINESE = "红色的方块慢慢地越过七座灰色的山"
SPOTTED = "[[10, 10, 60, 30, 'hello'], [10, 40, 60, 60, 'world']]"


class Row(NamedTuple):
    kind: str
    answers: list[str]
    right: str
    question: str = "What is written?"
    eval: str = "none"
    bbox: list[str] = []
    bbox_list: list[list[int]] = []
    content: list[str] = []
    floor: float = 0.0  # what an empty answer scores


def _read(kind: str, answer: str = "valley", **more) -> Row:
    return Row(kind, [answer], answer, **more)


ROWS = [
    _read("text recognition en"),
    _read("text recognition en", "Valley", eval="case sensitive"),
    _read("fine-grained text recognition en", SENTENCE),
    _read("full-page OCR en", SENTENCE),
    Row("text grounding en", ["10", "20", "60", "80"], "(10, 20, 60, 80)"),
    Row(
        "VQA with position en",
        ["valley"],
        '{"answer": "valley", "bbox": "[10, 20, 60, 80]"}',
        bbox=["10", "20", "60", "80"],
    ),
    Row(
        "text spotting en",
        [SPOTTED],
        SPOTTED,
        bbox_list=[[10, 10, 60, 10, 60, 30, 10, 30], [10, 40, 60, 40, 60, 60, 10, 60]],
        content=["hello", "world"],
    ),
    Row("key information extraction en", ['{"total": ["12.50"]}'], '{"total": "12.50"}'),
    Row("key information mapping en", ['{"name": "valley"}'], '{"name": "valley"}'),
    # A tree of titles and lines: of the ground truth's four nodes an empty answer has the first three.
    _read("document parsing en", "# Title\nLine", floor=0.5),
    Row("chart parsing en", ["{'a': {'x': 1}, 'b': {'x': 2}}"], "{'a': {'x': 1}, 'b': {'x': 2}}"),
    Row("table parsing en", [TABLE], TABLE, question="Give the table as HTML."),
    Row("table parsing en", [MARKDOWN], MARKDOWN, question="Give the table as markdown.", floor=1 / 6),
    _read("formula recognition en", "x ^ { 2 } + 1"),
    _read("math QA en", "B", eval="multiple choice"),
    _read("text counting en", "7", eval="regression"),
    _read("text counting en", "7", eval="exact match"),
    _read("document classification en", "letter"),
    _read("cognition VQA en", "valley"),
    _read("diagram QA en", "C", eval="multiple choice"),
    _read("reasoning VQA en", "valley"),
    _read("science QA en", "A", eval="multiple choice"),
    _read("APP agent en", "settings"),
    _read("ASCII art classification en", "D", eval="multiple choice"),
    _read("full-page OCR cn", CHINESE),
    Row("key information extraction cn", ["{'总计': '12.50'}"], '{"总计": "12.50"}'),
    _read("handwritten answer extraction cn", CHINESE, question="简答题: 写了什么?"),
    _read("handwritten answer extraction cn", "BD", question="选择了什么?"),
    _read("document parsing cn", "# 标题\n一行", floor=0.5),
    _read("table parsing cn", TABLE),
    _read("formula recognition cn", "x ^ { 2 } + 1"),
    _read("cognition VQA cn", "红色"),
    _read("reasoning VQA cn", "红色"),
    _read("text translation cn", CHINESE),
]
