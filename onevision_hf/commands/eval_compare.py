"""`onevision eval compare`: codec input against whole frames at one budget, paired question by question.

onevision eval compare --model runs/vl/model --sampling codec,frames --budget 2048 --root data
"""

from pathlib import Path
from typing import Annotated

from typer import Option as Opt

from .options import EvaluatedModel, Json, Questions, Tasks, words


def run(
    evaluated: EvaluatedModel,
    questions: Questions,
    tasks: Tasks = "video",
    out: Annotated[
        Path | None, Opt(metavar="DIR", help="of the comparison (default: runs/compare-MODEL)")
    ] = None,
    sampling: Annotated[str, Opt(metavar="A,B", help="the inputs")] = "codec,frames",
    budget: Annotated[
        int, Opt("--budget", "--num-patches", metavar="N", min=1, help="patches of a video")
    ] = 2048,
    as_json: Json = False,
) -> None:
    from onevision_hf.eval.lmms.compare import as_markdown, compare
    from onevision_hf.eval.lmms.settings import SAMPLINGS
    from onevision_hf.eval.lmms.suite import select

    samplings = list(words(sampling))
    unknown = [name for name in samplings if name not in SAMPLINGS]
    if unknown:
        raise ValueError(f"no sampling is called {unknown[0]!r}; there are {', '.join(SAMPLINGS)}")
    out = out or Path("runs") / f"compare-{Path(evaluated.model).name}"
    rows = compare(select(tasks), out, evaluated.arguments(), samplings, budget, **vars(questions))
    if rows is None:
        return
    if as_json:
        print((out / "comparison.json").read_text(encoding="utf-8"))
    else:
        print(as_markdown(rows, samplings, budget, questions.limit))
        print(out / "comparison.md")
